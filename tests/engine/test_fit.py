from __future__ import annotations

import json
import math
import zipfile

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from maskwright.engine.checkpoint import load_metadata, load_weights
from maskwright.engine.fit import check_same_parts, fit, total_steps
from maskwright.engine.guards import check_collapse
from maskwright.errors import DataError, RecipeError, TrainingStopped

pytestmark = pytest.mark.versions


def lines(folder, event=None):
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in found if event in (None, line["event"])]


def test_leaves_a_model_a_log_and_the_last_numbers(toy, tmp_path):
    model, result = toy.train(tmp_path, steps=60, validate=lambda network: {"miou": 0.5, "nothing": float("nan")})
    train = lines(tmp_path, "train")
    assert [line["step"] for line in train] == list(range(3, 61, 3))
    assert train[-1]["loss"] < 0.8 * train[0]["loss"]
    assert train[-1]["loss"] == train[-1]["cross_entropy"]
    assert train[0]["epoch"] == 0.5  # 3 batches of 4 from 24 images
    assert train[0]["lr"] == pytest.approx(0.2 * (1 - 2 / 60) ** 0.9)
    assert all(line["images_per_second"] > 0 and line["memory_mb"] > 0 for line in train)
    assert lines(tmp_path)[-1] == {"event": "validate", "step": 60, "epoch": 10.0, "miou": 0.5, "nothing": None}
    assert result["steps"] == 60
    assert result["epochs"] == 10.0
    assert result["train"] == train[-1]
    assert result["validate"] == lines(tmp_path, "validate")[-1]
    torch.testing.assert_close(load_weights(tmp_path / "model.safetensors"), dict(model.state_dict()), rtol=0, atol=0)
    assert load_metadata(tmp_path / "model.safetensors")["labels"] == toy.LABELS


def test_finished_training_returns_at_once_with_its_weights(toy, tmp_path):
    model, result = toy.train(tmp_path)

    def never(network, batch):
        raise AssertionError("trained again")

    again, same_result = toy.train(tmp_path, model=toy.network(seed=5), step=never)
    assert same_result == result
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert not again.training


def test_state_loads_without_running_code(toy, tmp_path):
    def stop(network):
        raise KeyError("stop")

    with pytest.raises(KeyError):
        toy.train(tmp_path, ema=0.9, validate=stop)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == 14
    assert not state["finished"]


@pytest.mark.bit_equal
@pytest.mark.parametrize("workers", [1, 2])
def test_loader_processes_change_nothing(toy, tmp_path, bit_equal, workers):
    alone, _ = toy.train(tmp_path / "0", steps=8)
    shared, _ = toy.train(tmp_path / "n", steps=8, workers=workers)
    assert bit_equal(alone.state_dict(), shared.state_dict())


def test_accumulated_batches_are_one_larger_batch(toy, tmp_path):
    plain = {"norm": False, "dropout": 0.0}
    large, _ = toy.train(tmp_path / "a", model=toy.network(**plain), batch_size=8, steps=9)
    small, _ = toy.train(tmp_path / "b", model=toy.network(**plain), batch_size=4, accumulate=2, steps=9)
    torch.testing.assert_close(small.state_dict(), large.state_dict(), rtol=1e-5, atol=1e-6)
    assert lines(tmp_path / "b")[-1]["loss"] == pytest.approx(lines(tmp_path / "a")[-1]["loss"], rel=1e-5)
    assert lines(tmp_path / "b")[-1]["epoch"] == lines(tmp_path / "a")[-1]["epoch"] == 3.0


def test_clipped_gradients_move_weights_no_further(toy, tmp_path):
    def steep(model, batch):
        loss, parts = toy.step(model, batch)
        return 1000 * loss, parts

    start = torch.cat([p.detach().flatten() for p in toy.network().parameters()])
    options = {"steps": 1, "lr": 0.5, "momentum": 0, "weight_decay": 0, "step": steep}
    clipped, _ = toy.train(tmp_path / "a", clip=0.01, **options)
    free, _ = toy.train(tmp_path / "b", **options)
    moved = [
        (torch.cat([p.detach().flatten() for p in model.parameters()]) - start).norm().item()
        for model in (clipped, free)
    ]
    assert moved[0] == pytest.approx(0.5 * 0.01, rel=1e-3)
    assert moved[1] > 1


