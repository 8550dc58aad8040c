"""Class activation maps: the maths, one image, and a whole folder."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn
from torch.nn import functional as F

from maskwright.data.sample import LabelSpace
from maskwright.errors import DataError, RecipeError
from maskwright.files import read_json
from maskwright.runs.stages import effective
from maskwright.settings import SeedSettings
from maskwright.weak import SEED_METHODS, SeedMethod, extract_folder, extract_maps, extract_seeds, make_views
from maskwright.weak.seeds.cam import (
    accumulate,
    class_activation_maps,
    class_maps,
    finish,
    merge_flip,
    normalise_maps,
    strided,
)
from maskwright.weak.seeds.extract import load_maps, weights_digest

pytestmark = pytest.mark.versions

SCALES = (1.0, 0.5, 1.5)


@pytest.mark.parametrize(("length", "stride", "expected"), [(1, 4, 1), (4, 4, 1), (5, 4, 2), (64, 16, 4), (65, 16, 5)])
def test_strided(length, stride, expected):
    assert strided(length, stride) == expected == len(range(0, length, stride))


def test_class_maps_average_to_the_logits(network):
    images = torch.randn(2, 3, 32, 48)
    maps = class_maps(network.features(images), network.classifier.weight)
    assert_allclose(maps.mean((2, 3)).detach(), network(images).detach(), atol=1e-6)
    flat = class_maps(network.features(images), network.classifier.weight[:, :, 0, 0])
    assert torch.equal(maps, flat)


def test_class_maps_have_gradients(network):
    features = torch.randn(1, 7, 4, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(class_maps, (features, weight))


def test_merge_flip():
    maps = torch.rand(4, 2, 3, 5)
    merged = merge_flip(maps)
    assert torch.equal(merged[1], maps[1] + maps[3].flip(-1))
    mirrored = torch.cat([maps[2:], maps[:2]])
    assert torch.equal(merge_flip(mirrored), merged.flip(-1))


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (5, 16), (61, 83)])
def test_accumulate_is_the_sum_of_resized_maps(size):
    maps = [torch.rand(2, 4, 6, dtype=torch.float64), torch.rand(2, 2, 3, dtype=torch.float64)]
    small, large = accumulate(maps, size)
    height, width = size
    assert small.shape == (2, -(-height // 4), -(-width // 4))
    assert large.shape == (2, height, width)
    assert small.dtype == large.dtype == torch.float64
    padded = (-(-height // 16) * 16, -(-width // 16) * 16)
    expected = sum(F.interpolate(m[None], padded, mode="bilinear")[0] for m in maps)
    assert_allclose(large, expected[:, :height, :width], atol=1e-12)


def test_normalise_maps_and_maps_of_zeros():
    maps = torch.tensor([[[0.0, 2.0]], [[0.0, 0.0]]])
    assert_allclose(normalise_maps(maps), [[[0, 2 / (2 + 1e-5)]], [[0, 0]]])
    assert normalise_maps(torch.zeros(0, 3, 4)).shape == (0, 3, 4)


def test_finish_splits_by_image():
    maps = [torch.rand(3, 4, 5)]
    found = finish(maps, [(2,), (), (0, 1)], (20, 30))
    assert [seed.keys.tolist() for seed in found] == [[2], [], [0, 1]]
    assert [len(seed.cam) for seed in found] == [1, 0, 2]
    assert torch.equal(found[2].high_res, finish([maps[0][1:]], [(0, 1)], (20, 30))[0].high_res)


def image(seed=0, size=(24, 40)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def naive(network, pixels, tags, scales=SCALES):
    """Every view by itself, every class, in the order of the specification."""
    height, width = pixels.shape[:2]
    total = torch.zeros(network.classifier.weight.shape[0], 16 * strided(height, 16), 16 * strided(width, 16))
    for scale in scales:
        view = make_views([pixels], [tags], mean=network.mean, std=network.std, scales=[scale], flip=False).images[0]
        straight = F.relu(network.classifier(network.features(view)))
        mirrored = F.relu(network.classifier(network.features(view.flip(-1)))).flip(-1)
        total += F.interpolate(straight + mirrored, total.shape[-2:], mode="bilinear")[0]
    maps = total[list(tags), :height, :width]
    return (maps / (maps.amax((1, 2), keepdim=True) + 1e-5)).detach()


@pytest.mark.parametrize("tags", [(1,), (0, 2), (0, 1, 2)])
def test_one_batch_equals_view_by_view(network, tags):
    found = extract_maps(network, image(), tags, scales=SCALES)
    assert_allclose(found.high_res, naive(network, image(), tags), atol=1e-5)
    assert found.keys.tolist() == list(tags)
    assert found.cam.shape == (len(tags), 6, 10)
    assert not found.high_res.requires_grad


def test_batch_equals_loop(network):
    images, tags = [image(seed) for seed in range(3)], [(0,), (), (1, 2)]
    views = make_views(images, tags, mean=network.mean, std=network.std, scales=SCALES)
    assert views.flip
    for pixels, keys, seed in zip(images, tags, class_activation_maps(network, views), strict=True):
        if keys:
            assert_allclose(seed.high_res, extract_maps(network, pixels, keys, scales=SCALES).high_res, atol=1e-5)
        assert seed.high_res.shape == (len(keys), 24, 40)


def test_the_mirror_image_has_mirrored_maps(network):
    size = (32, 48)  # multiples of 16, so that the crop cuts nothing off
    found = extract_maps(network, image(size=size), (0, 1, 2), scales=(1.0,))
    mirrored = extract_maps(network, image(size=size)[:, ::-1].copy(), (0, 1, 2), scales=(1.0,))
    assert_allclose(mirrored.high_res, found.high_res.flip(-1), atol=1e-5)
    alone = extract_maps(network, image(size=size), (0, 1, 2), scales=(1.0,), flip=False)
    assert not torch.allclose(alone.high_res, found.high_res, atol=1e-3)


def test_explicit_weight(network):
    weight = torch.randn(3, 7)
    found = extract_maps(network, image(), (0, 2), scales=SCALES, weight=weight)
    network.classifier.weight = nn.Parameter(weight[:, :, None, None])
    assert_allclose(found.high_res, extract_maps(network, image(), (0, 2), scales=SCALES).high_res, atol=1e-6)


def test_size_brings_full_size_maps_back_to_the_image(network):
    found = extract_maps(network, image(), (0, 2), scales=SCALES, size=(48, 64))
    assert found.high_res.shape == (2, 24, 40)
    assert found.cam.shape == (2, 12, 16)
    assert_allclose(found.high_res.amax((1, 2)), 1, atol=1e-2)


def test_views_are_pillow_bicubic_with_sizes_rounded_half_to_even():
    views = make_views([image(size=(25, 35))], [()], mean=(0, 0, 0), std=(1, 1, 1), scales=(1.0, 0.5, 1.5))
    assert [view.shape for view in views.images] == [(2, 3, 25, 35), (2, 3, 12, 18), (2, 3, 38, 52)]
    assert_allclose(views.images[0][0], image(size=(25, 35)).transpose(2, 0, 1) / 255, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype(network, dtype):
    network.to(dtype)
    views = make_views([image()], [(0, 1)], mean=network.mean, std=network.std, scales=SCALES)
    views.images = [view.to(dtype) for view in views.images]
    found = class_activation_maps(network, views)[0]
    assert found.high_res.dtype == torch.promote_types(dtype, torch.float32)


def test_autocast(network):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = extract_maps(network, image(), (0, 1), scales=SCALES)
    assert found.high_res.dtype == torch.float32
    assert_allclose(found.high_res, extract_maps(network, image(), (0, 1), scales=SCALES).high_res, atol=0.1)


SETTINGS = SeedSettings(scales=SCALES)
SIZES = ((24, 40), (40, 24), (24, 40), (24, 40), (40, 24), (24, 40))
TAGS = ((1,), (1, 2, 3), (), None, (3,), (2, 3))


def extracted(dataset, network, folder, settings=SETTINGS, **options):
    extract_folder(dataset, network, settings, folder, "cpu", **options)
    return {name: load_maps(folder, name) for name in dataset.names if (folder / f"{name}.npz").is_file()}


@pytest.mark.parametrize("size", [None, (32, 32)])
@pytest.mark.parametrize("flip", [True, False])
def test_folder_equals_image_by_image(network, memory_set, tmp_path, flip, size):
    dataset = memory_set(sizes=SIZES, tags=TAGS)
    settings = SeedSettings(scales=SCALES, flip=flip, size=size)
    found = extracted(dataset, network, tmp_path, settings)
    assert set(found) == {name for name, tags in zip(dataset.names, TAGS, strict=True) if tags is not None}
    for index, (name, tags) in enumerate(zip(dataset.names, TAGS, strict=True)):
        if tags is None:
            continue
        keys, maps = found[name]
        assert maps.dtype == np.float16
        assert maps.shape == (len(tags), *SIZES[index])
        assert_array_equal(keys, [value - 1 for value in tags])
        if tags:
            alone = extract_maps(network, dataset.images[index], keys.tolist(), scales=SCALES, flip=flip, size=size)
            assert_allclose(maps, alone.high_res, atol=1e-3)
            with np.load(tmp_path / f"{name}.npz") as arrays:
                assert_allclose(arrays["cam"], alone.cam, atol=1e-3)


def test_images_of_one_size_go_together_and_never_without_tags(network, memory_set, tmp_path):
    dataset = memory_set(sizes=SIZES, tags=TAGS)
    extracted(dataset, network, tmp_path)
    # One image tries the copy that is made for inference; then two sizes, three scales, two images and their mirrors.
    assert network.batches[:2] == [1, 1]
    assert sorted(network.batches[2:]) == [4, 4, 4, 4, 4, 4]
    assert sorted(dataset.opened) == [0, 1, 4, 5]
    assert dataset.masks_opened == []
    network.batches.clear()
    extracted(dataset, network, tmp_path / "small", batch_pixels=1)
    assert network.batches == [1, 1] + [2] * 12


@pytest.mark.parametrize("fails", [False, True])
def test_frozen_batch_normalisation_stays_frozen(network, memory_set, tmp_path, fails):
    network.train()
    network.layers[1].eval()

    def method(*_, **__):
        raise RuntimeError("no maps")

    options = {"method": method} if fails else {}
    with pytest.raises(RuntimeError, match="no maps") if fails else nullcontext():
        extracted(memory_set(sizes=SIZES, tags=TAGS), network, tmp_path, **options)
    assert [layer.training for layer in network.layers] == [True, False, True, True, True]
    assert network.training


@pytest.mark.bit_equal
def test_resume_makes_only_whole_batches_again(network, memory_set, tmp_path):
    dataset = memory_set(sizes=SIZES, tags=TAGS)
    before = extracted(dataset, network, tmp_path)
    (tmp_path / f"{dataset.names[1]}.npz").unlink()
    dataset.opened.clear()
    after = extracted(dataset, network, tmp_path)
    assert sorted(dataset.opened) == [1, 4]
    for name in before:
        assert_array_equal(before[name][1], after[name][1])
    assert not list(tmp_path.rglob("*.tmp*"))


def test_maps_of_another_network_or_setting_are_not_mixed(network, memory_set, tmp_path):
    dataset = memory_set(sizes=SIZES, tags=TAGS)
    extracted(dataset, network, tmp_path)
    with pytest.raises(DataError, match="other seeds"):
        extracted(dataset, network, tmp_path, SeedSettings(scales=(1.0,)))
    with torch.no_grad():
        network.classifier.weight.add_(0.01)
    with pytest.raises(DataError, match="other weights"):
        extracted(dataset, network, tmp_path)


def test_folder_in_half_precision(network, memory_set, tmp_path):
    """Maps near those of float32, from convolutions that hold their weights in half precision."""
    dataset = memory_set(sizes=SIZES, tags=TAGS)
    seen = set()
    for layer in network.layers[0], network.layers[3]:
        layer.register_forward_hook(lambda module, inputs, output: seen.add((module.weight.dtype, output.dtype)))
    plain = extracted(dataset, network, tmp_path / "float32")
    assert seen == {(torch.float32, torch.float32)}
    half = SETTINGS.model_copy(update={"autocast": "bfloat16"})
    found = extracted(dataset, network, tmp_path / "bfloat16", half)
    assert (torch.bfloat16, torch.bfloat16) in seen
    assert found.keys() == plain.keys()
    apart = np.concatenate([np.abs(found[name][1] - plain[name][1]).ravel() for name in plain])
    assert 0 < apart.mean() < 0.005
    assert apart.max() < 0.05
    assert network.classifier.weight.dtype == torch.float32


def test_a_folder_is_of_one_precision(network, memory_set, tmp_path):
    dataset = memory_set(sizes=SIZES[:2], tags=TAGS[:2])
    half = SETTINGS.model_copy(update={"autocast": "bfloat16"})
    for first, second in ((SETTINGS, half), (half, SETTINGS)):
        folder = tmp_path / first.autocast
        extracted(dataset, network, folder, first)
        extracted(dataset, network, folder, first)
        with pytest.raises(DataError, match="other seeds"):
            extracted(dataset, network, folder, second)
    # Maps and stages that were begun before there was the setting are not lost.
    assert "autocast" not in read_json(tmp_path / "none" / "maps.json")["seeds"]
    assert effective(SeedSettings()) == effective(SeedSettings(autocast="none")) == {}
    assert effective(SeedSettings(autocast="bfloat16")) == {"autocast": "bfloat16"}


def test_half_precision_that_cannot_be(network, memory_set, tmp_path):
    dataset = memory_set(sizes=SIZES[:2], tags=TAGS[:2])
    with pytest.raises(RecipeError, match="autocast=float16 was asked for on a CPU"):
        extracted(dataset, network, tmp_path, SETTINGS.model_copy(update={"autocast": "float16"}))
    assert not list(tmp_path.iterdir())
    with pytest.raises(RecipeError, match="advcam climbs"):
        SEED_METHODS["advcam"].check(SeedSettings(method="advcam", autocast="float16"))
    SEED_METHODS["advcam"].check(SeedSettings(method="advcam", autocast="bfloat16"))


def test_weights_digest(network):
    before = weights_digest(network)
    assert before == weights_digest(network.to(memory_format=torch.channels_last))
    with torch.no_grad():
        network.classifier.weight[0, 0].add_(1e-3)
    assert weights_digest(network) != before


def test_training_mode_is_left_as_it_was(network, memory_set, tmp_path):
    dataset = memory_set(sizes=SIZES[:2], tags=TAGS[:2])
    network.train()
    statistics = network.layers[1].running_mean.clone()
    extracted(dataset, network, tmp_path)
    assert network.training
    assert torch.equal(network.layers[1].running_mean, statistics)


def test_tags_are_positions_among_the_taggable_classes(network, memory_set, tmp_path):
    labels = LabelSpace(("cat", "background", "dog", "cow"), background=1)
    dataset = memory_set(labels, sizes=SIZES[:1], tags=[(0, 2)])
    keys, _ = extracted(dataset, network, tmp_path)[dataset.names[0]]
    assert keys.tolist() == [0, 1]
    stuff = LabelSpace(("sky", "road", "tree"), background=None)
    keys, _ = extracted(memory_set(stuff, sizes=SIZES[:1], tags=[(0, 2)]), network, tmp_path / "b").popitem()[1]
    assert keys.tolist() == [0, 2]


def test_stage(network, memory_set, tmp_path, monkeypatch):
    dataset = memory_set(sizes=SIZES, tags=TAGS)
    folder = extract_seeds(dataset, network, SETTINGS, tmp_path, "cpu")
    assert folder == tmp_path / "maps"
    assert (folder / f"{dataset.names[0]}.npz").is_file()
    with pytest.raises(RecipeError, match="Did you mean 'cam'"):
        extract_seeds(dataset, network, SeedSettings(method="cma"), tmp_path, "cpu")
    seen = {}

    def method(network, views, *, power):
        seen["power"] = power
        return class_activation_maps(network, views)

    monkeypatch.setitem(SEED_METHODS, "mine", SeedMethod(method))
    extract_seeds(dataset, network, SeedSettings(method="mine", options={"power": 2}), tmp_path / "mine", "cpu")
    assert seen == {"power": 2}


def test_maps_that_are_missing_or_spoiled(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load_maps(tmp_path, "a")
    np.savez(tmp_path / "b.npz", keys=np.zeros(0))
    whole = (tmp_path / "b.npz").read_bytes()
    for spoiled in (b"nothing", whole[: len(whole) // 2]):
        (tmp_path / "a.npz").write_bytes(spoiled)
        with pytest.raises(DataError, match="high_res"):
            load_maps(tmp_path, "a")
    with pytest.raises(DataError, match="high_res"):
        load_maps(tmp_path, "b")


def _share(rank: int, folder: str, dataset, network) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    extract_folder(dataset, network, SETTINGS, f"{folder}/maps", "cpu", batch_pixels=1)
    assert 0 < len(dataset.opened) < len(SIZES) - 2
    torch.distributed.destroy_process_group()


@pytest.mark.bit_equal
@pytest.mark.distributed
def test_processes_share_the_work(network, memory_set, tmp_path):
    dataset = memory_set(sizes=SIZES, tags=TAGS)
    torch.multiprocessing.start_processes(_share, args=(str(tmp_path), dataset, network), nprocs=2, start_method="fork")
    alone = extracted(dataset, network, tmp_path / "alone", batch_pixels=1)
    for name, (keys, maps) in alone.items():
        shared_keys, shared_maps = load_maps(tmp_path / "maps", name)
        assert_array_equal(shared_keys, keys)
        assert_array_equal(shared_maps, maps)
