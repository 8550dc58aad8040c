"""The page: complete in itself, true to the run's files, and whole whatever is missing."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml

from maskwright.errors import DataError
from maskwright.report import build_report
from maskwright.report.content import duration, inference_words, percent

pytestmark = pytest.mark.versions

VOID = {"meta", "img", "input", "link", "br", "hr"}
SVG_LEAVES = {"line", "polyline"}


class Page(HTMLParser):
    """Elements with their attributes, text per element kind, and whether every tag is closed where it was opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.wrong: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def text(self):
        return " ".join(data for tag, data in self.texts if tag not in ("style", "script"))


def build(run, **options):
    options = {"dataset_train": run.train, "dataset_val": run.val, **options}
    path = build_report(run.folder, **options)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.wrong == []
    assert page.open == []
    return page, text


def test_page_needs_nothing_from_outside(fake_run):
    page, text = build(fake_run)
    for tag, attrs in page.elements:
        for key in ("src", "href", "srcset", "data", "poster", "action"):
            value = attrs.get(key)
            if value is not None:
                assert value.startswith("data:image/" if tag == "img" else "#"), (tag, key, value[:60])
    assert not page.all("link")
    assert "@import" not in text
    assert all(target.startswith(("data:image/", "var(")) for target in re.findall(r"url\(([^)]*)", text))
    assert "http://" not in text
    assert "https://" not in text
    assert len(text.encode()) < 1_000_000


@pytest.mark.parametrize(
    ("used", "last"), [({}, "no CRF"), ({"autocast": "none"}, "no CRF"), ({"autocast": "bfloat16"}, "in bfloat16")]
)
def test_a_score_says_in_which_precision_it_was_computed(used, last):
    assert inference_words(None, {"post_processing": used}).split(", ")[-1] == last


def test_links_of_the_contents_lead_somewhere(fake_run):
    page, _ = build(fake_run)
    targets = {attrs["id"] for _, attrs in page.elements if "id" in attrs}
    links = [attrs["href"][1:] for attrs in page.all("a")]
    assert set(links) <= targets
    assert {"training", "validation", "classes", "vanished", "threshold", "confusion", "curves", "next", "run"} <= set(
        links
    )


def test_headline_numbers_are_those_of_the_files(fake_run):
    page, text = build(fake_run)
    metrics = json.loads((fake_run.folder / "metrics.json").read_text())
    tiles = [float(v) for v in re.findall(r'class="tile-value" data-value="([^"]+)"', text)]
    model, oracle = metrics["segmenter"]["miou"], metrics["oracle"]["miou"]
    assert tiles == [metrics["pseudo_masks"]["miou"], model, oracle, model / oracle]
    for shown in ("54.3", "48.8", "65.2", "mIoU on train, 40 images", "mIoU on val, 12 images", "threshold 0.2 fixed"):
        assert shown in page.text
    assert ("p", "75") in page.texts


def test_table_holds_every_score(fake_run):
    _, text = build(fake_run)
    table = text[text.index('<table class="sortable wide">') :]
    table = table[: table.index("</table>")]
    cells = [float(v) for v in re.findall(r'<td class="num[^"]*" data-value="([^"]+)"', table)]
    metrics = json.loads((fake_run.folder / "metrics.json").read_text())
    metrics["pseudo_masks"] = metrics["pseudo_masks"]["scores"]
    expected = []
    for name in sorted(
        metrics["segmenter"]["per_class"], key=lambda n: -(metrics["segmenter"]["per_class"][n]["iou"] or 0)
    ):
        for metric in ("iou", "f1", "precision", "recall"):
            expected += [metrics[s]["per_class"][name][metric] for s in ("pseudo_masks", "segmenter", "oracle")]
        expected += [metrics[s]["per_class"][name]["pixels"] for s in ("pseudo_masks", "oracle")]
    assert cells == [value for value in expected if value is not None]
    assert "unicorn <em>absent</em>" in table


def test_worst_images_come_first_with_their_scores(fake_run):
    _, text = build(fake_run)
    validation = text[text.index('<section id="validation"') : text.index('<section id="classes"')]
    shown = re.findall(r'<p class="score"><b data-value="([^"]+)"', validation)
    lines = json.loads((fake_run.folder / "evaluation/images.json").read_text())
    assert [float(value) for value in shown] == sorted(line["miou"] for line in lines)
    assert re.findall(r'<p class="name">(.*?)</p>', validation) == ["val_0", "val_1", "val_2", "val_3"]


