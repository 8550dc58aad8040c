"""Dense CRF: the lattice in both forms, the exact form as judge, the fast form, unaries, IR labels."""

import math

import numpy as np
import pytest
import torch

from maskwright.crf import dense_crf as module
from maskwright.crf.dense_crf import (
    PRESETS,
    crf_labels,
    dense_crf,
    preset_settings,
    unary_from_labels,
    unary_from_probabilities,
)
from maskwright.crf.permutohedral import NEGLIGIBLE, key_layout
from maskwright.errors import DataError
from maskwright.weak.refine.ir_labels import ir_labels

pytestmark = pytest.mark.versions

SETTINGS = {"gaussian": (2, 2), "bilateral": (20, 8, 5)}


def scene(height=48, width=61, labels=3, seed=0, noise=4.0):
    """Discs of one colour each on a background, and noisy probabilities of which disc a pixel belongs to."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    truth = np.zeros((height, width), np.int64)
    for label in range(1, labels):
        y, x = rng.uniform(0.2, 0.8) * height, rng.uniform(0.2, 0.8) * width
        truth[(rows - y) ** 2 + (columns - x) ** 2 < (0.22 * min(height, width)) ** 2] = label
    palette = rng.integers(30, 220, (labels, 3))
    image = np.clip(palette[truth] + rng.normal(0, noise, (height, width, 3)), 0, 255).astype(np.uint8)
    scores = 2 * np.eye(labels)[truth] + rng.normal(0, 1, (height, width, labels))
    probabilities = torch.from_numpy(scores).float().permute(2, 0, 1).softmax(0)
    return torch.from_numpy(image), unary_from_probabilities(probabilities), torch.from_numpy(truth)


def torch_form(image, unary, gaussian, bilateral, iterations=10):
    return module._lattice_torch(image[None], unary[None], gaussian, bilateral, iterations)[0]


def test_exact_is_the_formula():
    image, unary, _ = scene(5, 6)
    rows, columns = np.mgrid[:5, :6]
    place = np.stack([rows.ravel(), columns.ravel()], 1).astype(float)
    colour = image.reshape(-1, 3).double().numpy()

    def kernel(difference):
        k = np.exp(-difference / 2)
        return k / np.sqrt(np.outer(k.sum(1), k.sum(1)))

    apart = ((place[:, None] - place) ** 2).sum(-1)
    total = 2 * kernel(apart / 2**2)
    total += 5 * kernel(apart / 20**2 + ((colour[:, None] - colour) ** 2).sum(-1) / 8**2)
    energy = unary.flatten(1).double().numpy().T
    q = np.exp(-energy) / np.exp(-energy).sum(1, keepdims=True)
    for _ in range(3):
        z = np.exp(-energy + total @ q)
        q = z / z.sum(1, keepdims=True)
    found = dense_crf(image, unary, **SETTINGS, iterations=3, mode="exact").flatten(1).T.numpy()
    np.testing.assert_allclose(found, q, atol=1e-6)


@pytest.mark.parametrize("preset", PRESETS)
def test_lattice_agrees_with_exact(preset):
    image, unary, truth = scene(36, 41)
    lattice = dense_crf(image, unary, **PRESETS[preset])
    exact = dense_crf(image, unary, **PRESETS[preset], mode="exact")
    assert (lattice.argmax(0) == exact.argmax(0)).float().mean() >= 0.98
    before = (unary.argmin(0) == truth).float().mean()
    assert (lattice.argmax(0) == truth).float().mean() > max(before, 0.9)


@pytest.mark.parametrize("labels", [1, 2, 4, 5, 9])
@pytest.mark.parametrize("iterations", [0, 1, 5])
def test_compiled_form_equals_torch_form(labels, iterations):
    image, unary, _ = scene(33, 30, labels)
    found = dense_crf(image, unary, **SETTINGS, iterations=iterations)
    torch.testing.assert_close(found, torch_form(image, unary, (2, 2), (20, 8, 5), iterations), atol=2e-5, rtol=0)
    torch.testing.assert_close(found.sum(0), torch.ones(33, 30))
    if iterations == 0:
        torch.testing.assert_close(found, (-unary).softmax(0), atol=1e-6, rtol=0)


def test_labels_that_do_not_occur_change_nothing():
    image, unary, _ = scene(40, 40, 3)
    absent = torch.full((10, 40, 40), -math.log(NEGLIGIBLE / 20))
    many = torch.cat([absent[:4], unary[:2], absent[4:], unary[2:]])
    found = dense_crf(image, many, **SETTINGS)
    torch.testing.assert_close(found, torch_form(image, many, (2, 2), (20, 8, 5)), atol=2e-5, rtol=0)


def test_order_of_labels_does_not_matter():
    image, unary, _ = scene(30, 41, 6)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    found = dense_crf(image, unary, **SETTINGS)
    torch.testing.assert_close(dense_crf(image, unary[order], **SETTINGS), found[order], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("mode", "threads"), [("lattice", 1), ("lattice", 2), ("fast", 1), ("exact", 1)])
def test_batch_is_each_image_by_itself(mode, threads):
    torch.set_num_threads(threads)
    images, unaries, _ = zip(*(scene(23, 31, seed=seed) for seed in range(3)), strict=True)
    batch = dense_crf(torch.stack(images), torch.stack(unaries), **SETTINGS, mode=mode)
    alone = torch.stack([dense_crf(a, b, **SETTINGS, mode=mode) for a, b in zip(images, unaries, strict=True)])
    torch.testing.assert_close(batch, alone, atol=1e-6, rtol=0)
    form = module._lattice_torch(torch.stack(images), torch.stack(unaries), (2, 2), (20, 8, 5), 10)
    if mode == "lattice":
        torch.testing.assert_close(batch, form, atol=2e-5, rtol=0)


@pytest.mark.parametrize("labels", [3, 7, 12, 21])
def test_threads_share_the_labels_of_one_image(labels, monkeypatch):
    monkeypatch.setattr(module, "PIXELS_PER_THREAD", 100)
    image, unary, _ = scene(24, 27, labels)
    torch.set_num_threads(1)
    alone = dense_crf(image, unary, **SETTINGS)
    torch.set_num_threads(2)
    torch.testing.assert_close(dense_crf(image, unary, **SETTINGS), alone, atol=1e-6, rtol=0)


def test_without_numba_torch_does_it(monkeypatch):
    image, unary, _ = scene(20, 22)
    expected = dense_crf(image, unary, **SETTINGS)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    monkeypatch.setattr(module, "_lattice_cpu", None)
    torch.testing.assert_close(dense_crf(image, unary, **SETTINGS), expected, atol=2e-5, rtol=0)


def test_kernels_compile_where_nothing_can_be_cached(monkeypatch):
    import numba

    from maskwright.crf import permutohedral_cpu

    real, before = numba.njit, numba.config.SLP_VECTORIZE

    def njit(*args, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(*args, **options)

    monkeypatch.setattr(numba, "njit", njit)
    doubled = permutohedral_cpu.jit("f8(f8)")(lambda x: 2 * x)
    assert doubled(4.0) == 8.0
    assert before == numba.config.SLP_VECTORIZE


@pytest.mark.parametrize(("gaussian", "bilateral"), [((2, 0), (20, 8, 5)), ((2, 2), (20, 8, 0)), ((2, 0), (20, 8, 0))])
def test_kernel_of_weight_zero_is_left_out(gaussian, bilateral):
    image, unary, _ = scene(20, 20)
    found = dense_crf(image, unary, gaussian=gaussian, bilateral=bilateral)
    tiny = {"gaussian": (2, gaussian[1] or 1e-9), "bilateral": (20, 8, bilateral[2] or 1e-9)}
    torch.testing.assert_close(found, dense_crf(image, unary, **tiny), atol=1e-6, rtol=0)
    torch.testing.assert_close(found, torch_form(image, unary, gaussian, bilateral), atol=2e-5, rtol=0)


def test_image_of_pure_noise_and_flat_image():
    rng = np.random.default_rng(0)
    unary = torch.from_numpy(rng.normal(0, 1, (3, 90, 97))).float()
    for image in (rng.integers(0, 256, (90, 97, 3), dtype=np.uint8), np.full((90, 97, 3), 255, np.uint8)):
        image = torch.from_numpy(image)
        found = dense_crf(image, unary, **PRESETS["deeplab"])
        # A pixel between two labels enlarges differences of rounding over the iterations.
        torch.testing.assert_close(found, torch_form(image, unary, (1, 3), (67, 3, 4)), atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", [(96, 128), (65, 97)])
def test_fast_is_close(size):
    image, unary, _ = scene(*size, labels=4)
    full = dense_crf(image, unary, **PRESETS["seam"])
    fast = dense_crf(image, unary, **PRESETS["seam"], mode="fast")
    assert fast.shape == full.shape
    torch.testing.assert_close(fast.sum(0), torch.ones(size))
    assert (fast.argmax(0) == full.argmax(0)).float().mean() >= 0.97


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3)])
@pytest.mark.parametrize("mode", module.MODES)
def test_tiny_images(size, mode):
    found = dense_crf(torch.zeros(*size, 3, dtype=torch.uint8), torch.rand(2, *size), **SETTINGS, mode=mode)
    assert found.shape == (2, *size)
    torch.testing.assert_close(found.sum(0), torch.ones(size))


def test_half_precision_in_float32_out():
    image, unary, _ = scene(16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        exact = dense_crf(image, unary.half(), **SETTINGS, mode="exact")
        lattice = dense_crf(image, unary.half(), **SETTINGS)
    assert exact.dtype == lattice.dtype == torch.float32
    torch.testing.assert_close(exact, dense_crf(image, unary.half().float(), **SETTINGS, mode="exact"))


def test_presets_are_the_published_ones():
    rows = {name: (*p["gaussian"], *p["bilateral"], p["iterations"]) for name, p in PRESETS.items()}
    assert rows == {
        "irn": (3, 3, 50, 5, 10, 10),
        "seam": (3, 3, 80, 13, 10, 10),
        "deeplab": (1, 3, 67, 3, 4, 10),
        "largefov": (3, 3, 121, 5, 4, 10),
        "deeplab-vgg16": (2, 2, 65, 3, 4, 10),
    }
    assert not any("mode" in preset for preset in PRESETS.values())


def test_unaries():
    torch.testing.assert_close(
        unary_from_probabilities(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([-math.log(1e-5), math.log(2), 0.0])
    )
    unary = unary_from_labels(torch.tensor([[0, 2]]), 3, 0.8)
    expected = torch.tensor([[0.8, 0.1], [0.1, 0.1], [0.1, 0.8]]).log().neg()[:, None]
    torch.testing.assert_close(unary, expected)
    batch = unary_from_labels(torch.tensor([[[0, 2]], [[1, 1]]], dtype=torch.uint8), 3, 0.8)
    assert batch.shape == (2, 3, 1, 2)
    torch.testing.assert_close(batch[0], expected)


def test_label_crf_removes_specks():
    image, _, truth = scene(noise=2.0)
    labels = truth.clone()
    labels[::9, ::9] = (labels[::9, ::9] + 1) % 3
    cleaned = crf_labels(image, labels, 3)
    assert cleaned.dtype == torch.int64
    assert (cleaned == truth).float().mean() > (labels == truth).float().mean()
    assert torch.equal(crf_labels(image, labels * 0, 1), labels * 0)


def test_kernels_of_a_preset_follow_the_size_of_the_image():
    assert preset_settings("irn", (375, 500), "image") == preset_settings("irn", (96, 96)) == PRESETS["irn"]
    small = preset_settings("irn", (50, 100), "image")
    assert small["gaussian"] == (3 * 0.2, 3)
    assert small["bilateral"] == (50 * 0.2, 5, 10)
    for scale in (0, -1.0, "size"):
        with pytest.raises(DataError, match="above 0"):
            preset_settings("irn", (50, 100), scale)


def test_a_small_object_in_a_small_image_outlives_kernels_that_shrink_with_it():
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 12, (64, 64, 3)))
    labels = torch.zeros(64, 64, dtype=torch.int64)
    labels[20:28, 20:24] = 1
    image = (90 + 20 * labels[..., None] + noise).clamp(0, 255).to(torch.uint8)
    kept = [(crf_labels(image, labels, 2, scale=scale) * labels).sum() / labels.sum() for scale in (1, "image")]
    assert kept[1] > kept[0] + 0.2


def test_what_does_not_fit_is_said():
    image, unary, _ = scene(8, 8)
    with pytest.raises(DataError, match=r"Did you mean 'lattice'"):
        dense_crf(image, unary, **SETTINGS, mode="latice")
    with pytest.raises(DataError, match=r"Did you mean 'irn'"):
        crf_labels(image, unary.argmin(0), 3, preset="irm")
    for bad_image, bad_unary in ((image[:4], unary), (image.float(), unary), (image[None], unary), (image, unary[0])):
        with pytest.raises(DataError, match="expected uint8"):
            dense_crf(bad_image, bad_unary, **SETTINGS)
    with pytest.raises(DataError, match="not finite"):
        dense_crf(image, unary * math.inf, **SETTINGS)
    with pytest.raises(DataError, match="standard deviation is 0"):
        dense_crf(image, unary, gaussian=(0, 3), bilateral=(1, 1, 1))
    for settings in ({"gaussian": (1, -3)}, {"bilateral": (1, 1)}, {"iterations": -1}):
        with pytest.raises(DataError, match="none negative"):
            dense_crf(image, unary, **{**SETTINGS, **settings})
    with pytest.raises(DataError, match="too many for mode 'exact'"):
        dense_crf(torch.zeros(200, 200, 3, dtype=torch.uint8), torch.zeros(2, 200, 200), **SETTINGS, mode="exact")
    with pytest.raises(DataError, match=r"0\.\.255, expected 0\.\.2"):
        unary_from_labels(torch.tensor([[0, 255]]), 3)
    with pytest.raises(DataError, match="at least 2"):
        unary_from_labels(torch.tensor([[0]]), 1)
    with pytest.raises(DataError, match="between 0 and 1"):
        unary_from_labels(torch.tensor([[0]]), 2, 1.0)


def test_lattice_keys():
    strides, origin, count = key_layout([0.0, 0.0, -3.0], [10.0, 5.0, 40.0])
    assert sum(strides) == 0  # a lattice point is a class of coordinates that differ by (1, .., 1)
    assert 0 < origin < count
    with pytest.raises(DataError, match="larger"):
        key_layout([0.0] * 5, [1e5] * 5)


def test_ir_labels_by_hand():
    maps = np.zeros((2, 2, 3), np.float32)
    maps[0, 0] = 0.9, 0.2, 0.0
    maps[1, 1] = 0.0, 0.06, 0.31
    image = np.zeros((2, 3, 3), np.uint8)
    found = ir_labels(maps, [4, 7], image, 0.3, 0.05, crf=None)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, [[5, 255, 0], [0, 255, 8]])
    refined = ir_labels(maps, [4, 7], image, 0.3, 0.05)
    assert refined.shape == (2, 3)
    assert set(np.unique(refined)) <= {0, 5, 8, 255}
    np.testing.assert_array_equal(ir_labels(maps[:0], [], image, 0.3, 0.05), np.zeros((2, 3)))


def test_ir_labels_follow_the_image():
    image, _, truth = scene(60, 60, 2, noise=2.0)
    rng = np.random.default_rng(0)
    maps = np.clip(0.6 * (truth.numpy() == 1) + 0.1 + rng.normal(0, 0.15, truth.shape), 0, 1)[None].astype(np.float32)
    plain = ir_labels(maps, [2], image.numpy(), 0.3, 0.2, crf=None)
    refined = ir_labels(maps, [2], image.numpy(), 0.3, 0.2)
    expected = np.where(truth.numpy() == 1, 3, 0)
    assert (refined == expected).mean() > max((plain == expected).mean(), 0.95)


def test_ir_labels_say_what_does_not_fit():
    maps, image = np.zeros((1, 4, 5), np.float32), np.zeros((4, 5, 3), np.uint8)
    with pytest.raises(DataError, match=r"expected \(H, W, 3\)"):
        ir_labels(maps, [0], image[:3], 0.3, 0.05)
    with pytest.raises(DataError, match="n keys"):
        ir_labels(maps, [0, 1], image, 0.3, 0.05)
    with pytest.raises(DataError, match="too high"):
        ir_labels(maps, [254], image, 0.3, 0.05)
