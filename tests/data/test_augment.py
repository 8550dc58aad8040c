"""Joint geometry, exact resampling, colour jitter, padding and the shape of what `Augment` gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from maskwright.data.augment import (
    Augment,
    collate,
    jitter_colors,
    nearest_index,
    normalise,
    prepare,
    resize_image,
    resize_mask,
)
from maskwright.data.sample import LabelSpace, Sample
from maskwright.errors import DataError, RecipeError
from maskwright.settings import AugmentSettings

torch.set_num_threads(1)

# As many classes as columns, so that a mask can hold each pixel's column.
LABELS = LabelSpace(tuple(f"column {value}" for value in range(200)), background=None)
HEIGHT, WIDTH = 120, 180
ROW, COLUMN = np.mgrid[:HEIGHT, :WIDTH].astype(np.uint8)


def coordinates(mask: np.ndarray | None = COLUMN, **fields) -> Sample:
    """Red is the column, green the row; the mask is the column, saliency the row."""
    return Sample("a", np.stack([COLUMN, ROW, COLUMN], 2), mask, saliency=fields.pop("saliency", ROW), **fields)


def augmented(sample: Sample, seed: int = 0, **settings) -> dict[str, torch.Tensor]:
    return Augment(AugmentSettings(**settings), LABELS)(sample, np.random.default_rng(seed))


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours with some noise, away from 0 and 255."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(60, 190, (6, 8, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    return (np.asarray(coarse) + rng.integers(0, 12, (height, width, 3))).astype(np.uint8)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "settings",
    [
        {"crop": (64, 80)},
        {"crop": (200, 60), "scale": (0.5, 2.0)},
        {"resize": (90, 150), "scale": (0.8, 1.2), "crop": (100, 160)},
        {"long_side": (100, 240), "crop": (128, 128)},
        {"long_side": (40, 400)},
        {"resize": (60, 300)},
    ],
)
def test_image_mask_and_saliency_move_together(settings, seed):
    out = augmented(coordinates(), seed, **settings)
    image, columns = out["image"].int(), out["mask"].int()
    seen = columns != LABELS.ignore_index
    assert seen.any()
    # A nearest pixel lies at most half a step away; one level for rounding, one for the filter at the border.
    step = 180 / 40 / 2 + 2
    assert (image[0] - columns)[seen].abs().max() <= step
    assert (image[1] - out["saliency"][0].int())[seen].abs().max() <= 2
    assert torch.equal(image[0], image[2]) or not seen.all()


def test_flip_mirrors_everything_left_to_right():
    plain, mirrored = (augmented(coordinates(), flip=probability) for probability in (0.0, 1.0))
    assert torch.equal(plain["mask"], torch.from_numpy(COLUMN))
    for key in ("image", "mask", "saliency"):
        assert torch.equal(mirrored[key], plain[key].flip(-1))
    share = np.mean([int(augmented(coordinates(), seed, flip=0.3)["mask"][0, 0]) == WIDTH - 1 for seed in range(400)])
    assert 0.2 < share < 0.4


@pytest.mark.parametrize("seed", range(12))
def test_one_resize_of_a_window_equals_resize_then_crop(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(60, 300, 2).tolist()
    image = photograph(height, width, seed)
    mask = rng.integers(0, 200, (height, width), dtype=np.uint8)
    saliency = photograph(height, width, seed + 1)[:, :, 0].copy()
    crop = tuple(rng.integers(20, 90, 2).tolist())
    scale = float(rng.uniform(0.3, 3))
    size = (round(width * scale), round(height * scale))
    # Across, then down: Pillow's order unless it expects the other to be faster, which differs in rounding.
    whole = [
        np.asarray(Image.fromarray(pixels).resize((size[0], height), resample).resize(size, resample)).astype(int)
        for pixels, resample in ((image, Image.BICUBIC), (mask, Image.NEAREST), (saliency, Image.BILINEAR))
    ]
    sample = Sample("a", image, mask, saliency=saliency)
    out = augmented(sample, seed, scale=(scale, scale), crop=crop, flip=0.0)
    found = [out["image"].permute(1, 2, 0).numpy(), out["mask"].numpy(), out["saliency"][0].numpy()]
    rows, columns = (min(cut, full) for cut, full in zip(crop, size[::-1]))
    seen = np.argwhere(found[1] != 255)
    top, left = seen.min(0)
    found = [pixels[top : top + rows, left : left + columns].astype(int) for pixels in found]
    windows = np.lib.stride_tricks.sliding_window_view(whole[1], (rows, columns))
    candidates = np.argwhere((windows[:, :, 0, :8] == found[1][0, :8]).all(-1)).tolist()
    places = [place for place in candidates if np.array_equal(windows[tuple(place)], found[1])]
    assert places
    row, column = places[0]
    for full, part in zip(whole, found):
        difference = np.abs(full[row : row + rows, column : column + columns] - part)
        assert difference.max() <= 2
        # Ties fall the other way: Pillow keeps the source box in single precision.
        assert difference.mean() < 0.05


def test_nearest_index_chooses_the_pixels_that_pillow_chooses():
    rng = np.random.default_rng(0)
    for source, target in [*rng.integers(1, 900, (400, 2)).tolist(), (3, 2), (1, 7), (7, 1), (360, 360)]:
        line = np.arange(source, dtype=np.int32)[None]
        expected = np.asarray(Image.fromarray(line).resize((target, 1), Image.NEAREST))[0]
        assert np.array_equal(nearest_index(source, target), expected), (source, target)


def test_resize_helpers_match_pillow():
    image = photograph(50, 70)
    assert resize_image(image, (50, 70)) is image
    assert np.array_equal(resize_image(image, (31, 99)), np.asarray(Image.fromarray(image).resize((99, 31), 3)))
    mask = image[:, :, 0].copy()
    expected = np.asarray(Image.fromarray(mask).resize((99, 31), Image.NEAREST))
    assert np.array_equal(resize_mask(mask, (31, 99)), expected)


def test_padding_is_mean_colour_ignore_and_no_saliency():
    mean = (0.4, 0.5, 0.6)
    augment = Augment(AugmentSettings(crop=(150, 200)), LABELS, mean=mean)
    sample = coordinates()
    sample.saliency = np.full_like(ROW, 7)
    places = set()
    for seed in range(30):
        out = augment(sample, np.random.default_rng(seed))
        pad = out["mask"] == LABELS.ignore_index
        assert int((~pad).sum()) == HEIGHT * WIDTH
        places.add(tuple(torch.argwhere(~pad).min(0).values.tolist()))
        assert out["image"][:, pad].unique(dim=1).flatten().tolist() == [102, 128, 153]
        assert normalise(out["image"], mean)[:, pad].abs().max() <= 0.51 / 255 / 0.224
        assert torch.equal(out["saliency"][0] == 0, pad)
    assert len(places) > 24
    assert max(top for top, _ in places) <= 30
    assert max(left for _, left in places) <= 20


def test_every_crop_position_occurs_and_none_beyond():
    columns = {int(augmented(coordinates(), seed, flip=0.0, crop=(HEIGHT, 177))["mask"][0, 0]) for seed in range(80)}
    assert columns == {0, 1, 2, 3}


def test_sides_and_scale_stay_in_their_bounds():
    sizes = [tuple(augmented(coordinates(), seed, long_side=(60, 63))["mask"].shape) for seed in range(80)]
    assert {width for _, width in sizes} == {60, 61, 62, 63}
    assert all(height == round(HEIGHT * width / WIDTH) for height, width in sizes)
    sizes = [tuple(augmented(coordinates(), seed, short_side=(60, 63))["mask"].shape) for seed in range(80)]
    assert {height for height, _ in sizes} == {60, 61, 62, 63}
    assert all(width == round(WIDTH * height / HEIGHT) for height, width in sizes)
    widths = [augmented(coordinates(), seed, scale=(0.5, 1.5))["mask"].shape[1] for seed in range(80)]
    assert min(widths) >= 90
    assert max(widths) <= 270
    assert np.ptp(widths) > 150


def test_missing_mask_tags_and_saliency():
    labels = LabelSpace(("background", "cat", "dog"))
    augment = Augment(AugmentSettings(crop=(20, 30)), labels)
    image = photograph(40, 50)
    out = augment(Sample("a", image), np.random.default_rng(0))
    assert torch.equal(out["mask"], torch.full((20, 30), 255, dtype=torch.uint8))
    assert out["tags"].tolist() == [0, 0]
    assert out["has_mask"].dtype == torch.bool
    assert not out["has_mask"]
    assert not out["has_tags"]
    assert "saliency" not in out
    tagged = augment(Sample("a", image, np.zeros((40, 50), np.uint8), (2,)), np.random.default_rng(0))
    assert tagged["tags"].tolist() == [0, 1]
    assert tagged["tags"].dtype == torch.float32
    assert tagged["has_mask"]
    assert tagged["has_tags"]
    assert tagged["mask"].eq(0).all()
    assert augment(Sample("a", image, None, ()), np.random.default_rng(0))["has_tags"]


def test_same_generator_same_example_and_one_setting_does_not_move_another():
    settings = {"crop": (64, 64), "scale": (0.5, 2.0), "color_jitter": 0.5, "hue": 0.2}
    first, second = augmented(coordinates(), 5, **settings), augmented(coordinates(), 5, **settings)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["image"], augmented(coordinates(), 6, **settings)["image"])
    plain = augmented(coordinates(), 5, **{**settings, "color_jitter": 0.0, "hue": 0.0})
    assert torch.equal(plain["mask"], first["mask"])
    assert not torch.equal(plain["image"], first["image"])


def test_source_arrays_are_left_alone():
    sample = coordinates(COLUMN.copy(), saliency=ROW.copy())
    for pixels in (sample.image, sample.mask, sample.saliency):
        pixels.flags.writeable = False
    for settings in ({}, {"crop": (64, 64)}, {"color_jitter": 0.5}):
        out = augmented(sample, flip=0.0, **settings)
        for key in ("image", "mask", "saliency"):
            out[key].zero_()
    assert sample.image[-1, -1].tolist() == [179, 119, 179]


def test_jitter_equals_pillow_where_nothing_is_clipped():
    image = photograph(60, 80)
    pillow = Image.fromarray(image)
    for enhance, factors in (
        (ImageEnhance.Brightness, lambda f: (f, 1, 1)),
        (ImageEnhance.Contrast, lambda f: (1, f, 1)),
        (ImageEnhance.Color, lambda f: (1, 1, f)),
    ):
        for factor in (0.7, 1.2):
            expected = np.asarray(enhance(pillow).enhance(factor)).astype(int)
            found = jitter_colors(image, *factors(factor))
            assert np.abs(found - expected).max() <= 1
            assert np.abs(found - image.astype(int)).max() > 5
    # Contrast moves towards the mean grey of what it is given, here after the brightness.
    steps = [(ImageEnhance.Brightness, 0.8), (ImageEnhance.Contrast, 1.2), (ImageEnhance.Color, 0.6)]
    expected_image = pillow
    for enhance, factor in steps:
        expected_image = enhance(expected_image).enhance(factor)
    found = jitter_colors(image, 0.8, 1.2, 0.6)
    assert np.abs(found - np.asarray(expected_image).astype(int)).max() <= 3


def test_hue_turns_the_colour_circle():
    colours = np.array([[[255, 0, 0], [0, 255, 0], [90, 90, 90]]], np.uint8)
    turned = jitter_colors(colours, 1, 1, 1, 1 / 3).astype(int)
    assert np.abs(turned - [[[0, 255, 0], [0, 0, 255], [90, 90, 90]]]).max() <= 6
    assert jitter_colors(colours, 1, 1, 1, 0) is colours


def test_jitter_strength_bounds_the_change():
    grey = Sample("a", np.full((8, 8, 3), 100, np.uint8))
    values = [int(augmented(grey, seed, color_jitter=0.2)["image"][0, 0, 0]) for seed in range(200)]
    assert 80 <= min(values) < 85
    assert 115 < max(values) <= 120
    assert {int(augmented(grey, seed)["image"].max()) for seed in range(5)} == {100}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_normalise(dtype):
    images = torch.from_numpy(np.stack([photograph(9, 7, seed) for seed in range(2)])).permute(0, 3, 1, 2)
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    out = normalise(images, mean, std, dtype)
    expected = (images.double() / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert out.dtype == dtype
    assert out.stride() == images.stride()
    tolerance = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    assert torch.allclose(out.double(), expected, rtol=tolerance, atol=tolerance)
    assert torch.equal(normalise(images[0], mean, std, dtype), out[0])


def test_prepare_keeps_the_truth_at_its_own_resolution():
    sample = coordinates()
    native, resized = prepare(sample), prepare(sample, (60, 90))
    assert torch.equal(native["image"], torch.from_numpy(sample.image).permute(2, 0, 1))
    assert resized["image"].shape == (3, 60, 90)
    expected = np.asarray(Image.fromarray(sample.image).resize((90, 60), Image.BICUBIC))
    assert np.array_equal(resized["image"].permute(1, 2, 0).numpy(), expected)
    for example in (native, resized):
        assert torch.equal(example["mask"], torch.from_numpy(COLUMN))
    assert "mask" not in prepare(Sample("a", sample.image))


def test_collate_stacks_and_drops_what_not_all_have():
    both = [augmented(coordinates(), seed, crop=(32, 48)) for seed in range(2)]
    batch = collate(both)
    assert batch["image"].shape == (2, 3, 32, 48)
    assert batch["mask"].shape == (2, 32, 48)
    assert batch["tags"].shape == (2, 200)
    assert batch["saliency"].shape == (2, 1, 32, 48)
    assert batch["has_mask"].tolist() == [True, True]
    del both[1]["saliency"]
    assert "saliency" not in collate(both)
    with pytest.raises(DataError, match=r"one size, found 32x40, 32x48 .*augment\.crop"):
        collate([both[0], augmented(coordinates(), crop=(32, 40))])


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(DataError, match="cat/1: the mask is 120x90 but its image is 120x180"):
        augmented(Sample("cat/1", coordinates().image, COLUMN[:, :90]))
    with pytest.raises(DataError, match="saliency map is 60x180"):
        augmented(Sample("cat/1", coordinates().image, COLUMN, saliency=ROW[:60]))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"resize": (10, 10), "long_side": (5, 6)}, "set one of them"),
        ({"short_side": (10, 10), "long_side": (5, 6)}, "long_side and augment.short_side are ways"),
        ({"short_side": (20, 10)}, r"augment\.short_side"),
        ({"crop": (0, 10)}, r"augment\.crop"),
        ({"scale": (0.0, 1.0)}, r"augment\.scale"),
        ({"long_side": (20, 10)}, r"augment\.long_side"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, text):
    with pytest.raises(RecipeError, match=text):
        Augment(AugmentSettings(**settings), LABELS)


def test_an_ignore_value_outside_uint8_is_refused():
    with pytest.raises(DataError, match="ignore_index"):
        Augment(AugmentSettings(), LabelSpace(("a", "b"), ignore_index=300))


def test_tiny_images_survive_strong_reduction():
    out = augmented(Sample("a", np.full((1, 2, 3), 9, np.uint8), np.ones((1, 2), np.uint8)), scale=(0.1, 0.1))
    assert out["image"].tolist() == [[[9]]] * 3
    assert out["mask"].tolist() == [[1]]
