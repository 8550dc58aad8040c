"""The report's section on seeds shows what was written, and is left out where nothing was."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest

from maskwright.report import build_report
from maskwright.report.charts import share_bars
from maskwright.report.content import percent
from maskwright.report.seeds import seed_section
from maskwright.runs.folder import RunFolder
from maskwright.settings import MaskSettings
from maskwright.weak.seed_evaluation import evaluate_seeds

SETTINGS = MaskSettings(threshold=0.3, sweep=(0.1, 0.9, 0.2))
STABLE = {
    "iou": 0.625,
    "images": 3,
    "views": [{"scale": 1.0, "mirrored": False, "iou": 0.75}, {"scale": 0.5, "mirrored": True, "iou": None}],
    "per_class": {"boat": 0.5, "tree": None},
}


@pytest.fixture
def judged(fake_run):
    folder = fake_run.folder
    lost = folder / "crf" / "maps"
    shutil.copytree(folder / "seeds" / "maps", lost)
    for path in lost.rglob("*.npz"):
        with np.load(path) as arrays:
            keys, maps = arrays["keys"], arrays["high_res"].copy()
        maps[keys == 1] = 0  # cat & <dog> is lost
        np.savez(path, keys=keys, high_res=maps)
    stages = {"seeds": folder / "seeds" / "maps", "crf": lost, "pseudo_masks": folder / "pseudo_masks"}

    def judge(**options):
        return evaluate_seeds(fake_run.train, stages, SETTINGS, folder, **options)

    return fake_run, judge


def section(run):
    text = build_report(run.folder, dataset_train=run.train, dataset_val=run.val).read_text(encoding="utf-8")
    assert "http" not in text.replace("http-equiv", "")
    links = set(re.findall(r'href="#([^"]+)"', text))
    assert links <= set(re.findall(r'id="([^"]+)"', text))
    if 'id="seeds"' not in text:
        return "", links
    start = text.index('<section id="seeds">')
    return text[start : text.index("</section>", start)], links


def test_every_stage_with_its_numbers(judged):
    run, judge = judged
    result = judge(stability=STABLE)
    text, links = section(run)
    assert "seeds" in links
    assert not links & {"vanished", "threshold"}  # both are here, of every stage
    for name, stage in result["stages"].items():
        assert percent(stage["default"]["miou"]) in text
        assert percent(stage["default"]["single_label"]["miou"]) in text, name
    assert text.count("<polyline") == 6  # three lines for each of two stages with maps
    assert '<th scope="row">CRF</th>' in text
    assert "cat &amp; &lt;dog&gt;" in text
    assert "<dog>" not in text
    lost = result["stages"]["crf"]["vanished_tags"]["cat & <dog>"]
    assert lost[0] == lost[1] > 0
    assert "single views" in text.lower()
    assert "62.5" in text
    assert "scale 0.5, mirrored" in text


def test_bars_of_a_class_are_its_shares(judged):
    run, judge = judged
    rates = judge()["stages"]["seeds"]["default"]["per_class"]["tree"]
    text, _ = section(run)
    for what, key in (("right (IoU)", "iou"), ("mask alone (false positive)", "fp")):
        assert f"tree, {what}: {100 * rates[key]:.1f}" in text
    svg = share_bars([("a", "#000", [0.5, 0.25, 0.25])], [("x", 1), ("y", 2), ("z", 3)], title="t")
    widths = [float(width) for width in re.findall(r'class="part s\d" x="[^"]+" y="[^"]+" width="([^"]+)"', svg)]
    assert widths[0] == pytest.approx(2 * widths[1], abs=1.1)
    assert widths[1] == widths[2]


def test_a_best_threshold_at_the_end_of_the_sweep_is_said(judged):
    run, judge = judged
    judge()
    path = run.folder / "seed_evaluation.json"
    found = json.loads(path.read_text())
    for row in found["stages"]["seeds"]["sweep"]:
        row["miou"] = row["threshold"]
    found["stages"]["seeds"]["best_threshold"] = 0.9
    path.write_text(json.dumps(found))
    text, _ = section(run)
    assert '<td class="num">0.9, the last that was tried</td>' in text
    assert ">best 0.9, the last that was tried</text>" in text


def test_without_true_masks_signs_alone(judged):
    run, judge = judged
    run.train.masked = False
    judge()
    text, _ = section(run)
    assert "No ground truth" in text
    assert "tags without a pixel" in text
    assert "Against ground truth" not in text
    assert text.count("<polyline") == 4


def test_nothing_judged_nothing_shown(fake_run):
    assert seed_section(RunFolder(fake_run.folder), {}) is None
    text, links = section(fake_run)
    assert text == ""
    assert {"vanished", "threshold"} <= links
