"""A small set in memory and a small classifier, for everything between tags and masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from maskwright.data.sample import LabelSpace, Sample

LABELS = LabelSpace(("background", "cat", "dog", "cow"))


class MemorySet:
    """Random images with blocks of classes as masks; notes which images and which masks are decoded."""

    saliency = label_map = None
    tags_from_masks = False

    def __init__(self, labels: LabelSpace = LABELS, sizes=((24, 40),) * 4, *, tags="masks", masks=True, seed=0) -> None:
        rng = np.random.default_rng(seed)
        self.labels, self.opened, self.masks_opened = labels, [], []
        self.names = [f"part{index % 2}/image{index}" for index in range(len(sizes))]
        self.images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
        self.masks = [self._mask(rng, size) if masks else None for size in sizes]
        if isinstance(tags, str):
            self._tags = [
                labels.tags_in(self._mask(rng, size) if mask is None else mask)
                for mask, size in zip(self.masks, sizes, strict=True)
            ]
        else:
            self._tags = list(tags)
        self.source = {"root": "memory", "split": "train", "tags": "made up", "count": len(sizes)}

    def _mask(self, rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
        mask = np.full(size, self.labels.background or 0, np.uint8)
        for _ in range(3):
            top, left = rng.integers(0, size[0] - 8), rng.integers(0, size[1] - 8)
            mask[top : top + 8, left : left + 8] = rng.integers(0, self.labels.num_classes)
        mask[rng.random(size) < 0.05] = self.labels.ignore_index
        return mask

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        return self.get(index)

    def get(self, index: int, with_mask: bool = True) -> Sample:
        self.opened.append(index)
        mask = self.mask(index) if with_mask else None
        return Sample(self.names[index], self.images[index], mask, self._tags[index])

    def mask(self, index: int) -> np.ndarray | None:
        self.masks_opened.append(index)
        return self.masks[index]

    def tags(self, index: int) -> tuple[int, ...] | None:
        return self._tags[index]

    def has_mask(self, index: int) -> bool:
        return self.masks[index] is not None

    def size(self, index: int) -> tuple[int, int]:
        return self.images[index].shape[:2]


class Record(list):
    """A list that a network shares with its copies."""

    def __deepcopy__(self, memo: dict) -> Record:
        return self


class TinyClassifier(nn.Module):
    """Two convolutions of stride 4 and a bias-free head; counts the images that went through it."""

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self, num_tags: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=4, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 7, 3, stride=4, padding=1),
            nn.ReLU(),
        )
        self.classifier = nn.Conv2d(7, num_tags, 1, bias=False)
        self.batches: list[int] = Record()

    def features(self, images: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(images))
        return self.layers(images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images)).mean((2, 3))


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(params=["compiled", "by torch"])
def form(request, monkeypatch) -> str:
    """Both forms that run on the CPU, of the module that the test file names."""
    if request.param == "by torch":
        monkeypatch.setattr(f"{request.module.MODULE}.find_spec", lambda name: None)
    else:
        pytest.importorskip("numba")
    return request.param


@pytest.fixture
def memory_set() -> type[MemorySet]:
    return MemorySet


@pytest.fixture
def network() -> TinyClassifier:
    network = TinyClassifier()
    network.layers[1].running_mean.normal_()
    return network.eval()


@pytest.fixture
def random_maps():
    """`(n, H, W)` float16 maps with a maximum near 1, coarse enough that ties occur."""

    def make(count: int, size: tuple[int, int] = (24, 40), seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return (rng.integers(0, 21, (count, *size)) / 20).astype(np.float16)

    return make


@pytest.fixture
def save_all(random_maps):
    """Write maps for every image of a set whose tags are known."""

    def save(dataset: MemorySet, folder) -> None:
        for index, name in enumerate(dataset.names):
            if dataset.tags(index) is not None:
                keys = [dataset.labels.foreground.index(value) for value in dataset.tags(index)]
                path = folder / f"{name}.npz"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.savez(
                    path, keys=np.array(keys, np.int64), high_res=random_maps(len(keys), dataset.size(index), index)
                )

    return save
