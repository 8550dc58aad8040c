"""The next run trains on what people decided, and nothing is made again where nobody decided anything."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from maskwright.files import read_json
from maskwright.pipeline import run as pipeline
from maskwright.pipeline.export import export_run
from maskwright.pipeline.stages import recipe_stages
from maskwright.recipe.load import load_recipe
from maskwright.runs.context import RunContext
from maskwright.runs.stages import fingerprints, states


def run(*changes: str, until: str | None = None) -> list[str]:
    said: list[str] = []
    pipeline.run(load_recipe("recipe.yaml", changes), until=until, say=said.append)
    return said


def context() -> RunContext:
    return RunContext(load_recipe("recipe.yaml", []), "tags", print)


def words() -> dict[str, str]:
    now = context()
    return {name: state.word for name, state in states(recipe_stages(now), "tags").items()}


def trained_on(monkeypatch) -> dict[str, np.ndarray]:
    """Masks by name that the segmenter would be trained on."""
    found = {}

    def look(recipe, train, val, folder, device):
        found.update({train.names[index]: (train[index].mask, train.mask(index)) for index in range(len(train))})

    now = context()
    with monkeypatch.context() as patch:
        patch.setattr("maskwright.pipeline.stages.train_segmenter", look)
        stage = next(stage for stage in recipe_stages(now) if stage.name == "segmenter")
        stage.run(Path("tags/segmenter"))
    assert all(np.array_equal(*pair) for pair in found.values())
    return {name: pair[0] for name, pair in found.items()}


def pseudo(name: str) -> np.ndarray:
    return np.array(Image.open(f"tags/pseudo_masks/SegmentationClass/{name}.png"))


def digests(folder: str) -> dict[str, str]:
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_without_decisions_that_count_nothing_is_made_again(there, window):
    before = fingerprints(recipe_stages(context()))
    window.save(0)  # found right
    window.save(1, state="open", painted=[1, 1024])  # begun
    assert fingerprints(recipe_stages(context())) == before
    assert set(words().values()) == {"finished"}
    assert not any(line.startswith("review") for line in run())


def test_decisions_are_trained_on(there, window, monkeypatch):
    names = [one["name"] for one in window.get("overview")["images"]]
    tags = window.get("shown/1")["tags"]
    value = window.get("overview")["classes"].index(tags[0])
    others = trained_on(monkeypatch)
    assert set(others) == set(names)
    assert all(np.array_equal(mask, pseudo(name)) for name, mask in others.items())
    assert window.save(0, painted=[1, 600, 255, 24, 0, 400])[0] == 200
    assert window.save(1, removed=[tags[0]])[0] == 200
    assert window.save(2, state="rejected")[0] == 200
    assert words() == {**dict.fromkeys(words(), "finished"), "segmenter": "stale", "evaluation": "stale"}

    found = trained_on(monkeypatch)
    assert set(found) == set(names) - {names[2]}
    assert found[names[0]].ravel().tolist() == [1] * 600 + [255] * 24 + [0] * 400
    expected = pseudo(names[1])
    expected[expected == value] = 255
    assert np.array_equal(found[names[1]], expected)
    assert np.array_equal(found[names[3]], pseudo(names[3]))

    kept, scores = digests("tags/pseudo_masks"), read_json("tags/metrics.json")["segmenter"]
    said = run()
    assert (
        "review     1 mask painted, 1 image with other tags, 1 image left out; the segmenter learns from that" in said
    )
    assert any("train the segmenter: changed since it was made: review absent -> " in line for line in said)
    assert digests("tags/pseudo_masks") == kept
    assert "people reviewed the masks that it learned from: " + read_json("tags/metrics.json")["reviewed"] in said
    page = Path("tags/report.html").read_text(encoding="utf-8")
    assert "Reviewed by people" in page
    assert "1 mask painted, 1 image with other tags, 1 image left out" in page
    after = read_json("tags/metrics.json")["segmenter"]
    assert (after["images"], after["split"]) == (scores["images"], scores["split"])  # scored on the same ground truth
    assert set(words().values()) == {"finished"}
    assert sum("done already" in line for line in run()) == len(words())

    window.save(0, version=1, painted=[0, 1024])
    assert words()["segmenter"] == "stale"
    window.save(0, version=2, state="open", painted=[0, 1024])
    window.save(1, version=1)
    window.save(2, version=1, state="open")
    said = run()  # as before anybody decided anything
    assert "reviewed" not in read_json("tags/metrics.json")
    assert "Reviewed by people" not in Path("tags/report.html").read_text(encoding="utf-8")
    assert any("taken back from segmenter.stale-1" in line for line in said)


def test_labels_are_made_as_before_and_the_line_says_who_goes_by_the_decisions(there, window):
    window.save(0, state="rejected")
    before = digests("tags/pseudo_masks")
    said = run(until="pseudo_masks")
    assert "review     1 image left out; maskwright run and export go by that" in said
    assert digests("tags/pseudo_masks") == before


def test_the_same_in_another_folder_is_a_run_of_its_own(there, window):
    window.save(0, state="rejected")
    shutil.copytree("tags", "copy", ignore=shutil.ignore_patterns("review"))
    shutil.rmtree("tags")
    Path("copy").rename("tags")
    assert set(words().values()) == {"finished"}


def test_an_export_goes_by_the_decisions(there, window):
    names = [one["name"] for one in window.get("overview")["images"]]
    window.save(0, painted=[1, 1024])
    window.save(1, state="rejected")
    said = export_run(Path("tags"), [], "huggingface", "out")
    masks = {path.stem: np.array(Image.open(path)) for path in Path("out").rglob("masks/*.png")}
    assert names[1] not in masks, said
    assert (masks[names[0]] == 1).all()
    assert np.array_equal(masks[names[2]], pseudo(names[2]))
    export_run(Path("tags"), [], "huggingface", "left", select="uncertain", n=1)
    assert [path.stem for path in Path("left").rglob("masks/*.png")] == [names[2]]


def test_an_image_with_a_mask_of_its_own_goes_by_that(there, window):
    window.save(0, state="rejected")
    now = context()
    assert list(now.reviewed) == [window.get("shown/0")["name"]]
    mixed = RunContext(load_recipe("recipe.yaml", ["supervision=mixed"]), "tags", print)
    assert mixed.real
    assert mixed.reviewed == {}


def test_a_run_from_masks_has_nothing_to_review(there, window):
    window.save(0, state="rejected")
    assert RunContext(load_recipe("recipe.yaml", ["supervision=masks"]), "tags", print).reviewed == {}
