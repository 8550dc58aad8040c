"""`scenes`: the same pictures for the same seed everywhere, masks that agree with tags, and the promised problems."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context

import numpy as np
import pytest

from maskwright.data.sample import Sample
from maskwright.data.scenes import MIN_VISIBLE, SPLITS, Scenes, scenes
from maskwright.errors import DataError

SIZES = [(64, 64), (96, 160), (160, 96), (128, 128), (256, 256), (200, 333)]


def _value(name: str) -> int:
    return Scenes.labels.value(name)


@cache
def _samples(split: str, count: int) -> tuple[Sample, ...]:
    data = scenes(split, count=count)
    return tuple(data[i] for i in range(count))


@cache
def _all_tags(split: str, seed: int = 0) -> np.ndarray:
    data = scenes(split, seed=seed)
    return np.stack([data.labels.tag_vector(data.tags(i)) for i in range(len(data))])


def _draw(i: int) -> tuple[bytes, bytes]:
    sample = scenes("val")[i]
    return sample.image.tobytes(), sample.mask.tobytes()


def test_sample_contract() -> None:
    data = scenes("train", count=8)
    assert len(data) == len(data.names) == len(set(data.names)) == 8
    assert data.source["split"] == "train"
    assert data.source["count"] == 8
    for i in range(8):
        sample = data[i]
        assert sample.name == data.names[i]
        assert sample.image.shape == (128, 128, 3)
        assert sample.image.dtype == sample.mask.dtype == np.uint8
        assert sample.mask.shape == data.size(i) == (128, 128)
        assert sample.image.flags.writeable
        assert data.has_mask(i)
        assert set(np.unique(sample.mask)) <= {*range(data.labels.num_classes), 255}
        assert sample.image.std() > 8


def test_order_and_count_do_not_matter() -> None:
    forward, few = scenes("train", count=40), scenes("train", count=6)
    last_first = [forward[i] for i in (5, 3, 0)]
    forward.tags(3)
    for i, sample in zip((5, 3, 0), last_first):
        again = few[i]
        np.testing.assert_array_equal(sample.image, again.image)
        np.testing.assert_array_equal(sample.mask, again.mask)


def test_pictures_that_are_kept_stay_as_they_were_drawn() -> None:
    data = scenes("val", count=3)
    data._room = 2
    fresh = [scenes("val", count=3)[i] for i in range(3)]
    for i in (0, 1, 2, 0, 1, 2):
        seen = data[i]
        assert (seen.image == fresh[i].image).all()
        assert (seen.mask == fresh[i].mask).all()
        assert seen.tags == fresh[i].tags
        seen.image[:] = seen.mask[:] = 7
        data.mask(i)[:] = 9
    assert len(data._drawn) == 2


def test_process_does_not_matter() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        elsewhere = list(pool.map(_draw, (2, 7)))
    assert elsewhere == [_draw(2), _draw(7)]


def test_seeds_and_splits_differ() -> None:
    pictures = [scenes(split, seed=seed)[i].image.tobytes() for split in SPLITS for seed in (0, 1) for i in range(12)]
    assert len(set(pictures)) == len(pictures)


@pytest.mark.parametrize("size", SIZES)
def test_tags_agree_with_mask_at_any_size(size: tuple[int, int]) -> None:
    data, fresh = scenes("test", count=24, size=size), scenes("test", count=24, size=size)
    for i in range(24):
        sample = data[i]
        assert sample.image.shape == (*size, 3)
        assert sample.mask.shape == size
        assert fresh.tags(i) == sample.tags == data.labels.tags_in(sample.mask)
        pixels = np.bincount(sample.mask.ravel(), minlength=256)
        assert all(pixels[value] >= MIN_VISIBLE for value in sample.tags)


def test_sizes_show_the_same_scene() -> None:
    small, large = scenes("val", count=30), scenes("val", count=30, size=256)
    alike = [set(small.tags(i)) == set(large.tags(i)) for i in range(30)]
    assert sum(alike) >= 27


@pytest.mark.parametrize("seed", [0, 1, 7])
@pytest.mark.parametrize("split", ["val", "test"])
def test_every_class_is_in_every_split(split: str, seed: int) -> None:
    assert (_all_tags(split, seed).sum(0) >= 1).all()


def test_long_tail_and_number_of_things() -> None:
    tags = _all_tags("train")
    shares = tags.mean(0)
    assert shares.max() > 10 * shares.min() > 0
    assert 0.01 < (tags.sum(1) == 0).mean() < 0.08
    assert (tags.sum(1) >= 2).mean() > 0.25
    assert tags.sum(1).max() >= 4


def test_surroundings_go_with_their_things() -> None:
    """Boats and cars are hardly ever seen together, cars and persons often: places decide."""
    tags = _all_tags("train")
    k = {name: index for index, name in enumerate(Scenes.labels.tag_names)}
    assert (tags[:, k["boat"]] * tags[:, k["train"]]).sum() == 0
    assert (tags[:, k["car"]] * tags[:, k["person"]]).sum() > 20


def test_borders_are_void() -> None:
    """No pixel of a thing touches the background or another thing: one void pixel at least lies between."""
    for sample in _samples("train", 60):
        for a, b in ((sample.mask[:, 1:], sample.mask[:, :-1]), (sample.mask[1:], sample.mask[:-1])):
            assert not ((a != b) & (a != 255) & (b != 255)).any()
    void = np.mean([np.mean(sample.mask == 255) for sample in _samples("train", 60)])
    assert 0.01 < void < 0.1


@pytest.mark.parametrize("name", ["lamp", "sign"])
def test_poles_are_thin(name: str) -> None:
    """Where a lamp or sign is alone in its picture, the lower half of it is 2 or 3 pixels wide."""
    data = scenes("train")
    alone = [i for i in range(len(data)) if data.tags(i) == (_value(name),)]
    seen = 0
    for i in alone:
        _, things, mask, _ = data._compose(i)
        if len(things) != 1:
            continue
        seen += 1
        widths = (mask == _value(name)).sum(1)
        foot = np.flatnonzero(widths)[-1]
        assert set(widths[int(foot - things[0].height / 2) : foot - 1]) <= {2, 3}
        assert np.median(widths[widths > 0]) <= 3
    assert seen >= 3


def test_small_far_things_exist() -> None:
    sizes = [np.count_nonzero(s.mask == _value("bird")) for s in _samples("train", 220) if _value("bird") in s.tags]
    assert len(sizes) >= 10
    assert np.median(sizes) < 0.01 * 128 * 128


def test_things_hide_one_another() -> None:
    """Void between two different classes: one lies before the other."""
    touching = 0
    for sample in _samples("train", 220):
        a, b = sample.mask[:, 2:].astype(int), sample.mask[:, :-2].astype(int)
        between = (a != b) & (a % 255 > 0) & (b % 255 > 0) & (sample.mask[:, 1:-1] == 255)
        touching += between.sum() >= 5
    assert touching >= 25


def _mean_colours(name: str, rows: slice) -> np.ndarray:
    """Mean colour of the class in the given rows, one row a picture of the whole training split."""
    data, own = scenes("train"), _all_tags("train")[:, Scenes.labels.tag_names.index(name)]
    colours = []
    for i in np.flatnonzero(own)[:120]:
        sample = data[int(i)]
        inside = sample.mask[rows] == _value(name)
        if inside.sum() >= MIN_VISIBLE:
            colours.append(sample.image[rows][inside].mean(0))
    return np.stack(colours)


@pytest.mark.parametrize(("first", "second", "top"), [("cat", "dog", 0), ("lamp", "sign", 80)])
def test_look_alikes_do_not_differ_in_colour(first: str, second: str, top: int) -> None:
    """The best threshold on a channel of the mean colour (of lamps and signs: their poles) is little use."""
    a, b = (_mean_colours(name, slice(top, None)) for name in (first, second))
    assert min(len(a), len(b)) >= 15
    for channel in range(3):
        thresholds = np.concatenate([a, b])[:, channel]
        recall = ((a[:, channel, None] > thresholds).mean(0) + (b[:, channel, None] <= thresholds).mean(0)) / 2
        assert np.maximum(recall, 1 - recall).max() < 0.7


def test_faces_are_seen() -> None:
    """A cat or dog that is tagged shows its head: what tells the two apart is never hidden."""
    data = scenes("train", count=150)
    heads = 0
    for i in range(150):
        _, things, mask, _ = data._compose(i)
        for thing in things:
            if thing.face is not None:
                heads += 1
                assert mask[thing.face[1], thing.face[0]] in (_value(thing.name), 255)
    assert heads > 40


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"split": "vall"}, "Did you mean 'val'"),
        ({"count": 0}, "found 0"),
        ({"size": (16, 128)}, "found (16, 128)"),
        ({"size": (128,)}, "height, width"),
        ({"seed": -1}, "found -1"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(arguments: dict, found: str) -> None:
    with pytest.raises(DataError) as error:
        scenes(**arguments)
    assert found in str(error.value)


def test_out_of_range_ends_iteration() -> None:
    assert len(list(scenes("val", count=3))) == 3
