"""The background's score from tags alone, on images of which everything is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from maskwright.data.sample import LabelSpace, Sample
from maskwright.models import ImageTagClassifier
from maskwright.recipe.load import load_recipe
from maskwright.runs.context import RunContext
from maskwright.settings import SeedSettings
from maskwright.weak.labels import sweep
from maskwright.weak.networks.tag_head import fit_head, tag_loss
from maskwright.weak.refine.threshold import FIXED, RATIO, SAMPLE, THRESHOLDS, choose_threshold, threshold_stage
from maskwright.weak.seeds.cam import class_activation_maps
from maskwright.weak.seeds.extract import extract_folder

from ..planted import CLASSES, LABELS, PlantedTrunk, planted, views_of

SETTINGS = SeedSettings(scales=(1.0,), flip=False)


class Images:
    """Planted images and their tags; masks are there only for what is told to read them."""

    images = saliency = label_map = None
    tags_from_masks = False

    def __init__(self, examples, labels: LabelSpace = LABELS, tags=None, masks: bool = False) -> None:
        self.examples, self.labels, self.masks = examples, labels, masks
        self.names = [f"image{index}" for index in range(len(examples))]
        self._tags = tags or [tuple(labels.foreground[place] for place in example.tags) for example in examples]
        self.source = {"root": "planted", "count": len(examples)}

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Sample:
        return self.get(index)

    def get(self, index: int, with_mask: bool = True) -> Sample:
        return Sample(self.names[index], self.examples[index].image, self.mask(index) if with_mask else None)

    def mask(self, index: int) -> np.ndarray:
        assert self.masks, "a mask was read"
        return self.examples[index].mask

    def has_mask(self, index: int) -> bool:
        return True

    def tags(self, index: int):
        return self._tags[index]

    def size(self, index: int) -> tuple[int, int]:
        return self.examples[index].image.shape[:2]


@pytest.fixture(scope="module")
def examples():
    return planted(24)


@pytest.fixture(scope="module")
def network(examples) -> ImageTagClassifier:
    """A classifier with a constant, at the minimum: it knows each class, and what an image without any looks like."""
    made = ImageTagClassifier(PlantedTrunk(), len(CLASSES), constant=True).eval()
    tags = torch.zeros(len(examples), len(CLASSES))
    for row, example in zip(tags, examples, strict=True):
        row[list(example.tags)] = 1
    with torch.no_grad():
        means = made.features(views_of(examples, flip=False).images[0]).mean((2, 3))
        weight, bias = fit_head(means, tags, tag_loss, 1e-4, len(CLASSES))
        made.classifier.weight.copy_(weight[:, :, None, None])
        made.constant.bias.copy_(bias)
    return made


@pytest.fixture(scope="module")
def maps(examples, network, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("maps")
    extract_folder(Images(examples), network, SETTINGS, folder, torch.device("cpu"), method=class_activation_maps)
    return folder


def chosen(examples, network, maps, labels=LABELS, tags=None, **options):
    return choose_threshold(Images(examples, labels, tags), network, maps, SETTINGS, "cpu", **options)


def test_the_threshold_separates_objects_from_the_rest_and_no_mask_is_read(examples, network, maps):
    found = chosen(examples, network, maps)
    assert found["images"] == len(examples)
    rows = sweep(Images(examples, masks=True), maps, list(THRESHOLDS))
    # Which of the objects a pixel belongs to is not the threshold's question.
    overlap = {row["threshold"]: 1 - row["background_fp"] - row["background_fn"] for row in rows}
    best = max(overlap.values())
    assert overlap[found["threshold"]] > best - 0.015
    assert max(overlap[0.02], overlap[0.95]) < best - 0.03  # not any threshold would do


def test_the_rest_shows_more_of_a_class_the_higher_the_threshold(examples, network, maps):
    found = chosen(examples, network, maps)
    place = found["thresholds"].index(found["threshold"])
    assert found["rest"][-1] > found["rest"][0]
    odds = [value / (1 - value) for value in (found["absent"], *found["rest"][place : place + 2])]
    assert odds[1] <= 33 * odds[0] < odds[2]


def test_maps_that_are_half_as_high_have_half_the_threshold(examples, network, maps, tmp_path):
    """The threshold follows the maps, not a habit."""
    for path in maps.glob("*.npz"):
        with np.load(path) as arrays:
            np.savez(tmp_path / path.name, keys=arrays["keys"], high_res=arrays["high_res"] / 2)
    whole, half = (chosen(examples, network, folder)["threshold"] for folder in (maps, tmp_path))
    assert half == pytest.approx(whole / 2, abs=0.011)


def test_a_sample_of_many_images_is_looked_at(examples, network, maps):
    assert chosen(examples, network, maps, sample=5)["images"] == 5
    assert SAMPLE >= 100


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": LabelSpace(tuple(CLASSES), background=None)}, "there is no background class"),
        ({"tags": [tuple(LABELS.foreground)] * 24}, "every image is tagged with every class"),
    ],
)
def test_fixed_where_nothing_can_be_measured(examples, network, tmp_path, changes, words):
    data = Images(examples, **changes)
    extract_folder(data, network, SETTINGS, tmp_path, torch.device("cpu"), method=class_activation_maps)
    found = choose_threshold(data, network, tmp_path, SETTINGS, "cpu")
    assert found["threshold"] == FIXED == 0.25
    assert words in found["because"]


def test_fixed_where_the_network_does_not_know_the_tags(examples, network, maps):
    """A network that no tag loss trained is as sure of what is in the rest as of anything: at no threshold more so."""
    unsure = ImageTagClassifier(PlantedTrunk(), len(CLASSES), constant=True).eval()
    with torch.no_grad():
        unsure.classifier.weight.zero_()
        unsure.constant.bias.zero_()
    found = chosen(examples, unsure, maps)
    assert found["threshold"] == FIXED
    assert "at no threshold" in found["because"]


def test_fixed_where_maps_spread_over_all(examples, network, maps, tmp_path):
    """Maps that are high wherever the class is not leave a rest that is the object."""
    for path in maps.glob("*.npz"):
        with np.load(path) as arrays:
            np.savez(tmp_path / path.name, keys=arrays["keys"], high_res=1 - 0.97 * arrays["high_res"])
    found = chosen(examples, network, tmp_path)
    assert found["threshold"] == FIXED
    assert "at every threshold" in found["because"]


def test_no_lower_one_than_allowed_is_chosen(examples, network, maps):
    free = chosen(examples, network, maps)["threshold"]
    found = chosen(examples, network, maps, lowest=free + 0.1)
    assert found["threshold"] == free + 0.1
    assert f"would say {free:.2f}" in found["because"]
    assert chosen(examples, network, maps, lowest=free - 0.01)["threshold"] == free


def test_a_recipe_says_how_low(tmp_path):
    assert asked_by("seam", tmp_path) == {"ratio": RATIO, "network": "classifier", "lowest": 0.25}


def test_the_first_network_is_asked(tmp_path):
    """L2G's learns from attention, and no longer knows how sure to be of a tag."""
    assert asked_by("cam", tmp_path) == {"ratio": RATIO}
    assert asked_by("l2g", tmp_path) == {"ratio": RATIO, "network": "classifier"}


def asked_by(name: str, folder: Path) -> dict:
    recipe = load_recipe(name, ["data=scenes", "data.options={count: 4, size: [32, 32]}"])
    return threshold_stage(RunContext(recipe, folder, print), "seeds").settings
