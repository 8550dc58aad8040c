"""Labelling in one pass, part by part: the masks that come by way of files, the same bytes whoever does the work."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwright.data import open_dataset
from maskwright.data.masks import read_mask
from maskwright.data.scenes import scenes
from maskwright.data.shards.pack import Packing
from maskwright.errors import MaskwrightError, RecipeError
from maskwright.files import read_json
from maskwright.pipeline import run as pipeline
from maskwright.pipeline.evaluate import judge_seeds
from maskwright.pipeline.export import export_run
from maskwright.pipeline.stages import with_mask_only
from maskwright.recipe.load import load_recipe
from maskwright.runs.context import RunContext
from maskwright.weak.one_pass import stage as one_pass
from maskwright.weak.one_pass.chain import Chain
from maskwright.weak.one_pass.parts import label_part, parts_of
from maskwright.weak.one_pass.receipts import read_receipt, summed
from maskwright.weak.refine import REFINEMENTS

SETTINGS = [
    "device=cpu",
    "classifier.backbone=resnet10t",
    "classifier.train={epochs: 2, batch_size: 4, workers: 0, augment: {crop: [48, 48]}}",
    "seeds={scales: [1.0, 0.5], window: [32, 48], accumulate: max}",
    "refine=[crf, saliency, irn]",
    "data.saliency=barrier",
    "irn={backbone: resnet10t, train_radius: 3, options: {dilate: false}, exp_times: 3}",
    "irn.train={epochs: 1, batch_size: 4, workers: 0, augment: {crop: [48, 48]}}",
    "pseudo_masks={threshold: auto, ignore_below: 0.02}",
]
COUNT = 10
HERE = dict(engine="task", task="0/1", part=4, sample=6)  # in this process
HERE_AS_MAIN = dict(workers=1, part=4, sample=COUNT)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Scenes as files with masks, of two sizes; one has no tags, of one nobody said."""
    root = tmp_path_factory.mktemp("photographs")
    drawn = scenes("train", count=COUNT, size=(48, 64))
    (root / "images").mkdir()
    (root / "masks").mkdir()
    lines = ["image,tags"]
    for index in range(COUNT):
        sample = drawn[index]
        image, mask = Image.fromarray(sample.image), Image.fromarray(sample.mask)
        if index % 3 == 0:
            image, mask = image.rotate(90, expand=True), mask.rotate(90, expand=True)
        image.save(root / "images" / f"photo.{index}.png")
        mask.save(root / "masks" / f"photo.{index}.png")
        tags = () if index == 7 else drawn.tags(index)
        if index != 8:
            lines.append(f"photo.{index},{';'.join(drawn.labels.names[value] for value in tags)}")
    (root / "tags.csv").write_text("\n".join(lines) + "\n")
    (root / "classes.txt").write_text("\n".join(drawn.labels.names) + "\n")
    return root


