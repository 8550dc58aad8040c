"""The README's shell lines, typed one after another in one folder, and what must still work after them."""

from __future__ import annotations

import glob
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from maskwright.cli import app
from maskwright.data.provenance import made
from maskwright.engine.checkpoint import weights_hash
from maskwright.files import read_json

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
COLOURS = {"sun": (250, 200, 40), "lake": (30, 80, 200)}
CLASSES = "classes=[background, lake, sun]"
SHORT = "{epochs: null, steps: 2, batch_size: 2, workers: 0, augment: {crop: [64, 64]}}"
# The lines' own settings are kept; networks, images and trainings are made small.
SMALL = [
    "device=cpu",
    "pretrained=false",
    "classifier.backbone=resnet10t",
    f"classifier.train={SHORT}",
    "seeds.size=[64, 64]",
    "seeds.scales=[1.0]",
    "pseudo_masks.threshold=0.05",
    "backbone=resnet10t",
    f"train={SHORT}",
    "inference.size=[64, 64]",
]
OF_NETWORK = {
    "l2g": ["l2g.views=2", "l2g.view_size=[32, 32]", f"l2g.train={SHORT}"],
    "recam": [f"recam.train={SHORT}"],
}
OF_IRN = ["irn.backbone=resnet10t", "irn.options={dilate: false}", "irn.train_radius=3", f"irn.train={SHORT}"]


