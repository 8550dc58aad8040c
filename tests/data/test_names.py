"""Names in one Unicode form, and paths as the disk spells them."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

from maskwright.data import open_dataset
from maskwright.data.names import normal, plain, spelled
from maskwright.data.sample import LabelSpace
from maskwright.errors import DataError
from maskwright.settings import DataSettings

NFC, NFD = (unicodedata.normalize(form, "Übung é") for form in ("NFC", "NFD"))


def test_forms():
    assert NFC != NFD
    assert normal(NFD) == normal(NFC) == NFC
    assert plain("File_Name") == plain("file name") == "filename"
    assert plain(NFD) == plain(NFC) == "übungé"


@pytest.mark.parametrize("typed", [NFC, NFD, NFC.upper(), NFC.lower()])
def test_a_path_is_found_in_any_form_and_capitals(tmp_path, typed):
    (tmp_path / NFD / "Inner").mkdir(parents=True)
    assert spelled(tmp_path / typed / "inner") == tmp_path / NFD / "Inner"


def test_a_path_that_two_names_fit_stays_as_it_was_typed(tmp_path):
    for name in ("Masks", "MASKS"):
        (tmp_path / name).mkdir()
    assert spelled(tmp_path / "masks") == tmp_path / "masks"
    assert spelled(tmp_path / "Masks") == tmp_path / "Masks"
    assert spelled(tmp_path / "none" / "a") == tmp_path / "none" / "a"


def test_classes_are_compared_in_one_form():
    labels = LabelSpace(("background", NFD))
    assert labels.names[1] == NFC
    assert labels.value(NFD) == labels.value(NFC) == 1
    with pytest.raises(DataError, match="found more than once"):
        LabelSpace((NFC, NFD))


def test_a_set_in_a_folder_that_was_typed_in_the_other_form(tmp_path):
    root = tmp_path / NFD
    (root / "train").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / "train" / f"{NFD}.png")
    (root / "tags.csv").write_text(f"image,tags\n{NFC}.png,{NFD}\n", encoding="utf-8")
    data = open_dataset(DataSettings(root=str(tmp_path / NFC), tags="Tags.csv"), "train")
    assert data.names == [f"train/{NFC}"]
    assert data.labels.names == ("background", NFC)
    assert data[0].tags == (1,)
