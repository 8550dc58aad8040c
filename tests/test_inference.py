from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from maskwright.data.augment import normalise, resize_image
from maskwright.data.masks import read_mask
from maskwright.data.sample import LabelSpace, Sample
from maskwright.errors import DataError, RecipeError
from maskwright.inference.prefetch import prefetched
from maskwright.inference.views import (
    evaluate,
    evaluating,
    predict_labels,
    predict_logits,
    predict_probabilities,
)
from maskwright.inference.windows import sliding_window, window_starts
from maskwright.metrics import ConfusionMatrix
from maskwright.models.base import SegmentationModel
from maskwright.settings import InferenceSettings

torch.set_num_threads(1)

NAMES = LabelSpace(("background", "car", "tree", "sky"))


class Strided(nn.Module):
    """Backbone of one feature map at stride 2."""

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)

    def forward(self, images):
        return [self.drop(self.norm(self.conv(images)).relu())]


class Tiny(SegmentationModel):
    def __init__(self, num_classes=4):
        super().__init__(Strided(), num_classes)
        self.classifier = nn.Conv2d(8, num_classes, 3, padding=1)

    def head(self, features, size):
        return {"logits": self.classifier(features[0])}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Tiny()


class Pictures:
    """Data set in memory; its tags must never be asked for."""

    labels = NAMES

    def __init__(self, sizes, seed=0, without_mask=()):
        rng = np.random.default_rng(seed)
        self.names = [f"{'even' if i % 2 == 0 else 'odd'}/{i}" for i in range(len(sizes))]
        self.samples = []
        for i, (name, size) in enumerate(zip(self.names, sizes)):
            mask = rng.integers(0, 4, size).astype(np.uint8)
            mask[rng.random(size) < 0.1] = 255
            image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
            self.samples.append(Sample(name, image, None if i in without_mask else mask))

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        return self.samples[index]

    def has_mask(self, index):
        return self.samples[index].mask is not None

    def size(self, index):
        return self.samples[index].image.shape[:2]

    def tags(self, index):
        raise AssertionError("tags were read")


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(length=st.integers(1, 200), crop=st.integers(1, 60), share=st.floats(0.01, 1.0))
def test_windows_cover_everything_and_end_with_the_image(length, crop, share):
    stride = max(1, int(share * crop))
    starts = window_starts(length, crop, stride)
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    assert all(later - earlier <= stride for earlier, later in itertools.pairwise(starts))
    assert starts[-1] == max(0, length - crop)


@pytest.mark.parametrize(("crop", "stride"), [(0, 1), (4, 0), (4, 5)])
def test_windows_that_would_leave_pixels_out(crop, stride):
    with pytest.raises(RecipeError, match=rf"found {crop} and {stride}"):
        window_starts(10, crop, stride)


@given(
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    crop=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    batch_size=st.integers(1, 9),
    data=st.data(),
)
@hypothesis_settings(max_examples=40, deadline=None)
def test_pointwise_network_gives_the_whole_image(height, width, crop, batch_size, data):
    stride = tuple(data.draw(st.integers(1, side)) for side in crop)
    images = noise(2, 3, height, width)

    def pointwise(parts):
        assert parts.shape[2:] == crop
        return torch.cat([parts.sin(), parts[:, :1] * 2], 1)

    whole = torch.cat([images.sin(), images[:, :1] * 2], 1)
    torch.testing.assert_close(sliding_window(pointwise, images, crop, stride, batch_size=batch_size), whole)


def test_windows_are_batched_within_the_limit():
    sizes = []

    def network(parts):
        sizes.append(len(parts))
        return parts

    sliding_window(network, noise(2, 3, 20, 20), (8, 8), (6, 6), batch_size=7)
    assert sum(sizes) == 2 * 9
    assert max(sizes) == 6


