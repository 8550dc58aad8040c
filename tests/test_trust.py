"""What people leave alone loses nothing, says nothing false, and lets nobody in who only gave it a file."""

import os
from collections import Counter

import pytest
from PIL import Image

from maskwright.cli import endings
from maskwright.data.images import ImageSet, list_images
from maskwright.data.sample import LabelSpace
from maskwright.engine.guards import check_collapse
from maskwright.errors import DataError, RecipeError, TrainingStopped

LABELS = LabelSpace(("background", "red"))


@pytest.mark.parametrize("name", ["../up", "/tmp/up", "a/../../up", "..\\up", "C:\\up", "a\nb", "a\x1b[2J", "a\udcff"])
def test_no_list_of_names_says_where_results_are_written(name):
    with pytest.raises(DataError, match=r"leads out of|would break lists"):
        ImageSet(LABELS, ["good", name], ["a.png", "b.png"], masks=[None, None], tags=[None, None])


@pytest.mark.parametrize("name", ["a..b", "..a/b", "ü b", "a\u3000b", "日本/語"])
def test_names_of_all_languages_are_taken(name):
    assert ImageSet(LABELS, [name], ["a.png"], masks=[None], tags=[None]).names == [name]


def test_a_class_name_is_one_line():
    with pytest.raises(DataError, match="would break lists of classes"):
        LabelSpace(("background", "red\nblue"))


def test_a_pipe_among_images_is_left_out_and_counted(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("a.png", "folder.png/b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    os.symlink(tmp_path / "nowhere", tmp_path / "gone.png")  # said where it is read, as a link to itself is
    os.symlink("itself.png", tmp_path / "itself.png")
    os.symlink("/dev/zero", tmp_path / "zero.png")
    others: Counter[str] = Counter()
    assert list(list_images(tmp_path, others=others)[0]) == ["a", "folder.png/b", "gone", "itself"]
    assert others == {"pipe/device": 2}


def test_a_mistake_in_the_recipe_is_said_by_one_process_and_an_error_of_the_data_by_each(monkeypatch, capsys):
    monkeypatch.setattr(endings, "MAIN_PROCESS", False)
    assert endings._end(RecipeError("batch_size cannot be shared")) == 2
    assert capsys.readouterr().err == ""
    assert endings._end(DataError("a.png cannot be read")) == 2
    assert "a.png cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("step", [150, 200])
def test_a_training_that_ends_without_a_model_says_where_its_weights_are(step):
    with pytest.raises(TrainingStopped) as stopped:
        check_collapse({"predicted_classes": 1, "true_classes": 3}, None, step, 200)
    assert ("state.pt" in str(stopped.value)) == (step == 200)
