"""What a run will need: stages tried on a few crops, scaled to the data, and the table of `plan=true`."""

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from maskwright.cli import app
from maskwright.data.scenes import scenes
from maskwright.engine.progress import QUIET, Progress
from maskwright.errors import DataError
from maskwright.pipeline.stages import recipe_stages
from maskwright.plan import plan as planning
from maskwright.plan.cut import Budget, cut_down, small_seed_options
from maskwright.plan.images import FewImages, cropped_samples, generated_samples
from maskwright.plan.peak import Peak
from maskwright.plan.plan import Images, disk_bytes, images_at_once, look_over, plan, table, work
from maskwright.plan.trial import try_stages
from maskwright.recipe.load import load_recipe, recipe_names
from maskwright.runs.context import RunContext
from maskwright.runs.stages import State
from maskwright.weak.refine import REFINEMENTS
from maskwright.weak.seeds.cam import SeedMaps, strided
from maskwright.weak.seeds.extract import save_maps

CPU = torch.device("cpu")
BUDGET = Budget(2**13, 2**12)
SMALL = [
    "device=cpu",
    "data.options={count: 6, size: [64, 64]}",
    "classifier.train.epochs=2",
    "classifier.train.batch_size=2",
    "classifier.train.augment={crop: [64, 64]}",
    "seeds.scales=[1.0]",
    "train={epochs: 2, batch_size: 2, augment: {crop: [64, 64]}}",
]
CHAIN = [
    "networks=[classifier, recam]",
    "recam={train: {batch_size: 2, augment: {crop: [64, 64]}}}",
    "refine=[irn, crf]",
    "irn={backbone: resnet10t, train_radius: 3, options: {dilate: false}}",
    "irn.train={batch_size: 2, augment: {crop: [64, 64]}}",
]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tried(recipe):
    dataset = scenes("train", **recipe.data.options)
    cut = cut_down(recipe, dataset.labels, dataset.size(0), BUDGET, CPU)
    samples = cropped_samples(dataset, BUDGET.image, True)
    return {t.name: t for t in try_stages(recipe, cut, samples, dataset.labels, len(dataset), CPU)}


def test_every_stage_of_a_chain_is_tried_by_its_own_code():
    found = tried(load_recipe("demo", [*SMALL, *CHAIN]))
    trained = {name: trial.training for name, trial in found.items() if trial.training}
    assert list(trained) == ["classifier", "recam", "irnet", "segmenter"]
    others = ["seeds", "ir_labels", "edges", "irn", "crf", "pseudo_masks", "evaluation"]
    assert [name for name in found if name not in trained] == others
    # ReCAM has one more head than the classifier: 10 classes of 512 features.
    assert trained["recam"].parameters == trained["classifier"].parameters + 10 * 512
    # IRNet's trunk is never trained.
    assert trained["irnet"].trained < trained["irnet"].parameters - 4e6
    for training in trained.values():
        assert len(training.losses) == 2
        assert np.isfinite(training.losses).all()
        assert training.seconds > 0
        assert training.kept > 0
        assert training.fixed > 4 * training.parameters
    assert trained["classifier"].steps == 6
    assert all(found[name].seconds > 0 and found[name].most > 0 for name in others)
    # A network that is loaded does not grow with the images.
    assert found["seeds"].fixed > 4 * 4.9e6
    assert found["seeds"].most < 4 * 4.9e6
    assert not QUIET.get()


