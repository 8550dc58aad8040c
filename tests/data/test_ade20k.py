"""ADE20K in the folders of ADEChallengeData2016: 150 classes from values 1 to 150, 0 ignored."""

import pytest

from maskwright.data import open_dataset
from maskwright.data.check import check
from maskwright.errors import DataError
from maskwright.settings import DataSettings


def opened(root, split="train", **settings):
    return open_dataset(DataSettings(root=str(root), **settings), split)


@pytest.fixture
def root(files):
    for number in (1, 2, 3):
        files.image(f"ADEChallengeData2016/images/training/ADE_train_0000000{number}.jpg")
        files.mask(f"ADEChallengeData2016/annotations/training/ADE_train_0000000{number}.png", [0, 1, 150, 13])
    files.image("ADEChallengeData2016/images/validation/ADE_val_00000001.jpg")
    files.mask("ADEChallengeData2016/annotations/validation/ADE_val_00000001.png", [3])
    files.text("ADEChallengeData2016/objectInfo150.txt", "Idx\tRatio\tTrain\tVal\tName\n")
    return files.root / "ADEChallengeData2016"


@pytest.mark.parametrize("split", ["train", "training"])
def test_training(root, contract, columns, split):
    dataset = opened(root, split)
    contract(dataset)
    assert dataset.names == ["ADE_train_00000001", "ADE_train_00000002", "ADE_train_00000003"]
    assert columns(dataset[1].mask) == [255, 0, 149, 12]
    assert dataset.source["published_count"] == 20210


def test_validation_and_both(root, columns):
    assert columns(opened(root, "val")[0].mask) == [2]
    assert opened(root, "validation").names == opened(root, "val").names
    assert len(opened(root, "trainval")) == 4


def test_classes_and_colours(root):
    labels = opened(root).labels
    assert labels.num_classes == len(labels.palette) == 150
    assert (labels.names[0], labels.names[12], labels.names[149]) == ("wall", "person", "flag")
    assert labels.palette[:2] == ((120, 120, 120), (180, 120, 120))
    assert labels.palette[-2:] == ((102, 255, 0), (92, 0, 255))
    assert labels.background is None


def test_the_folder_above_is_found_too(root):
    assert len(opened(root.parent, layout="ade20k")) == 3


@pytest.mark.parametrize("place", ["testing", "release_test/testing"])
def test_the_test_split_has_no_masks(root, files, place):
    files.image(f"ADEChallengeData2016/{place}/ADE_test_00000001.jpg")
    dataset = opened(root, "test")
    assert dataset.names == ["ADE_test_00000001"]
    assert not dataset.has_mask(0)


def test_a_value_above_150_is_refused(root, files):
    files.mask("ADEChallengeData2016/annotations/training/ADE_train_00000001.png", [151, 1])
    with pytest.raises(DataError, match="151"):
        opened(root)[0]


def test_what_is_missing(root, files):
    with pytest.raises(DataError, match=r"needs testing \(from release_test.zip\)"):
        opened(root, "test")
    files.image("ADEChallengeData2016/images/training/ADE_train_00000009.jpg")
    with pytest.raises(DataError, match=r"without a mask in annotations/training \(4 images and 3 masks found\)"):
        opened(root)


def test_a_half_unpacked_set_is_a_warning(root, files):
    files.mask("ADEChallengeData2016/annotations/validation/ADE_val_00000002.png", [3])
    found = [finding.text() for finding in check(DataSettings(root=str(root))) if finding.kind == "set-incomplete"]
    assert "training of ADE20K has 3 of its 20210 images" in " ".join(found)
    assert "validation of ADE20K has 1 of its 2000 images, and 1 mask without image" in " ".join(found)
