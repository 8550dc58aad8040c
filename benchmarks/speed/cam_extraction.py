"""Multi-scale CAM extraction of a folder against one image and one scale at a time, as the research code does.

    python -m benchmarks.speed.cam_extraction

The plain way is restated from IRN's public steps, which AdvCAM and ReCAM share: for each image and each of four scales
the image and its mirror go through the network as a batch of two; maps of all 20 classes are resized to both sizes and
added up, then those of the image's tags are kept, divided by their maximum and saved.

With `seeds.autocast=bfloat16` ours does the same in half precision. Its maps cannot be equal: they may differ by 0.005
on average (seen: 0.0012), and at a background score of 0.15 at most 1 % of the pixels may get another class (0.3 %).
"""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.speed.operations import operations
from benchmarks.speed.pictures import photograph
from benchmarks.speed.timer import Bar, Comparison, Row, main
from maskwright.data.augment import resize_image
from maskwright.data.sample import LabelSpace, Sample
from maskwright.models import create_classifier
from maskwright.settings import SeedSettings
from maskwright.weak.labels import seed_labels
from maskwright.weak.seeds.extract import extract_folder

OURS, HALF, PLAIN = "extract_folder", "extract_folder, bfloat16", "one at a time"
SCALES = (1.0, 0.5, 1.5, 2.0)
THRESHOLD = 0.15  # of the background, the default of `pseudo_masks`
LABELS = LabelSpace(("background", *(f"class {value}" for value in range(1, 21))), background=0)


class Photographs:
    """Images of one size in memory, two tags each; what `extract_folder` reads of a data set."""

    labels, source = LABELS, {}
    masks = saliency = label_map = None
    tags_from_masks = False

    def __init__(self, count: int, height: int, width: int) -> None:
        self.names = [f"{index:03d}" for index in range(count)]
        self.images = [photograph(height, width, seed=index) for index in range(count)]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.names[index], self.images[index])

    def get(self, index: int, with_mask: bool = True) -> Sample:
        return self[index]

    def size(self, index: int) -> tuple[int, int]:
        return self.images[index].shape[0], self.images[index].shape[1]

    def tags(self, index: int) -> tuple[int, ...]:
        return (1 + index % 20, 1 + (index + 7) % 20) if index % 20 < (index + 7) % 20 else (1 + (index + 7) % 20,)