def test_what_a_trial_cuts_down():
    recipe = load_recipe("voc-recam-advcam-irn", ["device=cpu"])
    labels = scenes("train", count=1).labels
    cut = cut_down(recipe, labels, (375, 500), BUDGET, CPU)
    assert cut.batches["classifier"] == ((16, 512, 512), (2, 64, 64))
    assert cut.batches["segmenter"] == ((5, 321, 321), (2, 65, 65))
    assert cut.recipe.classifier.pretrained is cut.recipe.irn.pretrained is cut.recipe.model.pretrained is False
    assert cut.recipe.recam.train.steps == 2
    assert cut.recipe.train.accumulate == 1
    assert cut.recipe.irn.pad_to is None
    assert cut.recipe.seeds.options["steps"] == 1
    # 27 steps at three scales and 13 at half the size, where one is made.
    assert cut.seed_share == pytest.approx(7.5 / (27 * 7.25 + 13 * 0.25))
    assert recipe.recam.train.steps is None
    assert recipe.seeds.options["steps"] == 27


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_has_stages_and_can_be_cut_down(name, tmp_path):
    recipe = load_recipe(name, ["device=cpu"])
    labels = scenes("train", count=1).labels
    job = RunContext(recipe, tmp_path, print)
    job.train = job.val = job.judged = FewImages(generated_samples(labels, (64, 64), 1), labels, "train")
    made = recipe_stages(job)
    stages = [stage.name for stage in made]
    assert stages[-1].endswith("evaluation")
    if recipe.supervision == "tags":
        assert stages[: len(recipe.networks) + 1] == [*recipe.networks, "seeds"]
        refined = [stage.label for stage in made if stage.label]
        assert refined == [REFINEMENTS[word].title for word in recipe.refine]
        named = {key for key in recipe.expected if not key.startswith("miou")}
        assert named <= {*recipe.networks, "seeds", *recipe.refine, "pseudo_masks"}
    cut = cut_down(recipe, labels, (48, 64), BUDGET, CPU)
    assert set(cut.batches) <= set(stages)
    trained = recipe.train if recipe.supervision == "masks" else getattr(recipe, stages[0]).train
    assert (stages[0] in cut.batches) != (trained.frozen and stages[0] != "segmenter")
    frozen = {"segmenter"} if recipe.train.frozen else set()
    assert all(np.prod(small) <= 2**14 for stage, (_, small) in cut.batches.items() if stage not in frozen)
    assert all(small == whole for whole, small in (cut.batches[stage] for stage in frozen))


def test_views_stay_a_part_of_the_crop_in_whole_steps_of_the_network():
    labels = scenes("train", count=1).labels
    recipe = load_recipe("voc-l2g", ["device=cpu"])
    cut = cut_down(recipe, labels, (375, 500), BUDGET, CPU)
    assert cut.batches["l2g"] == ((3, 448, 448), (2, 64, 64))
    assert cut.recipe.l2g.view_size == (48, 48)  # 45.7 in steps of 8
    assert cut.recipe.l2g.train.nesterov is True
    assert recipe.l2g.view_size == (320, 320)


def test_windows_of_seeds_stay_a_part_of_the_image_in_whole_steps_of_the_network():
    labels = scenes("train", count=1).labels
    recipe = load_recipe("voc-l2g-cam", ["device=cpu", "seeds.window=[320, 320]", "seeds.stride=[64, 64]"])
    cut = cut_down(recipe, labels, (375, 500), BUDGET, CPU)
    assert cut.recipe.seeds.window == (48, 48)  # 47.3 in steps of 8
    assert cut.recipe.seeds.stride == (8, 8)
    assert (
        cut_down(load_recipe("voc-l2g-cam", ["device=cpu"]), labels, (375, 500), BUDGET, CPU).recipe.seeds.window
        is None
    )


def test_seed_methods_that_take_minutes_are_cut_down():
    score = load_recipe("demo", ["seeds.method=scorecam"])
    assert small_seed_options(score) == ({"channels": 16}, 16 / 512)
    few = load_recipe("demo", ["seeds.method=scorecam", "seeds.options={channels: 8}"])
    assert small_seed_options(few) == ({"channels": 16}, 1.0)
    assert small_seed_options(load_recipe("demo")) == ({}, 1.0)


def test_images_are_drawn_or_cropped():
    labels = scenes("train", count=1).labels
    drawn = generated_samples(labels, (300, 70))
    assert len(drawn) == 8
    assert all(sample.image.shape == (300, 70, 3) and sample.mask.shape == (300, 70) for sample in drawn)
    assert all(sample.tags for sample in drawn)
    dataset = scenes("train", count=5, size=(64, 96))
    crops = cropped_samples(dataset, 24 * 36, weak=True)
    assert crops[0].image.shape == (24, 36, 3)
    index = next(i for i in range(5) if dataset.tags(i))
    np.testing.assert_array_equal(crops[0].image, dataset[index].image[20:44, 30:66])
    np.testing.assert_array_equal(crops[0].mask, dataset[index].mask[20:44, 30:66])