def test_pictures_of_both_splits(fake_run):
    page, text = build(fake_run)
    training = text[text.index('<section id="training"') : text.index('<section id="validation"')]
    columns = re.search(r'<div class="columns".*?</div>', training, re.S)
    assert columns is not None
    assert re.findall(r"<span>([^<]+)</span>", columns[0]) == ["image", "seed", "pseudo-mask", "ground truth"]
    tags = sum(len(fake_run.train.tags(i)) for i in range(4))
    assert training.count('class="heat"') == tags
    assert training.count('class="mask"') == 8
    assert all(attrs.get("alt") for attrs in page.all("img"))
    assert "ground truth of val_0: background" in text


def test_refined_maps_have_their_own_column(fake_run):
    shutil.copytree(fake_run.folder / "seeds/maps", fake_run.folder / "irn/maps")
    shutil.copy(fake_run.folder / "seeds/stage.json", fake_run.folder / "irn/stage.json")
    _, text = build(fake_run)
    assert "<span>seed</span><span>IRN</span><span>pseudo-mask</span>" in text


def test_names_are_escaped(fake_run):
    page, text = build(fake_run)
    assert "harbour/photo & <0>" in page.text
    assert "cat & <dog>" in page.text
    assert "demo <run> & more" in page.text
    assert not {"dog", "run", "0"} & {tag for tag, _ in page.elements}
    assert "<dog>" not in text


@pytest.mark.parametrize(
    "gone",
    ["classifier", "seeds", "pseudo_masks", "segmenter", "evaluation", "oracle", "oracle_evaluation", "metrics.json",
     "run.json", "recipe.yaml", "pseudo_masks/Confidence", "pseudo_masks/scores.json", "pseudo_masks/provenance.json",
     "evaluation/images.json"],
)  # fmt: skip
def test_missing_parts_are_left_out(fake_run, gone):
    path = fake_run.folder / gone
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    page, _ = build(fake_run)
    assert page.all("h1")
    page, _ = build(fake_run, dataset_train=None, dataset_val=None)
    assert page.all("h1")


def test_empty_folder_gives_a_page(tmp_path):
    page = Page(build_report(tmp_path).read_text(encoding="utf-8"))
    assert tmp_path.name in page.text
    assert "No scores yet" in page.text
    assert not page.all("img")


def test_without_datasets_masks_are_shown_alone(fake_run):
    page, text = build(fake_run, dataset_train=None, dataset_val=None)
    assert "row bare" in text
    assert "--photo" not in text.rpartition("</style>")[2]
    assert "mean confidence" in page.text
    assert len(page.all("img")) > 8


def test_without_truth_images_are_ranked_by_confidence(fake_run):
    fake_run.train.masked = fake_run.val.masked = False
    page, text = build(fake_run)
    assert "ranked by mean confidence" in page.text
    assert "<span>ground truth</span>" not in text


def test_what_tuned_what_is_said(fake_run):
    page, _ = build(fake_run)
    assert "Threshold fixed beforehand" in page.text
    assert "Trained from scratch" in page.text
    assert "starts from this run" not in page.text
    recipe = yaml.safe_load((fake_run.folder / "recipe.yaml").read_text())
    recipe["model"] = {**recipe.get("model", {}), "pretrained": "classifier"}
    (fake_run.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    page, _ = build(fake_run)
    assert "Trained from scratch" in page.text
    assert "starts from this run" in page.text
    recipe = yaml.safe_load((fake_run.folder / "recipe.yaml").read_text())
    recipe["pseudo_masks"]["threshold"] = "best"
    recipe["data"]["saliency"] = "salmaps/"
    recipe["classifier"]["pretrained"] = True
    recipe["inference"] = {"scales": [0.5, 1.0, 1.5], "flip": True, "window": [512, 512]}
    (fake_run.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    record = json.loads((fake_run.folder / "pseudo_masks/provenance.json").read_text())
    record |= {"crf": True, "ground_truth_tuned": ["threshold"], "tag_source": "derived from the masks"}
    (fake_run.folder / "pseudo_masks/provenance.json").write_text(json.dumps(record))
    page, _ = build(fake_run)
    for words in (
        "Threshold tuned on ground truth", "Tags derived from ground truth", "Saliency maps used", "Dense CRF",
        "Pre-trained weights", "classifier: timm default.", "with CRF",
        "3 scales averaged, with flip, sliding window 512×512",
    ):  # fmt: skip
        assert words in page.text, words


@pytest.mark.parametrize("kept", ["/data/maskproject/tags.csv", "masked_people_tags.csv", "folder per tag in unmasks"])
def test_tags_from_a_path_with_mask_in_it_are_not_called_derived(fake_run, kept):
    path = fake_run.folder / "pseudo_masks/provenance.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tag_source": kept}))
    page, _ = build(fake_run)
    assert "Tags derived from ground truth" not in page.text
    assert f"Source: {kept}." in page.text