@pytest.fixture(scope="module")
def shards(photographs, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards")
    packing = Packing(recipe(photographs, "unused").data, ["all"], str(out), 4)
    list(packing.shards())
    packing.finish()
    return out


def recipe(data, out, *changes):
    of_files = ["tags=tags.csv", "masks=masks", "classes=classes.txt"] if Path(data, "tags.csv").is_file() else []
    split = ["data.train=all", "data.val=all"]
    return load_recipe(
        "demo", [*SETTINGS, f"data={data}", *of_files, *split, f"out={out}", "data.options={}", *changes]
    )


def label(data, out, sharing=None, *changes):
    said = []
    pipeline.run(recipe(data, out, *changes), until="pseudo_masks", sharing=sharing, say=said.append)
    return said


def label_here(data, out, **sharing):
    """Every part in this process, then what the last task of an array does."""
    label(data, out, HERE | sharing)
    return label(data, out, HERE | sharing | dict(task="last"))


@pytest.fixture(scope="module")
def by_files(photographs, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "files"
    label(photographs, out)
    return out


@pytest.fixture(scope="module")
def trained(photographs, tmp_path_factory):
    """A run whose networks are trained and whose sample has maps, as the first task of an array leaves it."""
    out = tmp_path_factory.mktemp("run") / "trained"
    label(photographs, out, HERE | dict(task="first", sample=COUNT))
    return out


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def packed_run(shards, tmp_path_factory):
    """The same on shards."""
    out = tmp_path_factory.mktemp("run") / "packed"
    label(shards, out, HERE | dict(task="first"))
    return out


@pytest.fixture
def on_shards(packed_run, tmp_path):
    shutil.copytree(packed_run, tmp_path / "on_shards")
    return tmp_path / "on_shards"


def masks(out):
    return {
        path.stem: np.array(Image.open(path)) for path in (out / "pseudo_masks" / "SegmentationClass").glob("*.png")
    }


def context(data, out, sharing=HERE):
    return RunContext(recipe(data, out), out, lambda line: None, sharing)


def test_one_part_gives_the_masks_that_files_give(by_files, photographs, tmp_path):
    shutil.copytree(by_files, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "pseudo_masks")
    of_run = context(photographs, tmp_path / "run", HERE | dict(part=100))
    one_pass.label_in_parts(of_run, tmp_path / "run" / "pseudo_masks")
    expected, found = masks(by_files), masks(tmp_path / "run")
    assert sorted(found) == sorted(expected)
    for name, mask in expected.items():
        np.testing.assert_array_equal(found[name], mask, name)
    kept, scores = (read_json(out / "pseudo_masks" / "scores.json") for out in (by_files, tmp_path / "run"))
    for key in ("split", "miou", "scores", "vanished_tags", "images", "images_judged", "threshold"):
        assert scores[key] == kept[key], key
    assert scores["unsure_share"] == pytest.approx(kept["unsure_share"])
    differ = ("maps",)
    records = [read_json(out / "pseudo_masks" / "provenance.json") for out in (by_files, tmp_path / "run")]
    assert {k: v for k, v in records[0].items() if k not in differ} == {
        k: v for k, v in records[1].items() if k not in differ
    }


def test_a_part_gives_the_same_bytes_wherever_and_whenever_it_is_done(on_shards, shards, tmp_path):
    for place in ("first", "second"):
        of_run = context(shards, on_shards)
        chain = Chain(of_run)
        for part in parts_of(of_run, 4)[:: 1 if place == "first" else -1]:
            label_part(chain, part, str(tmp_path / place), "made so", keep_maps=True)
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert len(files) == 9
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name


@pytest.fixture(scope="module")
def undisturbed(packed_run, shards, tmp_path_factory):
    """What one process makes of the shards: bytes of the parts' files, by name."""
    out = tmp_path_factory.mktemp("run") / "undisturbed"
    shutil.copytree(packed_run, out)
    one_pass.label_in_parts(context(shards, out), out / "pseudo_masks")
    return parts_files(out)


def parts_files(out):
    return {path.name: path.read_bytes() for path in sorted((out / "pseudo_masks").glob("all-*"))}


FOUR = pytest.param("local", 4, marks=pytest.mark.long)  # each loads PyTorch
RAY = pytest.param("ray", 2, marks=pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed"))


@pytest.mark.parametrize(("engine", "workers"), [("local", 1), ("local", 2), FOUR, RAY])
def test_workers_give_the_bytes_that_one_process_gives(engine, workers, undisturbed, on_shards, shards):
    label(shards, on_shards, dict(engine=engine, workers=workers, sample=6))
    found = parts_files(on_shards)
    assert len(found) == 9
    assert found == undisturbed


@pytest.mark.distributed
def test_ranks_give_the_bytes_that_one_process_gives(undisturbed, on_shards, shards):
    words = ["-m", "maskwright", "label", str(on_shards / "recipe.yaml"), "engine=torchrun", "sample=6"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29637"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([*launcher, *words], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert parts_files(on_shards) == undisturbed


def test_receipts_are_summed_and_parts_become_files(run, photographs):
    said = label(photographs, run, HERE | dict(task="last", sample=COUNT))
    folder = run / "pseudo_masks"
    assert sorted(path.name for path in folder.glob("*.receipt.json")) == [
        f"part-{number:06d}.receipt.json" for number in range(3)
    ]
    assert len(list(folder.glob("*.tar"))) == 3
    assert sorted(masks(run)) == [f"photo.{index}" for index in range(COUNT) if index != 8]
    scores = read_json(folder / "scores.json")
    assert (scores["images"], scores["images_judged"], scores["parts"], scores["failed"]) == (9, 9, 3, 0)
    total = sum(mask.size for mask in masks(run).values())
    unsure = sum((mask == 255).sum() for mask in masks(run).values())
    assert sum(scores["pixels"].values()) == total - unsure
    assert any("9 images labelled in 3 parts" in line for line in said)
    assert (run / "report.html").is_file() is False  # no page was asked for


def test_the_same_command_again_and_one_that_says_nothing_of_parts_find_it_done(run, photographs):
    label_here(photographs, run, sample=COUNT)
    for sharing in ({"engine": "local"}, None):
        said = label(photographs, run, sharing)
        assert sum("done already" in line for line in said) == sum("[" in line for line in said) > 5


@pytest.mark.parametrize("more", [{}, {"skip_failed": True}, {"workers": 1}])
def test_what_is_not_said_again_is_as_the_folder_remembers(more, run, photographs):
    said = {"engine": "local", **more}
    found = RunContext(recipe(photographs, run), run, print, said).one_pass
    assert (found.part, found.sample, found.engine) == (4, COUNT, "local")
    assert RunContext(recipe(photographs, run), run, print, {**said, "part": 7}).one_pass.part == 7


def test_a_part_whose_receipt_is_gone_is_done_again_and_no_other(on_shards, shards):
    of_run = context(shards, on_shards)
    folder = on_shards / "pseudo_masks"
    one_pass.label_in_parts(of_run, folder)
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    (folder / "all-000001.receipt.json").unlink()
    (folder / "scores.json").unlink()
    one_pass.label_in_parts(of_run, folder)
    changed = [name for name, time in before.items() if (folder / name).stat().st_mtime_ns != time]
    assert changed == ["all-000001.tar"]


def test_other_settings_make_every_part_stale(on_shards, shards):
    folder = on_shards / "pseudo_masks"
    one_pass.label_in_parts(context(shards, on_shards), folder)
    first = one_pass.label_job(context(shards, on_shards), folder)
    changed = RunContext(recipe(shards, on_shards, "pseudo_masks.ignore_below=0.1"), on_shards, print, HERE)
    job = one_pass.label_job(changed, folder)
    assert all(first.is_done(part) for part in first.parts)
    assert not any(job.is_done(part) for part in job.parts)


def test_an_image_that_cannot_be_read_is_named_and_the_others_go_on(trained, photographs, tmp_path):
    shutil.copytree(photographs, tmp_path / "photographs")
    of_run = context(tmp_path / "photographs", trained)
    chain, part = Chain(of_run), parts_of(of_run, 4)[0]
    path = tmp_path / "photographs" / "images" / "photo.1.png"
    path.write_bytes(path.read_bytes()[:300])
    label_part(chain, part, str(tmp_path / "out"), "made so")
    receipt = read_receipt(str(tmp_path / "out"), part.name, "made so")
    assert (receipt["images"], receipt["labelled"]) == (4, 3)
    assert list(receipt["failed"]) == ["photo.1"]
    assert "photo.1.png" in receipt["failed"]["photo.1"]


def test_a_torn_shard_is_reported_and_passed_over_until_it_is_mended(on_shards, shards, tmp_path):
    shutil.copytree(shards, tmp_path / "shards")
    torn = tmp_path / "shards" / "all-000001.tar"
    whole = torn.read_bytes()
    arguments = (tmp_path / "shards", on_shards, HERE | dict(task="0/1"))
    torn.write_bytes(whole[:5000])
    with pytest.raises(MaskwrightError, match=r"1 parts could not be labelled: all-000001: .*5000 bytes"):
        label(*arguments)
    folder = on_shards / "pseudo_masks"
    assert sorted(path.name for path in folder.glob("*.receipt.json")) == [
        "all-000000.receipt.json",
        "all-000002.receipt.json",
    ]
    torn.write_bytes(whole)
    label(*arguments)
    assert len(list(folder.glob("*.receipt.json"))) == 3
    assert not list(folder.glob("*.failed.json"))


def test_a_failed_part_ends_the_run_unless_it_is_to_be_skipped(run, photographs, monkeypatch):
    work = label_part

    def poisoned(chain, part, *arguments, **options):
        if part.name == "part-000001":
            raise ValueError("a torn file")
        work(chain, part, *arguments, **options)

    monkeypatch.setattr(one_pass, "label_part", poisoned)
    of_run, folder = context(photographs, run), run / "pseudo_masks"
    with pytest.raises(MaskwrightError, match=r"1 of 3 parts could not be labelled.*a torn file.*skip_failed=true"):
        one_pass.label_in_parts(of_run, folder)
    one_pass.label_in_parts(context(photographs, run, HERE | dict(skip_failed=True)), folder)
    scores = read_json(folder / "scores.json")
    assert scores["failed_parts"] == {"part-000001": "ValueError: a torn file"}
    assert scores["images"] == 5


def test_training_reads_masks_of_parts(on_shards, shards):
    of_run = context(shards, on_shards)
    one_pass.label_in_parts(of_run, on_shards / "pseudo_masks")
    train = with_mask_only(one_pass.with_part_masks(of_run, of_run.train, ["photo.2"]), "all")
    assert sorted(train.names) == [f"photo.{index}" for index in range(COUNT) if index != 8]
    files = masks(on_shards)
    assert len(files) == 6  # of a set of shards only the sample lies in files
    for index, name in enumerate(train.names):
        sample = train[index]
        assert sample.mask.shape == sample.image.shape[:2] == train.mask(index).shape
        if name == "photo.2":
            truth = open_dataset(of_run.recipe.data, "all")
            np.testing.assert_array_equal(sample.mask, truth.mask(truth.names.index(name)))
        elif name in files:
            np.testing.assert_array_equal(sample.mask, files[name])


def test_what_vanished_is_made_again_before_it_is_trained_on(run, photographs):
    label_here(photographs, run, sample=COUNT)
    before = masks(run)
    folder = run / "pseudo_masks"
    (folder / "part-000001.tar").unlink()
    (folder / "SegmentationClass" / "photo.2.png").unlink()
    said = []
    quick = ["train={steps: 1, epochs: null, batch_size: 2, workers: 0, augment: {crop: [48, 48]}}"]
    again = recipe(photographs, run, *quick, "backbone=resnet10t")
    pipeline.run(again, until="segmenter", sharing=HERE_AS_MAIN, say=said.append)
    assert any("have vanished (" in line and "part-000001.tar" in line for line in said)
    assert sorted(masks(run)) == sorted(before)
    for name, mask in masks(run).items():
        np.testing.assert_array_equal(mask, before[name])


def test_a_tar_that_is_not_whole_is_refused_by_training(on_shards, shards):
    of_run = context(shards, on_shards)
    one_pass.label_in_parts(of_run, on_shards / "pseudo_masks")
    path = on_shards / "pseudo_masks" / "all-000000.tar"
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(MaskwrightError, match=r"all-000000\.tar is not whole; delete all-000000\.receipt\.json"):
        one_pass.with_part_masks(of_run, of_run.train, [])


def test_maps_are_kept_where_asked_for(by_files, photographs, tmp_path):
    of_run = context(photographs, by_files)
    label_part(Chain(of_run), parts_of(of_run, 100)[0], str(tmp_path), "made so", keep_maps=True)
    found = one_pass.masks_of(of_run.train, str(tmp_path), parts_of(of_run, 100))
    place = found.names.index("photo.2")
    with (
        np.load(io.BytesIO(found.stored("maps", place).read())) as kept,
        np.load(by_files / "irn" / "maps" / "photo.2.npz") as files,
    ):
        for key in ("keys", "cam", "high_res"):
            np.testing.assert_array_equal(kept[key], files[key])


def test_tasks_label_what_the_first_prepared_and_the_last_sums(run, photographs):
    for number in (1, 0):
        label(photographs, run, HERE | dict(task=f"{number}/2", sample=COUNT))
    assert not (run / "pseudo_masks" / "scores.json").exists()
    label(photographs, run, HERE | dict(task="last", sample=COUNT))
    assert read_json(run / "pseudo_masks" / "scores.json")["images"] == 9


def test_a_task_before_the_first_says_what_is_missing(photographs, tmp_path):
    with pytest.raises(RecipeError, match=r"classifier is not finished.*task=first"):
        label(photographs, tmp_path / "new", HERE)


def test_parts_go_where_they_are_sent(on_shards, shards):
    pytest.importorskip("fsspec")
    sent = HERE | dict(to="memory://labels")
    of_run = context(shards, on_shards, sent)
    one_pass.label_in_parts(of_run, on_shards / "pseudo_masks")
    assert not list((on_shards / "pseudo_masks").glob("*.tar"))
    train = one_pass.with_part_masks(of_run, of_run.train, [])
    assert train.mask(0).shape == train.size(0)


def test_an_unknown_engine_is_named_with_its_neighbours(run, photographs):
    with pytest.raises(RecipeError, match=r"'locl'. Did you mean 'local'"):
        one_pass.label_in_parts(context(photographs, run, HERE | dict(engine="locl")), run / "pseudo_masks")


def test_a_receipt_of_other_classes_is_refused():
    with pytest.raises(MaskwrightError, match="the receipt of part a does not fit"):
        summed(scenes("train", count=1).labels, [{"part": "a", "images": 1, "labelled": 1, "judged": 0, "pixels": [1]}])


def test_what_follows_knows_where_masks_and_maps_are(on_shards, shards, tmp_path):
    label_here(shards, on_shards)
    table = judge_seeds(on_shards, [])
    assert any("irn" in line for line in table)
    said = export_run(on_shards, [], "yolo-semantic", str(tmp_path / "out"))
    assert said[0].startswith("9 images of split all with pseudo-masks written to")
    train = one_pass.with_part_masks(
        context(shards, on_shards), open_dataset(recipe(shards, on_shards).data, "all"), []
    )
    (path,) = [path for path in (tmp_path / "out").rglob("photo.4.png") if "mask" in str(path)]
    np.testing.assert_array_equal(read_mask(path), train.mask(train.names.index("photo.4")))


def test_a_recipe_that_labels_nothing_shares_nothing(tmp_path):
    of_masks = load_recipe("deeplabv3plus-quick", [f"out={tmp_path / 'run'}", "data=scenes"])
    with pytest.raises(RecipeError, match="engine= shares labelling"):
        pipeline.run(of_masks, sharing={"engine": "local"})


def test_a_threshold_that_needs_all_maps_is_refused(photographs, tmp_path):
    with pytest.raises(RecipeError, match="threshold=best compares maps of all images"):
        label(photographs, tmp_path / "run", HERE, "pseudo_masks.threshold=best")


def test_a_refinement_that_works_on_folders_alone_is_refused(photographs, tmp_path, monkeypatch):
    monkeypatch.setitem(REFINEMENTS, "crf", replace(REFINEMENTS["crf"], refiner=None))
    with pytest.raises(RecipeError, match=r"refine=\[crf\] works on folders of maps alone"):
        label(photographs, tmp_path / "run", HERE)