def test_peak_counts_what_is_alive_together():
    megabyte = 2**20
    with Peak(CPU) as peak:
        first = torch.zeros(megabyte // 4)
        second = first + 1
        del first
        third = second.view(2, -1) * 2
        del second, third
        np.zeros(3 * megabyte, np.uint8)
    assert peak.most == pytest.approx(5 * megabyte, rel=0.1)
    assert peak.fixed == 0
    network = torch.nn.Conv2d(64, 64, 32, bias=False)
    weights = network.weight.detach().clone()
    with Peak(CPU) as peak, torch.no_grad():
        again = torch.nn.Conv2d(64, 64, 32, bias=False)
        again.load_state_dict({"weight": weights})
        again(torch.zeros(1, 64, 32, 32))
    assert peak.fixed == pytest.approx(weights.nbytes, rel=0.1)
    assert peak.most < 0.2 * weights.nbytes


SIZES = [(33, 50), (40, 40), (17, 64)]
TAGS = [2, 0, 3]


def write_maps(folder, chosen):
    for index in chosen:
        (height, width), count = SIZES[index], TAGS[index]
        small = torch.zeros(count, strided(height, 4), strided(width, 4))
        save_maps(folder / "maps", str(index), SeedMaps(torch.arange(count), small, torch.zeros(count, height, width)))
    (folder / "maps" / "maps.json").write_text("{}")


def test_disk_of_maps_is_exact(tmp_path):
    recipe = load_recipe("demo")
    write_maps(tmp_path / "tried", [0])
    write_maps(tmp_path / "all", range(3))
    images, one = Images(np.array(SIZES), np.array(TAGS), 3), Images(np.array(SIZES[:1]), np.array(TAGS[:1]), 1)
    written = sum(path.stat().st_size for path in (tmp_path / "all").rglob("*") if path.is_file())
    assert disk_bytes(tmp_path / "tried", recipe, images, one) == written
    # Images of which nobody said what they show get no file, and a part of a split stands for all of it.
    unknown = Images(np.array([*SIZES, (90, 90)]), np.array([*TAGS, -1]), 4)
    assert disk_bytes(tmp_path / "tried", recipe, unknown, one) == written
    half = Images(np.array(SIZES), np.array(TAGS), 6)
    assert disk_bytes(tmp_path / "tried", recipe, half, one) == 2 * (written - 2) + 2


def test_disk_of_edges_and_pictures(tmp_path):
    recipe = load_recipe("demo")
    images, one = Images(np.array(SIZES), np.array(TAGS), 3), Images(np.array(SIZES[:1]), np.array(TAGS[:1]), 1)
    for folder, chosen in (("tried", [0]), ("all", [0, 2])):
        (tmp_path / folder / "maps").mkdir(parents=True)
        for index in chosen:
            quarter = tuple(strided(side, 4) for side in SIZES[index])
            np.savez(tmp_path / folder / "maps" / f"{index}.npz", edge=np.zeros(quarter, np.float32))
    written = sum(path.stat().st_size for path in (tmp_path / "all").rglob("*.npz"))
    assert disk_bytes(tmp_path / "tried", recipe, images, one) == written
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "0.png").write_bytes(bytes(330))
    (tmp_path / "masks" / "model.safetensors").write_bytes(bytes(77))
    pixels = sum(height * width for height, width in SIZES)
    assert disk_bytes(tmp_path / "masks", recipe, images, one) == pytest.approx(330 * pixels / (33 * 50) + 77)


