"""Charts: axes with words, one point in words, and files that say what the page shows."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image
from tests.report.test_report import build

from maskwright.report.chart_files import STYLES, draw_chart, write_charts
from maskwright.report.charts import Series, dot_plot, line_chart, matrix_chart, share_bars

pytestmark = pytest.mark.versions

ROWS = [("boat", "#ff0000", [("Pseudo-masks", 1, 0.25), ("Model", 2, None)])]


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def share_of(picture, colour):
    """Pixels of a picture that have a colour, as a share of them."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return float((np.asarray(picture) == (red, green, blue)).all(-1).mean())


def test_one_point_is_said_in_words():
    chart = line_chart([Series("mIoU", [(40, 0.662)])], title="mIoU", x_label="step", percent=True)
    assert "<svg" not in chart
    assert str(chart) == '<p class="single" title="mIoU"><b>66.2</b> mIoU at step 40</p>'
    two = line_chart([Series("mIoU", [(40, 0.662), (80, 0.7)])], title="mIoU", x_label="step", percent=True)
    assert two.startswith("<svg")


def test_axes_say_what_they_show():
    lines = [Series("loss", [(0, 1.0), (9, 0.5)])]
    chart = line_chart(lines, title="Loss", x_label="step", y_label="loss")
    assert ">step</text>" in chart
    assert ">loss</text>" in chart
    assert ">%</text>" in line_chart(lines, title="Loss", x_label="step", percent=True)
    assert ">IoU, %</text>" in dot_plot(ROWS, title="IoU")
    assert ">% of the union</text>" in share_bars([("boat", "#f00", [0.5, 0.5])], [("a", 0), ("b", 5)], title="t")
    matrix = matrix_chart([[3, 1], [0, 0]], ["a", "b"], title="Confusion")
    assert "rows: ground truth" in matrix
    assert "columns: prediction" in matrix


def test_files_of_a_run_say_what_its_page_shows(fake_run):
    (fake_run.folder / "charts").mkdir()
    (fake_run.folder / "charts/of_an_earlier_report.png").write_bytes(b"")
    page, _ = build(fake_run)
    folder = fake_run.folder / "charts"
    drawn = {attrs["aria-label"] for attrs in page.all("svg")}
    names = {path.stem for path in folder.glob("*.png")}
    assert names == {path.stem for path in folder.glob("*.csv")}
    assert len(names) == len(drawn) == 12
    assert {"iou_per_class", "confusion_matrix", "training_loss_of_segmenter"} <= names
    metrics = json.loads((fake_run.folder / "metrics.json").read_text())
    head, *rows = table(folder / "iou_per_class.csv")
    assert head == ["class", "Pseudo-masks", "Model from tags", "Fully supervised"]
    found = {row[0]: float(row[2]) for row in rows if row[2]}
    per_class = metrics["segmenter"]["per_class"]
    assert found == {name: row["iou"] for name, row in per_class.items() if row["iou"] is not None}
    counts = [[int(value) for value in row[1:]] for row in table(folder / "confusion_matrix.csv")[1:]]
    assert counts == metrics["segmenter"]["confusion"]
    head, *rows = table(folder / "pseudo_mask_quality_against_the_threshold.csv")
    assert head == ["threshold τ", "mIoU", "false positives", "false negatives"]
    assert [float(row[0]) for row in rows] == [point["threshold"] for point in metrics["pseudo_masks"]["sweep"]]


def test_pictures_have_the_lines_and_parts_of_their_charts(tmp_path):
    bars = share_bars([("boat", "#010203", [0.5, 0.25, 0.25])], [("a", 0), ("b", 5), ("c", 6)], title="Shares & <more>")
    picture = draw_chart(bars)
    assert share_of(picture, STYLES[0]) > share_of(picture, STYLES[5]) > 0.005
    assert share_of(picture, "#010203") > 0
    up, down = (
        line_chart([Series("x", points, style=2)], title="t", x_label="x")
        for points in ([(0, 0), (9, 1)], [(0, 1), (9, 0)])
    )
    ink = [(np.asarray(draw_chart(chart)) == (0, 114, 178)).all(-1) for chart in (up, down)]
    halves = [[half[: half.shape[0] // 2].sum() for half in np.array_split(mask, 2, axis=1)] for mask in ink]
    assert halves[0][0] < halves[0][1]
    assert halves[1][0] > halves[1][1]
    dashed = line_chart([Series("a", [(0, 0), (9, 1)], style=2), Series("b", [(0, 1), (9, 0)])], title="t", x_label="x")
    assert share_of(draw_chart(dashed), STYLES[2]) < 0.9 * ink[0].mean()
    diamonds = dot_plot([("boat", "", [("Fully supervised", 3, 0.5)])], title="IoU")
    assert share_of(draw_chart(diamonds), STYLES[3]) > 0
    (first, second) = write_charts({"a": [("x", bars)], "b": "text"}, tmp_path)
    assert (first.name, second.name) == ("shares_more.csv", "shares_more.png")
    with Image.open(second) as image:
        assert image.size == picture.size


def test_the_title_names_run_and_data(fake_run):
    page, text = build(fake_run)
    assert ("title", "demo <run> & more · photos: train 40, val 12 images · maskwright report") in page.texts
    assert "Run report · photos: train 40, val 12 images" in page.text
    assert text.count("What the words mean") == 3
