"""A run's stages between tags and masks: what is there is kept, image by image; what is stale is noticed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskwright.files import read_json, write_json
from maskwright.pipeline import run as pipeline
from maskwright.pipeline import stages
from maskwright.pipeline.stages import recipe_stages
from maskwright.recipe.load import load_recipe
from maskwright.runs.context import RunContext
from maskwright.runs.stages import run_stages
from maskwright.weak.refine import irn
from maskwright.weak.seeds import extract

SETTINGS = [
    "device=cpu",
    "data.saliency=barrier",
    "data.options={count: 10, size: [48, 48]}",
    "classifier.train={epochs: 1, batch_size: 4, workers: 0, augment: {crop: [48, 48]}}",
    "seeds.scales=[1.0]",
    "refine=[crf, saliency, irn]",
    "irn={backbone: resnet10t, train_radius: 3, options: {dilate: false}, exp_times: 3}",
    "irn.train={epochs: 1, batch_size: 4, workers: 0, augment: {crop: [48, 48]}}",
]
# Every stage that writes a file for each image, where, and how many images are made together.
FOLDERS = {
    "seeds": ("maps", 3),
    "crf": ("maps", 1),
    "saliency": ("maps", 8),
    "ir_labels": ("labels", 1),
    "edges": ("maps", 3),
    "irn": ("maps", 8),
    "pseudo_masks": ("SegmentationClass", 1),
}
NETWORKS = ("classifier", "irnet")
UNTAGGED = "train_00007"  # never in a batch with others, and without edges


def run(out: Path, *changes: str) -> list[str]:
    said: list[str] = []
    pipeline.run(load_recipe("demo", [*SETTINGS, f"out={out}", *changes]), until="pseudo_masks", say=said.append)
    return said


def files(out: Path) -> dict[Path, int]:
    return {
        path.relative_to(out): path.stat().st_mtime_ns
        for path in sorted(out.rglob("*"))
        if path.suffix in (".npz", ".png", ".safetensors") and ".stale" not in str(path)
    }


def content(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".png":
        return {"mask": np.array(Image.open(path))}
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module", autouse=True)
def small_batches():
    """As for more or larger images: the network sees three of them and their mirrors at once."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (extract, irn):
            patch.setitem(module.BATCH_PIXELS, "cpu", 3 * 2 * 48 * 48)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("resume") / "run"
    run(out)
    return out


@pytest.fixture
def out(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_all_stages_with_files_are_looked_at(finished):
    stages = {path.parent.name for path in finished.glob("*/stage.json")}
    assert stages == {*FOLDERS, *NETWORKS}
    for stage, (folder, _) in FOLDERS.items():
        assert len(list((finished / stage / folder).iterdir())) >= 9


@pytest.mark.bit_equal
@pytest.mark.parametrize("lost", [1, 4, 8])
@pytest.mark.parametrize("stage", FOLDERS)
def test_a_stopped_stage_makes_only_whole_batches_and_ends_bit_equal(out, stage, lost):
    folder, together = FOLDERS[stage]
    made = results(out, stage)
    missing = made[lost]
    tagged = [path for path in made if path.stem != UNTAGGED]
    place = tagged.index(missing) // together * together
    batch = tagged[place : place + together]
    wanted, before = {path: content(path) for path in made}, files(out)
    missing.unlink()
    record = out / stage / "stage.json"
    write_json(record, {**read_json(record), "finished": False})
    said = run(out)
    assert sum("resuming" in line for line in said) == 1
    assert sum("done already" in line for line in said) == len(FOLDERS) + len(NETWORKS) - 1
    for path in made:
        found = content(path)
        assert found.keys() == wanted[path].keys()
        for key, value in wanted[path].items():
            np.testing.assert_array_equal(found[key], value)
    after = files(out)
    assert after.keys() == before.keys()
    changed = {path for path in after if after[path] != before[path]}
    assert {path for path in changed if path.parent.name == folder} == {path.relative_to(out) for path in batch}
    assert {path.parts[0] for path in changed} == {stage}


AFTER_CRF = {"crf", "saliency", "ir_labels", "irnet", "edges", "irn", "pseudo_masks"}


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        ("seeds.flip=false", AFTER_CRF | {"seeds"}),
        ("seeds.autocast=bfloat16", AFTER_CRF | {"seeds"}),
        ("crf={preset: irn}", AFTER_CRF),
        ("saliency.mode=hard", AFTER_CRF - {"crf"}),
        ("irn.foreground_threshold=0.4", {"ir_labels", "irnet", "edges", "irn", "pseudo_masks"}),
        ("irn.pad_to=64", {"edges", "irn", "pseudo_masks"}),
        ("irn.beta=5.0", {"irn", "pseudo_masks"}),
        ("pseudo_masks.ignore_below=0.2", {"pseudo_masks"}),
    ],
)
def test_what_is_stale_is_set_aside_and_nothing_else(out, change, stale, monkeypatch):
    before = files(out)
    made = []
    monkeypatch.setattr(pipeline, "run_stages", lambda stages, out, say, **_: made.extend(stale_stages(stages, out)))
    monkeypatch.setattr(pipeline, "after_stages", lambda *_, **__: [])
    run(out, change)
    assert set(made) == stale
    assert files(out) == before


