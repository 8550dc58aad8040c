"""Class-uniform crops: rare classes are seen often, and the same examples come after any resume on any workers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maskwright.data.augment import Augment
from maskwright.data.class_uniform import (
    ClassIndex,
    ClassUniformSet,
    class_index,
    class_places,
    load_index,
    save_index,
)
from maskwright.data.loading import TrainingSet, make_loader
from maskwright.data.sample import LabelSpace, Sample
from maskwright.errors import DataError, RecipeError
from maskwright.pipeline.segment import stage_index
from maskwright.recipe.load import build_recipe
from maskwright.settings import AugmentSettings

LABELS = LabelSpace(("road", "car", "sign", "bicycle"), background=None)
RARE = 3


class Streets:
    """Pictures of road with a car in every second one, and a few pixels of the rare class in one of twenty."""

    labels = LABELS

    def __init__(self, count: int = 20, size: tuple[int, int] = (60, 80)) -> None:
        self.names = [f"street_{index}" for index in range(count)]
        self.size = size

    def __len__(self) -> int:
        return len(self.names)

    def mask(self, index: int) -> np.ndarray:
        mask = np.zeros(self.size, np.uint8)
        mask[:5] = 255
        if index % 2:
            mask[20:30, 30:50] = 1
        if index == 7:
            mask[55:58, 70:74] = RARE
        return mask

    def __getitem__(self, index: int) -> Sample:
        noise = np.random.default_rng(index).integers(0, 256, (*self.size, 3), dtype=np.uint8)
        return Sample(self.names[index], noise, self.mask(index))


def training_set(share: float | None = None, seed: int = 3, **settings) -> TrainingSet:
    settings = {"scale": (0.7, 1.4), "crop": (24, 24), "color_jitter": 0.3} | settings
    plain = TrainingSet(Streets(), Augment(AugmentSettings(**settings), LABELS), seed)
    return plain if share is None else ClassUniformSet(plain, class_index(plain.dataset, tile=32), share)


def shown(examples, value: int, epochs: int = 4) -> float:
    """Share of the examples that show a class."""
    keys = [(epoch, index) for epoch in range(epochs) for index in range(len(examples))]
    return float(np.mean([bool((examples[key]["mask"] == value).any()) for key in keys]))


def test_rare_classes_are_seen_more_often():
    plain, uniform = shown(training_set(), RARE, 10), shown(training_set(0.5), RARE, 10)
    assert plain < 0.05
    # Half of the examples, a third of them for each of the three classes that occur.
    assert abs(uniform - (0.5 / 3 + 0.5 * plain)) < 0.07


def test_every_chosen_crop_shows_its_class():
    examples = training_set(1.0)
    seen = [set(np.unique(examples[0, index]["mask"]).tolist()) for index in range(20)]
    counts = [sum(value in values for values in seen) for value in range(4)]
    assert counts[2] == 0
    assert min(counts[0], counts[1], counts[3]) >= 3
    only_rare = ClassIndex(*(field[examples.index.values == RARE] for field in examples.index))
    for scale in (0.4, 1.0, 2.5):
        plain = training_set(scale=(scale, scale), crop=(9, 11))
        chosen = ClassUniformSet(plain, only_rare, 1.0)
        for index in range(20):
            example = chosen[0, index]
            assert example["index"] == 7
            if scale >= 1:
                assert (example["mask"] == RARE).any()


def test_examples_that_are_not_replaced_are_those_of_the_plain_set():
    plain, uniform = training_set(), training_set(0.5)
    same = [torch.equal(plain[0, index]["image"], uniform[0, index]["image"]) for index in range(20)]
    assert 4 <= sum(same) <= 16
    nothing = training_set(0.0)
    assert all(torch.equal(plain[2, index]["image"], nothing[2, index]["image"]) for index in range(20))


def test_an_example_depends_on_seed_epoch_and_index_only():
    first, again = training_set(1.0), training_set(1.0)
    for index in (5, 3, 5):
        assert torch.equal(first[1, index]["image"], again[1, index]["image"])
    others = (first[2, 5], first[1, 6], training_set(1.0, seed=4)[1, 5])
    assert not any(torch.equal(first[1, 5]["image"], other["image"]) for other in others)


@pytest.mark.bit_equal
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2])
def test_resume_is_bit_equal_for_any_number_of_workers(workers):
    loader = make_loader(training_set(0.5), 6)
    whole = [batch for _ in range(2) for batch in loader]
    resumed = make_loader(training_set(0.5), 6, workers=workers, position=(0, 2))
    rest = [batch for _ in range(2) for batch in resumed]
    assert len(whole) == 6
    assert len(rest) == 4
    for one, other in zip(whole[2:], rest):
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("tile", [7, 32, 1000])
def test_places_are_pixels_of_their_class_nearest_to_its_middle(tile):
    mask = np.random.default_rng(0).integers(0, 5, (50, 61)).astype(np.uint8)
    mask[mask == 4] = 255
    places = class_places(mask, 4, tile)
    assert len({(value, row // tile, column // tile) for value, row, column in places.tolist()}) == len(places)
    expected = 0
    for top in range(0, 50, tile):
        for left in range(0, 61, tile):
            part = mask[top : top + tile, left : left + tile]
            for value in range(4):
                rows, columns = np.nonzero(part == value)
                expected += bool(len(rows))
                here = [
                    (row - top, column - left)
                    for kind, row, column in places.tolist()
                    if kind == value and top <= row < top + tile and left <= column < left + tile
                ]
                assert len(here) == bool(len(rows))
                if here:
                    middle = np.array([rows.mean(), columns.mean()])
                    distances = (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2
                    assert np.isclose(((np.array(here[0]) - middle) ** 2).sum(), distances.min())
    assert len(places) == expected


def test_the_place_in_a_ring_lies_on_the_ring():
    mask = np.full((21, 21), 255, np.uint8)
    mask[2:19, 2:19] = 1
    mask[5:16, 5:16] = 0
    (_, _, _), (value, row, column) = sorted(class_places(mask, 2).tolist())
    assert value == 1
    assert mask[row, column] == 1


def test_masks_without_a_class():
    assert class_places(np.full((9, 9), 255, np.uint8), 4).shape == (0, 3)
    index = class_index(Streets(), indices=[])
    with pytest.raises(DataError, match="found no pixel of any class"):
        ClassUniformSet(training_set(), index)
    index = class_index(Streets(count=40))
    with pytest.raises(DataError, match="names image 39, the training set has 20"):
        ClassUniformSet(training_set(), index)


def test_an_index_is_kept_in_the_stage_folder(tmp_path, monkeypatch):
    index = stage_index(Streets(), tmp_path)
    assert (tmp_path / "class_index.npz").is_file()
    monkeypatch.setattr(Streets, "mask", lambda *_: pytest.fail("masks read again"))
    for one, other in zip(index, stage_index(Streets(), tmp_path)):
        assert np.array_equal(one, other)
        assert one.dtype == other.dtype
    save_index(tmp_path / "other.npz", index)
    assert np.array_equal(load_index(tmp_path / "other.npz").rows, index.rows)
    (tmp_path / "other.npz").write_text("cut short")
    with pytest.raises(DataError, match=r"other\.npz must hold the arrays .*; delete it and run again"):
        load_index(tmp_path / "other.npz")


@pytest.mark.parametrize("crop", [(24, 24), (100, 30), (59, 79)])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_the_crop_covers_the_center(crop, flip):
    size = (60, 80)
    sample = Sample("a", np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8))
    augment = Augment(AugmentSettings(crop=crop, flip=flip, scale=(1, 1.6)), LABELS)
    for row, column in ((0, 0), (59, 79), (30, 41), (3, 70)):
        sample.mask[:] = 0
        sample.mask[row, column] = 2
        for seed in range(12):
            example = augment(sample, np.random.default_rng(seed), center=(row, column))
            assert (example["mask"] == 2).any()


def test_the_classifier_refuses_it():
    with pytest.raises(RecipeError, match="class_uniform needs masks"):
        build_recipe({"classifier": {"train": {"augment": {"class_uniform": 0.5}}}})
    assert build_recipe({"train": {"augment": {"class_uniform": 0.5}}}).train.augment.class_uniform == 0.5
