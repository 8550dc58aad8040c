"""PASCAL Context in the folder of VOC 2010: 59 or 60 classes, masks as PNG or as MATLAB files."""

import sys
import types

import numpy as np
import pytest

from maskwright.data import open_dataset
from maskwright.data.readers.pascal_context import CLASSES, read_mat
from maskwright.errors import DataError
from maskwright.settings import DataSettings

NAMES = ("2008_000002", "2008_000003", "2008_000007")


def opened(root, split="train", **settings):
    return open_dataset(DataSettings(root=str(root), layout="pascal_context", **settings), split)


@pytest.fixture
def root(files):
    for name in NAMES:
        files.image(f"VOC2010/JPEGImages/{name}.jpg")
    files.text("VOC2010/ImageSets/Main/train.txt", f"{NAMES[0]}\n{NAMES[1]}\n")
    files.text("VOC2010/ImageSets/Main/val.txt", f"{NAMES[2]}\n")
    return files.root / "VOC2010"


@pytest.fixture
def png(root, files):
    for name in NAMES:
        files.mask(f"VOC2010/SegmentationClassContext/{name}.png", [0, 1, 59, 37])
    return root


@pytest.fixture
def mat(root, files):
    for name in NAMES:
        with files.text(f"VOC2010/trainval/{name}.mat", "").open("wb") as stream:
            np.save(stream, numbers(0, 2, 458, 284, 1, 459))
    return root


def numbers(*columns: int) -> np.ndarray:
    return np.tile(np.repeat(np.array(columns, np.uint16), 32 // len(columns) + 1)[:32], (24, 1))


@pytest.fixture
def fake_scipy(monkeypatch):
    """A `scipy.io` that finds numpy's format in the files: all but the decoding is the product's."""
    module = types.ModuleType("scipy.io")
    module.loadmat = lambda path, variable_names: {variable_names[0]: np.load(path)}
    monkeypatch.setitem(sys.modules, "scipy", types.ModuleType("scipy"))
    monkeypatch.setitem(sys.modules, "scipy.io", module)


def test_59_classes(png, contract, columns):
    dataset = opened(png, tags="masks")
    contract(dataset)
    assert dataset.names == list(NAMES[:2])
    assert columns(dataset[0].mask) == [255, 0, 58, 36]
    assert dataset.tags(0) == (0, 36, 58)
    assert dataset.labels.names[36] == "person"
    assert dataset.labels.background is None
    assert opened(png.parent, "val").names == [NAMES[2]]
    assert len(opened(png, "trainval")) == 3


def test_60_classes(png, contract, columns):
    dataset = opened(png, options={"classes": 60}, tags="masks")
    contract(dataset)
    assert columns(dataset[0].mask) == [0, 1, 59, 37]
    assert dataset.labels.background == 0
    assert dataset.tags(0) == (1, 37, 59)


def test_masks_as_published(mat, fake_scipy, contract, columns):
    dataset = opened(mat, "val")
    contract(dataset)
    assert columns(dataset[0].mask) == [255, 0, 58, 36, 255]
    assert columns(opened(mat, options={"classes": 60})[0].mask) == [0, 1, 59, 37, 0]


def test_the_numbers_are_those_of_labels_txt():
    assert list(CLASSES) == sorted(CLASSES)
    assert list(CLASSES.values()) == sorted(CLASSES.values())
    assert len(CLASSES) == 59


def test_without_scipy(mat, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(DataError, match=r"needs SciPy\. Fix: pip install scipy"):
        opened(mat)[0]


def test_with_scipy(root, files):
    io = pytest.importorskip("scipy.io")
    (root / "trainval").mkdir()
    for name in NAMES:
        io.savemat(root / f"trainval/{name}.mat", {"LabelMap": numbers(0, 284)}, do_compression=True)
    assert set(np.unique(opened(root)[0].mask)) == {36, 255}
    with pytest.raises(DataError, match="has no array other"):
        read_mat(root / f"trainval/{NAMES[0]}.mat", "other")
    files.text("broken.mat", "no such file" * 30)
    with pytest.raises(DataError, match=r"broken.mat cannot be read as a MATLAB file"):
        read_mat(files.root / "broken.mat", "LabelMap")


def test_lists_of_the_converted_set_win(png, files):
    files.text("VOC2010/ImageSets/SegmentationContext/train.txt", f"{NAMES[2]}\n")
    assert opened(png).names == [NAMES[2]]


def test_what_is_missing(root, png, files):
    (png / f"SegmentationClassContext/{NAMES[1]}.png").unlink()
    with pytest.raises(DataError, match=r"without a mask in SegmentationClassContext \(2 images and 1 mask found\)"):
        opened(png)
    files.text("VOC2010/ImageSets/Main/val.txt", f"{NAMES[2]}\n2009_999999\n")
    with pytest.raises(DataError, match=r"2009_999999: 1 of 2 images listed are not in JPEGImages \(3 images there\)"):
        opened(png, "val")
    (png / "ImageSets/Main/val.txt").unlink()
    with pytest.raises(DataError, match=r"ImageSets/Main/val.txt \(from VOCtrainval_03-May-2010.tar\)"):
        opened(png, "val")
    with pytest.raises(DataError, match="59 classes, or 60 with background"):
        opened(png, options={"classes": 33})
    (png / "SegmentationClassContext").rename(png / "masks")
    with pytest.raises(DataError, match=r"needs trainval \(from trainval.tar.gz of PASCAL Context\)"):
        opened(png)


def test_masks_in_another_order_are_mapped_by_the_settings(png, columns):
    label_map = {0: 255, 1: 0, 59: 10, 37: 20}
    assert columns(opened(png, label_map=label_map)[0].mask) == [255, 0, 10, 20]