def test_default_stride_is_two_thirds():
    images = noise(1, 3, 33, 31)
    network = nn.Conv2d(3, 4, 3, padding=1)
    torch.testing.assert_close(
        sliding_window(network, images, (12, 9)), sliding_window(network, images, (12, 9), (8, 6))
    )


def test_half_precision_logits_are_added_up_in_float32():
    images = noise(1, 3, 9, 9)
    result = sliding_window(lambda parts: parts.bfloat16(), images, (4, 4), (1, 1))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, images.bfloat16().float())


def test_network_that_shrinks_is_refused():
    with pytest.raises(DataError, match=r"logits \(1, C, 4, 4\).*found \(1, 3, 2, 2\)"):
        sliding_window(lambda parts: parts[:, :, ::2, ::2], noise(1, 3, 4, 4), (4, 4))


VIEWS = [
    {},
    {"flip": True},
    {"scales": (0.5, 1.0, 1.6)},
    {"scales": (0.5, 1.0, 1.6), "flip": True},
    {"window": (10, 12), "stride": (7, 5)},
    {"window": (40, 12), "scales": (0.7, 1.3), "flip": True, "batch_size": 3},
]


def by_hand(model, images, settings, activation):
    """Every view spelled out with plain torch."""
    size = images.shape[2:]
    maps = []
    for scale in settings.scales:
        scaled = F.interpolate(images, size=[round(scale * n) for n in size], mode="bilinear", align_corners=False)
        for flip in (False, True) if settings.flip else (False,):
            seen = scaled.flip(3) if flip else scaled
            if settings.window:
                logits = sliding_window(model, seen, settings.window, settings.stride)
            else:
                logits = model.classifier(model.backbone(seen)[0])
            logits = logits.flip(3) if flip else logits
            maps.append(activation(F.interpolate(logits, size=size, mode="bilinear", align_corners=False)))
    return torch.stack(maps).mean(0)


@pytest.mark.parametrize("options", VIEWS, ids=str)
def test_views_equal_the_same_by_hand(model, options):
    settings = InferenceSettings(**options)
    images = noise(2, 3, 21, 26)
    model.eval()
    with torch.no_grad():
        logits = by_hand(model, images, settings, lambda z: z)
        probabilities = by_hand(model, images, settings, lambda z: z.softmax(1))
    torch.testing.assert_close(predict_logits(model, images, settings), logits)
    found = predict_probabilities(model, images, settings)
    torch.testing.assert_close(found, probabilities)
    torch.testing.assert_close(found.sum(1), torch.ones(2, 21, 26))
    assert torch.equal(predict_labels(model, images, settings), found.argmax(1))


@pytest.mark.parametrize("options", VIEWS, ids=str)
def test_batch_equals_loop(model, options):
    settings = InferenceSettings(**options)
    images = noise(3, 3, 17, 14)
    looped = torch.cat([predict_probabilities(model, image[None], settings) for image in images])
    torch.testing.assert_close(predict_probabilities(model, images, settings), looped)


@pytest.mark.parametrize("options", VIEWS, ids=str)
def test_labels_come_back_at_the_size_asked_for(model, options):
    settings = InferenceSettings(**options)
    images = noise(2, 3, 16, 20)
    if not options:
        maps = model.eval()(images, upsample=False)
    elif len(settings.scales) == 1 and not settings.flip:
        maps = predict_logits(model, images, settings)
    else:
        maps = predict_probabilities(model, images, settings)
    expected = F.interpolate(maps, size=(37, 23), mode="bilinear", align_corners=False).argmax(1)
    found = predict_labels(model, images, settings, (37, 23))
    assert found.shape == (2, 37, 23)
    assert torch.equal(found, expected)


def dtypes_of(layer):
    """The types of what a layer gives, as it goes on computing."""
    found = set()
    layer.register_forward_hook(lambda module, inputs, output: found.add(output.dtype))
    return found


