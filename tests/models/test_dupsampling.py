from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from maskwright.data.sample import LabelSpace
from maskwright.errors import DataError, RecipeError
from maskwright.models import create_model
from maskwright.models.base import parameter_groups
from maskwright.models.dupsampling import (
    compress_labels,
    compressed_label_loss,
    cosine_basis,
    dupsample,
    dupsample_argmax,
)
from maskwright.models.dupsampling_fit import LabelBasis, cut_cells, fit_label_basis, label_patches
from maskwright.models.dupsampling_fit_cpu import top_eigenpairs
from maskwright.settings import TrainSettings

from .contract import ModelContract, backbone  # noqa: F401

SMALL = {"decoder_channels": 16, "low_level_channels": 8, "dim": 12}


class TestDUpsampling(ModelContract):
    name = "dupsampling"
    options: ClassVar = SMALL


class TestBilinear(ModelContract):
    name = "dupsampling"
    options: ClassVar = {**SMALL, "upsampling": "bilinear"}


def random_masks(count, height, width, classes, seed=0, ignored=0.0):
    """Blobs: smooth noise per class, arg-max, so that cells have borders of all directions."""
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(count):
        noise = torch.from_numpy(rng.standard_normal((1, classes, height // 8 + 2, width // 8 + 2)))
        mask = F.interpolate(noise, (height, width), mode="bicubic")[0].argmax(0).numpy().astype(np.uint8)
        mask[rng.random(mask.shape) < ignored] = 255
        masks.append(mask)
    return masks


def one_hot_cells(masks, ratio, classes):
    """The cells without ignored pixels as vectors, the slow way."""
    rows = []
    for mask in masks:
        for top in range(0, mask.shape[0] - ratio + 1, ratio):
            for left in range(0, mask.shape[1] - ratio + 1, ratio):
                cell = mask[top : top + ratio, left : left + ratio].ravel()
                if (cell < classes).all():
                    rows.append(np.eye(classes)[cell].ravel())
    return np.stack(rows)


# The fit.


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize(("ratio", "classes", "ignored"), [(4, 5, 0.01), (8, 3, 0.0), (8, 11, 0.001)])
def test_fit_is_the_eigendecomposition(dense, ratio, classes, ignored):
    masks = random_masks(6, 45, 70, classes, ignored=ignored)
    cells = one_hot_cells(masks, ratio, classes)
    patches = label_patches(masks, ratio, classes)
    assert patches.used == len(cells) == patches.weights.sum()
    values, vectors = np.linalg.eigh(cells.T @ cells / len(cells))
    basis = fit_label_basis(patches, 10, dense=dense, tolerance=1e-12)
    np.testing.assert_allclose(basis.eigenvalues, values[::-1][:10], rtol=1e-9)
    space = vectors[:, -10:] @ vectors[:, -10:].T
    np.testing.assert_allclose(basis.weight @ basis.weight.T, space, atol=1e-6)
    np.testing.assert_allclose(basis.weight.T @ basis.weight, np.eye(10), atol=1e-10)
    lost = cells - cells @ basis.weight @ basis.weight.T
    np.testing.assert_allclose(basis.error, np.square(lost).sum(1).mean(), rtol=1e-9)
    centred = cells - cells.mean(0)
    expected = np.linalg.eigvalsh(centred.T @ centred / len(cells))[:-10].sum()
    found = fit_label_basis(patches, 10, dense=dense, tolerance=1e-12, centred=True)
    np.testing.assert_allclose(found.error, expected, rtol=1e-9)


def test_fit_by_steps_restarts_and_stops_near_the_optimum():
    """A basis of many directions of slow decay; the default tolerance leaves the error within 0.1 % of the least."""
    patches = label_patches(random_masks(12, 96, 128, 6), 8, 6)
    exact = fit_label_basis(patches, 60, dense=True)
    found = fit_label_basis(patches, 60, dense=False)
    assert exact.error <= found.error * (1 + 1e-12)
    assert found.error < 1.001 * exact.error
    exact_to_the_end = fit_label_basis(patches, 60, dense=False, tolerance=1e-14)
    np.testing.assert_allclose(exact_to_the_end.eigenvalues, exact.eigenvalues, rtol=1e-9)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
@pytest.mark.parametrize(("ratio", "classes", "noise", "dim"), [(8, 6, 0.0, 60), (8, 5, 1.0, 50), (4, 9, 0.1, 20)])
def test_tolerance_is_the_distance_from_the_least_error(tolerance, ratio, classes, noise, dim):
    """Masks whose spectra fall fast, hardly (every pixel random) and in between."""
    rng = np.random.default_rng(0)
    masks = [
        np.where(rng.random(mask.shape) < noise, rng.integers(0, classes, mask.shape), mask)
        for mask in random_masks(8, 96, 128, classes)
    ]
    patches = label_patches(masks, ratio, classes)
    exact = fit_label_basis(patches, dim, dense=True).error
    found = fit_label_basis(patches, dim, dense=False, tolerance=tolerance).error
    assert exact * (1 - 1e-12) <= found <= exact * (1 + tolerance)


def test_threads_do_not_change_the_basis():
    patches = label_patches(random_masks(6, 96, 128, 6), 8, 6)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(fit_label_basis(patches, 20, dense=False, tolerance=1e-10))
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(found[0].weight, found[1].weight, atol=1e-9)
    np.testing.assert_allclose(found[0].error, found[1].error, rtol=1e-12)


def test_eigenpairs_where_decay_is_so_slow_that_steps_restart():
    """Eigenvalues evenly apart: several times as many products as there is room for, and no direction is lost."""
    rows, products = 3000, 0
    values = torch.linspace(1, 0, rows, dtype=torch.float64)

    def apply(block):
        nonlocal products
        products += len(block)
        return block * values

    found, vectors = top_eigenpairs(apply, rows, 12, float(values.sum()), 1e-15, 0)
    assert 3 * 288 < products < 2000
    torch.testing.assert_close(found, values[:12], rtol=1e-10, atol=0)
    torch.testing.assert_close(vectors[:12].abs(), torch.eye(12).double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(12).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dim", [3, 40, 48])
def test_fit_with_fewer_cells_than_directions(dim):
    patches = label_patches([np.tile(np.arange(3, dtype=np.uint8), (8, 3))[:, :8]], 4, 3)
    for dense in (True, False):
        basis = fit_label_basis(patches, dim, dense=dense)
        assert basis.error == pytest.approx(0, abs=1e-9)
        np.testing.assert_allclose(basis.weight.T @ basis.weight, np.eye(dim), atol=1e-9)


def test_cells_are_padded_with_ignore():
    mask = np.arange(15, dtype=np.uint8).reshape(3, 5)
    cells = cut_cells(mask, 2, 15)
    assert cells.shape == (6, 4)
    assert cells[0].tolist() == [0, 1, 5, 6]
    assert cells[2].tolist() == [4, 15, 9, 15]
    assert cells[5].tolist() == [14, 15, 15, 15]
    with pytest.raises(DataError, match=r"must hold 0\.\.13 or 255 .ignored., found 14"):
        cut_cells(mask, 2, 14)


def test_cells_with_few_ignored_pixels_serve_where_clean_ones_are_rare():
    """Half the grid has one ignored pixel of 16 in a cell, one cell has 5; 8 of 17 are clean, then none but one."""
    clean = np.arange(16, dtype=np.uint8).reshape(4, 4) % 3
    marred, spoiled = clean.copy(), clean.copy()
    marred[0, 0] = 255
    spoiled[:1] = spoiled[1, 0] = 255
    assert (spoiled == 255).sum() == 5
    some = label_patches([clean] * 8 + [marred] * 8 + [spoiled], 4, 3)
    assert (some.used, some.seen, len(some.labels)) == (8, 17, 1)
    few = label_patches([clean] + [marred] * 8 + [spoiled], 4, 3)
    assert (few.used, few.seen) == (9, 10)
    # Cells of one class, however many, say nothing of borders: they do not make clean cells less rare.
    plain = label_patches([np.zeros((4, 4), np.uint8)] * 90 + [clean] + [marred] * 8, 4, 3)
    assert (plain.used, plain.seen) == (99, 99)
    assert sorted(few.weights.tolist()) == [1, 8]
    assert fit_label_basis(few, 2).eigenvalues.sum() == pytest.approx((16 + 8 * 15) / 9)
    with pytest.raises(DataError, match="no cell of 4 x 4 pixels"):
        label_patches([spoiled], 4, 3)


def test_sample_is_bounded_unbiased_and_repeatable():
    masks = random_masks(20, 64, 64, 4)
    every = label_patches(masks, 4, 4)
    some = label_patches((mask for mask in masks), 4, 4, max_patches=200)
    assert some.used == every.used
    assert len(some.labels) <= 200 + 4
    assert some.weights.sum() == pytest.approx(every.weights.sum())
    again = label_patches(masks, 4, 4, max_patches=200)
    assert np.array_equal(some.labels, again.labels)
    assert not np.array_equal(some.labels, label_patches(masks, 4, 4, max_patches=200, seed=1).labels)
    # Cells of one class are counted, not sampled; of the others the shares of each class agree.
    uniform = (every.labels == every.labels[:, :1]).all(1)
    np.testing.assert_array_equal(some.weights[:4], every.weights[uniform][:4])
    shares = [[(p.weights * (p.labels == k).mean(1)).sum() / p.weights.sum() for k in range(4)] for p in (some, every)]
    np.testing.assert_allclose(*shares, atol=0.02)


def test_background_cells_can_be_held_down():
    masks = [np.zeros((64, 64), np.uint8), *random_masks(1, 64, 64, 3)]
    plain, balanced = label_patches(masks, 4, 3), label_patches(masks, 4, 3, background=0)
    assert plain.weights[0] > 256
    assert balanced.weights[0] == pytest.approx(balanced.weights[1:].sum())
    np.testing.assert_array_equal(plain.weights[1:], balanced.weights[1:])


def test_fit_refuses_what_cannot_be():
    with pytest.raises(RecipeError, match="ratio=0"):
        label_patches([], 0, 3)
    with pytest.raises(RecipeError, match=r"1\.\.12 directions, found dim=13"):
        fit_label_basis(label_patches([np.zeros((4, 4), np.uint8)], 2, 3), 13)


# Forward.


def brute_force(features, weight, classes, ratio):
    batch, _, height, width = features.shape
    logits = torch.zeros(batch, classes, height * ratio, width * ratio, dtype=features.dtype)
    for y in range(height):
        for x in range(width):
            cell = features[:, :, y, x] @ weight.T
            for dy in range(ratio):
                for dx in range(ratio):
                    first = (dy * ratio + dx) * classes
                    logits[:, :, y * ratio + dy, x * ratio + dx] = cell[:, first : first + classes]
    return logits


@pytest.mark.parametrize(("ratio", "classes", "size"), [(2, 5, (3, 4)), (4, 3, (2, 5)), (8, 2, (1, 3))])
def test_dupsample(ratio, classes, size, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 6, *size, generator=generator, dtype=torch.float64)
    weight = torch.randn(ratio * ratio * classes, 6, generator=generator, dtype=torch.float64)
    expected = brute_force(features, weight, classes, ratio)
    for layout in (torch.contiguous_format, torch.channels_last):
        maps = features.contiguous(memory_format=layout)
        torch.testing.assert_close(dupsample(maps, weight, classes, ratio), expected)
        for tile in (2**24, 1):
            monkeypatch.setattr("maskwright.models.dupsampling.TILE_BYTES", tile)
            for dtype in (torch.float64, torch.float32):  # plain torch, and the compiled kernel
                labels = dupsample_argmax(maps.to(dtype), weight.to(dtype), classes, ratio)
                assert labels.dtype == torch.uint8
                assert torch.equal(labels.long(), expected.argmax(1))


def test_argmax_of_equal_logits_is_the_first_class():
    features, weight = torch.ones(1, 1, 2, 2), torch.tensor([1.0, 2, 2, 1]).repeat(9)[:, None]
    for dtype in (torch.float64, torch.float32):
        assert (dupsample_argmax(features.to(dtype), weight.to(dtype), 4, 3) == 1).all()


def test_argmax_with_many_classes():
    features, weight = torch.ones(1, 1, 1, 2), torch.zeros(300, 1)
    weight[299] = 1
    assert dupsample_argmax(features, weight, 300, 1).tolist() == [[[299, 299]]]


def test_labels_come_back_through_a_full_basis():
    masks = np.stack(random_masks(2, 30, 21, 4, ignored=0.05))
    basis = fit_label_basis(label_patches(masks, 4, 4), 64)
    weight = torch.from_numpy(basis.weight)
    labels = torch.from_numpy(masks)
    coordinates = compress_labels(labels, weight, 4, 4)
    assert coordinates.shape == (2, 64, 8, 6)
    logits = dupsample(coordinates, weight, 4, 4)[:, :, :30, :21]
    valid = labels != 255
    expected = F.one_hot(labels.long().masked_fill(~valid, 0), 4) * valid[..., None]
    torch.testing.assert_close(logits.permute(0, 2, 3, 1), expected.double(), atol=1e-9, rtol=0)


def test_compressed_label_loss_counts_clean_cells_only():
    labels = torch.randint(3, (1, 8, 6), generator=torch.Generator().manual_seed(0))
    labels[0, 1, 1] = 255
    weight = torch.linalg.qr(torch.randn(48, 5, dtype=torch.float64))[0].requires_grad_()
    target = compress_labels(labels, weight.detach(), 3, 4)
    features = target.clone().requires_grad_()
    with torch.no_grad():
        features[:, 0] += torch.tensor([[7.0, 7.0], [2.0, 7.0]])  # only the lower left cell is whole and valid
    loss = compressed_label_loss(features, labels, weight, 3, 4)
    assert loss.item() == pytest.approx(4)
    loss.backward()
    assert weight.grad is None
    assert features.grad[0, :, [0, 0, 1], [0, 1, 1]].abs().max() == 0
    assert features.grad[0, 0, 1, 0] == pytest.approx(4)
    nothing = compressed_label_loss(features, torch.full_like(labels, 255), weight, 3, 4)
    assert nothing.item() == 0
    with pytest.raises(DataError, match=r"coordinates must be \(1, 5, 2, 2\)"):
        compressed_label_loss(features[:, :, :1], labels, weight, 3, 4)


@pytest.mark.parametrize("dim", [3, 20, 48])
def test_cosine_basis(dim):
    weight = cosine_basis(4, 3, dim)
    assert weight.shape == (48, dim)
    torch.testing.assert_close(weight.T @ weight, torch.eye(dim))
    # The first directions are the classes' shares, so with them alone the fullest class wins the whole cell.
    mask = torch.tensor([[0, 0, 2, 2], [0, 2, 2, 2], [1, 1, 2, 2], [1, 1, 2, 2]])[None]
    coordinates = compress_labels(mask, weight, 3, 4)
    torch.testing.assert_close(coordinates[0, :3, 0, 0], torch.tensor([3.0, 4.0, 9.0]) / 4)
    expected = mask if dim == 48 else torch.full_like(mask, 2)
    if dim != 20:
        assert torch.equal(dupsample_argmax(coordinates, weight, 3, 4).long(), expected)


# The model.


class Masks:
    """A dataset of masks with black images, that counts how often it is read."""

    def __init__(self, masks, classes):
        self.masks, self.labels, self.reads = masks, LabelSpace(tuple("abcdefgh"[:classes])), 0
        self.names = [str(number) for number in range(len(masks))]

    def __len__(self):
        return len(self.masks)

    def has_mask(self, index):
        return index != 1

    def mask(self, index):
        self.reads += 1
        return self.masks[index]


def build(**options):
    torch.manual_seed(0)
    return create_model("dupsampling", num_classes=5, **{"output_stride": 16, **SMALL, **options})


def test_prepare_fits_once_and_keeps_the_basis(tmp_path):
    data = Masks(random_masks(4, 64, 80, 5), 5)
    model = build()
    model.prepare(data, tmp_path)
    assert data.reads == 3
    expected = fit_label_basis(label_patches([data.masks[i] for i in (0, 2, 3)], 16, 5), 12).weight
    np.testing.assert_allclose(model.basis.detach().numpy(), 16 * expected, atol=1e-5)
    labels = torch.from_numpy(data.masks[0])[None]
    own = fit_label_basis(label_patches(data.masks[:1], 16, 5), 12).error
    lost = []
    for weight in (model.basis, build().basis):
        coordinates = compress_labels(labels, weight.detach(), 5, 16)
        back = dupsample(coordinates, weight.detach(), 5, 16).permute(0, 2, 3, 1)
        lost.append((back - F.one_hot(labels.long(), 5)).square().sum().item() / 20)
    assert own < lost[0] < lost[1] < 256
    again = build()
    again.prepare(data, tmp_path)
    assert data.reads == 3
    assert torch.equal(again.basis, model.basis)
    narrow = build(dim=4, label_basis=str(tmp_path / "label_basis.npz"))
    narrow.prepare(None, tmp_path / "other")
    assert torch.equal(narrow.basis, model.basis[:, :4])
    with pytest.raises(
        DataError, match="output stride 16, 5 classes and 12 dimensions; the model has output stride 32"
    ):
        build(output_stride=32, label_basis=str(tmp_path / "label_basis.npz")).prepare(None, tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        build(label_basis=str(tmp_path / "none.npz")).prepare(None, tmp_path)
    (tmp_path / "bad.npz").write_text("no")
    with pytest.raises(DataError, match="not a label basis"):
        LabelBasis.load(tmp_path / "bad.npz")


@pytest.mark.parametrize("options", [{"upsampling": "bilinear"}, {"label_basis": "cosine"}])
def test_prepare_without_a_fit(tmp_path, options):
    before = build(**options)
    model = build(**options)
    model.prepare(None, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.state_dict().values()))
    assert not list(tmp_path.iterdir())


@torch.no_grad()
def test_temperature_changes_logits_but_no_label():
    images = torch.randn(1, 3, 65, 97)
    model = build().eval()
    logits, labels = model(images), model.predict(images)
    assert model.temperature == 1
    model.log_temperature.fill_(np.log(0.25))
    assert model.temperature == pytest.approx(0.25)
    torch.testing.assert_close(model(images), 4 * logits)
    assert torch.equal(model.predict(images), labels)
    plain = build(temperature=False).eval()
    assert plain.temperature == 1
    assert torch.equal(plain(images), logits)


@pytest.mark.parametrize("decay", [True, False])
def test_temperature_is_never_decayed(decay):
    model = build()
    settings = TrainSettings(weight_decay=0.1, decay_norm_and_bias=decay)
    groups = parameter_groups(model, settings)
    (held,) = [group for group in groups if any(value is model.log_temperature for value in group["params"])]
    assert held["weight_decay"] == 0
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_frozen_basis_gets_no_gradient():
    model = build(freeze_basis=True)
    model(torch.randn(2, 3, 32, 32)).square().mean().backward()
    assert model.basis.grad is None
    assert model.project.weight.grad is not None
    assert build().basis.requires_grad


def test_low_level_maps():
    strides = build(output_stride=32).backbone.strides
    assert [strides[number] for number in build(output_stride=32).low_level] == [8, 16]
    assert build(low_level=[0, -2]).low_level == [0, 3]
    with torch.no_grad():
        assert build(low_level=[]).eval()(torch.zeros(1, 3, 40, 24)).shape == (1, 5, 40, 24)
    for wrong in ([4], [-1], [5], [-6]):
        with pytest.raises(RecipeError, match=r"finer than the coarsest: 0\.\.3"):
            build(low_level=wrong)
    with pytest.raises(RecipeError, match="dupsampling or bilinear, found 'nearest'"):
        build(upsampling="nearest")
    with pytest.raises(RecipeError, match=r"dim must be 1\.\.1280 at output stride 16"):
        build(dim=1281)


@torch.no_grad()
def test_decoder_works_at_the_coarsest_resolution():
    model = build(output_stride=32).eval()
    assert model.decode(model.backbone(torch.zeros(1, 3, 64, 96))).shape == (1, 16, 2, 3)
    assert model(torch.zeros(1, 3, 70, 96), upsample=False).shape == (1, 5, 70, 96)
    bilinear = build(output_stride=32, upsampling="bilinear").eval()
    assert bilinear(torch.zeros(1, 3, 64, 96), upsample=False).shape == (1, 5, 2, 3)
