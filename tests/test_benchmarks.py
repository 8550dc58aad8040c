"""The rows of the claims tables name settings that exist: each resolves, builds, and gives a loss on a small batch."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.facts import facts
from maskwright.data.sample import LabelSpace
from maskwright.losses import create_loss
from maskwright.models import create_model
from maskwright.recipe.load import load_recipe

ROOT = Path(__file__).parent.parent
LABELS = LabelSpace(tuple("abcde"), background=None)


def rows():
    sys.path.insert(0, str(ROOT))
    try:
        spec = importlib.util.spec_from_file_location("claims_camvid", ROOT / "benchmarks" / "claims" / "camvid.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT))
    return module.ROWS


@pytest.mark.parametrize("name", list(rows()))
def test_row_gives_a_loss(name):
    torch.set_num_threads(1)
    recipe = load_recipe("deeplabv3plus-scratch", rows()[name])
    backbone = recipe.model.backbone if "hrnet" in recipe.model.backbone else "resnet10t"
    model = create_model(
        recipe.model.name,
        backbone=backbone,
        num_classes=LABELS.num_classes,
        output_stride=recipe.model.output_stride,
        **recipe.model.options,
    )
    criterion = create_loss(recipe.loss, LABELS, [5.0, 4.0, 3.0, 2.0, 1.0])
    size = 128 if "hrnet" in backbone else 64
    outputs = model(torch.randn(2, 3, size, size), auxiliary=True, upsample=recipe.loss.resize == "logits")
    loss, parts = criterion(outputs, torch.randint(0, LABELS.num_classes, (2, size, size)))
    assert torch.isfinite(loss)
    assert set(parts) == {"main", *recipe.loss.auxiliary}


def test_a_kept_command_does_not_name_folders_of_the_machine(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script", "/data/msrc21", "out=/tmp/runs", "data=camvid", "epochs=6"])
    assert facts()["command"].endswith(" msrc21 out=runs data=camvid epochs=6")


def test_a_networks_figures_grow_as_they_must():
    from benchmarks.speed.networks import measure, total_of

    def figures(stride, size=64):
        with torch.device("cpu"):
            network = create_model("fcn", backbone="resnet10t", num_classes=5, output_stride=stride)
        return measure(network.to("meta"), size)

    coarse, fine, large = figures(32), figures(8), figures(32, 128)
    assert coarse["parameters"] == fine["parameters"]
    assert fine["multiply_adds"] > 2 * coarse["multiply_adds"]
    assert large["multiply_adds"] == pytest.approx(4 * coarse["multiply_adds"], rel=0.02)
    assert all(found["trained"] > found["applied"] > 3 * 64 * 64 * 4 for found in (coarse, fine, large))
    parts = {"logits": torch.ones(2, device="meta"), "more": [torch.ones(3, device="meta")]}
    assert total_of(parts).shape == ()
