"""Maps of every epoch's network, put together: what is kept, what is made of it, and that nothing else changes."""

import json

import numpy as np
import pytest
import torch

from maskwright.data.scenes import scenes
from maskwright.engine.checkpoint import load_weights
from maskwright.errors import DataError, RecipeError
from maskwright.pipeline.run import run
from maskwright.plan.plan import epochs_kept
from maskwright.recipe.load import load_recipe
from maskwright.runs.context import RunContext
from maskwright.runs.folder import RunFolder
from maskwright.runs.stages import fingerprints
from maskwright.settings import SeedSettings
from maskwright.weak import extract_seeds
from maskwright.weak.networks.classifier import train_classifier
from maskwright.weak.seeds.accumulate import merged
from maskwright.weak.seeds.cam import SeedMaps
from maskwright.weak.seeds.extract import load_maps
from maskwright.weak.stages import network_stages

SMALL = [
    "device=cpu",
    "data.options={count: 6, size: [48, 48]}",
    "classifier.train={steps: 6, batch_size: 3, workers: 0, lr: 0.01, augment: {crop: [48, 48]}}",
    "seeds={scales: [1.0], flip: false}",
]


def recipe(*settings):
    return load_recipe("demo", [*SMALL, *settings])


@pytest.mark.parametrize("how", ["max", "mean"])
def test_maps_are_put_together_and_divided_by_their_maximum(how):
    parts = torch.rand(3, 2, 6, 8)
    parts[:, 1] = 0  # a class of which there is nothing
    found = merged([SeedMaps(torch.tensor([0, 2]), one[:, :2, :2], one) for one in parts], how)
    expected = parts.amax(0) if how == "max" else parts.mean(0)
    torch.testing.assert_close(found.high_res[0], expected[0] / (expected[0].max() + 1e-5))
    assert found.cam.shape == (2, 2, 2)
    assert found.high_res[1].abs().max() == 0
    assert found.keys.tolist() == [0, 2]
    none = merged([SeedMaps(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2, 2), torch.zeros(0, 6, 8))] * 2, how)
    assert none.high_res.shape == (0, 6, 8)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Seeds of a run for each way to accumulate, all of one training."""
    found = {}
    for how in ("none", "max", "mean"):
        found[how] = RunFolder(tmp_path_factory.mktemp(how) / "run")
        run(recipe(f"seeds.accumulate={how}", f"out={found[how].path}"), until="seeds", say=lambda line: None)
    return found


@pytest.mark.bit_equal
def test_every_epochs_network_is_kept_and_the_training_is_the_same(runs):
    models = runs["max"].epochs("classifier")
    assert [path.parent.name for path in models] == ["001", "002", "003"]
    kept = [load_weights(path)["classifier.weight"] for path in models]
    assert not torch.equal(kept[0], kept[1])
    last, plain = (load_weights(one.model("classifier")) for one in (runs["max"], runs["none"]))
    assert all(torch.equal(load_weights(models[-1])[name], value) for name, value in last.items())
    assert all(torch.equal(plain[name], value) for name, value in last.items())
    assert runs["none"].epochs("classifier") == []


def test_maps_are_those_of_all_networks(runs, tmp_path):
    from maskwright.models.classifier import load_classifier

    data = scenes("train", count=6, size=(48, 48))
    name = next(name for index, name in enumerate(data.names) if data.tags(index))
    settings = SeedSettings(scales=(1.0,), flip=False)
    alone = []
    for number, path in enumerate(runs["max"].epochs("classifier")):
        maps = extract_seeds(data, load_classifier(path), settings, tmp_path / str(number), "cpu")
        alone.append(load_maps(maps, name)[1].astype(np.float32))
    for how, expected in (("max", np.max(alone, 0)), ("mean", np.mean(alone, 0))):
        found = load_maps(runs[how].maps("seeds"), name)[1].astype(np.float32)
        np.testing.assert_allclose(found, expected / expected.max((1, 2), keepdims=True), atol=2e-3)
    assert np.abs(alone[0] - alone[-1]).max() > 0.01
    made_with = json.loads((runs["none"].maps("seeds") / "maps.json").read_text())["seeds"]
    assert "accumulate" not in made_with


def test_only_the_last_network_of_a_chain_is_kept_and_old_fingerprints_stay(tmp_path):
    chain = ["networks=[classifier,recam]", "seeds.method=recam", "seeds.options={weight: w1}"]
    stages = {
        how: network_stages(RunContext(recipe(*chain, f"seeds.accumulate={how}"), tmp_path, print))
        for how in ("none", "max", "mean")
    }
    marks = {how: fingerprints(found) for how, found in stages.items()}
    assert len({found["classifier"] for found in marks.values()}) == 1
    assert marks["max"]["recam"] == marks["mean"]["recam"] != marks["none"]["recam"]
    assert "snapshots" not in stages["none"][1].settings


@pytest.mark.bit_equal
def test_a_stopped_training_keeps_each_epoch_once(runs, tmp_path, monkeypatch):
    import maskwright.weak.networks.classifier as module

    chosen = recipe("seeds.accumulate=max", "classifier.train.checkpoint_seconds=0")
    data, calls = scenes("train", count=6, size=(48, 48)), iter(range(100))
    real = module.first_head_loss

    def failing(*given):
        if next(calls) == 3:  # in the second epoch
            raise KeyError("power cut")
        return real(*given)

    monkeypatch.setattr(module, "first_head_loss", failing)
    given = (chosen, chosen.classifier, None, data, data, tmp_path, torch.device("cpu"))
    with pytest.raises(KeyError):
        train_classifier(*given)
    train_classifier(*given)
    models = sorted((tmp_path / "snapshots").glob("*/model.safetensors"))
    for path, whole in zip(models, runs["max"].epochs("classifier"), strict=True):
        one, other = load_weights(path), load_weights(whole)
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_whose_epochs_were_deleted_says_what_to_do(tmp_path, memory_set, network):
    settings = SeedSettings(accumulate="max")
    with pytest.raises(DataError, match="delete the folder of its stage"):
        extract_seeds(memory_set(), network, settings, tmp_path, "cpu")


def test_a_head_that_is_fitted_has_no_epochs():
    with pytest.raises(RecipeError, match=r"seeds.accumulate=max takes maps after each epoch of classifier's training"):
        load_recipe("cam", ["seeds.accumulate=max"])


def test_a_plan_counts_every_epoch():
    assert epochs_kept(recipe(), 6) == 1
    assert epochs_kept(recipe("seeds.accumulate=max"), 6) == 3
    assert epochs_kept(recipe("seeds.accumulate=max", "classifier.train.steps=20"), 6) == 10
    assert epochs_kept(recipe("seeds.accumulate=max", "classifier.train.validate_every=2"), 6) == 2
