"""A whole run on a frozen backbone: maps made once and kept serve heads, maps, the threshold and the segmenter."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from maskwright.data.augment import normalise
from maskwright.data.loading import generator_for
from maskwright.data.scenes import scenes
from maskwright.engine.checkpoint import load_weights, weights_hash
from maskwright.errors import RecipeError
from maskwright.files import read_json
from maskwright.inference.features import FeatureStore, kept_levels
from maskwright.inference.load import load
from maskwright.losses import create_loss
from maskwright.models import create_model
from maskwright.models.backbones import import_timm
from maskwright.models.classifier import load_classifier
from maskwright.pipeline import run as pipeline
from maskwright.pipeline.frozen import FrozenSet, check_frozen, frozen_size, frozen_step
from maskwright.recipe.load import load_recipe
from maskwright.settings import AugmentSettings, LossSettings
from maskwright.weak import extract_seeds
from maskwright.weak.methods import check_methods
from maskwright.weak.seeds.extract import load_maps

COUNT, SIZE = 12, (64, 64)
SETTINGS = [
    "device=cpu",
    f"data.options={{count: {COUNT}, size: [64, 64]}}",
    "networks=[classifier, recam]",
    "classifier.output_stride=16",
    "classifier.options={}",
    "classifier.train={frozen: true}",
    "recam.train={frozen: true}",
    "seeds.method=recam",
    "seeds.scales=[1.0, 1.5]",
    "refine=[crf]",
    "crf.power=2",
    "pseudo_masks.threshold=auto",
    "model.name=light",
    "model.options={channels: 16, backbone_options: {pooled: true}}",
    "loss.class_weights=none",
    "train={frozen: true, epochs: 2, batch_size: 4, lr: 0.05}",
    "fully_supervised=false",
]
STAGES = ("classifier", "recam", "seeds", "threshold", "crf", "pseudo_masks", "segmenter", "evaluation")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A local file of a backbone's weights."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = import_timm().create_model("resnet10t")
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(layer.running_mean, std=0.1)
    path = tmp_path_factory.mktemp("weights") / "resnet10t.pth"
    torch.save(network.state_dict(), path)
    return path


def recipe(weights: Path, *extra: str):
    given = [
        f"{block}.{key}" for block in ("classifier", "model") for key in ("backbone=resnet10t", f"pretrained={weights}")
    ]
    return load_recipe("demo", [*SETTINGS, *given, *extra])


@pytest.fixture(scope="module")
def finished(weights, tmp_path_factory) -> tuple[Path, list[str]]:
    torch.set_num_threads(1)
    out, said = tmp_path_factory.mktemp("run") / "whole", []
    pipeline.run(recipe(weights, f"out={out}"), until="segmenter", say=said.append)
    shutil.copytree(out / "features", out.parent / "features")
    pipeline.run(recipe(weights, f"out={out}"), say=said.append)
    return out, said


def test_every_stage_is_made_and_the_threshold_is_said(finished):
    out, said = finished
    assert all(read_json(out / stage / "stage.json")["finished"] for stage in STAGES)
    found = read_json(out / "threshold" / "threshold.json")
    assert 0.02 <= found["threshold"] <= 0.95
    assert any(f"threshold {found['threshold']:.2f}" in line for line in said)
    scores = read_json(out / "pseudo_masks" / "scores.json")
    assert scores["threshold"] == found["threshold"]
    assert read_json(out / "pseudo_masks" / "provenance.json")["threshold_from"] == "tags"
    assert 0 < read_json(out / "metrics.json")["segmenter"]["miou"] < 1


def test_backbones_keep_their_weights(finished, weights):
    given = torch.load(weights)
    for stage in ("classifier", "recam", "segmenter"):
        found = load_weights(finished[0] / stage / "model.safetensors")
        kept = {name.removeprefix("backbone.network."): value for name, value in found.items() if "backbone." in name}
        kept = {name.removeprefix("model."): value for name, value in kept.items()}
        assert len(kept) > 30
        assert all(torch.equal(value, given[name]) for name, value in kept.items() if name in given), stage
        assert len(kept.keys() & given.keys()) > 30


def test_features_of_an_image_are_made_once_for_all_stages(finished):
    """At the two sizes of seeds, of which the segmenter takes one: its backbone has the classifier's form."""
    files = list((finished[0].parent / "features").rglob("*.safetensors"))
    assert len({path.name for path in files}) == 2 * COUNT
    assert len(files) == 2 * COUNT
    for path in files:
        with safe_open(path, "pt") as arrays:
            assert set(arrays.keys()) == {"2", "4"}  # what light reads, and the classifier, of strides 2 to 32


