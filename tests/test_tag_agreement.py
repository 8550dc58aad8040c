"""Predictions against tags: what counts as predicted, by hand; which images are asked; where the record is found."""

from types import SimpleNamespace

import numpy as np
import pytest

from maskwright.data.masks import write_mask
from maskwright.data.sample import LabelSpace
from maskwright.errors import DataError
from maskwright.files import read_json, write_json
from maskwright.inference.tag_agreement import (
    SHOWN,
    known_tags,
    predicted_tags,
    score_tags,
    tag_line,
    write_tag_agreement,
)
from maskwright.pipeline.segment import MOST_TAGGED, spread_over_tagged
from maskwright.runs.folder import RunFolder

LABELS = LabelSpace(("background", "cat", "dog", "cow"))


class Tagged(SimpleNamespace):
    """As much of a data set as tags need."""

    def __len__(self):
        return len(self.names)

    def tags(self, index):
        return self.given[index]


def tagged(*given, from_masks=False):
    return Tagged(
        names=[f"in/{number}" for number in range(len(given))],
        given=given,
        labels=LABELS,
        source={"split": "val", "tag_source": "tags.csv"},
        tags_from_masks=from_masks,
        images=None, masks=None, saliency=None, label_map=None,
    )  # fmt: skip


def test_a_few_stray_pixels_are_no_prediction():
    mask = np.zeros((20, 50), np.uint8)
    allowed = round(SHOWN * mask.size)
    mask[0, :allowed] = 1
    mask[1, : allowed + 1] = 2
    assert predicted_tags(mask, LABELS) == {2}
    mask[:] = 255
    assert predicted_tags(mask, LABELS) == set()


def test_counts_over_all_and_by_chance():
    found = score_tags([{1}, {1, 2}, {2}, set()], [(1,), (2,), (), (2, 3)], LABELS)
    assert (found["precision"], found["recall"], found["f1"]) == (2 / 4, 2 / 4, 4 / 8)
    # By chance: cat is tagged once and predicted twice in four images, dog twice and twice.
    assert found["f1_by_chance"] == pytest.approx(2 * (1 * 2 / 4 + 2 * 2 / 4) / 8)
    assert found["per_class"]["dog"] == {"precision": 1 / 2, "recall": 1 / 2, "tagged": 2, "predicted": 2, "both": 1}
    assert found["per_class"]["cow"] == {"precision": None, "recall": 0.0, "tagged": 1, "predicted": 0, "both": 0}
    assert found["images"] == 4
    assert score_tags([set()], [()], LABELS)["f1"] is None


def test_chance_is_what_predictions_of_other_images_have():
    generator = np.random.default_rng(0)
    tags = [{value for value in (1, 2, 3) if generator.random() < 0.2 * value} for _ in range(300)]
    found = [score_tags([tags[place] for place in generator.permutation(300)], tags, LABELS) for _ in range(30)]
    assert np.mean([one["f1"] for one in found]) == pytest.approx(found[0]["f1_by_chance"], abs=0.01)


def test_tags_that_follow_from_masks_are_ground_truth():
    assert known_tags(tagged((1,), None, ())) == [0, 2]
    assert known_tags(tagged((1,), (2,), from_masks=True)) == []


def test_the_record_says_what_it_was_measured_on(tmp_path):
    dataset = tagged((1,), (2,))
    for name, value in zip(dataset.names, (1, 3), strict=True):
        write_mask(tmp_path / "evaluation" / "predictions" / f"{name}.png", np.full((8, 8), value, np.uint8), LABELS)
    found = write_tag_agreement(dataset, tmp_path / "evaluation", trained_on=False)
    assert read_json(RunFolder(tmp_path).tag_agreement()) == found
    assert (found["split"], found["tag_source"], found["precision"], found["recall"]) == ("val", "tags.csv", 0.5, 0.5)
    assert tag_line(found).endswith("on val (2 images)")
    dataset.names.append("in/2")
    dataset.given += ((),)
    with pytest.raises(DataError, match=r"in/2\.png"):
        write_tag_agreement(dataset, tmp_path / "evaluation", trained_on=False)


def test_what_the_validation_images_say_goes_before_the_training_images(tmp_path):
    run = RunFolder(tmp_path)
    write_json(run.stage("evaluation") / "training" / "tags.json", {"split": "train"})
    assert read_json(run.tag_agreement())["split"] == "train"
    write_json(run.stage("evaluation") / "tags.json", {"split": "val"})
    assert read_json(run.tag_agreement())["split"] == "val"


@pytest.mark.parametrize("count", [1, MOST_TAGGED, MOST_TAGGED + 1, 5 * MOST_TAGGED + 3])
def test_training_images_are_spread_and_few(count):
    dataset = tagged(*[(1,) if number % 2 else None for number in range(2 * count)])
    chosen = spread_over_tagged(dataset)
    places = [dataset.names.index(name) for name in chosen.names]
    assert all(dataset.tags(place) is not None for place in places)
    assert min(count, MOST_TAGGED // 2) <= len(places) <= MOST_TAGGED
    assert len(set(np.diff(places))) <= 1
