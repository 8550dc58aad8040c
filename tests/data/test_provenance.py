"""Masks that maskwright wrote are no ground truth: where they are looked for, refused, and asked for by name."""

from __future__ import annotations

import os
import re

import pytest

from maskwright.data import open_dataset
from maskwright.data.check import check
from maskwright.data.provenance import against, check_masks, made, mark, reference
from maskwright.errors import DataError, RecipeError
from maskwright.files import read_json
from maskwright.pipeline.evaluate import recipe_with
from maskwright.recipe.load import build_recipe
from maskwright.settings import DataSettings
from maskwright.weak.saliency import write_saliency

NAMES = ("a", "b", "c")


def opened(root, split="all", **settings):
    return open_dataset(DataSettings(root=str(root), **settings), split)


def photos(files, images="set/images", masks=None):
    for name in NAMES:
        files.image(f"{images}/{name}.jpg")
        if masks:
            files.mask(f"{masks}/{name}.png", [0, 1])
    return files.root / "set"


def predicted(folder, what="predictions"):
    mark({folder: what}, {"model": "m.safetensors", "weights": "0123"}, ours=True)


class TestWhereMasksAreLookedFor:
    @pytest.mark.parametrize("images", ["set/images", "set", "set/train/images"])
    def test_what_nobody_typed_is_never_taken_from_the_working_folder(self, files, monkeypatch, images):
        root = photos(files, images)
        photos(files, "images", masks="masks")
        (files.root / "SegmentationClass").symlink_to(files.root / "masks")
        monkeypatch.chdir(files.root)
        dataset = opened(root, classes=["sky", "sea"])
        assert len(dataset) == 3
        assert not any(dataset.has_mask(index) for index in range(3))

    def test_nor_in_the_layout_of_voc(self, files, monkeypatch):
        root = photos(files, "set/JPEGImages", masks="SegmentationClass")
        files.image("JPEGImages/z.jpg")
        monkeypatch.chdir(files.root)
        dataset = opened(root, classes=["sky", "sea"])
        assert dataset.names == list(NAMES)
        assert not dataset.has_mask(0)

    @pytest.mark.parametrize("layout", ["images", "JPEGImages"])
    def test_what_is_typed_may_lie_elsewhere_but_below_the_root_first(self, files, monkeypatch, layout, columns):
        root = photos(files, f"set/{layout}", masks="drawn")
        monkeypatch.chdir(files.root)
        assert columns(opened(root, masks="drawn", classes=["sky", "sea"])[0].mask) == [0, 1]
        files.mask("set/drawn/a.png", [1, 0])
        assert columns(opened(root, masks="drawn", classes=["sky", "sea"])[0].mask) == [1, 0]

    @pytest.mark.parametrize("layout", ["images", "JPEGImages"])
    def test_a_folder_of_images_that_is_typed_too(self, files, monkeypatch, layout):
        photos(files, "elsewhere", masks=f"set/{'masks' if layout == 'images' else 'SegmentationClass'}")
        if layout == "JPEGImages":
            files.image("set/JPEGImages/z.jpg")
        monkeypatch.chdir(files.root)
        dataset = opened("set", options={"images": "elsewhere"}, classes=["sky", "sea"])
        assert dataset.names == list(NAMES)
        assert dataset.has_mask(0)