def test_work_follows_what_a_stage_looks_at():
    images = Images(np.array([(10, 20), (600, 100)]), np.array([2, 0]), 2)
    recipe = load_recipe("voc-advcam-irn")
    assert work("seeds", recipe, images).tolist() == [400, 0]
    assert work("edges", recipe, images).tolist() == [512 * 512, 0]
    assert work("irn", recipe, images).tolist() == [400, 0]
    assert work("crf", recipe, images).tolist() == [200, 60000]
    small = load_recipe("cam-scratch", ["inference.size=[8, 8]", "seeds.size=[30, 40]"])
    assert work("seeds", small, images).tolist() == [1200, 0]
    assert work("evaluation", small, images).tolist() == [64, 64]
    # Two views at scale 1.5 of 1200 pixels: 5400 pixels of the 2^21 that go through the network together.
    assert images_at_once("seeds", small, 1200, CPU) == 64
    assert images_at_once("seeds", small, 120_000, CPU) == pytest.approx(2**21 / 540_000)
    assert images_at_once("evaluation", small, 64, CPU) == 8
    # A climb's two views at twice the size.
    assert images_at_once("seeds", recipe, 2**15, CPU) == 2**20 / (2**15 * 2 * 4)


def test_a_large_split_is_looked_at_in_part(monkeypatch):
    dataset = scenes("train", count=30, size=32)
    assert len(look_over(dataset).tags) == 30
    clock = iter(range(1000))
    monkeypatch.setattr(planning.time, "perf_counter", lambda: next(clock))
    some = look_over(dataset, seconds=9)
    assert len(some.tags) == 10
    assert some.factor == 3


def test_plan_tells_time_memory_and_disk_and_writes_nothing(tmp_path):
    out = tmp_path / "run"
    result = CliRunner().invoke(app, ["run", "demo", *SMALL, f"out={out}", "plan=true"])
    assert result.exit_code == 0, result.output
    head, *lines = result.output.splitlines()
    assert head.split() == ["stage", "state", "time", "memory", "disk", "per", "image", "what"]
    names = ["classifier", "seeds", "pseudo_masks", "segmenter", "evaluation", "oracle", "oracle_evaluation"]
    assert [line.split()[0] for line in lines[:7]] == names
    assert lines[3].split()[2:8] == lines[5].split()[2:8]
    trained = [line for line in lines[:7] if " G  " in line]
    assert [line.split()[0] for line in trained] == ["classifier", "segmenter", "oracle"]
    assert lines[7].startswith("left to do")
    assert "estimated on cpu, 1 thread" in lines[8]
    assert list(tmp_path.iterdir()) == []


def test_only_what_is_not_finished_is_estimated(tmp_path, monkeypatch):
    words = {"classifier": "finished", "seeds": "finished"}
    monkeypatch.setattr(
        planning, "states", lambda stages, _: {stage.name: State(words.get(stage.name, "stale")) for stage in stages}
    )
    seen = []
    monkeypatch.setattr(
        planning, "estimates", lambda *arguments: seen.append(arguments[-1]) or {"pseudo_masks": (90.0, 2**30, 2**40)}
    )
    recipe = load_recipe("demo", [*SMALL, f"out={tmp_path}"])
    rows = plan(recipe, "pseudo_masks")
    assert seen == ["pseudo_masks"]
    assert [(row.name, row.seconds) for row in rows] == [("classifier", None), ("seeds", None), ("pseudo_masks", 90.0)]
    lines = table(rows, recipe)
    assert lines[1].split()[:5] == ["classifier", "finished", "-", "-", "-"]
    assert "2 min" in lines[3]
    assert lines[-1].startswith(f"warning: {tmp_path} has ")
    monkeypatch.setattr(planning, "states", lambda stages, _: {stage.name: State("finished") for stage in stages})
    rows = plan(recipe)
    assert len(seen) == 1
    assert table(rows, recipe)[-1] == "nothing is left to do"


def test_plan_needs_the_data():
    with pytest.raises(DataError, match="VOC2012"):
        plan(load_recipe("voc-cam"))


def test_progress_can_be_silenced(capsys, monkeypatch):
    monkeypatch.setattr("maskwright.engine.progress.PLAIN_SECONDS", 0.0)
    token = QUIET.set(True)
    with Progress("work", 2) as progress:
        progress.update(1)
    QUIET.reset(token)
    assert capsys.readouterr().err == ""
    with Progress("work", 2) as progress:
        progress.update(1)
    assert "work: 1/2" in capsys.readouterr().err
