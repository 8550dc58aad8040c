"""The README's Python runs as it stands, and its shell lines name verbs and recipes that exist."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from typer.testing import CliRunner

from maskwright.cli import app
from maskwright.recipe.load import recipe_names

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_python_block_runs(tmp_path, monkeypatch):
    import numpy as np
    from PIL import Image

    import maskwright as mw
    from maskwright.data.scenes import LABELS
    from maskwright.engine.checkpoint import save_model

    block = re.search(r"```python\n(.*?)```", README, re.S).group(1)
    assert len([line for line in block.splitlines() if line.strip()]) <= 10
    settings = {"name": "deeplabv3plus", "backbone": "resnet10t", "output_stride": 16, "options": {}}
    model = mw.create_model(settings["name"], backbone=settings["backbone"], num_classes=LABELS.num_classes)
    metadata = {
        "kind": "segmenter",
        "model": {**settings, "num_classes": LABELS.num_classes},
        "labels": LABELS.to_dict(),
        "preprocessing": {"mean": list(model.mean), "std": list(model.std)},
        "recipe": {},
        "maskwright": mw.__version__,
    }
    save_model(tmp_path / "runs" / "photos" / "segmenter" / "model.safetensors", model, metadata)
    Image.fromarray(np.zeros((64, 80, 3), np.uint8)).save(tmp_path / "street.jpg")
    monkeypatch.chdir(tmp_path)
    names = {"images": torch.zeros(2, 3, 64, 64), "labels": torch.zeros(2, 64, 64, dtype=torch.long)}
    exec(block.replace("resnet50", "resnet10t"), names)
    assert names["logits"].shape == (2, 21, 64, 64)
    assert Image.open(tmp_path / "street_mask.png").size == (80, 64)


def test_commands_exist():
    help_text = CliRunner().invoke(app, ["--help"]).output
    for verb in re.findall(r"^maskwright (\w+)", README, re.M):
        assert re.search(rf"^\s+{verb}\b", help_text, re.M), verb
    for recipe in re.findall(r"^maskwright run ([\w-]+)[ \n]", README, re.M):
        assert recipe in recipe_names()
