import os

import numpy as np
import pytest
from PIL import Image

from maskwright.data import objects_only, open_dataset, subset, without_masks
from maskwright.data.content import content_hash
from maskwright.data.scenes import scenes
from maskwright.settings import DataSettings


def test_hash_changes_with_images_masks_and_tags_only(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in "abc":
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "masks" / f"{name}.png")
    tags = tmp_path / "tags.csv"
    tags.write_text("image,tags\na,cat\nb,\n")
    settings = DataSettings(root=str(tmp_path), tags="tags.csv", classes=["background", "cat"])

    def now():
        return content_hash(open_dataset(settings, "all"))

    first = now()
    assert now() == first
    tags.write_text("image,tags\na,cat\nb,cat\n")
    second = now()
    assert second != first
    os.utime(tmp_path / "masks" / "c.png", (1, 1))
    assert now() == second
    Image.fromarray(np.full((8, 8), 1, np.uint8)).save(tmp_path / "masks" / "c.png")
    third = now()
    assert third != second
    os.rename(tmp_path / "images", tmp_path / "photos")
    settings.options["images"] = "photos"
    assert now() == third
    os.rename(tmp_path / "photos", tmp_path / "images")
    del settings.options["images"]
    settings.label_map = {0: 0, 1: 0}
    assert now() != third
    settings.label_map = None
    Image.fromarray(np.full((8, 8, 3), 9, np.uint8)).save(tmp_path / "images" / "a.png")
    assert now() != third


def test_built_in_set_is_told_by_its_source():
    assert content_hash(scenes("train", count=3)) == content_hash(scenes("train", count=3))


def test_part_of_a_set_has_the_files_of_its_images(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for name in "abc":
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / folder / f"{name}.png")
    dataset = open_dataset(DataSettings(root=str(tmp_path), classes=["background", "cat"]), "all")
    part = subset(dataset, [2, 0])
    assert part.images == [str(tmp_path / "images" / f"{name}.png") for name in "ca"]
    assert part.masks == [str(tmp_path / "masks" / f"{name}.png") for name in "ca"]
    assert part.saliency is None
    before = content_hash(part)
    for name, same in (("b", True), ("a", False)):
        Image.fromarray(np.ones((8, 8), np.uint8)).save(tmp_path / "masks" / f"{name}.png")
        assert (content_hash(part) == before) == same


@pytest.mark.parametrize("view", [lambda data: subset(data, [0]), without_masks, objects_only, lambda data: data])
def test_built_in_set_and_views_of_it_say_where_nothing_is(view):
    data = view(scenes("train", count=3, size=32))
    assert (data.images, data.masks, data.saliency, data.tags_from_masks) == (None, None, None, True)
    assert data.get(0, with_mask=False).mask is None
    assert np.array_equal(data.get(0, with_mask=False).image, data[0].image)