def test_maps_from_kept_features_are_those_from_images(finished, tmp_path):
    out, _ = finished
    made = recipe_of(out)
    data = scenes("train", count=COUNT, size=SIZE)
    network = load_classifier(out / "recam" / "model.safetensors")
    assert network.constant is not None
    assert network.constant.bias.abs().max() > 0
    extract_seeds(data, network, made.seeds, tmp_path, "cpu")
    compared = 0
    for name in data.names:
        (keys, maps), (wanted_keys, wanted) = (
            load_maps(out / "seeds" / "maps", name),
            load_maps(tmp_path / "maps", name),
        )
        assert np.array_equal(keys, wanted_keys)
        np.testing.assert_allclose(maps.astype(float), wanted.astype(float), rtol=0, atol=5e-3)
        compared += maps.size
    assert compared > 0


def recipe_of(out: Path):
    return load_recipe(str(out / "recipe.yaml"), [])


def test_the_saved_segmenter_gives_from_images_what_its_head_gives_from_kept_maps(finished):
    out, _ = finished
    data = scenes("train", count=COUNT, size=SIZE)
    model = load(out / "segmenter", device="cpu").model.eval()
    levels = kept_levels(model.backbone)
    store = FeatureStore(model, data, out.parent / "features", "cpu", levels=levels)
    for index in range(3):
        image = torch.from_numpy(data[index].image.copy()).permute(2, 0, 1)[None]
        views = normalise(image, model.mean, model.std)
        maps: list = [None] * len(model.backbone.strides)
        for level, both in zip(levels, store.maps(index, SIZE), strict=True):
            maps[level] = both.float()
        with torch.no_grad():
            found, wanted = model(maps, size=SIZE), model(torch.cat([views, views.flip(-1)]))
        torch.testing.assert_close(found, wanted, rtol=0, atol=5e-3 * float(wanted.abs().max()))


def test_a_run_that_lost_a_stage_ends_in_the_same_numbers(finished, weights, tmp_path):
    out, _ = finished
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    for stage in ("recam", "segmenter"):
        shutil.rmtree(copy / stage)
    shutil.rmtree(copy / "features", ignore_errors=True)
    said: list[str] = []
    pipeline.run(recipe(weights, f"out={copy}"), say=said.append)
    assert any("train the tag classifier: done already" in line for line in said)
    for stage in ("recam", "segmenter"):
        assert weights_hash(copy / stage / "model.safetensors") == weights_hash(out / stage / "model.safetensors")
    assert read_json(copy / "metrics.json")["segmenter"]["miou"] == read_json(out / "metrics.json")["segmenter"]["miou"]


def test_other_views_fit_the_heads_anew(finished, weights):
    from maskwright.pipeline.stages import recipe_stages
    from maskwright.runs.context import RunContext
    from maskwright.runs.stages import states

    out, _ = finished
    for extra, word in (("seeds.scales=[1.0]", "stale"), ("pseudo_masks.threshold=0.3", "finished")):
        context = RunContext(recipe(weights, extra, f"out={out}"), out, str)
        found = states(recipe_stages(context), out)
        assert {found[stage].word for stage in ("classifier", "recam", "seeds")} == {word}