@pytest.mark.parametrize("options", VIEWS, ids=str)
def test_the_network_alone_computes_in_half_precision(model, options):
    """As by hand with a network under autocast whose logits are float32 from there on; near float32 throughout."""
    settings = InferenceSettings(**options)
    half = settings.model_copy(update={"autocast": "bfloat16"})
    images = noise(2, 3, 21, 26)
    plain = predict_probabilities(model, images, settings)
    computed = dtypes_of(model.classifier)
    found = predict_probabilities(model, images, half)
    labels = predict_labels(model, images, half)
    logits = predict_logits(model, images, half)
    assert computed == {torch.bfloat16}
    assert found.dtype == logits.dtype == torch.float32
    assert 1e-5 < (found - plain).abs().max() < 0.02
    assert torch.equal(labels, found.argmax(1))
    first, second = plain.topk(2, 1).values.unbind(1)
    clear = first - second > 0.01
    assert clear.float().mean() > 0.5
    assert (labels == plain.argmax(1))[clear].float().mean() >= 0.99
    if settings.window is None:
        under = SimpleNamespace(backbone=model.eval().backbone, classifier=lambda maps: model.classifier(maps).float())
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            expected = by_hand(under, images, settings, lambda z: z)
        torch.testing.assert_close(logits, expected)


def test_a_setting_of_none_leaves_the_callers_autocast(model):
    computed = dtypes_of(model.classifier)
    with torch.autocast("cpu", torch.bfloat16):
        labels = predict_labels(model, noise(1, 3, 12, 12), InferenceSettings())
    assert computed == {torch.bfloat16}
    assert torch.equal(labels, predict_labels(model, noise(1, 3, 12, 12), InferenceSettings(autocast="bfloat16")))


@pytest.mark.parametrize("options", [{}, {"flip": True}], ids=str)
def test_float16_is_for_gpus(model, options):
    settings = InferenceSettings(autocast="float16", **options)
    with pytest.raises(RecipeError, match="autocast=bfloat16 or autocast=none"):
        predict_labels(model, noise(1, 3, 12, 12), settings)
    with pytest.raises(RecipeError, match="on a CPU"):
        evaluate(model, Pictures(SIZES), settings, "cpu")


def test_flip_of_a_flipped_image_is_the_flip(model):
    images = noise(1, 3, 15, 18)
    settings = InferenceSettings(flip=True)
    found = predict_probabilities(model, images.flip(3), settings)
    torch.testing.assert_close(found, predict_probabilities(model, images, settings).flip(3))


def test_identity_network_leaves_the_images_alone():
    images = noise(1, 3, 8, 8)
    before = images.clone()

    class Identity(nn.Module):
        def forward(self, images, *, upsample=True):
            return images

    predict_logits(Identity(), images, InferenceSettings(flip=True))
    assert torch.equal(images, before)


@pytest.mark.parametrize("scales", [(), (0.0,), (1.0, -1.0)])
def test_scales_that_cannot_be(model, scales):
    with pytest.raises(RecipeError, match=r"inference\.scales"):
        predict_probabilities(model, noise(1, 3, 8, 8), InferenceSettings(scales=scales))


def test_evaluation_mode_inside_and_every_module_as_before_outside(model):
    model.train()
    model.backbone.norm.eval()  # frozen
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert model.training
    assert model.backbone.drop.training
    assert not model.backbone.norm.training


def test_prediction_in_training_mode_is_the_same(model):
    images = noise(1, 3, 12, 12)
    settings = InferenceSettings()
    expected = predict_probabilities(model.eval(), images, settings)
    statistics = model.backbone.norm.running_mean.clone()
    assert torch.equal(predict_probabilities(model.train(), images, settings), expected)
    assert torch.equal(model.backbone.norm.running_mean, statistics)


def test_prefetched_keeps_order_and_looks_ahead_no_further_than_said():
    started = []

    def work(item):
        started.append(item)
        return item * item

    results = []
    for position, future in enumerate(prefetched(work, range(20), workers=3, ahead=4)):
        assert len(started) <= position + 5
        results.append(future.result())
    assert results == [item * item for item in range(20)]


