"""Training batches: our augmentation and loader against torchvision's reference transforms.

    python -m benchmarks.speed.data_pipeline

Encoded images (JPEG) and masks (PNG) of 360x480 lie in memory; both sides decode them with Pillow and give normalised
float batches of 8 through 2 workers: random scale 0.5 to 2, left-right flip, colour jitter with hue, random crop of
360x360. The images are those of `camvid` in MASKWRIGHT_DATA where that is set, otherwise made up. torchvision's
reference resamples bilinearly on Pillow images; its form on tensors and its bicubic one, which is what ours does, run
too. One call is an epoch with new workers. That both sides resample alike is checked without the random part.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import maskwright._torchvision_guard  # noqa: F401
from benchmarks.speed.pictures import label_maps, photograph
from benchmarks.speed.timer import Bar, Comparison, Row, main
from maskwright.data.augment import IMAGENET_MEAN, IMAGENET_STD, Augment, normalise, resize_image
from maskwright.data.loading import TrainingSet, make_loader
from maskwright.data.sample import LabelSpace, Sample
from maskwright.settings import AugmentSettings

LABELS = LabelSpace(tuple(f"class {value}" for value in range(11)), background=None)
HEIGHT, WIDTH, CROP, BATCH = 360, 480, 360, 8
JITTER, HUE = 0.3, 0.1
Pairs = list[tuple[bytes, bytes]]


class MemorySet(torch.utils.data.Dataset):
    """Encoded pairs; a `Sample` for us, or what a torchvision pipeline makes of the two Pillow images."""

    labels = LABELS

    def __init__(self, pairs: Pairs, transform: Callable | None = None) -> None:
        self.pairs = pairs
        self.names = [str(index) for index in range(len(pairs))]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Any:
        image_file, mask_file = self.pairs[index]
        image, mask = Image.open(io.BytesIO(image_file)).convert("RGB"), Image.open(io.BytesIO(mask_file))
        if self.transform is not None:
            return self.transform(image, mask)
        return Sample(self.names[index], np.asarray(image), np.asarray(mask))


def encoded_pairs(count: int) -> Pairs:
    folder = Path(os.environ.get("MASKWRIGHT_DATA", "")) / "camvid"
    if os.environ.get("MASKWRIGHT_DATA") and folder.is_dir():
        images = sorted((folder / "JPEGImages").glob("*.jpg"))[:count]
        return [
            (path.read_bytes(), (folder / "SegmentationClass" / f"{path.stem}.png").read_bytes()) for path in images
        ]
    pairs = []
    for index, mask in enumerate(label_maps(count, HEIGHT, WIDTH, len(LABELS.names)).numpy()):
        image_file, mask_file = io.BytesIO(), io.BytesIO()
        Image.fromarray(photograph(HEIGHT, WIDTH, seed=index)).save(image_file, "JPEG", quality=90)
        Image.fromarray(mask).save(mask_file, "PNG")
        pairs.append((image_file.getvalue(), mask_file.getvalue()))
    return pairs


def ours(pairs: Pairs, workers: int) -> int:
    settings = AugmentSettings(scale=(0.5, 2.0), crop=(CROP, CROP), flip=0.5, color_jitter=JITTER, hue=HUE)
    loader = make_loader(TrainingSet(MemorySet(pairs), Augment(settings, LABELS)), BATCH, workers=workers)
    return sum(len(normalise(batch["image"])) for batch in loader)


def torchvision_reference(pairs: Pairs, workers: int, *, tensors: bool, bicubic: bool) -> int:
    """The transforms of torchvision's segmentation reference, with colour jitter added, on Pillow images or tensors."""
    from torchvision import tv_tensors
    from torchvision.transforms import InterpolationMode, v2

    mode = InterpolationMode.BICUBIC if bicubic else InterpolationMode.BILINEAR
    padding = {tv_tensors.Mask: 255, "others": tuple(int(255 * m) for m in IMAGENET_MEAN)}
    geometry = [
        v2.RandomResize(HEIGHT // 2, 2 * HEIGHT, interpolation=mode, antialias=True),
        v2.RandomHorizontalFlip(0.5),
        v2.ColorJitter(JITTER, JITTER, JITTER, HUE),
        v2.RandomCrop(CROP, pad_if_needed=True, fill=padding),
    ]
    finish = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD), v2.ToPureTensor()]
    steps = v2.Compose([v2.ToImage(), *geometry, *finish] if tensors else [*geometry, v2.ToImage(), *finish])

    def transform(image: Image.Image, mask: Image.Image) -> Any:
        # The mask is wrapped by hand so that ToDtype and Normalize leave its values alone.
        return steps(image, tv_tensors.Mask(np.array(mask)))

    loader = torch.utils.data.DataLoader(
        MemorySet(pairs, transform), BATCH, shuffle=True, drop_last=True, num_workers=workers
    )
    return sum(len(images) for images, _ in loader)


def build(device: str, *, images: int, workers: int) -> Comparison:
    pairs = encoded_pairs(min(images, 96))
    pairs = (pairs * -(-images // len(pairs)))[:images]
    functions: dict[str, Callable[[], int]] = {"maskwright, bicubic": partial(ours, pairs, workers)}
    notes = []
    try:
        from torchvision.transforms import InterpolationMode, v2
    except ImportError as error:
        notes.append(f"SKIPPED: torchvision cannot be imported ({error})")
    else:
        for name, tensors, bicubic in (
            ("torchvision, Pillow, bilinear", False, False),
            ("torchvision, tensors, bilinear", True, False),
            ("torchvision, tensors, bicubic", True, True),
        ):
            functions[name] = partial(torchvision_reference, pairs, workers, tensors=tensors, bicubic=bicubic)

    def check(results: dict[str, Any]) -> dict[str, float]:
        assert set(results.values()) == {images // BATCH * BATCH}, results
        if len(functions) == 1:
            return {}
        image = Image.open(io.BytesIO(pairs[0][0])).convert("RGB")
        size = (3 * HEIGHT // 4, 3 * WIDTH // 4)
        resized = v2.Resize(size, InterpolationMode.BICUBIC, antialias=True)(image)
        apart = int(np.abs(resize_image(np.asarray(image), size).astype(int) - np.asarray(resized).astype(int)).max())
        assert apart <= 1, f"the resampled images differ by {apart} grey levels"
        return {"difference of a resampled image, grey levels": apart}

    return Comparison(
        functions,
        check,
        [
            Bar("torchvision, Pillow, bilinear", 1.5, words="1.5 x (torchvision's own form)"),
            Bar("torchvision, tensors, bilinear", 1.5, words="1.5 x (its fastest form)"),
            Bar("torchvision, tensors, bicubic", 1.5),
        ],
        moved=images * (4 * 3 * CROP * CROP + CROP * CROP),
        notes=notes,
    )


ROW = Row(
    "Training batches of CamVid, 360x480, all augmentations, 2 workers",
    build,
    {"2 workers": {"images": 256, "workers": 2}},
    {"images": 8, "workers": 0},
    seconds=8.0,
    on_gpu=False,
    memory=False,
    one_thread=False,
)

if __name__ == "__main__":
    main(ROW)
