"""P and W by gradient descent, and mIoU* as a trained autoencoder, beside the closed forms."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

from maskwright.cli import app
from maskwright.data.sample import LabelSpace
from maskwright.errors import RecipeError
from maskwright.models.dupsampling import compress_labels, dupsample, sum_over_cells
from maskwright.models.dupsampling_fit import fit_label_basis, label_patches
from maskwright.settings import DataSettings
from maskwright.studies.autoencoder import (
    Autoencoder,
    autoencoder,
    cell_errors,
    crops_of,
    descend_basis,
    table,
    train_autoencoder,
)

CPU = torch.device("cpu")
LABELS = LabelSpace(("ground", "thing", "pole"))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def scene(seed, height=48, width=72):
    """Ground, a slanted thing, poles two pixels wide, a strip without labels."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[:height, :width]
    mask = (down * rng.uniform(0.5, 2) + across > rng.integers(40, 90)).astype(np.uint8)
    for left in rng.choice(width - 2, 4, replace=False):
        mask[rng.integers(0, 10) :, left : left + 2] = 2
    mask[-2:] = 255
    return mask


def one_hot(mask, ratio, classes=3):
    """The cells of a mask as vectors, the slow way."""
    rows = np.eye(classes + 1)[np.minimum(mask, classes)][..., :classes]
    height, width = (side // ratio for side in mask.shape)
    cells = rows.reshape(height, ratio, width, ratio, classes).transpose(0, 2, 1, 3, 4)
    return torch.from_numpy(cells.reshape(height * width, -1)).float()


def test_the_error_is_what_the_product_loses():
    generator = torch.Generator().manual_seed(0)
    encoder, decoder = (torch.randn(48, 5, generator=generator) for _ in range(2))
    mask = scene(0)
    cells = np.minimum(mask, 3).reshape(12, 4, 18, 4).transpose(0, 2, 1, 3).reshape(-1, 4, 4)
    found = cell_errors(torch.from_numpy(cells).long(), encoder, decoder, 3, 4)
    vectors = one_hot(mask, 4)
    assert (vectors.sum(1) < 16).any()
    torch.testing.assert_close(found, (vectors - vectors @ encoder @ decoder.T).square().sum(1))


def test_a_sum_over_cells_is_a_product_with_one_hot_vectors():
    table = torch.randn(48, 5, generator=torch.Generator().manual_seed(1))
    labels = torch.from_numpy(scene(2))[None]
    sums = sum_over_cells(labels, table, 3, 4)
    torch.testing.assert_close(sums[0].flatten(1).T, one_hot(labels[0].numpy(), 4) @ table)
    weight = 4 * torch.linalg.qr(table)[0]
    torch.testing.assert_close(compress_labels(labels, weight, 3, 4), sum_over_cells(labels, weight / 16, 3, 4))


@pytest.mark.parametrize(("ratio", "dim"), [(4, 6), (8, 10)])
def test_descent_gets_near_the_closed_form_and_never_below(ratio, dim):
    patches = label_patches([scene(seed) for seed in range(12)], ratio, 3)
    closed = fit_label_basis(patches, dim, dense=True).error
    few, many = (descend_basis(patches, dim, steps, CPU)[2] for steps in (20, 500))
    assert closed > 0.5
    # No map of this rank loses less; what is left is how float32 rounds.
    assert few > many > closed * (1 - 1e-5)
    assert few > 1.5 * closed
    assert many < 1.1 * closed


def test_encoders_learn_and_give_the_labels_of_their_logits():
    crops = crops_of([scene(seed) for seed in range(8)], 32, 4, 255)
    assert {crop.shape for crop in crops} == {(32, 32)}
    patches = label_patches([scene(seed) for seed in range(8)], 8, 3)
    truth = torch.from_numpy(np.stack([scene(20), scene(21)])[:, :45, :69]).long()
    valid = truth != 255
    for basis in (None, fit_label_basis(patches, 16)):
        untrained, trained = (train_autoencoder(crops, LABELS, 8, basis, steps, CPU) for steps in (1, 100))
        with torch.no_grad():
            logits = trained(truth, 255)
        assert logits.shape == (2, 3, 45, 69)
        restored = trained.restore(truth, 255)
        assert torch.equal(restored.long(), logits.argmax(1))
        wrong = [
            (network.restore(truth, 255)[valid] != truth[valid]).float().mean() for network in (untrained, trained)
        ]
        assert wrong[1] < 0.2 < wrong[0]


def test_the_decoder_is_that_of_a_segmenter():
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(48, 6))[0]
    labels = torch.from_numpy(scene(3))[None]
    with torch.no_grad():
        for start in (None, basis):
            network = Autoencoder(3, 4, start)
            code = network.encode(labels, 255)
            if start is None:
                expected = F.interpolate(code, scale_factor=4, mode="bilinear", align_corners=False)
            else:
                expected = dupsample(code, 4 * basis, 3, 4)
            torch.testing.assert_close(network(labels, 255), expected)


def test_crops_without_labels_are_left_out_and_small_masks_are_padded():
    assert crops_of([np.full((40, 40), 255, np.uint8)], 32, 3, 255) == []
    (crop,) = crops_of([np.zeros((8, 40), np.uint8)], 32, 1, 255)
    assert crop.shape == (32, 32)
    assert (crop[8:] == 255).all()
    assert (crop[:8] == 0).all()


@pytest.fixture
def folder(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / "set" / name).mkdir(parents=True)
    for number in range(4):
        Image.fromarray(np.full((48, 72, 3), 90, np.uint8)).save(tmp_path / "set" / "images" / f"{number}.png")
        Image.fromarray(scene(number)).save(tmp_path / "set" / "masks" / f"{number}.png")
    (tmp_path / "set" / "classes.txt").write_text("\n".join(LABELS.names) + "\n")
    return tmp_path


def test_the_command_puts_all_ways_side_by_side(folder):
    words = ["study", "autoencoder", str(folder / "set"), "split=all", "ratio=8", "dim=300", "steps=3"]
    result = CliRunner().invoke(app, [*words, f"out={folder / 'out'}", "device=cpu"])
    assert result.exit_code == 0, result.output
    stored = json.loads((folder / "out" / "autoencoder.json").read_text())
    ways = stored["ratios"]["8"]
    assert {way: found["numbers"] for way, found in ways.items()} == {
        "bilinear": 3, "bilinear_trained": 3, "closed": 192, "descent": 192, "dupsampling_trained": 192,
    }  # fmt: skip
    assert ways["closed"]["miou"] == 1  # with all directions nothing is lost
    assert ways["closed"]["error_per_cell"] < 1e-6 < ways["descent"]["error_per_cell"]
    assert ways["bilinear"]["error_per_cell"] is None
    assert "\n".join(table(stored)) in result.output


def test_a_study_that_cannot_be_is_refused(folder):
    with pytest.raises(RecipeError, match="dim and steps must be at least 1, found dim=4, steps=0"):
        autoencoder(DataSettings(root=str(folder / "set")), dim=4, steps=0)