def test_curves_and_marks(fake_run):
    page, text = build(fake_run)
    assert "used 0.2" in page.text
    assert "best 0.35" in page.text
    curves = text[text.index('<section id="curves"') :]
    # Two lines of the loss, one of the rate and one of the validations, for three networks.
    assert curves.count("<polyline") == 12
    assert "Validation mAP of tags" in page.text
    assert "mIoU 66.2 at threshold τ 0.2" in page.text
    assert "37.5 % of cat &amp; &lt;dog&gt; is predicted as tree" in text


@pytest.mark.parametrize(("best", "end"), [(0.05, "the first that was tried"), (0.6, "the last that was tried")])
def test_a_best_threshold_at_the_end_of_the_sweep_is_said(fake_run, best, end):
    path = fake_run.folder / "pseudo_masks/scores.json"
    scores = json.loads(path.read_text())
    for row in scores["sweep"]:
        row["miou"] = 0.9 - abs(row["threshold"] - best)
    path.write_text(json.dumps({**scores, "best_threshold": best}))
    page, _ = build(fake_run)
    assert f"best {best}, {end}" in page.text
    assert f"The best on ground truth would have been {best}, {end} ({percent(0.9)} mIoU)." in page.text
    path.write_text(json.dumps({**scores, "best_threshold": best, "threshold": best}))
    record = fake_run.folder / "pseudo_masks/provenance.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "ground_truth_tuned": ["threshold"]}))
    page, _ = build(fake_run)
    assert f"used and best {best}, {end}" in page.text
    assert f"{best}, {end}, scored best on the ground truth" in page.text


def test_predict_command_is_ready_to_paste(fake_run):
    page, _ = build(fake_run)
    assert f"maskwright predict '{fake_run.folder}' photos/ out=predictions/" in page.text


def test_stages_of_a_stale_result_are_not_counted(fake_run):
    shutil.copytree(fake_run.folder / "segmenter", fake_run.folder / "segmenter.stale-1")
    page, _ = build(fake_run)
    assert "Time per stage, 4 min 22 s in all" in page.text


def test_count_of_pictures(fake_run):
    _, text = build(fake_run, images=5)
    assert text.count('<article class="row') == 5
    _, text = build(fake_run, images=0)
    assert text.count('<article class="row') == 0


def test_pictures_shrink_until_the_page_is_small(fake_run, monkeypatch):
    page, text = build(fake_run)
    monkeypatch.setattr("maskwright.report.build.MOST_BYTES_WITH_ALL", len(text.encode()) - 1)
    monkeypatch.setattr("maskwright.report.build.PICTURE_SIDES", (448, 32))
    smaller, text_of_smaller = build(fake_run)
    assert len(text_of_smaller) < len(text)
    assert len(smaller.all("img")) == len(page.all("img"))


def test_broken_json_is_named(fake_run):
    (fake_run.folder / "metrics.json").write_text("{")
    with pytest.raises(DataError, match=r"metrics\.json is not valid JSON"):
        build_report(fake_run.folder)


def test_words_for_numbers():
    assert duration(4.24) == "4.2 s"
    assert duration(200) == "3 min 20 s"
    assert duration(7500) == "2 h 5 min"
    assert percent(0.4567) == "45.7"
    assert percent(None) == "–"


def test_image_score_follows_the_policy_of_the_whole_set():
    from maskwright.data.sample import LabelSpace
    from maskwright.metrics import ConfusionMatrix
    from maskwright.report.gallery import image_miou

    rng = np.random.default_rng(5)
    labels = LabelSpace(("background", "a", "b", "never"))
    truth, guess = rng.integers(0, 3, (2, 20, 30)).astype(np.uint8)
    truth[:3] = 255
    confusion = ConfusionMatrix(labels)
    confusion.update(guess, truth)
    assert image_miou(guess, truth, labels) == pytest.approx(confusion.scores()["miou"])
    unsure = guess.copy()
    unsure[5:9] = 255
    without = ConfusionMatrix(labels)
    without.update(guess, np.where(unsure == 255, 255, truth))
    assert image_miou(unsure, truth, labels) == pytest.approx(without.scores()["miou"])
    assert image_miou(guess, np.full_like(truth, 255), labels) is None
