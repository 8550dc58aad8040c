"""Cityscapes in its official folders: ids mapped, coarse splits, names of what is missing."""

import numpy as np
import pytest

from maskwright.data import open_dataset
from maskwright.data.check import check
from maskwright.data.readers.cityscapes import SPLITS, label_map
from maskwright.errors import DataError
from maskwright.settings import DataSettings

NAMES = ("aachen/aachen_000000_000019", "ulm/ulm_000001_000019")


def opened(root, split="train", **settings):
    return open_dataset(DataSettings(root=str(root), **settings), split)


@pytest.fixture
def root(files):
    for name in NAMES:
        files.image(f"leftImg8bit/train/{name}_leftImg8bit.png")
        files.mask(f"gtFine/train/{name}_gtFine_labelIds.png", [0, 7, 33, 9, 26])
        files.mask(f"gtFine/train/{name}_gtFine_instanceIds.png", [1, 2])
        files.image(f"gtFine/train/{name}_gtFine_color.png")
        files.mask(f"gtCoarse/train/{name}_gtCoarse_labelIds.png", [0, 11])
    files.image("leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit.png")
    files.mask("gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png", [1, 8])
    files.image("leftImg8bit/test/berlin/berlin_000000_000019_leftImg8bit.png")
    files.mask("gtFine/test/berlin/berlin_000000_000019_gtFine_labelIds.png", [1, 3])
    files.image("leftImg8bit/train_extra/augsburg/augsburg_000000_000000_leftImg8bit.png")
    files.mask("gtCoarse/train_extra/augsburg/augsburg_000000_000000_gtCoarse_labelIds.png", [23])
    return files.root


@pytest.mark.parametrize(
    ("split", "count", "first"),
    [
        ("train", 2, [255, 0, 18, 255, 13]),
        ("val", 1, [255, 1]),
        ("trainval", 3, [255, 0, 18, 255, 13]),
        ("train_coarse", 2, [255, 2]),
        ("train_extra", 1, [10]),
    ],
)
def test_splits_and_ids(root, contract, columns, split, count, first):
    dataset = opened(root, split)
    contract(dataset)
    assert len(dataset) == count
    assert columns(dataset[0].mask) == first
    assert dataset.labels.num_classes == 19
    assert dataset.labels.background is None
    assert dataset.source["layout"] == "cityscapes"
    assert dataset.source["published_count"] == sum(part.count for part in SPLITS[split])


def test_the_label_map_is_the_published_one():
    mapped = label_map()
    assert [identity for identity, value in mapped.items() if value != 255] == [
        *(7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    ]
    assert [value for value in mapped.values() if value != 255] == list(range(19))
    assert sorted(mapped) == list(range(34))


def test_names_tags_and_colours(root):
    dataset = opened(root, tags="masks")
    assert dataset.names == list(NAMES)
    assert dataset.tags(0) == (0, 13, 18)
    assert dataset.labels.palette[dataset.labels.value("car")] == (0, 0, 142)


def test_the_test_split_has_no_masks(root, contract):
    dataset = opened(root, "test")
    contract(dataset)
    assert not dataset.has_mask(0)


def test_another_ignore_value(root, columns):
    assert columns(opened(root, ignore_index=200)[0].mask) == [200, 0, 18, 200, 13]


def test_an_id_that_does_not_exist_is_refused(root, files):
    files.mask(f"gtFine/train/{NAMES[0]}_gtFine_labelIds.png", [7, 40])
    with pytest.raises(DataError, match=r"40 \(384 pixels\)"):
        opened(root)[0]


def test_missing_folders_name_the_download(root, files, tmp_path):
    with pytest.raises(DataError, match=r"gtCoarse/val \(from gtCoarse.zip\), found only: gtCoarse, gtFine, leftImg"):
        opened(root, "val_coarse")
    files.text("empty/note.txt", "")
    with pytest.raises(DataError, match=r"leftImg8bit/train \(from leftImg8bit_trainvaltest.zip\), gtFine/train"):
        opened(tmp_path / "empty", layout="cityscapes")
    with pytest.raises(DataError, match="is not a folder"):
        opened(tmp_path / "none", layout="cityscapes")


def test_an_image_without_mask_is_refused(root, files):
    files.image("leftImg8bit/train/ulm/ulm_000002_000019_leftImg8bit.png")
    with pytest.raises(DataError, match=r"1 image without a mask in gtFine/train \(3 images and 2 masks found\)"):
        opened(root)


def test_a_part_of_the_set_is_a_warning(root):
    found = [finding.text() for finding in check(DataSettings(root=str(root))) if finding.kind == "set-incomplete"]
    assert len(found) == 2
    assert "train of Cityscapes has 2 of its 2975 images" in found[0]
    assert "leftImg8bit_trainvaltest.zip" in found[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": ["a", "b"]}, "has its own classes"),
        ({"masks": "gtFine"}, "has its own masks"),
        ({"background": "road"}, "no background class"),
        ({"options": {"tolerant": True}}, "option of cityscapes 'tolerant'"),
    ],
)
def test_settings_that_would_have_no_effect_are_refused(root, settings, message):
    with pytest.raises(DataError, match=message):
        opened(root, **settings)


def test_an_unknown_split_names_the_nearest(root):
    with pytest.raises(DataError, match="Did you mean 'train_coarse'"):
        opened(root, "train_corse")


def test_masks_are_read_without_their_images(root):
    dataset = opened(root)
    expected = dataset[0].mask
    dataset.images = ["nowhere.png"] * 2
    dataset.size = lambda index: expected.shape
    assert np.array_equal(dataset.mask(0), expected)
