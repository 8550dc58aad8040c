"""NYU-Depth-v2: 40 classes from PNG files, and from the published MATLAB files."""

import pickle
import sys
import types

import numpy as np
import pytest

from maskwright.data import open_dataset
from maskwright.data.readers.nyu_depth import LABELED, MAPPING, SPLIT_FILE
from maskwright.errors import DataError
from maskwright.settings import DataSettings


def opened(root, split="train", **settings):
    return open_dataset(DataSettings(root=str(root), layout="nyu_depth", **settings), split)


def png(files, images="image", masks="label40", suffix="png"):
    for number in (1, 2, 3):
        files.image(f"{images}/img_500{number}.{suffix}")
        files.mask(f"{masks}/img_500{number}.png", [0, 1, 40, number])
    return files.root


@pytest.fixture
def listed(files):
    files.text("train.txt", "img_5001\nimg_5003\n")
    files.text("test.txt", "img_5002\n")
    return png(files)


@pytest.mark.parametrize(("images", "masks"), [("image", "label40"), ("RGB", "Label"), ("images", "labels40")])
@pytest.mark.parametrize("line", ["img_5003", "img_5003.png", "{images}/img_5003.jpg {masks}/img_5003.png"])
def test_folders_and_lists_in_use(files, contract, columns, images, masks, line):
    png(files, images, masks, "jpg")
    files.text("train.txt", line.format(images=images, masks=masks) + "\n")
    dataset = opened(files.root)
    contract(dataset)
    assert dataset.names == ["img_5003"]
    assert columns(dataset[0].mask) == [255, 0, 39, 2]
    assert dataset.labels.names[39] == "otherprop"
    assert dataset.labels.num_classes == 40


def test_val_is_test(listed):
    assert opened(listed, "val").names == opened(listed, "test").names == ["img_5002"]
    assert opened(listed, "all").names == ["img_5001", "img_5003", "img_5002"]
    assert opened(listed, "val").source["published_count"] == 654


def test_splits_as_subfolders(files, contract):
    for split in ("train", "test"):
        files.image(f"image/{split}/00001.png")
        files.mask(f"seg40/{split}/00001.png", [5])
    dataset = opened(files.root, "test")
    contract(dataset)
    assert dataset.names == ["test/00001"]


def test_masks_that_count_from_0_are_refused(listed, files):
    files.mask("label40/img_5001.png", [255, 0, 39])
    with pytest.raises(DataError, match="255"):
        opened(listed)[0]


def test_what_is_missing(listed, files, tmp_path):
    (listed / "label40/img_5003.png").unlink()
    with pytest.raises(DataError, match=r"1 image without a mask in label40 \(2 images and 1 mask found\)"):
        opened(listed)
    files.text("train.txt", "img_5001\nimg_9999\n")
    with pytest.raises(DataError, match="img_9999: 1 of 2 images listed are not in image"):
        opened(listed)
    (listed / "train.txt").unlink()
    with pytest.raises(DataError, match=r"no list train.txt and no folder image/train"):
        opened(listed)
    files.text("empty/x", "")
    with pytest.raises(DataError, match=rf"image \(from the PNG files of the set, or {LABELED}\), label40"):
        opened(tmp_path / "empty")


ARRAYS = {
    "images": np.random.default_rng(0).integers(0, 256, (3, 3, 8, 6), dtype=np.uint8),
    "labels": np.random.default_rng(1).integers(0, 5, (3, 8, 6)).astype(np.uint16),
}
MAT = {"trainNdxs": np.array([[1], [3]]), "testNdxs": np.array([[2]]), "mapClass": np.array([[40, 1, 7, 7]])}


class Arrays(dict):
    def __init__(self, path, mode):
        super().__init__(ARRAYS)


@pytest.fixture
def mat(files, monkeypatch):
    """The published files' names, with fakes of the libraries that decode them."""
    for name in (LABELED, SPLIT_FILE, MAPPING):
        files.text(name, "")
    scipy_io, h5py = types.ModuleType("scipy.io"), types.ModuleType("h5py")
    scipy_io.loadmat = lambda path, variable_names: MAT
    h5py.File = Arrays
    for name, module in (("scipy", types.ModuleType("scipy")), ("scipy.io", scipy_io), ("h5py", h5py)):
        monkeypatch.setitem(sys.modules, name, module)
    return files.root


def test_published_files(mat, contract):
    dataset = opened(mat, tags="masks")
    contract(dataset)
    assert dataset.names == ["0001", "0003"]
    sample = dataset[1]
    assert sample.image.shape == (6, 8, 3)
    assert sample.image[4, 7].tolist() == ARRAYS["images"][2, :, 7, 4].tolist()
    table = np.array([255, 39, 0, 6, 6])
    assert np.array_equal(sample.mask, table[ARRAYS["labels"][2].T])
    assert dataset.tags(1) == dataset.labels.tags_in(sample.mask)
    assert opened(mat, "val").names == ["0002"]
    again = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(again.mask(1), sample.mask)


def test_published_files_that_do_not_fit(mat, monkeypatch):
    monkeypatch.setitem(MAT, "testNdxs", np.array([[1449]]))
    with pytest.raises(DataError, match=r"splits.mat names image 1449"):
        opened(mat, "test")
    monkeypatch.setitem(MAT, "mapClass", np.array([[1, 2]]))
    with pytest.raises(DataError, match=r"has label 4, classMapping40.mat ends before it"):
        opened(mat).mask(0)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"needs h5py\. Fix: pip install h5py"):
        opened(mat)
    (mat / MAPPING).unlink()
    with pytest.raises(DataError, match=r"needs classMapping40.mat"):
        opened(mat)


def test_with_the_libraries(files):
    h5py, io = pytest.importorskip("h5py"), pytest.importorskip("scipy.io")
    with h5py.File(files.root / LABELED, "w") as stream:
        for name, array in ARRAYS.items():
            stream[name] = array
    io.savemat(files.root / SPLIT_FILE, {key: MAT[key] for key in ("trainNdxs", "testNdxs")})
    io.savemat(files.root / MAPPING, {"mapClass": MAT["mapClass"]})
    dataset = opened(files.root)
    assert dataset.names == ["0001", "0003"]
    assert np.array_equal(dataset[1].mask, np.array([255, 39, 0, 6, 6])[ARRAYS["labels"][2].T])
    (files.root / LABELED).unlink()
    files.text(LABELED, "cut short")
    with pytest.raises(DataError, match="download it again, whole"):
        opened(files.root)
