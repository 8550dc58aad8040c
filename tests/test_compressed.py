"""DUpsampling in two phases: the first learns coordinates of labels, the second begins where it ends."""

from __future__ import annotations

import pytest
import torch

import maskwright.pipeline.compressed
import maskwright.pipeline.segment
from maskwright.engine.checkpoint import load_weights
from maskwright.errors import RecipeError
from maskwright.losses import SegmentationLoss
from maskwright.models import create_model
from maskwright.models.backbones import create_backbone
from maskwright.pipeline.run import run
from maskwright.plan.plan import plan
from maskwright.recipe.load import load_recipe
from maskwright.runs.contents import read_log, read_run
from maskwright.runs.folder import RunFolder

OPTIONS = "dim: 12, decoder_channels: 16, low_level_channels: 8"
TINY = (
    *("data=scenes", "data.options={count: 6, size: [48, 48]}", "supervision=masks", "device=cpu"),
    "inference.size=none",
)
PLAIN = "frozen: false, batch_size: 3, workers: 0, lr: 0.02, log_every: 1, checkpoint_seconds: 0, augment: {flip: 0.5}"
FROZEN = "frozen: true, batch_size: 3, lr: 0.05, log_every: 1, augment: {long_side: [72, 72]}"


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe_of(folder, first, train=PLAIN, epochs=2, temperature="true", weights="false"):
    options = f"{OPTIONS}, temperature: {temperature}" + ("" if first is None else f", compressed_epochs: {first}")
    model = f"name: dupsampling, backbone: test_resnet, pretrained: {weights}, output_stride: 16"
    settings = [
        f"model={{{model}, options: {{{options}}}}}",
        f"train={{{train}, epochs: {epochs}, steps: null}}",
        f"out={folder}",
    ]
    return load_recipe("deeplabv3plus-quick", [*TINY, *settings])


def go(folder, *arguments, **options):
    run(recipe_of(folder, *arguments, **options), until="segmenter", say=lambda line: None)
    return RunFolder(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of both phases that nobody stopped."""
    return go(tmp_path_factory.mktemp("whole") / "run", 8)


def losses(out, name):
    return [line["loss"] for line in read_log(out.log(name)) if line["event"] == "train"]


def test_the_first_phase_learns_coordinates_and_neither_basis_nor_temperature(whole):
    found = losses(whole, "segmenter/compressed")
    assert len(found) == 16
    assert sum(found[-4:]) < 0.8 * sum(found[:4])
    assert losses(whole, "segmenter")[0] != found[0]
    first = load_weights(whole.model("segmenter/compressed"))
    assert float(first["log_temperature"]) == 0
    model = create_model(
        "dupsampling", backbone="test_resnet", num_classes=len(first["basis"]) // 256, output_stride=16,
        dim=12, decoder_channels=16, low_level_channels=8,
    )  # fmt: skip
    model.prepare(None, whole.stage("segmenter"))
    assert torch.equal(first["basis"], model.basis)
    second = load_weights(whole.model("segmenter"))
    assert float(second["log_temperature"]) != 0
    assert not torch.equal(second["basis"], first["basis"])


def test_the_second_phase_begins_where_the_first_ends(tmp_path, monkeypatch):
    begun = {}
    fit = maskwright.pipeline.segment.fit

    def noted(model, *arguments, **options):
        begun.update({name: tensor.clone() for name, tensor in model.state_dict().items()})
        assert all(parameter.requires_grad for parameter in model.parameters())
        return fit(model, *arguments, **options)

    monkeypatch.setattr(maskwright.pipeline.segment, "fit", noted)
    out = go(tmp_path / "run", 1, epochs=1)
    first = load_weights(out.model("segmenter/compressed"))
    assert begun.keys() == first.keys()
    assert all(torch.equal(begun[name], first[name]) for name in first)


@pytest.mark.parametrize("temperature", ["true", "false"])
def test_none_of_it_is_what_it_was_without_the_option(tmp_path, temperature):
    without = go(tmp_path / "without", None, epochs=1, temperature=temperature)
    none = go(tmp_path / "none", 0, epochs=1, temperature=temperature)
    before, now = (load_weights(out.model("segmenter")) for out in (without, none))
    assert all(torch.equal(before[name], now[name]) for name in before)
    assert not none.stage("segmenter/compressed").exists()


@pytest.mark.bit_equal
@pytest.mark.parametrize(
    ("where", "call"),
    [
        ((maskwright.pipeline.compressed, "compressed_label_loss"), 5),
        ((maskwright.pipeline.segment, "fit"), 1),
        ((SegmentationLoss, "forward"), 3),
    ],
)
def test_stopped_anywhere_it_ends_with_the_same_weights(whole, tmp_path, monkeypatch, where, call):
    owner, name = where
    made, calls = getattr(owner, name), []

    def stopping(*arguments, **options):
        calls.append(name)
        if len(calls) == call:
            raise KeyboardInterrupt
        return made(*arguments, **options)

    monkeypatch.setattr(owner, name, stopping)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run", 8)
    out = go(tmp_path / "run", 8)
    for stage in ("segmenter/compressed", "segmenter"):
        expected, found = (load_weights(folder.model(stage)) for folder in (whole, out))
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert losses(out, "segmenter/compressed") == losses(whole, "segmenter/compressed")


def test_it_trains_on_kept_maps_of_enlarged_images(tmp_path):
    path = tmp_path / "weights.pth"
    state = create_backbone("test_resnet").state_dict()
    torch.save({key.removeprefix("network."): value for key, value in state.items()}, path)
    out = go(tmp_path / "run", 8, FROZEN, weights=path)
    found = losses(out, "segmenter/compressed")
    assert sum(found[-4:]) < 0.8 * sum(found[:4])
    assert losses(out, "segmenter")


def test_a_plan_counts_both_phases_and_the_report_shows_them(tmp_path):
    def seconds(first):
        return next(row.seconds for row in plan(recipe_of(tmp_path / "run", first)) if row.name == "segmenter")

    assert seconds(200) > 20 * seconds(0)  # of 2 epochs
    out = tmp_path / "run"
    run(recipe_of(out, 1, epochs=1), say=lambda line: None)
    assert list(read_run(out).logs) == ["segmenter/compressed", "segmenter"]
    page = (out / "report.html").read_text()
    assert "coordinates" in page[page.index("Training loss of segmenter/compressed") - 2000 :]


@pytest.mark.parametrize("options", [{"compressed_epochs": -1}, {"compressed_epochs": 1, "upsampling": "bilinear"}])
def test_what_cannot_be_is_refused(options):
    with pytest.raises(RecipeError, match="compressed_epochs must be at least 0, and 0 with upsampling=bilinear"):
        create_model("dupsampling", backbone="test_resnet", num_classes=3, output_stride=16, **options)
