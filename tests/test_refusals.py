"""What would fail after hours is refused in seconds, before a folder is made; and what a run says of itself first."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskwright.data.check import check, examine
from maskwright.engine.checkpoint import describe, save_model
from maskwright.errors import DataError, MaskwrightError, RecipeError
from maskwright.files import read_json
from maskwright.models import create_classifier
from maskwright.models.backbones import create_backbone
from maskwright.pipeline import check as checks
from maskwright.pipeline import check_networks as checking
from maskwright.pipeline import run as pipeline
from maskwright.pipeline.check import check_run
from maskwright.pipeline.check_networks import check_networks
from maskwright.pipeline.compare import compare
from maskwright.pipeline.stages import recipe_stages
from maskwright.recipe.load import load_recipe, recipe_names
from maskwright.runs.context import RunContext
from maskwright.runs.stages import run_stages
from maskwright.settings import DataSettings
from maskwright.weak.refine import REFINEMENTS

SMALL = [
    "device=cpu",
    "data.options={count: 12, size: [64, 64]}",
    "classifier.train.augment.crop=[64, 64]",
    "train.augment.crop=[64, 64]",
]
RECAM = "networks=[classifier, recam]"
SIGNED = ["classifier.backbone=convnext_atto", "classifier.options={}", "model.pretrained=false"]
TITLE = "[1/"  # how the first line of the first stage begins


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """An empty working folder, and a run that fails where it would begin to work."""

    def work(*_: object) -> None:
        raise AssertionError("the run began")

    monkeypatch.setattr(pipeline, "run_stages", work)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(*settings: str, recipe: str = "demo") -> str:
    started = time.perf_counter()
    with pytest.raises(MaskwrightError) as caught:
        pipeline.run(load_recipe(recipe, [*SMALL, *settings]), say=lambda line: None)
    assert time.perf_counter() - started < 15
    assert not list(Path().iterdir())  # neither runs/ nor anything else
    return str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        # names
        (["seeds.method=camm"], ["seed method", "'cam'"]),
        (["model.name=deeplabv3pls"], ["model.name", "'deeplabv3plus'"]),
        (["loss.name=dicee"], ["loss.name", "'dice'"]),
        (["backbone=resnet500", "classifier.backbone=resnet500"], ["backbone", "'resnet50'"]),
        (["classifier.backbone=resnet500"], ["classifier.backbone", "'resnet50'"]),
        (["refine=[irn]", "irn.backbone=resnet500"], ["irn.backbone", "'resnet50'"]),
        ([RECAM, "recam.masks=x"], ["recam.soft_masks", "gradcam"]),
        # options of seed methods
        (["seeds.options={weight: produkt}"], ["unknown option of seeds cam 'weight'. Known: none"]),
        ([RECAM, "seeds.method=recam", "seeds.options={wight: product}"], ["option of seeds recam", "'weight'"]),
        ([RECAM, "seeds.method=advcam", "seeds.options={wight: product}"], ["option of seeds advcam", "'weight'"]),
        ([RECAM, "seeds.method=recam", "seeds.options={weight: produkt}"], ["seeds", "'product'"]),
        (["seeds.method=advcam", "seeds.options={weight: produkt}"], ["seeds.options.weight", "'product'"]),
        (["seeds.method=scorecam", "seeds.options={score: soft}"], ["seeds", "'softmax'"]),
        (["seeds.method=advcam", "seeds.options={steps: 0}"], ["seeds", "steps: 0"]),
        (["seeds.method=advcam", "seeds.options={form: released_}"], ["seeds", "'released'"]),
        (["seeds.method=eps"], ["seeds", "networks=[eps]"]),
        (["seeds.scales=[]"], ["seeds.scales"]),
        (["seeds.window=[20, 64]"], ["seeds.window=[20, 64]", "multiples of 16", "[16, 64]"]),
        (["seeds.window=[32, 32]", "seeds.stride=[48, 16]"], ["seeds.stride=[48, 16]", "leaves pixels out"]),
        # options of networks and losses
        (["model.options={decoder_chanels: 3}"], ["model", "'decoder_channels'"]),
        (["model.options={decoder_channels: abc}"], ["model.options.decoder_channels", "integer", "'abc'"]),
        (["model.options={auxiliary: {aux: [5]}}"], ["model", "5", "strides"]),
        (["model.output_stride=7"], ["model", "output_stride", "8, 16, 32"]),
        (["classifier.output_stride=7"], ["classifier", "output_stride", "8, 16, 32"]),
        (["classifier.options={dilat: 1}"], ["classifier", "dilat"]),
        (["loss.options={gama: 1}", "loss.name=focal", "loss.class_weights=none"], ["option of loss", "'gamma'"]),
        (["loss.options={gamma: high}", "loss.name=focal"], ["loss.options.gamma", "number", "'high'"]),
        (["loss.auxiliary={aux: 0.4}"], ["loss.auxiliary", "'aux'"]),
        (["model.name=upernet", "model.options={}", "loss.auxiliary={aux.-1: 0.4}"], ["loss.auxiliary", "'aux.-2'"]),
        (["loss.class_weights=[1, 2]"], ["loss.class_weights", "11 classes"]),
        # weights
        (["model.pretrained=nofile.pth"], ["model", "nofile.pth does not exist"]),
        (["classifier.pretrained=nofile.pth"], ["classifier", "nofile.pth does not exist"]),
        (["classifier.pretrained=true", "classifier.backbone=vgg16", "classifier.output_stride=8",
          "classifier.options={}", "model.backbone=vgg16"], ["classifier", "vgg16", "pretrained=FILE"]),
        (["refine=[irn]", "irn.backbone=resnet10t", "irn.pretrained=nofile.pth"], ["irn", "nofile.pth does not exist"]),
        (["refine=[irn]", "irn.backbone=resnet18"], ["irn.pretrained=classifier", "irn.backbone=resnet10t"]),
        (["model.backbone=resnet18"], ["model.pretrained=classifier", "model.backbone=resnet10t"]),
        # what methods need
        (["refine=[saliency]"], ["refine=[saliency_background]", "saliency=FOLDER"]),
        (["networks=[eps]"], ["networks=[eps]", "saliency=FOLDER"]),
        (["networks=[l2g]", "l2g.transfer=shape"], ["networks=[l2g]", "saliency=FOLDER"]),
        ([RECAM, "recam.eps=1"], ["recam needs a network with background", "networks=[eps, recam]"]),
        ([RECAM, "seeds.method=recam", *SIGNED], ["convnext_atto can be", "Write seeds.options.weight=agree"]),
        ([RECAM, "seeds.method=advcam", "seeds.options={weight: product}", *SIGNED], ["seeds.method=advcam"]),
        (["networks=[l2g]", "l2g.sampling=corners", "l2g.views=5"], ["l2g.views=5", "4"]),
        (["networks=[l2g]", "l2g.view_size=[33, 33]"], ["l2g.view_size", "16"]),
        (["networks=[edam]", "edam.heads=5"], ["edam.heads=5"]),
        (["judged_on=vall"], ["'val'"]),
        (["supervision=mixed", "mixed_list=nofile.txt"], ["mixed_list", "nofile.txt"]),
        (["data.train=trian"], ["'train'"]),
        # training
        (["train.epochs=none"], ["train.epochs", "train.steps"]),
        (["train.autocast=float16"], ["train", "autocast=bfloat16"]),
        (["seeds.autocast=float16"], ["seeds", "autocast=bfloat16"]),
        (["inference.autocast=float16"], ["inference", "autocast=bfloat16"]),
        (["train.augment.crop=none"], ["train", "augment.crop"]),
        (["train.augment.resize=[64, 64]", "train.augment.long_side=[3, 9]"], ["augment.resize", "augment.long_side"]),
        (["classifier.train.augment.scale=[1, 0.5]"], ["classifier.train", "augment.scale"]),
        (["train.batch_size=1", "train.augment.crop=[16, 16]"], ["train.batch_size=1", "freeze_batchnorm"]),
        (["inference.window=[32, 32]", "inference.stride=[40, 40]"], ["inference", "stride"]),
        (["inference.scales=[]"], ["inference.scales"]),
        (["pseudo_masks.sweep=[0.5, 0.1, 0.1]"], ["pseudo_masks.sweep"]),
        (["train.batch_size=1000000", "train.augment.crop=[512, 512]"], ["memory", "train.batch_size"]),
    ],
    ids=lambda value: " ".join(value) if value and "=" in value[0] else "",
)  # fmt: skip
def test_a_wrong_setting_costs_seconds_and_leaves_nothing(settings, words, nowhere):
    said = refused(*settings)
    for word in words:
        assert word in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(nowhere):
    assert "device=cpu" in refused("device=cuda")


def test_weights_of_another_network_are_refused(nowhere, tmp_path_factory):
    import maskwright._torchvision_guard  # noqa: F401, I001
    import timm

    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(timm.create_model("resnet18").state_dict(), path)
    for block in ("classifier", "model"):
        said = refused(f"{block}.pretrained={path}")
        assert said.startswith(f"{block}: ")
        assert "do not fit resnet10t" in said
    fitting = ["backbone=resnet18", "classifier.backbone=resnet18", "classifier.options={}", f"pretrained={path}"]
    with pytest.raises(AssertionError, match="the run began"):
        pipeline.run(load_recipe("demo", [*SMALL, *fitting]), say=lambda line: None)


def test_weights_that_cannot_be_downloaded(nowhere, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    backbone = ["classifier.backbone=resnet18", "classifier.options={}", "model.backbone=resnet18"]
    said = refused("classifier.pretrained=true", *backbone)
    assert said.startswith("classifier: ")
    assert "pretrained=FILE" in said


def test_a_batch_that_the_processes_cannot_share(nowhere, monkeypatch):
    monkeypatch.setattr("maskwright.engine.distributed.world_size", lambda: 3)
    assert "train" in refused("train.batch_size=8")
    assert "3 processes" in refused("train.batch_size=8")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["seeds.method=camm"], "unknown seed method 'camm'. Did you mean 'cam'"),
        (["loss.name="], "loss.name: Input should be a valid string"),
        (["backbone=resnet500"], "Did you mean 'resnet50'"),
    ],
)
def test_the_command_line_refuses_as_well(settings, words, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "maskwright", "run", "demo", *SMALL, *settings]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert time.perf_counter() - started < 60  # seconds, but for what else runs on the machine
    assert not list(tmp_path.iterdir())


def test_a_recipe_without_data_asks_for_them(nowhere):
    for overrides in ([], ["tags=tags.csv"]):
        with pytest.raises(DataError, match="data=FOLDER"):
            pipeline.run(load_recipe("cam", overrides), say=lambda line: None)
    with pytest.raises(DataError, match="data=FOLDER"):
        compare(["cam"])
    assert not list(nowhere.iterdir())


def test_a_comparison_is_refused_for_one_recipe_that_cannot_be(nowhere):
    with pytest.raises(RecipeError, match=r"odd: .*Did you mean 'deeplabv3plus'"):
        compare(["demo", "odd: demo model.name=deeplabv3pls", *SMALL], say=lambda line: None)
    assert not list(nowhere.iterdir())


def test_run_folder_that_cannot_be(nowhere):
    (nowhere / "file").write_text("")
    with pytest.raises(MaskwrightError, match="a file stands where a folder should be; give another out="):
        pipeline.run(load_recipe("demo", [*SMALL, "out=file/run"]), say=lambda line: None)


def test_disk_that_is_too_small(nowhere, monkeypatch):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(0, 0, 2**20))
    assert "1 MB free" in refused()
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(0, 0, 2**40))
    with pytest.raises(AssertionError, match="the run began"):
        pipeline.run(load_recipe("demo", SMALL), say=lambda line: None)


def test_stages_that_are_finished_need_nothing_any_more(tmp_path, monkeypatch):
    recipe = load_recipe("demo", [*SMALL, "model.pretrained=nofile.pth", f"out={tmp_path}"])
    context = RunContext(recipe, tmp_path, print)
    with pytest.raises(RecipeError, match="nofile"):
        check_run(context)
    stages = recipe_stages(context)
    for stage in stages:
        (tmp_path / stage.name).mkdir()
        for name in stage.results:
            (tmp_path / stage.name / name).write_text("its result")
        stage.run = lambda folder: None
    run_stages(stages, tmp_path, lambda line: None)
    assert check_run(context).lines == []


@pytest.mark.parametrize(
    "name", [name for name in recipe_names() if name.startswith(("voc-recam", "demo", "cam", "l2g"))]
)
def test_recipes_that_come_with_the_package_are_not_refused(name, tmp_path):
    data = ["data=scenes", "layout=auto", "data.train=train", "data.val=val", "data.saliency=barrier", "judged_on=none"]
    shape = ["data.options={count: 4, size: [375, 500]}", "device=cpu", "data.masks=none", "tags=none"]
    scratch = ["classifier.train.frozen=false", "classifier.train.epochs=9", "train.frozen=false"]
    recipe = load_recipe(name, [*data, *shape, *scratch, "classifier.pretrained=false", "model.pretrained=false"])
    for word in recipe.refine:
        if REFINEMENTS[word].network:
            getattr(recipe, word).pretrained = False
    context = RunContext(recipe, tmp_path, print)
    needs = check_networks(context, {stage.name.partition("-")[0] for stage in recipe_stages(context)})
    learned = {"irn": "irnet", "psa": "affinity"}
    assert set(needs) == {*recipe.networks, "segmenter", *(learned[word] for word in recipe.refine if word in learned)}
    assert all(need.memory > 4 * need.weights / 2 > 2**20 for need in needs.values())


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of weights for the backbone of the presets that are frozen."""
    path = tmp_path_factory.mktemp("weights") / "lite0.pth"
    state = create_backbone("tf_efficientnet_lite0", pooled=True).state_dict()
    torch.save({key.removeprefix("network."): value for key, value in state.items()}, path)
    return f"pretrained={path}"