class TestMasksThatMaskwrightWrote:
    @pytest.mark.parametrize("typed", [False, True])
    def test_are_refused_with_what_they_are_and_what_to_do(self, files, typed):
        root = photos(files, masks="set/masks")
        predicted(root / "masks")
        with pytest.raises(DataError) as error:
            opened(root, masks="masks" if typed else None)
        for said in ("holds predictions", str(root / "masks/provenance.json"), "masks_are=predictions", "delete"):
            assert said in str(error.value)

    @pytest.mark.parametrize("layout", ["images", "JPEGImages"])
    def test_are_passed_over_in_a_set_of_tags_where_nobody_typed_them(self, files, layout):
        masks = "masks" if layout == "images" else "SegmentationClass"
        root = photos(files, f"set/{layout}", masks=f"set/{masks}")
        predicted(root / masks)
        (root / "tags.csv").write_text("image,tags\na,sky\nb,sea\nc,sea\n", encoding="utf-8")
        given = {"tags": "tags.csv", "classes": ["background", "sky", "sea"]}
        assert not opened(root, **given).has_mask(0)
        found = check(DataSettings(root=str(root), **given), ("all",))
        assert [(finding.kind, finding.level) for finding in found if finding.kind == "masks-ours"] == [
            ("masks-ours", "warning")
        ]
        with pytest.raises(DataError, match="holds predictions"):
            opened(root, masks=masks, **given)
        with pytest.raises(DataError, match="holds predictions"):
            opened(root, classes=given["classes"])
        (root / masks / "drawn").mkdir()
        assert opened(root, masks_are="predictions", **given).has_mask(0)

    def test_and_not_passed_over_beside_masks_that_somebody_drew(self, files):
        root = photos(files, masks="set/masks")
        (root / "tags.csv").write_text("image,tags\na,sky\n", encoding="utf-8")
        files.mask("set/masks/trip/a.png", [0, 1])
        predicted(root / "masks/trip")
        with pytest.raises(DataError, match="trip holds predictions"):
            opened(root, tags="tags.csv", classes=["background", "sky"])

    def test_each_split_of_a_folder_of_splits_is_looked_at(self, files):
        for part in ("train", "val"):
            photos(files, f"set/{part}/images", masks=f"set/{part}/masks")
        predicted(files.root / "set/val/masks")
        with pytest.raises(DataError, match="val/masks holds predictions"):
            opened(files.root / "set", "train")

    def test_below_or_above_or_behind_a_link(self, files):
        root = photos(files, masks="run/pseudo_masks/SegmentationClass")
        mark({files.root / "run/pseudo_masks": "pseudo-masks"}, {}, ours=True)
        link = root / "masks"
        link.symlink_to(files.root / "run/pseudo_masks/SegmentationClass")
        with pytest.raises(DataError, match=r"holds pseudo-masks .*masks_are=pseudo-masks"):
            opened(root)
        link.unlink()
        photos(files, "set/images/trip", masks="set/masks/trip")
        predicted(root / "masks/trip")
        with pytest.raises(DataError, match="trip holds predictions"):
            opened(root)

    def test_in_the_layout_of_voc(self, files):
        root = photos(files, "set/JPEGImages", masks="set/SegmentationClass")
        predicted(root / "SegmentationClass")
        with pytest.raises(DataError, match="SegmentationClass holds predictions"):
            opened(root)

    def test_in_a_published_set(self, files):
        for name, folder in (("train", "training"), ("val", "validation")):
            files.image(f"set/images/{folder}/ADE_{name}_00000001.jpg")
            files.mask(f"set/annotations/{folder}/ADE_{name}_00000001.png", [1, 2])
        root = files.root / "set"
        assert len(opened(root, "val")) == 1
        predicted(root / "annotations/validation")
        with pytest.raises(DataError, match="annotations/validation holds predictions"):
            opened(root, "val")
        with pytest.raises(DataError, match="has its own masks_are"):
            opened(root, "val", masks_are="predictions")

    def test_are_used_when_asked_for_by_name_and_called_so(self, files):
        root = photos(files, masks="set/masks")
        predicted(root / "masks")
        dataset = opened(root, masks_are="predictions")
        assert dataset.has_mask(0)
        assert dataset.source["masks_are"] == "predictions"
        assert "against predictions, NOT ground truth" in against(dataset.source)
        assert reference(dataset.source) == "given predictions"
        with pytest.raises(DataError, match=r"holds predictions .*expected pseudo-masks"):
            opened(root, masks_are="pseudo-masks")

    def test_another_tools_are_called_what_one_says_they_are(self, files):
        root = photos(files, masks="set/masks")
        assert opened(root, masks_are="pseudo-masks").source["masks_are"] == "pseudo-masks"
        plain = opened(root).source
        assert "masks_are" not in plain
        assert (against(plain), reference(plain)) == ("", "ground truth")

    @pytest.mark.parametrize("what", ["overlays", "saliency maps", "probabilities"])
    def test_what_is_no_mask_cannot_be_asked_for(self, files, what):
        root = photos(files, masks="set/masks")
        predicted(root / "masks", what)
        with pytest.raises(DataError, match=f"holds {what}") as error:
            opened(root)
        assert "masks_are" not in str(error.value)

    def test_data_check_says_so_too(self, files):
        root = photos(files, masks="set/masks")
        predicted(root / "masks")
        findings = check(DataSettings(root=str(root)), ["all"])
        assert [finding.level for finding in findings] == ["error"]
        assert "holds predictions" in findings[0].what

    def test_somebody_elses_file_of_that_name_says_nothing(self, files):
        root = photos(files, masks="set/masks")
        for text in ("{", "[1]", '{"format": 3}', '{"format": "other tool 1"}'):
            files.text("set/masks/provenance.json", text)
            assert opened(root).has_mask(0), text