@pytest.mark.parametrize(
    ("augment", "words"),
    [
        ({"crop": (32, 32)}, ["augment.crop"]),
        ({"scale": (0.5, 2.0), "color_jitter": 0.1}, ["augment.scale, augment.color_jitter"]),
        ({"hue": 0.1}, ["augment.hue"]),
        ({"class_uniform": 0.5, "crop": (32, 32)}, ["augment.crop, augment.class_uniform"]),
        ({"long_side": (40, 80)}, ["augment.long_side"]),
    ],
)
def test_augmentation_that_changes_pixels_is_refused(augment, words):
    with pytest.raises(RecipeError) as caught:
        frozen_size(AugmentSettings(**augment))
    assert all(word in str(caught.value) for word in [*words, "augment.resize"])


def test_one_size_is_none():
    assert frozen_size(AugmentSettings(resize=(40, 80), flip=0.0)) == (40, 80)
    assert frozen_size(AugmentSettings(long_side=(80, 80))) == 80
    assert frozen_size(AugmentSettings()) is None


def test_a_model_that_sees_several_sizes_is_refused():
    model = create_model("hmsa", backbone="resnet10t", num_classes=2)
    with pytest.raises(RecipeError, match=r"model\.name=hmsa.*light or fcn"):
        check_frozen(model, "hmsa", AugmentSettings())
    check_frozen(create_model("fcn", backbone="resnet10t", num_classes=2), "fcn", AugmentSettings())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["networks=[classifier, recam, l2g]", "l2g.train.frozen=true"], ["l2g.train.frozen", "recam"]),
        (["classifier.loss=sce"], ["classifier.train.frozen=true", "sce"]),
        (
            ["classifier.train.frozen=false", "classifier.train.epochs=1"],
            ["recam.train.frozen", "classifier before it"],
        ),
        (["recam.soft_masks=gradcam"], ["recam.soft_masks"]),
    ],
)
def test_what_cannot_be_fitted_is_refused(weights, settings, words):
    with pytest.raises(RecipeError) as caught:
        check_methods(recipe(weights, *settings))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_examples_are_maps_and_masks_mirrored_together_and_padded(tmp_path):
    torch.manual_seed(0)
    data = scenes("train", count=2, size=(48, 64))
    model = create_model("light", backbone="resnet10t", num_classes=data.labels.num_classes).eval()
    strides = model.backbone.strides
    store = FeatureStore(model, data, tmp_path, "cpu", levels=kept_levels(model.backbone))
    store.make([96])
    augment = AugmentSettings(long_side=(96, 96), flip=0.5)
    examples = FrozenSet(data, store, augment, 0, strides)
    examples.canvas = (80, 96)  # as if another image were higher
    seen_mirrored = set()
    for epoch in range(6):
        example = examples.example(0, (epoch, 0))
        mirrored = bool(generator_for(0, epoch, 0).random() < 0.5)
        seen_mirrored.add(mirrored)
        mask = data.mask(0)[:, :: -1 if mirrored else 1]
        assert example["image"].shape == (0, 80, 96)
        assert np.array_equal(example["mask"][:48].numpy(), mask)  # no larger than it is
        assert (example["mask"][48:] == data.labels.ignore_index).all()
        kept = store.maps(0, (72, 96))[-1][int(mirrored)]
        found = example[f"map.{store.levels[-1]}"]
        assert torch.equal(found[:, : kept.shape[1]], kept)
        assert not found[:, kept.shape[1] :].any()
    assert seen_mirrored == {True, False}


def test_a_step_on_kept_maps_moves_the_head_alone(tmp_path):
    torch.manual_seed(0)
    data = scenes("train", count=2, size=SIZE)
    model = create_model("light", backbone="resnet10t", num_classes=data.labels.num_classes).train()
    strides = model.backbone.strides
    store = FeatureStore(model, data, tmp_path, "cpu", levels=kept_levels(model.backbone))
    examples = FrozenSet(data, store, AugmentSettings(), 0, strides)
    batch = {
        name: torch.stack([examples.example(i, (0, i))[name] for i in range(2)]) for name in examples.example(0, (0, 0))
    }
    step = frozen_step(model, create_loss(LossSettings(), data.labels, None), "logits")
    loss, _ = step(model, batch)
    loss.backward()
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    assert all(parameter.grad.abs().sum() > 0 for name, parameter in model.named_parameters() if "classifier" in name)