def test_average_is_validated_and_saved(toy, tmp_path):
    seen = []
    model, _ = toy.train(tmp_path, ema=0.7, validate=lambda network: seen.append(network[0].weight.clone()) or {})
    last, _ = toy.train(tmp_path / "last")
    assert torch.equal(seen[-1], model[0].weight)
    assert torch.equal(load_weights(tmp_path / "model.safetensors")["0.weight"], model[0].weight)
    assert not torch.equal(last[0].weight, model[0].weight)
    assert torch.equal(last[1].running_mean, model[1].running_mean)  # buffers are the model's own


def test_frozen_batchnorm_keeps_its_statistics(toy, tmp_path):
    modes = []

    def watched(model, batch):
        modes.append((model[1].training, model[3].training))
        return toy.step(model, batch)

    model, _ = toy.train(
        tmp_path, freeze_batchnorm=True, steps=12, validate_every=1, validate=lambda _: {}, step=watched
    )
    assert torch.equal(model[1].running_mean, torch.zeros(6))
    assert set(modes) == {(False, True)}


def test_groups_have_their_own_rates(toy, tmp_path):
    model = toy.network()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    groups = [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[4].parameters()}]
    fit(
        model, toy.step, toy.train_set(), toy.settings(steps=2), tmp_path,
        parameter_groups=groups, metadata={}, device="cpu",
    )  # fmt: skip
    assert torch.equal(before["0.weight"], model[0].weight)
    assert not torch.equal(before["4.weight"], model[4].weight)


def test_extra_modules_are_trained_and_not_saved(toy, tmp_path):
    model, extra = toy.network(), nn.Conv2d(2, 2, 1)
    before = extra.weight.detach().clone()

    def with_extra(network, batch):
        loss = F.cross_entropy(extra(network(batch["image"].float() / 255)), batch["mask"].long())
        return loss, {"cross_entropy": loss}

    fit(
        model, with_extra, toy.train_set(), toy.settings(steps=2), tmp_path,
        metadata={}, device="cpu", trainable_extra=[extra], parameter_groups=[{"params": model.parameters()}],
    )  # fmt: skip
    assert not torch.equal(before, extra.weight)
    assert load_weights(tmp_path / "model.safetensors").keys() == model.state_dict().keys()


def test_order_of_the_set_is_kept_where_asked(toy, tmp_path):
    def order(folder, **options):
        seen = []

        def watched(network, batch):
            seen.append(batch["index"].tolist())
            return toy.step(network, batch)

        settings = toy.settings(steps=6)
        fit(toy.network(), watched, toy.train_set(), settings, folder, metadata={}, device="cpu", **options)
        return [index for batch in seen for index in batch]

    kept = order(tmp_path / "a", shuffle=False)
    assert kept == list(range(24))
    drawn = order(tmp_path / "b")
    assert sorted(drawn) == kept
    assert drawn != kept


def test_extra_modules_are_laid_out_as_the_model(toy, tmp_path):
    model, extra = toy.network(), nn.Conv2d(2, 2, 3, padding=1)

    def with_extra(network, batch):
        assert extra.weight.is_contiguous(memory_format=torch.channels_last)
        loss = F.cross_entropy(extra(network(batch["image"].float() / 255)), batch["mask"].long())
        return loss, {"cross_entropy": loss}

    settings = toy.settings(steps=1, channels_last=True)
    fit(model, with_extra, toy.train_set(), settings, tmp_path, metadata={}, device="cpu", trainable_extra=[extra])
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("wanted", "laid_out"), [("auto", True), (True, True), (False, False)])
def test_networks_of_convolutions_are_laid_out_channels_last_on_a_cpu(toy, tmp_path, wanted, laid_out):
    model, layers = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 2, 3, padding=1)), []

    def watched(network, batch):
        layers.append(network[1].weight.is_contiguous(memory_format=torch.channels_last))
        return toy.step(network, batch)

    toy.train(tmp_path, model=model, step=watched, steps=1, channels_last=wanted)
    assert layers == [laid_out]


@pytest.mark.parametrize(
    "changes", [{"autocast": "bfloat16"}, {"channels_last": True}, {"optimizer": "adamw", "lr": 0.01}]
)
def test_ways_to_train_learn(toy, tmp_path, changes):
    seen = []

    def watched(model, batch):
        seen.append((batch["image"].is_contiguous(memory_format=torch.channels_last), torch.is_autocast_enabled("cpu")))
        return toy.step(model, batch)

    toy.train(tmp_path, step=watched, steps=30, **changes)
    assert set(seen) == {(True, "autocast" in changes)}
    train = lines(tmp_path, "train")
    assert train[-1]["loss"] < train[0]["loss"]