def test_a_frozen_network_whose_work_nobody_can_tell_is_not_refused(weights, tmp_path, monkeypatch):
    def lacking(*_):
        raise NotImplementedError("aten::odd on the meta device")

    recipe = load_recipe("cam", ["data=scenes", "data.options={count: 4}", "device=cpu", weights])
    context = RunContext(recipe, tmp_path, print)
    assert check_networks(context, {"classifier"})["classifier"].operations > 1e8
    monkeypatch.setattr(checking, "multiply_adds", lacking)
    assert check_networks(context, {"classifier"})["classifier"].operations == 0


@pytest.mark.parametrize("name", ["cam", "instant", "recam"])
def test_frozen_recipes_need_weights_and_no_training_of_their_heads(name, weights, tmp_path):
    recipe = load_recipe(name, ["data=scenes", "data.options={count: 4, size: [64, 64]}", "device=cpu", weights])
    context = RunContext(recipe, tmp_path, print)
    needs = check_networks(context, {stage.name for stage in recipe_stages(context)})
    assert set(needs) == {*recipe.networks, "segmenter"}
    assert all(need.memory >= 2 * need.weights > 2**20 for word, need in needs.items() if word != "segmenter")
    assert not any("from scratch" in line for line in checks.weights_lines(recipe, set(needs)))