def stale_stages(stages, out: Path) -> list[str]:
    from maskwright.runs.stages import states

    words = {name: state.word for name, state in states(stages, out).items()}
    assert set(words.values()) <= {"finished", "stale"}
    return [name for name, word in words.items() if word == "stale"]


def test_saliency_concerns_only_the_stages_that_look_at_it(tmp_path):
    from maskwright.runs.stages import fingerprints

    def hashes(*settings: str) -> dict[str, str]:
        recipe = load_recipe("demo", [f"out={tmp_path}", *settings])
        return fingerprints(recipe_stages(RunContext(recipe, tmp_path, print), "pseudo_masks"))

    chain = ["networks=[classifier, l2g]", "seeds.method=l2g"]
    without, with_maps = hashes(*chain), hashes(*chain, "data.saliency=barrier")
    assert {name for name in without if without[name] != with_maps[name]} == {"l2g", "seeds", "pseudo_masks"}


def test_a_stale_stage_keeps_its_old_result(out):
    old = content(next((out / "irn" / "maps").glob("*.npz")))
    said = run(out, "irn.beta=2.0")
    assert any("irn.stale-1" in line and "beta" in line for line in said)
    name = next((out / "irn.stale-1" / "maps").glob("*.npz"))
    np.testing.assert_array_equal(content(name)["high_res"], old["high_res"])
    assert (out / "irn" / "maps" / name.name).is_file()


@pytest.mark.bit_equal
@pytest.mark.parametrize("stage", ["pseudo_masks", "ir_labels"])
@pytest.mark.parametrize("all_of_them", [False, True])
@pytest.mark.parametrize("with_maps", [False, True])
def test_masks_that_vanished_are_made_again_before_anything_learns_from_them(out, stage, all_of_them, with_maps):
    """And so are the maps that they are made from, where these are gone too."""
    places = [stage, {"pseudo_masks": "irn", "ir_labels": "saliency"}[stage]][: 1 + with_maps]
    made = {path: content(path) for place in places for path in results(out, place)}
    lost = 10 if all_of_them else 3
    for place in places:
        for path in results(out, place)[:lost]:
            path.unlink()
    said = after_losing(out, stage)
    for place in places:
        of = 20 if place == "pseudo_masks" else 10  # each mask with its confidence
        assert any(f"{lost} of {of} files in {out / place} have vanished" in line for line in said)
    assert made.keys() == {path for place in places for path in results(out, place)}
    for path, before in made.items():
        for key, value in content(path).items():
            np.testing.assert_array_equal(value, before[key])


def results(out: Path, stage: str) -> list[Path]:
    return sorted(path for path in (out / stage / FOLDERS[stage][0]).iterdir() if path.suffix in (".npz", ".png"))


def after_losing(out: Path, stage: str) -> list[str]:
    """Run the next training that reads the masks of a stage; no more of it than it needs to begin."""
    said: list[str] = []
    settings = [*SETTINGS, f"out={out}", "model.backbone=resnet10t", "train={epochs: 1, batch_size: 4, workers: 0}"]
    context = RunContext(load_recipe("demo", settings), out, said.append)
    with pytest.MonkeyPatch.context() as patch:
        seen = []
        if stage == "ir_labels":
            patch.setattr(irn, "fit", lambda network, step, examples, *_, **__: seen.append(len(examples)))
            name = "irnet"
        else:
            patch.setattr(stages, "_train_model", lambda context, train, folder: seen.append(len(train)))
            name = "segmenter"
        first = recipe_stages(context, name)
        (out / name / "model.safetensors").unlink(missing_ok=True)
        run_stages(first, out, said.append)
    assert seen == [10]
    return said
