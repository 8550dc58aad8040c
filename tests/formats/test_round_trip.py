"""What is written in a format and read again is what it was: every pixel, every name, every class."""

import shutil

import numpy as np
import pytest
from PIL import Image

from maskwright.data import open_dataset, reader_name
from maskwright.errors import DataError
from maskwright.files import read_json, write_json
from maskwright.formats import FORMATS, write
from maskwright.formats.export import Export
from maskwright.settings import DataSettings

# Formats that nothing reads back, and those that cannot say that a pixel has no label.
OUT_ONLY = ("fiftyone",)
WITHOUT_IGNORED = ("yolo",)
READ = [name for name in FORMATS if name not in OUT_ONLY]


def found_masks(dataset, wanted):
    """The masks of a set by the names of the export, with the values of its classes."""
    masks = {}
    for index, name in enumerate(dataset.names):
        (known,) = [one for one in wanted if name == one or name.endswith(f"/{one}")]
        masks[known] = dataset.mask(index)
    return masks


def in_values_of(labels, mask, others):
    """A mask whose classes have the values of another label space, by their names."""
    table = np.full(256, others.ignore_index, np.uint8)
    for value, name in enumerate(labels.names):
        table[value] = others.value(name)
    return table[mask]


@pytest.mark.parametrize("name", READ)
def test_every_pixel_comes_back(name, tmp_path, request):
    case = request.getfixturevalue("hard_whole" if name in WITHOUT_IGNORED else "hard")
    write(case.export, name, tmp_path / "out")
    settings = DataSettings(root=str(tmp_path / "out"))
    assert reader_name(settings) != "folder"
    dataset = open_dataset(settings, "all")
    assert set(dataset.labels.names) == set(case.export.labels.names)
    found = found_masks(dataset, case.masks)
    assert set(found) == set(case.masks)
    for image, mask in case.masks.items():
        assert found[image] is not None, image
        assert np.array_equal(in_values_of(dataset.labels, found[image], case.export.labels), mask), image


@pytest.mark.parametrize("name", READ)
def test_images_are_those_that_were_written(name, hard_whole, tmp_path):
    write(hard_whole.export, name, tmp_path / "out")
    dataset = open_dataset(DataSettings(root=str(tmp_path / "out")), "all")
    for index, image in enumerate(dataset.names):
        (known,) = [one for one in hard_whole.files if image == one or image.endswith(f"/{one}")]
        with Image.open(hard_whole.files[known]) as picture:
            assert np.array_equal(dataset[index].image, np.array(picture))


@pytest.mark.parametrize("name", READ)
def test_what_maskwright_made_is_no_ground_truth_until_somebody_corrects_it(name, hard_whole, tmp_path):
    made = Export(hard_whole.export.labels, "train", "pseudo-masks", hard_whole.examples, 4)
    write(made, name, tmp_path / "out")
    settings = DataSettings(root=str(tmp_path / "out"))
    with pytest.raises(DataError, match="pseudo-masks that maskwright wrote"):
        open_dataset(settings, "all")


def test_of_a_file_for_each_image_those_count_that_were_corrected(hard_whole, tmp_path):
    made = Export(hard_whole.export.labels, "train", "pseudo-masks", hard_whole.examples, 4)
    write(made, "labelme", tmp_path / "out")
    file = tmp_path / "out" / "a" / "same.json"
    record = read_json(file)
    record["shapes"] = record["shapes"][:1]
    write_json(file, record)
    dataset = open_dataset(DataSettings(root=str(tmp_path / "out")), "all")
    assert list(dataset.names) == ["a/same"]
    assert set(np.unique(dataset.mask(0))) <= {0, 1}


def test_an_export_that_lies_elsewhere_is_the_same(hard, tmp_path):
    write(hard.export, "coco", tmp_path / "out")
    shutil.move(tmp_path / "out", tmp_path / "moved")
    assert len(open_dataset(DataSettings(root=str(tmp_path / "moved")), "all")) == 4