@pytest.mark.parametrize(
    ("recipe", "settings", "where"),
    [
        ("cam", ["pretrained=false"], "classifier"),
        ("recam-irn", ["classifier.pretrained=false"], "classifier"),
        ("eps", ["pretrained=false"], "classifier"),
        ("instant", ["model.pretrained=false"], "model"),
        ("cam", ["supervision=masks", "pretrained=false"], "model"),
    ],
)
def test_a_frozen_backbone_without_weights_is_refused(nowhere, recipe, settings, where):
    said = refused("data=scenes", *settings, recipe=recipe)
    assert said.startswith(f"{where}.pretrained=false with ")
    assert "knows nothing" in said
    assert "recipe cam-scratch" in said
    assert "pip install 'maskwright[weights]'" in said
    assert "\n" not in said


def test_the_product_is_refused_on_the_map_that_seeds_will_be_taken_from(tmp_path):
    for name in ("recam", "recam-irn"):
        assert load_recipe(name).seeds.options == {"weight": "agree"}
    asked = [*SMALL, RECAM, "seeds.method=recam"]
    agree = load_recipe("demo", [*asked, *SIGNED, "seeds.options={weight: agree}"])
    check_networks(RunContext(agree, tmp_path, print), {"classifier", "recam", "seeds"})
    # Networks that are trained already have the map of their file, whatever the recipe would build now.
    context = RunContext(load_recipe("demo", asked), tmp_path, print)
    made = {"backbone": "convnext_atto", "output_stride": 16, "num_tags": 10, "options": {}, "pooled": True}
    network, labels = create_classifier(backbone="convnext_atto", num_tags=10), context.train.labels
    save_model(context.out.model("classifier"), network, describe("classifier", made, network, labels, agree))
    check_networks(context, {"classifier", "recam", "seeds"})
    with pytest.raises(RecipeError, match="never negative"):
        check_networks(context, {"recam", "seeds"})