def naive(model, dataset, settings):
    """Confusion matrix and predictions, one image at a time."""
    total, predictions = np.zeros((4, 4), np.int64), {}
    for sample in dataset.samples:
        pixels = sample.image if settings.size is None else resize_image(sample.image, settings.size)
        image = normalise(torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None], model.mean, model.std)
        predicted = predict_labels(model, image, settings, sample.image.shape[:2])[0].numpy()
        predictions[sample.name] = predicted
        for true, guess in zip(sample.mask.ravel().tolist(), predicted.ravel().tolist()):
            if true != 255:
                total[true, guess] += 1
    return total, predictions


SIZES = [(12, 15), (9, 20), (12, 15), (12, 15), (7, 7), (9, 20), (12, 15)]
APPLIED = [
    {"batch_size": 2},
    {"batch_size": 4, "size": (10, 14)},
    {"batch_size": 3, "size": (16, 11), "scales": (0.75, 1.0), "flip": True},
    {"window": (8, 8), "flip": True},
]


@pytest.mark.parametrize("options", APPLIED, ids=str)
def test_evaluate_equals_the_naive_way(model, tmp_path, options):
    settings = InferenceSettings(**options)
    dataset = Pictures(SIZES)
    expected, predictions = naive(model.eval(), dataset, settings)
    confusion, images = evaluate(model.train(), dataset, settings, "cpu", folder=tmp_path)
    np.testing.assert_array_equal(confusion.matrix.numpy(), expected)
    assert {image["name"] for image in images} == set(dataset.names)
    for name, predicted in predictions.items():
        np.testing.assert_array_equal(read_mask(tmp_path / "predictions" / f"{name}.png"), predicted)
    for image in images:
        counts = ConfusionMatrix(NAMES)
        counts.update(predictions[image["name"]], dataset.samples[dataset.names.index(image["name"])].mask)
        scores = counts.scores()
        assert image == {"name": image["name"], "miou": scores["miou"], "accuracy": scores["pixel_accuracy"]}
    assert json.loads((tmp_path / "images.json").read_text()) == images
    assert model.training


@pytest.mark.parametrize("size", [None, (16, 20)])
def test_evaluate_runs_a_copy_in_half_precision(model, tmp_path, size):
    """Its convolutions hold weights of that type, so that nothing is converted at each call."""
    seen = set()
    model.classifier.register_forward_pre_hook(
        lambda module, inputs: seen.add((module.weight.dtype, torch.is_autocast_enabled("cpu")))
    )
    settings = InferenceSettings(size=size, batch_size=4)
    plain, _ = evaluate(model, Pictures(SIZES), settings, "cpu", folder=tmp_path / "float32")
    seen.clear()
    half = settings.model_copy(update={"autocast": "bfloat16"})
    found, _ = evaluate(model, Pictures(SIZES), half, "cpu", folder=tmp_path / "bfloat16")
    # The copy is compared with the model, in float32, before its weights are converted.
    assert seen == {(torch.float32, False), (torch.bfloat16, True)}
    assert found.matrix.sum() == plain.matrix.sum()
    paths = [path.relative_to(tmp_path / "float32") for path in (tmp_path / "float32").rglob("*.png")]
    masks = [[read_mask(tmp_path / kind / path) for path in paths] for kind in ("float32", "bfloat16")]
    same = np.concatenate([(a == b).ravel() for a, b in zip(*masks, strict=True)])
    assert len(paths) == len(SIZES)
    assert same.mean() > 0.97
    assert model.classifier.weight.dtype == torch.float32


def test_worst_image_comes_first_and_those_without_truth_last(model, tmp_path):
    dataset = Pictures(SIZES, without_mask=(1, 4))
    dataset.samples[2].mask[:] = 255
    _, images = evaluate(model, dataset, InferenceSettings(), "cpu", folder=tmp_path)
    assert len(images) == 7
    known = [image["miou"] for image in images[:4]]
    assert known == sorted(known)
    assert [image["miou"] for image in images[4:]] == [None] * 3
    assert len(list((tmp_path / "predictions").rglob("*.png"))) == 7