def test_deterministic_mode_ends_with_training(toy, tmp_path):
    seen = []

    def watched(model, batch):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return toy.step(model, batch)

    toy.train(tmp_path, step=watched, deterministic=True, steps=2)
    assert seen == [True, True]
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
def test_compiled_training_is_the_same(toy, tmp_path):
    plain = {"norm": False, "dropout": 0.0}
    eager, _ = toy.train(tmp_path / "a", model=toy.network(**plain), steps=5)
    compiled, _ = toy.train(tmp_path / "b", model=toy.network(**plain), steps=5, compile=True)
    torch.testing.assert_close(dict(compiled.state_dict()), dict(eager.state_dict()), rtol=1e-4, atol=1e-5)


def test_length_of_training(toy):
    assert total_steps(toy.settings(steps=None, epochs=2), 6) == 12
    assert total_steps(toy.settings(steps=None, epochs=0.4), 6) == 3
    assert total_steps(toy.settings(steps=None, epochs=2, accumulate=5), 6) == 3
    assert total_steps(toy.settings(steps=7, epochs=2), 6) == 7
    with pytest.raises(RecipeError, match=r"train\.epochs or train\.steps"):
        total_steps(toy.settings(steps=None), 6)


def test_validation_comes_when_due(toy, tmp_path):
    options = {"validate": lambda _: {"miou": 0.1}, "steps": 21}  # 3.5 epochs of 6 batches
    toy.train(tmp_path / "end", **options)
    toy.train(tmp_path / "each", validate_every=1, **options)
    toy.train(tmp_path / "second", validate_every=2, **options)
    toy.train(tmp_path / "wide", validate_every=1, accumulate=4, validate=options["validate"], steps=5)
    found = {
        name: [line["step"] for line in lines(tmp_path / name, "validate")]
        for name in ("end", "each", "second", "wide")
    }
    assert found == {"end": [21], "each": [6, 12, 18, 21], "second": [12, 21], "wide": [2, 3, 5]}


@pytest.mark.bit_equal
def test_validation_changes_nothing(toy, tmp_path, bit_equal):
    def drawing(network):
        torch.rand(7)
        return {"mode": network.training}

    plain, _ = toy.train(tmp_path / "a")
    judged, _ = toy.train(tmp_path / "b", validate=drawing, validate_every=1)
    assert bit_equal(plain.state_dict(), judged.state_dict())
    assert not any(line["mode"] for line in lines(tmp_path / "b", "validate"))


class TestStops:
    def test_loss_that_is_not_finite(self, toy, tmp_path):
        calls = iter(range(100))

        def bad(model, batch):
            loss, parts = toy.step(model, batch)
            return (loss * math.nan if next(calls) == 5 else loss), parts

        with pytest.raises(TrainingStopped) as stopped:
            toy.train(tmp_path, step=bad)
        text = str(stopped.value)
        for part in (
            "step 6 of 14",
            "loss nan",
            "cross_entropy 0.",
            "learning rate 0.1",
            "train.lr=0.02",
            "train.clip=1",
        ):
            assert part in text
        assert not (tmp_path / "model.safetensors").exists()
        assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 5

    def test_weights_that_are_not_finite(self, toy, tmp_path):
        def bad(model, batch):
            loss, parts = toy.step(model, batch)
            return loss + (model[0].weight.sum() * 0).abs().sqrt(), parts  # gradient 0 * inf

        with pytest.raises(TrainingStopped, match="at step 1 of 14: weights are not finite"):
            toy.train(tmp_path, step=bad)
        assert not (tmp_path / "state.pt").exists()

    def test_only_background_at_the_end(self, toy, tmp_path, monkeypatch):
        monkeypatch.setattr("maskwright.engine.guards.LEAST_STEPS", 14)
        scores = {"predicted_classes": 1, "true_classes": 2}
        with pytest.raises(TrainingStopped, match="step 14 of 14: the model predicts a single class on every"):
            toy.train(tmp_path, validate=lambda _: scores)
        assert lines(tmp_path, "validate")[-1]["predicted_classes"] == 1
        assert not (tmp_path / "model.safetensors").exists()
        with pytest.raises(TrainingStopped, match="the model predicts a single class"):
            toy.train(tmp_path, validate=lambda _: scores)

    def test_collapse_is_named_and_only_late(self):
        scores = {"predicted_classes": [0], "true_classes": [0, 1, 2]}
        with pytest.raises(
            TrainingStopped, match="a single class, 'sky', on every validation image, although the ground truth has 3"
        ):
            check_collapse(scores, ["sky", "sea", "sand"], 50, 100)
        check_collapse(scores, ["sky", "sea", "sand"], 49, 100)
        check_collapse({"predicted_classes": 2, "true_classes": 2}, None, 100, 100)
        check_collapse({"predicted_classes": 1, "true_classes": 1}, None, 100, 100)
        check_collapse({"miou": 0.1}, None, 100, 100)
        check_collapse(scores, None, 99, 99)  # too short to be judged
        with pytest.raises(TrainingStopped):
            check_collapse({"predicted_classes": 1}, None, 100, 100)

    def test_parts_that_differ_between_steps(self, toy, tmp_path):
        calls = iter(range(100))

        def changing(model, batch):
            loss, parts = toy.step(model, batch)
            return loss, parts if next(calls) < 2 else {"other": loss}

        with pytest.raises(TrainingStopped, match=r"\['other'\] at step 3, before \['cross_entropy'\]"):
            toy.train(tmp_path, step=changing)

    def test_parts_that_differ_between_processes(self):
        check_same_parts([["a"], ["a"]])
        with pytest.raises(TrainingStopped, match=r"process 2 logs \['a', 'b'\], process 0 \['a'\]"):
            check_same_parts([["a"], ["a"], ["a", "b"]])