# What is wrong with data.


def folder(root: Path, count: int = 10, size: tuple[int, int] = (64, 64), masks: bool = True) -> Path:
    rng = np.random.default_rng(0)
    for name in ("images", "masks")[: 1 + masks]:
        (root / name).mkdir(parents=True)
    lines = ["image,tags"]
    for index in range(count):
        Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(root / "images" / f"{index:03}.png")
        mask = np.zeros(size, np.uint8)
        mask[: size[0] // 2] = 1 + index % 2
        if masks:
            Image.fromarray(mask).save(root / "masks" / f"{index:03}.png")
        lines.append(f"{index:03}.png,{('cat', 'dog')[index % 2]}")
    (root / "tags.csv").write_text("\n".join(lines))
    (root / "classes.txt").write_text("background\ncat\ndog\n")
    return root


def on_folder(root: Path, *settings: str, recipe: str = "cam-scratch") -> list[str]:
    """What a run on a folder says before it works."""
    said: list[str] = []
    given = [f"data={root}", "tags=tags.csv", "device=cpu", f"out={root.parent / 'run'}", *settings]
    with pytest.raises(AssertionError, match="the run began"):
        pipeline.run(load_recipe(recipe, given), say=said.append)
    return said


def test_a_run_begins_with_what_it_works_on(nowhere):
    said = on_folder(folder(nowhere / "photos", masks=False))
    text = "\n".join(said)
    words = dict(line.split(maxsplit=1) for line in said if not line.startswith(("weights", "warning")))
    assert words["data"].startswith(f"{nowhere / 'photos'}: ")
    assert "in train" in words["data"]
    assert "hash of the name" in words["split"]
    assert "tags.csv" in words["tags"]
    assert "cat " in words["tags"]
    assert "dog " in words["tags"]
    assert words["masks"].startswith("0 in train, 0 in val")
    assert "background, cat, dog" in words["masks"]
    assert words["device"].startswith("cpu, ")
    assert text.count("weights    none: trained from scratch, ") == 1
    assert "classifier on resnet18: FROM SCRATCH" in text
    assert "segmenter deeplabv3plus on resnet18: the backbone" in text
    assert not any(line.startswith("checked") for line in said)


def test_errors_of_the_data_check_stop_the_run_before_a_folder_is_made(nowhere):
    root = folder(nowhere / "photos")
    Image.fromarray(np.full((64, 64), 9, np.uint8)).save(root / "masks" / "003.png")
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(root / "masks" / "004.png")
    settings = load_recipe("cam-scratch", [f"data={root}", "tags=tags.csv", "device=cpu", "out=run"])
    with pytest.raises(DataError) as caught:
        pipeline.run(settings, say=lambda line: None)
    said = str(caught.value)
    errors = [finding for finding in check(settings.data) if finding.level == "error"]
    assert len(errors) == 2
    for finding in errors:
        assert finding.text() in said
    assert "maskwright data check" in said
    assert not (nowhere / "run").exists()


def test_warnings_of_the_data_check_are_said(nowhere):
    root = folder(nowhere / "photos")
    (root / "tags.csv").write_text((root / "tags.csv").read_text() + "\nghost.png,cat")
    said = on_folder(root)
    expected = [
        finding.text() for finding in check(DataSettings(root=str(root), tags="tags.csv")) if finding.level == "warning"
    ]
    assert expected
    assert [line.removeprefix("warning    ") for line in said if line.startswith("warning")] == expected


def test_labels_that_a_recipe_needs(nowhere):
    root = folder(nowhere / "photos", masks=False)
    data = [f"data={root}", "device=cpu"]
    for recipe, settings, words in (
        ("cam-scratch", ["tags=tags.csv", "pseudo_masks.threshold=best"], "threshold=best needs ground truth"),
        ("cam-scratch", ["tags=tags.csv", "fully_supervised=true"], "fully_supervised=true needs ground-truth masks"),
        ("deeplabv3plus-quick", ["tags=tags.csv"], "has a mask"),
        ("cam-scratch", ["tags=tags.csv", "saliency=nowhere"], "nowhere"),
        ("cam-scratch", ["tags=tags.csv", "refine=[saliency]"], "saliency=FOLDER"),
    ):
        with pytest.raises(MaskwrightError, match=words):
            pipeline.run(load_recipe(recipe, [*data, *settings]), say=lambda line: None)
    (root / "tags.csv").write_text("image,tags\n000.png,\n")
    with pytest.raises(DataError, match="tag"):
        pipeline.run(load_recipe("cam-scratch", [*data, "tags=tags.csv"]), say=lambda line: None)
    assert not (nowhere / "runs").exists()


def test_a_large_set_is_read_in_part_and_says_so(nowhere, monkeypatch):
    root = folder(nowhere / "photos", count=40)
    monkeypatch.setattr(checks, "LOOKING_SECONDS", 0.0)
    said = on_folder(root)
    (checked,) = [line for line in said if line.startswith("checked")]
    assert checked.startswith("checked    1 of ")
    assert "drawn at random" in checked
    counted = next(line for line in said if line.startswith("tags"))
    assert sum(map(int, (counted.split("cat ")[1].split(",")[0], counted.split("dog ")[1].split(",")[0]))) > 20


@pytest.mark.parametrize(("values", "kind"), [((0, 255), "mask-binary"), ((0, 1, 7), "mask-range")])
def test_what_the_check_says_of_masks_stops_a_run_however_large_the_set(nowhere, monkeypatch, values, kind):
    root = folder(nowhere / "photos", count=30)
    monkeypatch.setattr(checks, "LOOKING_SECONDS", 0.0)
    on_folder(root, recipe="deeplabv3plus-quick")
    for path in sorted((root / "masks").iterdir())[15 * (kind == "mask-range") :]:
        Image.fromarray(np.resize(np.array(values, np.uint8), (64, 64))).save(path)
    errors = [finding for finding in check(DataSettings(root=str(root))) if finding.kind == kind]
    assert errors
    with pytest.raises(DataError) as caught:
        pipeline.run(load_recipe("deeplabv3plus-quick", [f"data={root}", "device=cpu"]), say=lambda line: None)
    assert all(error.text() in str(caught.value) for error in errors if error.level == "error")


def test_a_part_does_not_tell_what_only_the_whole_can(tmp_path):
    root = folder(tmp_path / "photos", count=30)
    settings = DataSettings(root=str(root), tags="tags.csv")
    whole, part = examine(settings), examine(settings, seconds=0.0)
    assert all(summary.whole for summary in whole[1])
    assert [summary.read for summary in part[1]] == [1, 1]
    assert [summary.images for summary in part[1]] == [summary.images for summary in whole[1]]
    assert part[1][0].tag_counts.tolist() == whole[1][0].tag_counts.tolist()
    assert not {finding.kind for finding in part[0]} & {"class-empty", "mask-constant", "mask-binary"}
    assert examine(settings, seconds=1e9)[0] == whole[0]


def test_images_are_read_once_for_a_run_that_goes_on(nowhere, monkeypatch):
    root = folder(nowhere / "photos")
    said = on_folder(root)
    assert read_json(nowhere / "run" / "data_check.json")["lines"]
    checks._checked.clear()  # as in another process
    calls = []
    monkeypatch.setattr(checks, "examine", lambda *given, **more: calls.append(given) or examine(*given, **more))
    assert on_folder(root) == said
    assert not calls
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(root / "masks" / "001.png")
    on_folder(root)
    assert len(calls) == 1


def test_more_threads_and_loaders_than_cores_are_warned_of(nowhere, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 999)
    said = on_folder(folder(nowhere / "photos"), "workers=500")
    warnings = [line for line in said if line.startswith("warning")]
    assert any("OMP_NUM_THREADS" in line for line in warnings)
    assert any("train.workers=500" in line for line in warnings)
