"""Training images per second: our augmentation and loader against torchvision's reference transforms.

    python benchmarks/speed/data_pipeline.py

Encoded images (JPEG) and masks (PNG) of 360x480 lie in memory; both sides decode them with Pillow and give normalised
float batches: random scale 0.5 to 2, left-right flip, colour jitter, random 360x360 crop, batch 8, 2 workers. The
images are those of `camvid` in MASKWRIGHT_DATA where that is set, otherwise made up here. torchvision's reference
resamples bilinearly; ours is bicubic, so its bicubic form is measured too. Rounds alternate between the sides, every
round starts with idle workers that have prepared nothing, and medians are printed. CPU time per image is taken without
workers, and is the steadier number on a machine that does other things too.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import maskwright._torchvision_guard  # noqa: F401
from maskwright.config import AugmentSettings
from maskwright.data.augment import IMAGENET_MEAN, IMAGENET_STD, Augment, normalise
from maskwright.data.loading import TrainingSet, make_loader
from maskwright.data.sample import LabelSpace, Sample

LABELS = LabelSpace(tuple(f"class {value}" for value in range(11)), background=None)
CROP = 360
Epoch = Callable[[int], Iterator[torch.Tensor]]
TARGET = 1.5
OURS = "maskwright, bicubic"


class MemorySet(torch.utils.data.Dataset):
    """Encoded pairs; a `Sample` for us, or what a torchvision pipeline makes of the two Pillow images."""

    labels = LABELS

    def __init__(self, pairs: list[tuple[bytes, bytes]], transform=None) -> None:
        self.pairs = pairs
        self.names = [str(index) for index in range(len(pairs))]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int):
        image, mask = (Image.open(io.BytesIO(data)) for data in self.pairs[index])
        image = image.convert("RGB")
        if self.transform is not None:
            return self.transform(image, mask)
        return Sample(self.names[index], np.asarray(image), np.asarray(mask))


def camvid_pairs(root: Path, count: int) -> list[tuple[bytes, bytes]]:
    images = sorted((root / "JPEGImages").glob("*.jpg"))[:count]
    return [(p.read_bytes(), (root / "SegmentationClass" / f"{p.stem}.png").read_bytes()) for p in images]


def made_up_pairs(count: int) -> list[tuple[bytes, bytes]]:
    """Smooth colour fields with noise, and masks of large regions: about the file sizes of photographs."""
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((480, 360), Image.BICUBIC)
        noisy = np.clip(np.asarray(coarse) + rng.normal(0, 8, (360, 480, 3)), 0, 255).astype(np.uint8)
        regions = Image.fromarray(rng.integers(0, 11, (12, 16), dtype=np.uint8)).resize((480, 360), Image.NEAREST)
        image_file, mask_file = io.BytesIO(), io.BytesIO()
        Image.fromarray(noisy).save(image_file, "JPEG", quality=90)
        regions.save(mask_file, "PNG")
        pairs.append((image_file.getvalue(), mask_file.getvalue()))
    return pairs


def ours(pairs: list[tuple[bytes, bytes]], hue: float, batch_size: int, workers: int) -> Epoch:
    settings = AugmentSettings(scale=(0.5, 2.0), crop=(CROP, CROP), flip=0.5, color_jitter=0.3, hue=hue)
    loader = make_loader(TrainingSet(MemorySet(pairs), Augment(settings, LABELS)), batch_size, workers=workers)

    def epoch(number: int) -> Iterator[torch.Tensor]:
        # Every second epoch only: a loader that goes straight on would begin with batches prepared before the clock.
        loader.sampler.set_position(2 * number)
        return (normalise(batch["image"]) for batch in loader)

    return epoch


def torchvision_reference(
    pairs: list[tuple[bytes, bytes]], hue: float, batch_size: int, workers: int, *, tensors: bool, bicubic: bool
) -> Epoch:
    """The transforms of torchvision's segmentation reference, with colour jitter added, on Pillow images or tensors."""
    from torchvision import tv_tensors
    from torchvision.transforms import InterpolationMode, v2

    mode = InterpolationMode.BICUBIC if bicubic else InterpolationMode.BILINEAR
    padding = {tv_tensors.Mask: 255, "others": tuple(int(255 * m) for m in IMAGENET_MEAN)}
    geometry = [
        v2.RandomResize(180, 720, interpolation=mode, antialias=True),
        v2.RandomHorizontalFlip(0.5),
        v2.ColorJitter(0.3, 0.3, 0.3, hue),
        v2.RandomCrop(CROP, pad_if_needed=True, fill=padding),
    ]
    finish = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD), v2.ToPureTensor()]
    steps = v2.Compose([v2.ToImage(), *geometry, *finish] if tensors else [*geometry, v2.ToImage(), *finish])

    def transform(image: Image.Image, mask: Image.Image):
        # The mask is wrapped by hand so that ToDtype and Normalize leave its values alone.
        return steps(image, tv_tensors.Mask(np.array(mask)))

    loader = torch.utils.data.DataLoader(
        MemorySet(pairs, transform),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    return lambda number: (images for images, _ in loader)


def both_sides(pairs: list[tuple[bytes, bytes]], hue: float, batch_size: int, workers: int) -> dict[str, Epoch]:
    sides = {OURS: ours(pairs, hue, batch_size, workers)}
    if "torchvision" in sys.modules:
        for tensors in (False, True):
            for bicubic in (False, True):
                name = f"torchvision v2, {'tensors' if tensors else 'Pillow'}, {'bicubic' if bicubic else 'bilinear'}"
                sides[name] = torchvision_reference(pairs, hue, batch_size, workers, tensors=tensors, bicubic=bicubic)
    return sides


def medians(sides: dict[str, Epoch], rounds: int, clock: Callable[[], float], pause: float) -> dict[str, float]:
    """Seconds per image of each side, from the request for an epoch's first batch to the arrival of its last."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, epoch in sides.items():
            time.sleep(pause)
            start = clock()
            count = sum(len(images) for images in epoch(number))
            # Round 0 warms up.
            if number:
                seconds[name].append((clock() - start) / count)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--passes", type=int, default=4, help="times that a round goes through the images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    root = os.environ.get("MASKWRIGHT_DATA")
    if root and (Path(root) / "camvid").is_dir():
        pairs, source = camvid_pairs(Path(root) / "camvid", arguments.images), "camvid"
    else:
        pairs, source = made_up_pairs(arguments.images), "made up"
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:
        print(f"SKIPPED: torchvision cannot be imported ({error}); only our side is measured")
    print(f"{len(pairs)} images ({source}), batch {arguments.batch_size}, {arguments.workers} workers")
    for hue in (0.0, 0.1):
        # Workers may still be preparing what nobody will ask for; hence the pause.
        wall = medians(
            both_sides(pairs * arguments.passes, hue, arguments.batch_size, arguments.workers),
            arguments.rounds,
            time.perf_counter,
            pause=1.0,
        )
        cpu = medians(both_sides(pairs, hue, arguments.batch_size, 0), arguments.rounds, time.process_time, pause=0.0)
        print(f"\nhue {hue}{'':31s} images/s   ratio   CPU ms/image   ratio")
        for name in wall:
            print(
                f"{name:36s} {1 / wall[name]:10.1f} {wall[name] / wall[OURS]:7.2f} "
                f"{1000 * cpu[name]:14.2f} {cpu[name] / cpu[OURS]:7.2f}"
            )
        others = [name for name in wall if name != OURS]
        if others:
            ratios = [min(seconds[name] for name in others) / seconds[OURS] for seconds in (wall, cpu)]
            verdict = "reached" if ratios[0] >= TARGET else "NOT reached"
            print(f"against the fastest: {ratios[0]:.2f} in time, {ratios[1]:.2f} in CPU; target {TARGET} {verdict}")


if __name__ == "__main__":
    main()
