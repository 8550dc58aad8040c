"""What masks lose on a coarse grid: counted by hand, and by the command."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from maskwright.cli import app
from maskwright.data.sample import LabelSpace
from maskwright.errors import RecipeError
from maskwright.studies.pooling import coarse, lost, mixed, pooling, table


def test_what_each_way_loses():
    mask = torch.zeros(8, 8, dtype=torch.uint8)
    mask[:, 1] = 1  # a pole beside the middles of cells of 4, a quarter of its cells
    mask[2, 6] = 2  # one pixel, which is the middle of its cell
    mask[7, 7] = 255
    assert lost(mask, 3, 4, 255) == {"nearest": {1}, "majority": {1, 2}, "shares": set()}
    nearest, shares = coarse(mask, 3, 4, 255)
    assert nearest.tolist() == [[0, 2], [0, 0]]
    torch.testing.assert_close(shares[:, 0, 0], torch.tensor([0.75, 0.25, 0.0]))
    torch.testing.assert_close(shares[:, 1, 1], torch.tensor([1.0, 0.0, 0.0]))  # of the 15 that have a label


def test_colours_are_mixed_by_shares_and_cells_without_a_label_are_grey():
    labels = LabelSpace(("background", "cat"))
    shares = np.array([[[0.5, 0.0]], [[0.5, 0.0]]], np.float32)
    shown = mixed(np.zeros((4, 8, 3), np.uint8), shares, 4, labels)
    expected = 0.75 * np.mean([labels.palette[0], labels.palette[1]], 0)
    assert np.abs(shown[0, 0] - expected).max() <= 1
    assert len(set(shown[0, 7].tolist())) == 1
    assert shown[0, 7, 0] > 100


@pytest.fixture
def poles(tmp_path):
    """Four images with a pole that cells of 8 miss."""
    for folder in ("images", "masks"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    for number in range(4):
        mask = np.zeros((32, 40), np.uint8)
        mask[:, 1 + 8 * number] = 1
        Image.fromarray(np.full((32, 40, 3), 90, np.uint8)).save(tmp_path / "set" / "images" / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / "set" / "masks" / f"{number}.png")
    (tmp_path / "set" / "classes.txt").write_text("background\npole\n")
    return tmp_path


def test_the_command_counts_and_shows(poles):
    words = ["study", "pooling", str(poles / "set"), "split=all", "ratio=8,2", "images=3", f"out={poles / 'out'}"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    stored = json.loads((poles / "out" / "pooling.json").read_text())
    assert (stored["masks"], stored["classes_in_images"]) == (4, 8)
    assert stored["lost"]["8"] == {"nearest": 4, "majority": 4, "shares": 0}
    assert stored["lost_by_class"]["8"]["nearest"] == {"background": 0, "pole": 4}
    assert "4 (50.0 %)" in result.output
    assert "\n".join(table(stored)) in result.output
    with Image.open(poles / "out" / "pooling.png") as picture:
        assert picture.height == 40 + 3 * 160


def test_pooling_that_cannot_be_is_refused(poles):
    from maskwright.settings import DataSettings

    with pytest.raises(RecipeError, match="images must be at least 1"):
        pooling(DataSettings(root=str(poles / "set")), images=0)