def test_images_without_mask_are_left_out_where_only_scores_are_wanted(model):
    dataset = Pictures(SIZES, without_mask=(1, 4))
    confusion, images = evaluate(model, dataset, InferenceSettings(), "cpu")
    assert len(images) == 5
    assert confusion.matrix.sum() == sum((s.mask != 255).sum() for s in dataset.samples if s.mask is not None)


@pytest.mark.parametrize("world_size", [2, 3, 9])
def test_processes_see_every_image_exactly_once(model, world_size):
    dataset = Pictures(SIZES)
    settings = InferenceSettings(batch_size=2)
    whole, images = evaluate(model, dataset, settings, "cpu")
    parts = [evaluate(model, dataset, settings, "cpu", rank=rank, world_size=world_size) for rank in range(world_size)]
    assert sum(part.matrix for part, _ in parts).tolist() == whole.matrix.tolist()
    together = [image for _, shard in parts for image in shard]
    assert sorted(together, key=lambda image: image["name"]) == sorted(images, key=lambda image: image["name"])


def test_another_number_of_classes_is_refused():
    with pytest.raises(DataError, match="the model has 7 classes, the data set 4: background, car, tree, sky"):
        evaluate(Tiny(7), Pictures(SIZES), InferenceSettings(), "cpu")


def test_nothing_to_score_is_refused(model):
    with pytest.raises(DataError, match="no image of the data set has a mask"):
        evaluate(model, Pictures(SIZES[:1], without_mask=(0,)), InferenceSettings(), "cpu")


def test_an_image_that_cannot_be_read_stops_the_evaluation(model):
    class Broken(Pictures):
        def __getitem__(self, index):
            if index == 3:
                raise DataError("photo.jpg: image cannot be read")
            return super().__getitem__(index)

    with pytest.raises(DataError, match=r"photo\.jpg"):
        evaluate(model, Broken(SIZES), InferenceSettings(batch_size=2), "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_gives_the_labels_of_the_cpu(model):
    dataset = Pictures([(64, 80)] * 3)
    settings = InferenceSettings(scales=(0.5, 1.0), flip=True)
    expected, _ = evaluate(model, dataset, settings, "cpu")
    found, _ = evaluate(model.cuda(), dataset, settings, "cuda")
    assert (found.matrix.cpu() - expected.matrix).abs().sum() <= 0.002 * expected.matrix.sum()


def test_a_crf_has_the_last_word(model):
    from maskwright.crf.dense_crf import dense_crf, preset_settings, unary_from_probabilities

    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (2, 20, 28, 3)).astype(np.uint8))
    images = normalise(pixels.permute(0, 3, 1, 2), model.backbone.mean, model.backbone.std)
    plain = predict_probabilities(model, images, InferenceSettings())
    for scale in (1, "image"):
        kernels = preset_settings("deeplab", (20, 28), scale)
        expected = dense_crf(pixels, unary_from_probabilities(plain), **kernels)
        found = predict_probabilities(model, images, InferenceSettings(crf="deeplab", crf_scale=scale))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    labels = predict_labels(model, images, InferenceSettings(crf="deeplab", crf_scale=1))
    expected = dense_crf(pixels, unary_from_probabilities(plain), **preset_settings("deeplab", (20, 28)))
    assert torch.equal(labels, expected.argmax(1))
    assert not torch.equal(labels, plain.argmax(1))


def test_every_crf_preset_can_be_asked_for():
    from typing import get_args

    from maskwright.crf.dense_crf import PRESETS

    words = get_args(get_args(InferenceSettings.model_fields["crf"].annotation)[0])
    assert set(words) == set(PRESETS)