@torch.no_grad()
def one_at_a_time(dataset: Photographs, network: Any, folder: Path, device: str) -> None:
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (network.mean, network.std))
    for index, name in enumerate(dataset.names):
        image = dataset[index].image
        height, width = image.shape[:2]
        quarter = ((height - 1) // 4 + 1, (width - 1) // 4 + 1)
        up = (((height - 1) // 16 + 1) * 16, ((width - 1) // 16 + 1) * 16)
        outputs: list[Tensor] = []
        for scale in SCALES:
            seen = resize_image(image, (round(height * scale), round(width * scale)))
            pixels = (torch.from_numpy(seen.transpose(2, 0, 1).copy()).to(device).float() / 255 - mean) / std
            maps = F.conv2d(network.features(torch.stack([pixels, pixels.flip(-1)])), network.classifier.weight).relu()
            outputs.append(maps[0] + maps[1].flip(-1))
        resized = [F.interpolate(maps[None], quarter, mode="bilinear", align_corners=False)[0] for maps in outputs]
        cam = torch.stack(resized).sum(0)
        resized = [F.interpolate(maps[:, None], up, mode="bilinear", align_corners=False) for maps in outputs]
        high_res = torch.stack(resized).sum(0)[:, 0, :height, :width]
        keys = torch.tensor(dataset.tags(index)) - 1
        cam, high_res = cam[keys], high_res[keys]
        cam /= F.adaptive_max_pool2d(cam, 1) + 1e-5
        high_res /= F.adaptive_max_pool2d(high_res, 1) + 1e-5
        cam, high_res = cam.half().cpu(), high_res.half().cpu()
        np.savez(folder / f"{name}.npz", keys=keys.numpy(), cam=cam.numpy(), high_res=high_res.numpy())


def build(device: str, *, backbone: str, count: int, height: int, width: int) -> Comparison:
    torch.manual_seed(0)
    dataset = Photographs(count, height, width)
    plain = create_classifier(backbone=backbone, num_tags=20).eval().to(device)
    with torch.no_grad():
        plain.classifier.weight.normal_(std=0.1)
    network = create_classifier(backbone=backbone, num_tags=20).eval().to(device)
    network.load_state_dict(plain.state_dict())
    settings = SeedSettings(scales=SCALES, flip=True)
    in_half = SeedSettings(scales=SCALES, flip=True, autocast="bfloat16")
    space = tempfile.TemporaryDirectory()

    def in_new_folder(function: Any) -> dict[str, dict[str, np.ndarray]]:
        folder = Path(space.name) / "maps"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        function(folder)
        return {path.stem: dict(np.load(path)) for path in sorted(folder.glob("*.npz"))}

    def check(results: dict[str, Any]) -> dict[str, float]:
        ours, half, theirs = results[OURS], results[HALF], results[PLAIN]
        assert list(ours) == list(half) == list(theirs) == dataset.names
        worst = 0.0
        for name in ours:
            assert (ours[name]["keys"] == theirs[name]["keys"]).all()
            for key in ("cam", "high_res"):
                worst = max(worst, float(np.abs(ours[name][key].astype(float) - theirs[name][key].astype(float)).max()))
        assert worst < 4e-3, f"the maps differ by {worst:.1e}"
        means, changed = zip(*(in_half_precision(half[name], theirs[name]) for name in theirs), strict=True)
        assert np.mean(means) < 0.005, f"the maps in bfloat16 differ by {np.mean(means):.1e} on average"
        assert np.mean(changed) < 0.01, f"{np.mean(changed):.1%} of the pixels change their class in bfloat16"
        assert space is not None
        return {
            "difference of the maps (float16)": worst,
            "mean difference of those in bfloat16": float(np.mean(means)),
            "share of pixels whose class changes": float(np.mean(changed)),
        }

    images = [torch.zeros(2, 3, round(height * s), round(width * s), device=device) for s in SCALES]
    return Comparison(
        {
            OURS: partial(in_new_folder, lambda folder: extract_folder(dataset, network, settings, folder, device)),
            HALF: partial(in_new_folder, lambda folder: extract_folder(dataset, network, in_half, folder, device)),
            PLAIN: partial(in_new_folder, lambda folder: one_at_a_time(dataset, plain, folder, device)),
        },
        check,
        [Bar(PLAIN, 2, obstacle=OBSTACLE), Bar(PLAIN, 2, ours=HALF)],
        flops=count * sum(operations(plain, image, "features") for image in images),
    )


def in_half_precision(half: dict[str, np.ndarray], full: dict[str, np.ndarray]) -> tuple[float, float]:
    """Mean difference of an image's maps, and the share of its pixels that get another class or background."""
    assert (half["keys"] == full["keys"]).all()
    labels = [seed_labels(maps["high_res"], maps["keys"], THRESHOLD, 0, LABELS.foreground) for maps in (half, full)]
    difference = np.abs(half["high_res"].astype(float) - full["high_res"].astype(float)).mean()
    return float(difference), float((labels[0] != labels[1]).mean())


OBSTACLE = (
    "the convolutions, which both sides make, at nine tenths of what the arithmetic of the machine allows in float32. "
    "Tried: folded normalisations, channels last, batches of images, memory that is kept; bfloat16 is the next line"
)

ROW = Row(
    "Multi-scale CAM extraction of a folder, ResNet-50, 4 scales with mirrors",
    build,
    {"12 images of 160x224": {"backbone": "resnet50", "count": 12, "height": 160, "width": 224}},
    {"backbone": "resnet10t", "count": 2, "height": 48, "width": 64},
    seconds=12.0,
    one_thread=False,
)

if __name__ == "__main__":
    main(ROW)