@pytest.mark.parametrize("supervision", ["tags", "mixed"])
def test_masks_that_judge_or_win_as_real_ones_must_be_ground_truth(supervision):
    with pytest.raises(RecipeError, match=r"data\.masks_are=pseudo-masks trains on such masks"):
        build_recipe({"supervision": supervision, "data": {"masks_are": "pseudo-masks"}})
    assert build_recipe({"supervision": "masks", "data": {"masks_are": "pseudo-masks"}}).data.masks_are


def test_other_masks_are_not_what_the_recipes_were():
    fields = {"data": {"root": "x", "masks": "p", "masks_are": "pseudo-masks"}}
    assert recipe_with(fields, ["data=y"]).data.masks_are == "pseudo-masks"
    assert recipe_with(fields, ["masks=drawn"]).data.masks_are is None
    assert recipe_with(fields, ["masks=q", "masks_are=predictions"]).data.masks_are == "predictions"
    assert fields["data"]["masks_are"] == "pseudo-masks"


class TestImages:
    def test_overlays_below_the_data_are_not_images(self, files):
        root = photos(files, "set")
        photos(files, "set/out/overlays")
        photos(files, "set/overlays/images")  # of images that lay in a folder `images`
        for folder in ("out/overlays", "overlays"):
            predicted(root / folder, "overlays")
        files.text("set/tags.csv", "image,tags\na,cat\nb,\nc,cat\n")
        assert opened(root, tags="tags.csv").names == list(NAMES)
        for name in NAMES:
            os.renames(root / f"{name}.jpg", root / "cat" / f"{name}.jpg")
        dataset = opened(root)
        assert dataset.names == [f"cat/{name}" for name in NAMES]
        assert dataset.labels.names == ("background", "cat")

    def test_a_folder_of_overlays_is_no_data_set(self, files):
        photos(files, "out/overlays")
        predicted(files.root / "out/overlays", "overlays")
        with pytest.raises(DataError, match=r"holds overlays that maskwright wrote .*expected images"):
            opened(files.root / "out/overlays", tags="masks")

    def test_saliency_maps_are_read_from_marked_folders(self, files):
        root = photos(files, "set/images/trip", masks="set/masks/trip")
        for name in NAMES:
            files.mask(f"set/saliency/trip/{name}.png", [0, 255])
        predicted(root / "saliency/trip", "saliency maps")
        assert opened(root, saliency="saliency")[0].saliency is not None


class TestMarking:
    def test_says_what_by_which_and_version(self, tmp_path):
        predicted(tmp_path / "masks")
        record = read_json(tmp_path / "masks/provenance.json")
        assert record["format"] == "maskwright predictions 1"
        assert (record["model"], record["weights"]) == ("m.safetensors", "0123")
        assert record["maskwright"]
        assert made(tmp_path / "masks/deep/er") == ("predictions", (tmp_path / "masks/provenance.json").resolve())
        assert made(tmp_path) is None

    def test_never_marks_or_mixes_with_what_is_there(self, files):
        files.mask("x/masks/a.png", [0, 1])
        folders = {files.root / "x/overlays": "overlays", files.root / "x/masks": "predictions"}
        with pytest.raises(DataError, match=re.escape(f"{files.root / 'x/masks'} holds files already")):
            mark(folders, {})
        assert not (files.root / "x/overlays").exists()
        mark(folders, {}, ours=True)
        mark(folders, {"model": "another"})
        with pytest.raises(DataError, match="says that they are overlays"):
            mark({files.root / "x/masks": "overlays"}, {})

    def test_deletes_what_a_killed_process_left(self, tmp_path):
        predicted(tmp_path / "masks")
        left = tmp_path / "masks" / f".a.{2**70}.tmp.png"
        left.touch()
        predicted(tmp_path / "masks")
        assert not left.exists()

    def test_saliency_folders(self, files):
        root = photos(files)
        out = files.root / "saliency"
        settings = DataSettings(root=str(root), classes=["sky", "sea"])
        write_saliency(settings, out)
        assert made(out)[0] == "saliency maps"
        with pytest.raises(DataError, match="holds saliency maps"):
            check_masks([out], None)
        (out / "provenance.json").unlink()  # as an older version left it
        write_saliency(settings, out)
        assert made(out)[0] == "saliency maps"
        with pytest.raises(DataError, match="images holds files already"):
            write_saliency(settings, root / "images")
        assert not (root / "images/maps.json").exists()
