"""The report's gallery of what `maskwright explain` wrote."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import yaml
from PIL import Image

from maskwright.data.decode import Reading
from maskwright.files import write_json
from maskwright.report import build_report
from maskwright.report.explanations import explanation_gallery
from maskwright.runs.folder import RunFolder


def explained(fake_run, photo=True):
    folder = fake_run.folder / "explanations"
    (folder / "maps").mkdir(parents=True)
    pixels = np.zeros((30, 40, 3), np.uint8)
    if photo:
        Image.fromarray(pixels).save(folder / "street.png")
    np.savez(folder / "maps" / "street.npz", keys=np.array([1, 0]), cam=np.full((2, 30, 40), 0.5, np.float16))
    record = {"name": "street", "image": str(folder / "street.png"), "classes": [], "region": "all", "layer": "aspp"}
    write_json(folder / "explanations.json", [record, {**record, "name": "gone"}])


def test_rows_hold_photograph_and_a_map_per_class(fake_run):
    explained(fake_run)
    labels = fake_run.val.labels
    gallery = explanation_gallery(RunFolder(fake_run.folder), labels, 96)
    assert gallery["columns"] == ["image", "evidence"]
    (row,) = gallery["rows"]
    assert row.photo.startswith("data:image/jpeg")
    assert [layer.caption for layer in row.cells["evidence"]] == [labels.names[1], labels.names[0]]
    assert "layer aspp" in gallery["note"]
    text = build_report(fake_run.folder, dataset_train=fake_run.train, dataset_val=fake_run.val).read_text()
    assert 'id="explanations"' in text
    assert f"evidence for {labels.names[1]} in street" in text


def test_a_photograph_that_moved_is_left_out(fake_run):
    explained(fake_run, photo=False)
    gallery = explanation_gallery(RunFolder(fake_run.folder), fake_run.val.labels, 96)
    assert gallery["columns"] == ["evidence"]
    assert gallery["rows"][0].photo == ""


def test_a_photograph_of_12_bits_is_shown_by_its_range(fake_run):
    explained(fake_run)
    photo = fake_run.folder / "explanations" / "street.png"
    Image.fromarray(np.full((30, 40), 2048, np.uint16)).save(photo)

    def shown(reading):
        (row,) = explanation_gallery(RunFolder(fake_run.folder), fake_run.val.labels, 96, reading)["rows"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(row.photo.partition(",")[2])))).mean()

    assert shown(Reading(range=(0, 4095))) == pytest.approx(128, abs=2)
    assert shown(Reading()) == pytest.approx(8, abs=2)
    recipe = fake_run.folder / "recipe.yaml"
    fields = yaml.safe_load(recipe.read_text())
    fields["data"]["options"] = {"range": [0, 4095]}
    recipe.write_text(yaml.safe_dump(fields))
    text = build_report(fake_run.folder, dataset_train=fake_run.train, dataset_val=fake_run.val).read_text()
    (row,) = explanation_gallery(RunFolder(fake_run.folder), fake_run.val.labels, 96, Reading(range=(0, 4095)))["rows"]
    assert row.photo[-400:] in text


def test_nothing_explained_no_gallery(fake_run):
    assert explanation_gallery(RunFolder(fake_run.folder), fake_run.val.labels, 96) is None
    text = build_report(fake_run.folder, dataset_train=fake_run.train, dataset_val=fake_run.val).read_text()
    assert "Evidence for classes" not in text
