"""What a run found beside what its recipe expects."""

import numpy as np
import pytest

from maskwright.data.sample import LabelSpace, Sample
from maskwright.errors import DataError
from maskwright.pipeline.expected import compare, compared_lines
from maskwright.pipeline.stages import recipe_stages
from maskwright.recipe.load import load_recipe
from maskwright.runs.context import RunContext
from maskwright.runs.folder import RunFolder

LABELS = LabelSpace(("background", "cat", "dog"))


class Scored:
    """One image without a mask and two with: the left half is the class that the image is tagged with."""

    labels, names, source = LABELS, ["a", "b", "c"], {"split": "train"}

    def __len__(self):
        return 3

    def tags(self, index):
        return (1 + index % 2,)

    def has_mask(self, index):
        return index > 0

    def mask(self, index):
        mask = np.zeros((8, 8), np.uint8)
        mask[:, :4] = self.tags(index)[0]
        return mask

    def __getitem__(self, index):
        return Sample(self.names[index], np.zeros((8, 8, 3), np.uint8), self.mask(index), self.tags(index))


def write_maps(folder, dataset, slope):
    """Maps that rise to the left, so that the threshold decides how many columns are the class."""
    folder.mkdir(parents=True)
    for index, name in enumerate(dataset.names):
        high_res = np.tile(np.linspace(slope, 0, 8, dtype=np.float16), (1, 8, 1))
        np.savez(folder / f"{name}.npz", keys=np.array([dataset.tags(index)[0] - 1]), high_res=high_res)


@pytest.fixture
def recipe():
    settings = ["expected={seeds: 1.0, irn: 1.0, miou: 0.5, other: 0.3}", "pseudo_masks.threshold=0.7", "tolerance=0.1"]
    return load_recipe("cam", [*settings, "pseudo_masks.sweep=[0.1, 0.9, 0.1]", "refine=[irn]", "source=a table"])


def test_seeds_count_at_their_best_and_refined_maps_at_the_given_threshold(recipe, tmp_path):
    dataset = Scored()
    for stage in ("seeds", "irn"):
        write_maps(tmp_path / stage / "maps", dataset, 1.0)
    model = {"miou": 0.41, "split": "val", "images": 9}
    seeds, irn, final = compare(recipe, RunFolder(tmp_path), dataset, ["seeds", "edges", "irn"], model)
    # Columns are 1, 6/7, 5/7, 4/7, 3/7, ...: half of them lie above 0.5.
    assert (seeds["found"], seeds["threshold"], seeds["images"], seeds["agrees"]) == (1.0, 0.5, 2, True)
    # At 0.7 three of four columns: IoU of both classes 3/4, of the background 4/5.
    assert irn["found"] == pytest.approx((0.75 + 0.75 + 0.8) / 3)
    assert (irn["threshold"], irn["agrees"]) == (0.7, False)
    assert (final["stage"], final["expected"], final["agrees"]) == ("miou", 0.5, True)
    lines = compared_lines([seeds, irn, final], recipe.source)
    assert lines[0] == "compared with a table:"
    assert "mIoU 1.000  on train (2 images) at threshold 0.5; expected 1.000: agrees" in lines[1]
    assert lines[2].endswith("expected 1.000: 0.233 too low")
    assert lines[3].split()[0] == "model"


def test_a_best_threshold_at_the_end_of_the_sweep_is_said(recipe, tmp_path):
    write_maps(tmp_path / "seeds" / "maps", Scored(), 1.0)
    recipe.pseudo_masks.sweep = (0.1, 0.5, 0.1)
    (row,) = compare(recipe, RunFolder(tmp_path), Scored(), ["seeds"], None)
    assert "at threshold 0.5, the last that was tried; expected" in compared_lines([row], "")[1]
    rows = [{"threshold": 0.5, "miou": 0.9}, {"threshold": 0.6, "miou": 0.8}]
    known = {"stages": {"seeds": {"best": rows[0], "sweep": rows}}}
    (row,) = compare(recipe, RunFolder(tmp_path), Scored(), ["seeds"], None, known)
    assert row["end"] == "the first that was tried"
    before = {key: value for key, value in row.items() if key != "end"}  # as version 0.2 wrote it
    assert "at threshold 0.5; expected" in compared_lines([before], "")[1]


def test_only_what_was_judged_is_compared(recipe, tmp_path):
    class Blind(Scored):
        def has_mask(self, index):
            return False

    assert compare(recipe, RunFolder(tmp_path), Blind(), ["seeds", "irn"], None) == []
    assert compared_lines([], "a table") == []


def test_maps_are_judged_on_the_split_that_is_named(tmp_path):
    small = ["data.options={count: 4, size: [32, 32]}", "judged_on=train"]
    run = RunContext(load_recipe("demo", small), tmp_path, print)
    assert run.judged.names == run.train.names
    run = RunContext(load_recipe("demo", [*small, "expected_split=val"]), tmp_path, print)
    with pytest.raises(DataError, match="expected_split=val: none of its 4 images is in split 'train'"):
        recipe_stages(run)