def lines() -> list[str]:
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```$", README, re.M | re.S))
    return re.findall(r"^maskwright .*$", blocks, re.M)


def typed(line: str) -> list[str]:
    """Arguments as a shell gives them; globs are filled in, words that match nothing stay."""
    words = shlex.split(line, comments=True)[1:]
    return [word for given in words for word in (sorted(glob.glob(given)) or [given])]


def small(arguments: list[str]) -> list[str]:
    if arguments[0] not in ("run", "label"):
        return arguments
    irn = OF_IRN if any("irn" in word for word in arguments) else []
    return [*arguments, *SMALL, *OF_NETWORK.get(arguments[1], []), *irn]


def maskwright(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def succeed(*arguments: str) -> str:
    done = maskwright(*arguments)
    assert done.exit_code == 0, f"{shlex.join(arguments)}\n{done.output}\n{done.exception!r}"
    return done.output


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """`photos/`, `tags.csv` and `new/` as the README has them, and masks that somebody drew, in `drawn/`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    rng = np.random.default_rng(0)
    for name in ("photos", "drawn", "new"):
        Path(name).mkdir()
    rows = ["image,tags"]
    for number in range(8):
        image = rng.integers(60, 120, (64, 80, 3)).astype(np.uint8)
        mask = np.zeros((64, 80), np.uint8)
        tags = [["lake"], ["sun"], ["lake", "sun"], []][number % 4]
        for tag in tags:
            top = 4 if tag == "sun" else 36
            image[top : top + 24, 10:60] = COLOURS[tag]
            mask[top : top + 24, 10:60] = sorted(COLOURS).index(tag) + 1
        Image.fromarray(image).save(f"photos/{number}.jpg", quality=95)
        Image.fromarray(mask).save(f"drawn/{number}.png")
        rows.append(f"{number}.jpg,{';'.join(tags)}")
    Path("tags.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for path in sorted(Path("photos").iterdir())[:3]:
        shutil.copy(path, "new")
    return tmp_path


def test_every_line_in_order_and_what_comes_after(folder):
    assert [line.split()[1] for line in lines()[:4]] == ["data", "label", "run", "predict"]
    assert len(lines()) >= 7
    for line in lines():
        succeed(*small(typed(line)))
    assert len(list(Path("masks/masks").glob("*.png"))) == 3
    assert {"photos", "l2g", "recam", "cam"} <= {path.name for path in Path("runs").iterdir()}
    succeed("explain", "runs/photos", "photos/0.jpg", "class=sun")
    weights = weights_hash("runs/photos/segmenter/model.safetensors")
    for place, what in (
        ("masks/masks", "predictions"),
        ("masks/overlays", "overlays"),
        ("runs/photos/evaluation/predictions", "predictions"),
        ("runs/photos/explanations/overlays", "overlays"),
    ):
        assert made(place)[0] == what
        assert read_json(Path(place) / "provenance.json")["weights"] == weights
    assert made("runs/photos/pseudo_masks/SegmentationClass")[0] == "pseudo-masks"
    assert made("runs/photos/pseudo_masks/Confidence")[0] == "pseudo-masks"
    assert read_json("runs/recam/ir_labels/labels/provenance.json")["which"] == "IR labels"

    train = small(typed(next(line for line in lines() if " run runs/photos" in line)))
    again = succeed(*train)
    assert again.count("done already") == len(list(Path("runs/photos").glob("*/stage.json"))) == 6
    assert re.search(r"^verdict +(bad|doubtful) \(0\.\d\d of 1\): ", again, re.M)
    agreement = read_json("runs/photos/evaluation/tags.json")
    assert (agreement["split"], agreement["trained_on"], agreement["tag_source"]) == ("all", True, "tags.csv")
    succeed("report", "runs/photos")
    page = Path("runs/photos/report.html").read_text(encoding="utf-8")
    assert 'class="verdict ' in page
    nothing_drawn = maskwright("evaluate", "runs/photos")
    assert "ground-truth mask" in str(nothing_drawn.exception)
    assert "mIoU 1.0000" not in nothing_drawn.output
    step = re.search(r"maskwright (evaluate runs/photos masks=)FOLDER( classes=\S+)</code>", page)
    assert step is not None
    scored = succeed(*shlex.split(f"{step[1]}drawn{step[2]}"))
    assert "mIoU" in scored
    assert "tags of predictions  precision" in scored
    assert "NOT ground truth" not in scored


def test_predictions_written_anywhere_are_never_scored_against_themselves(folder):
    train = small(["run", "instant", "data=photos/", "tags=tags.csv", "out=runs/photos"])
    succeed(*train)
    images = len(list(Path("photos").iterdir()))
    for out in (".", "photos", "photos/new", "drawn/x"):
        succeed("predict", "runs/photos", "photos/", f"out={out}")
    # The second time nothing of the first is taken for an image.
    assert f"{images} predicted, 0 failed" in succeed("predict", "runs/photos", "photos/", "out=photos")
    assert len(list(Path("photos/masks").rglob("*.png"))) == images

    # A set of tags stays one, so what was begun goes on; nothing is scored against, or learned from, predictions.
    assert "done already" in succeed(*train)
    succeed("report", "runs/photos")
    assert "passed over" in succeed("data", "check", "photos/", "tags.csv")
    for command, said in (
        (["evaluate", "runs/photos"], r"no image .* has a ground-truth mask .* do not count"),
        ([*train[:2], "supervision=mixed", *train[2:], "out=runs/mixed"], r"supervision=mixed needs masks"),
        (
            ["evaluate", "runs/photos", "masks=masks", "data=photos"],
            r"photos/masks holds predictions .*provenance\.json",
        ),
    ):
        refused = maskwright(*command)
        assert refused.exit_code != 0, command
        assert re.search(said, str(refused.exception))
    record = read_json("photos/masks/provenance.json")
    assert record["model"] == str((folder / "runs/photos/segmenter/model.safetensors").resolve())
    shutil.rmtree("photos/masks")
    assert "done already" in succeed(*train)  # overlays and other predictions below photos/ are not images

    refused = maskwright("evaluate", "runs/photos", "masks=masks", CLASSES)
    assert "masks_are=predictions" in str(refused.exception)
    said = succeed("evaluate", "runs/photos", "masks=masks", "masks_are=predictions", CLASSES)
    assert "mIoU 1.0000" in said
    assert "against predictions, NOT ground truth" in said
    mixed = maskwright(*train[:2], "supervision=mixed", "masks=masks", *train[2:], CLASSES, "out=runs/mixed")
    assert "holds predictions" in str(mixed.exception)
    asked = maskwright(*train[:2], "supervision=mixed", "masks_are=predictions", *train[2:], "out=runs/mixed")
    assert "must be ground truth" in str(asked.exception)


def test_pseudo_masks_of_another_run_teach_but_are_never_called_truth(folder):
    train = small(["run", "instant", "data=photos/", "tags=tags.csv", "out=runs/photos"])
    succeed(*train)
    masks = "masks=runs/photos/pseudo_masks/SegmentationClass"
    # Pseudo-masks are of the training split: judging on it is what scores against them.
    second = [
        *("run", "cam", "supervision=masks", "data=photos/", "split=train", CLASSES, masks, "out=runs/second"),
        *(*SMALL, "model.pretrained=false", "expected={miou: 0.7}"),
    ]
    refused = maskwright(*second)
    assert "holds pseudo-masks" in str(refused.exception)
    assert "masks_are=pseudo-masks" in str(refused.exception)
    said = "against pseudo-masks, NOT ground truth"
    printed = succeed(*second, "masks_are=pseudo-masks")
    assert printed.count(said) == 2  # at its stage, and at the end
    assert "0.700" not in printed  # nothing to set beside a published number
    scores = read_json("runs/second/metrics.json")
    assert scores["segmenter"]["source"]["masks_are"] == "pseudo-masks"
    assert "expected" not in scores
    page = Path("runs/second/report.html").read_text(encoding="utf-8")
    assert said in page
    assert "Not measured against ground truth" in page
    assert "given pseudo-masks" in page
    assert said in succeed("evaluate", "runs/second")
    assert "NOT ground truth" not in succeed("evaluate", "runs/second", "masks=drawn", "split=val")
    compared = succeed("compare", "runs/second", "out=runs/compare")
    assert said in compared
    assert said in Path("runs/compare/compare.html").read_text(encoding="utf-8")
    judged = succeed("seeds", "runs/photos", masks, CLASSES, "masks_are=pseudo-masks", "out=judged")
    assert "with a mask of pseudo-masks" in judged
    assert said in judged
    assert read_json("judged/seed_evaluation.json")["masks_are"] == "pseudo-masks"