class TestRefuses:
    @pytest.fixture
    def half_done(self, toy, tmp_path):
        calls = iter(range(100))

        def broken(model, batch):
            if next(calls) == 4:
                raise KeyError("power cut")
            return toy.step(model, batch)

        with pytest.raises(KeyError):
            toy.train(tmp_path, step=broken)
        return tmp_path

    def test_another_model(self, toy, half_done):
        wider = nn.Sequential(nn.Conv2d(1, 9, 3, padding=1), *toy.network()[1:])
        with pytest.raises(DataError, match=r"0\.weight is \(6, 1, 3, 3\), the model's is \(9, 1, 3, 3\)"):
            toy.train(half_done, model=wider)

    def test_other_settings(self, toy, half_done):
        with pytest.raises(DataError, match=r"lr was 0\.2, is 0\.3\. Give the same settings"):
            toy.train(half_done, lr=0.3)

    def test_not_a_state_from_before_a_setting_was_there(self, toy, half_done):
        state = torch.load(half_done / "state.pt", weights_only=True)
        identity = json.loads(state["identity"])
        del identity["nesterov"], identity["augment"]["short_side"]
        torch.save({**state, "identity": json.dumps(identity)}, half_done / "state.pt")
        with pytest.raises(DataError, match="nesterov was False, is True"):
            toy.train(half_done, nesterov=True)
        _, result = toy.train(half_done)
        assert result["steps"] == 14

    def test_another_training_set(self, toy, half_done):
        with pytest.raises(DataError, match="training images was 24, is 25"):
            toy.train(half_done, data=toy.train_set(25))

    def test_other_groups(self, toy, half_done):
        model = toy.network()
        groups = [{"params": [p]} for p in model.parameters()]
        with pytest.raises(DataError, match="other parameter groups"):
            fit(
                model, toy.step, toy.train_set(), toy.settings(), half_done,
                parameter_groups=groups, metadata={}, device="cpu",
            )  # fmt: skip

    @pytest.mark.parametrize("place", [0.25, 0.5, 0.75])
    def test_one_flipped_bit(self, toy, half_done, place):
        data = bytearray((half_done / "state.pt").read_bytes())
        with zipfile.ZipFile(half_done / "state.pt") as archive:
            largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        data[int(largest.header_offset + 200 + place * (largest.file_size - 200))] ^= 1
        (half_done / "state.pt").write_bytes(data)
        with pytest.raises(DataError, match=r"state\.pt cannot be read \(.*damaged\); delete it to train"):
            toy.train(half_done)

    def test_a_broken_state(self, toy, half_done):
        (half_done / "state.pt").write_bytes((half_done / "state.pt").read_bytes()[:2000])
        with pytest.raises(DataError, match=r"state\.pt cannot be read"):
            toy.train(half_done)

    def test_settings_that_do_not_matter_may_change(self, toy, half_done):
        _, result = toy.train(half_done, workers=1, log_every=2)
        assert result["steps"] == 14


def test_float16_is_refused_on_a_cpu(toy, tmp_path):
    with pytest.raises(RecipeError, match="autocast=float16 was asked for on a CPU"):
        toy.train(tmp_path, steps=2, autocast="float16")
