"""AdvCAM, all classes of an image in one batch, against the released way: class by class, two backward passes a step.

    python -m benchmarks.speed.advcam

The released steps are restated here from the paper and its code's behaviour: for each class of an image, each step
runs the pair of image and mirror forward, one backward pass to the hooked last feature map and on down to the image
for Grad-CAM's weights, and one for the ascent; both also make gradients of the weights, which nobody reads. The second
case takes those away from the released way too. The head agrees with the mean feature, so that maps are not empty.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.operations import operations
from benchmarks.speed.timer import Bar, Comparison, Row, main
from maskwright.models import create_classifier
from maskwright.weak.seeds.advcam import climb, merge_views

STEP_SIZE, PENALTY, THRESHOLD = 0.08, 7.0, 0.5


def class_by_class(network: Any, pair: Tensor, keys: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Summed maps `(P, h, w)` and the last pairs `(2, P, 3, H, W)`, one class after the other."""
    maps, pairs = [], []
    for key in keys.tolist():
        image, first, total = pair, None, torch.zeros(())
        for _ in range(steps):
            image = image.detach().requires_grad_()
            features = network.features(image)
            features.retain_grad()
            scores = network.classifier(features).relu()
            scores[:, key].sum().backward(retain_graph=True)
            gradient = features.grad.clone()
            weights = gradient.sum((2, 3), keepdim=True) / ((gradient > 0).sum() + 1e-12)
            each = (weights * features).sum(1).relu()
            merged = each[0] + each[1].flip(-1)
            first = merged.detach() if first is None else first
            total = total + merged.detach()
            means = scores.mean((2, 3))
            clear = merged.detach() / merged.detach().max() > THRESHOLD
            network.zero_grad()
            image.grad = None
            objective = 2 * means[:, key].sum() - means.sum() - PENALTY * ((merged - first).abs() * clear).sum()
            objective.backward()
            ascent: Any = image.grad
            moved = image.detach() + STEP_SIZE * ascent / (ascent.abs().max() + 1e-12)
            image = moved.clamp(image.min().item(), image.max().item())
        maps.append(total)
        pairs.append(image)
    network.zero_grad()
    return torch.stack(maps), torch.stack(pairs, 1)


def ours(network: Any, pair: Tensor, keys: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    total = torch.zeros(())
    images = pair[:, None].expand(-1, len(keys), -1, -1, -1)
    options: dict[str, Any] = {"step_size": STEP_SIZE, "penalty": PENALTY, "threshold": THRESHOLD}
    for step in climb(network, images, keys, steps=steps, **options):
        total = total + merge_views(step.maps)
        images = step.images
    return total, images


def build(device: str, *, backbone: str, size: int, classes: int, steps: int, weights: bool) -> Comparison:
    torch.manual_seed(0)
    network = create_classifier(backbone=backbone, num_tags=20).eval().to(device)
    image = torch.nn.functional.interpolate(torch.randn(1, 3, 8, 8), size=(size, size), mode="bicubic")
    pair = torch.cat([image, image.flip(-1)]).to(device)
    with torch.no_grad():
        usual = network.features(pair).mean((0, 2, 3))
        network.classifier.weight.add_(0.05 * (usual / usual.norm())[None, :, None, None])
    network.requires_grad_(weights)
    keys = torch.arange(classes, device=device)

    def check(results: dict[str, Any]) -> dict[str, float]:
        (maps, images), (other_maps, other_images) = results["all at once"], results["class by class"]
        assert (other_maps.amax((1, 2)) > 0).all(), "a class without a map compares nothing"
        apart = ((maps - other_maps).abs().max() / other_maps.max()).item()
        assert apart < 2e-3, f"the maps differ by {apart:.1e} of the largest"
        moved = (other_images - pair[:, None]).abs().max().item()
        differ = (images - other_images).abs().max().item()
        assert differ < 0.02 * moved, f"the images differ by {differ:.1e}; they moved by {moved:.1e}"
        return {"difference of the maps, of the largest": apart, "of the images": differ}

    return Comparison(
        {
            "all at once": partial(ours, network, pair, keys, steps),
            "class by class": partial(class_by_class, network, pair, keys, steps),
        },
        check,
        # Without gradients of weights the released way runs 3 passes a step (forward, back, back again) to our 2.
        [Bar("class by class", 1.8 if weights else 1.5)],
        flops=2 * steps * 2 * classes * operations(network, pair[:1]),
    )


ROW = Row(
    "AdvCAM, one image with 2 classes, ResNet-50",
    build,
    {
        "as released": {"backbone": "resnet50", "size": 128, "classes": 2, "steps": 2, "weights": True},
        "released, but no gradients of weights": {
            "backbone": "resnet50",
            "size": 128,
            "classes": 2,
            "steps": 2,
            "weights": False,
        },
    },
    {"backbone": "resnet10t", "size": 64},
    seconds=8.0,
)

if __name__ == "__main__":
    main(ROW)
