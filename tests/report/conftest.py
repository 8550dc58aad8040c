"""A run folder as a finished run leaves it, drawn small and fast."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from maskwright.data.sample import LabelSpace, Sample

SIZE = (96, 128)
LABELS = LabelSpace(("background", "boat", "cat & <dog>", "tree", "unicorn"))


@dataclass
class Drawn:
    """A dataset of ellipses on a gradient; names hold a folder and a character that HTML gives a meaning."""

    names: list[str]
    seed: int
    masked: bool = True
    size: tuple[int, int] = SIZE

    labels = LABELS
    images = masks = saliency = label_map = None
    tags_from_masks = False

    @property
    def source(self) -> dict[str, Any]:
        return {"split": "train", "count": len(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    def draw(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, index))
        h, w = self.size
        y, x = np.mgrid[:h, :w].astype(np.float32)
        image = np.stack([90 + 80 * x / w, 120 + 60 * y / h, np.full((h, w), 150)], -1) + rng.normal(0, 6, (h, w, 1))
        mask = np.zeros((h, w), np.uint8)
        for value in rng.permutation([1, 2, 3])[: 1 + index % 3]:
            cy, cx = rng.uniform(0.25, 0.75) * h, rng.uniform(0.2, 0.8) * w
            inside = ((y - cy) / (0.24 * h)) ** 2 + ((x - cx) / (0.2 * w)) ** 2 < 1
            mask[inside] = value
            image[inside] = np.array([(200, 80, 60), (220, 190, 90), (60, 130, 70)])[value - 1]
        tags = LABELS.tags_in(mask)
        return Sample(self.names[index], image.clip(0, 255).astype(np.uint8), mask if self.masked else None, tags)

    def __getitem__(self, index: int) -> Sample:
        return self.draw(index)

    def get(self, index: int, with_mask: bool = True) -> Sample:
        sample = self.draw(index)
        return sample if with_mask else Sample(sample.name, sample.image, None, sample.tags)

    def tags(self, index: int) -> tuple[int, ...] | None:
        return self.draw(index).tags

    def has_mask(self, index: int) -> bool:
        return self.masked

    def mask(self, index: int) -> np.ndarray:
        mask = self.draw(index).mask
        assert mask is not None
        return mask


@dataclass
class FakeRun:
    folder: Path
    train: Drawn
    val: Drawn


@pytest.fixture
def fake_run(tmp_path: Path) -> FakeRun:
    return make_run(tmp_path / "runs" / "demo <run>")


def make_run(folder: Path, count: int = 4, size: tuple[int, int] = SIZE) -> FakeRun:
    train = Drawn([f"harbour/photo & <{i}>" for i in range(count)], 1, size=size)
    val = Drawn([f"val_{i}" for i in range(count)], 2, size=size)
    recipe = {
        "name": "demo <run> & more",
        "supervision": "tags",
        "seed": 3,
        "oracle": True,
        "data": {"root": "photos", "train": "train", "val": "val", "tags": "tags.csv", "saliency": None},
        "classifier": {"backbone": "resnet18", "pretrained": False},
        "seeds": {"method": "cam", "scales": [1.0, 0.5]},
        "pseudo_masks": {"threshold": 0.2},
        "model": {"name": "deeplabv3plus", "backbone": "resnet18", "pretrained": False},
        "inference": {"scales": [1.0], "flip": False, "window": None},
    }
    write(folder / "recipe.yaml", yaml.safe_dump(recipe))
    write_json(
        folder / "run.json",
        {
            "command": "maskwright run demo seed=3",
            "version": "0.1.0",
            "started": "2026-11-20T12:00:00+0000",
            "seed": 3,
            "machine": {"system": "Linux", "threads": 2, "gpu": None},
        },
    )
    for number, stage in enumerate(("classifier", "seeds", "pseudo_masks", "segmenter", "evaluation", "oracle")):
        write_json(folder / stage / "stage.json", {"seconds": 12.5 * (number + 1), "finished": True})
    for number, network in enumerate(("classifier", "segmenter", "oracle")):
        write_log(folder / network / "log.jsonl", number)
    draw_artefacts(folder, train, val)
    write_scores(folder)
    write(folder / "segmenter" / "model.safetensors", "weights")
    return FakeRun(folder, train, val)


def draw_artefacts(folder: Path, train: Drawn, val: Drawn) -> None:
    for place, dataset in (("train", train), ("val", val)):
        for index, name in enumerate(dataset.names):
            truth = dataset.mask(index)
            guess = np.roll(truth, 3 + 5 * index, axis=1)
            if place == "val":
                save(folder / "evaluation/predictions" / f"{name}.png", guess)
                save(folder / "oracle_evaluation/predictions" / f"{name}.png", np.roll(truth, 2, axis=1))
                continue
            unsure = guess.copy()
            unsure[: 6 + index] = 255
            save(folder / "pseudo_masks/SegmentationClass" / f"{name}.png", unsure)
            confidence = np.where(guess > 0, 230, 160).astype(np.uint8)
            path = folder / "pseudo_masks/Confidence" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(confidence).save(path)
            tags = dataset.tags(index) or ()
            maps = np.stack([soft(truth == value) for value in tags]).astype(np.float16)
            path = folder / "seeds/maps" / f"{name}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            keys = np.array([LABELS.foreground.index(value) for value in tags], np.int64)
            np.savez(path, keys=keys, cam=maps[:, ::4, ::4], high_res=maps)
    lines = [{"name": name, "miou": 0.31 + 0.08 * index, "accuracy": 0.8} for index, name in enumerate(val.names)]
    write_json(folder / "evaluation/images.json", lines[::-1])


def write_scores(folder: Path) -> None:
    sweep = []
    for step in range(12):
        threshold = round(0.05 + 0.05 * step, 2)
        fp, fn = 0.45 * (1 - threshold) ** 3, 0.08 + 0.7 * threshold**2
        sweep.append({"threshold": threshold, "miou": 1 - fp - fn, "fp": fp, "fn": fn})
    pseudo = {
        "split": "train",
        "threshold": 0.2,
        "best_threshold": 0.35,
        "miou": 0.5432,
        "scores": scores(0.5432, 0),
        "sweep": sweep,
        "vanished_tags": {"boat": [0, 20], "cat & <dog>": [3, 12]},
        "images": 40,
    }
    write_json(folder / "pseudo_masks/scores.json", pseudo)
    provenance = {
        "method": "cam",
        "weights": "9f3a",
        "tag_source": "tags.csv",
        "ground_truth_tuned": [],
        "pretrained": False,
        "saliency": None,
        "crf": False,
        "source": {"root": "photos", "split": "train", "count": 40},
    }
    write_json(folder / "pseudo_masks/provenance.json", provenance)
    write(folder / "pseudo_masks/classes.txt", "\n".join(LABELS.names))
    model = {**scores(0.4876, 1), "split": "val", "images": 12, "confusion": confusion()}
    oracle = {**scores(0.6521, 2), "split": "val", "images": 12}
    write_json(folder / "evaluation/metrics.json", model)
    write_json(folder / "oracle_evaluation/metrics.json", oracle)
    write_json(folder / "metrics.json", {"pseudo_masks": pseudo, "segmenter": model, "oracle": oracle})


def scores(miou: float, shift: int) -> dict[str, Any]:
    per_class = {}
    for index, name in enumerate(LABELS.names[:-1]):
        iou = round(0.9 - 0.171 * index + 0.041 * shift, 4)
        per_class[name] = {
            "iou": iou,
            "f1": 2 * iou / (1 + iou),
            "precision": min(1.0, iou + 0.05),
            "recall": min(1.0, iou + 0.1),
            "pixels": 123456 >> index,
        }
    per_class[LABELS.names[-1]] = {"iou": None, "f1": None, "precision": None, "recall": None, "pixels": 0}
    return {
        "miou": miou,
        "pixel_accuracy": 0.8123,
        "mean_accuracy": 0.7,
        "mean_f1": 0.66,
        "frequency_weighted_iou": 0.71,
        "per_class": per_class,
        "absent": [LABELS.names[-1]],
        "policy": "absent classes are left out",
    }


def confusion() -> list[list[int]]:
    matrix = np.diag([9000, 700, 500, 300, 0])
    matrix[1, 0], matrix[2, 3], matrix[3, 2] = 200, 300, 90
    return matrix.tolist()


def write_log(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lines = []
    for step in range(10, 400, 10):
        loss = 0.2 + 2 * np.exp(-step / 90) * rng.uniform(0.7, 1.3)
        lines.append(
            {"event": "train", "step": step, "epoch": step // 40, "loss": loss, "lr": 0.01 * (1 - step / 400) ** 0.9,
             "images_per_second": 41.5, "memory_mb": 812.0}
        )  # fmt: skip
        if step % 80 == 0:
            miou = 0.5 * (1 - np.exp(-step / 120))
            lines.append(
                {"event": "validate", "step": step, "epoch": step // 40, ("tag_map" if seed == 0 else "miou"): miou}
            )
    write(path, "\n".join(json.dumps(line) for line in lines) + '\n{"event": "tra')


def soft(inside: np.ndarray) -> np.ndarray:
    blurred = np.asarray(Image.fromarray((255 * inside).astype(np.uint8)).resize((10, 8)).resize(inside.shape[::-1]))
    return blurred / max(1, blurred.max())


def save(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    image.putpalette(LABELS.flat_palette())
    image.save(path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write(path, json.dumps(value))
