"""A seed method of your own in forty lines: maps by occlusion, beside those that maskwright has.

Where a grey patch over the image lowers a tag's score, the tag is there. `python examples/a_seed_method.py` labels the
built-in scenes with it; in a fork, the same function is one file in `weak/seeds/` and one line in `SEED_METHODS`.
"""

from typing import Any

import torch
from torch.nn import functional as F

import maskwright as mw
from maskwright.weak.seeds import SEED_METHODS
from maskwright.weak.seeds.cam import SeedMaps, Views, finish, tagged_maps
from maskwright.weak.seeds.method import SeedMethod


@torch.no_grad()
def occlusion_maps(network: Any, views: Views, *, patch: int = 32) -> list[SeedMaps]:
    """How much a patch over each place lowers the score of each class.

    Args:
        network: has `logits(features)` and `features(images)`.
        views: of B images.
        patch: side of the patch in pixels.
    """
    maps = []
    for images in views.images:
        whole = network.logits(network.features(images))
        rows, columns = (range(0, side, patch) for side in images.shape[-2:])
        lost = images.new_zeros(len(images), whole.shape[1], len(rows), len(columns))
        for y, top in enumerate(rows):
            for x, left in enumerate(columns):
                hidden = images.clone()
                hidden[..., top : top + patch, left : left + patch] = 0  # images are normalised: 0 is mean grey
                lost[..., y, x] = whole - network.logits(network.features(hidden))
        smooth = F.interpolate(lost.relu(), [side // 4 for side in images.shape[-2:]], mode="bilinear")
        maps.append(tagged_maps(smooth, views))
    return finish(maps, views.tags, views.size)


def main(*settings: str) -> Any:
    SEED_METHODS["occlusion"] = SeedMethod(occlusion_maps)
    recipe = mw.load_recipe(
        "demo", ["seeds.method=occlusion", "out=runs/occlusion", "fully_supervised=false", *settings]
    )
    return mw.run(recipe, until="pseudo_masks")


if __name__ == "__main__":
    print(f"masks in {main()}/pseudo_masks")
