"""The verdict: from plain numbers, in words that name class and number, with commands that exist."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from maskwright.files import read_json, write_json
from maskwright.recipe.load import load_recipe
from maskwright.report import build_report
from maskwright.report.verdict import BAD, GOOD, LEAST_AREA, MOST_AREA, read_verdict, verdict
from maskwright.runs.contents import read_run


def tags(precision=0.95, recall=0.9, chance=0.1, **per_class):
    rows = {name: {"tagged": tagged, "both": both} for name, (tagged, both) in per_class.items()}
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "f1_by_chance": chance,
        "per_class": {name: {"precision": None, "recall": None, "predicted": 0, **row} for name, row in rows.items()},
        "images": 80,
        "split": "val",
        "trained_on": False,
        "shown_above": 0.005,
    }


def judged(labelled=0.3, border=0.05, kept=1.0, edges=1.4, areas=(), lost=(), used=0.3, stability=None):
    """Signs of two stages; the maps have thresholds that label less and less."""
    sweep = [
        {"threshold": step / 10, "foreground": 1 - step / 10, "vanished": max(0.0, step / 10 - 0.6)}
        for step in range(10)
    ]
    masks = {
        "sweep": [],
        "labelled": labelled,
        "border": border,
        "tag_consistency": {"kept": kept},
        "boundary_agreement": {"mean": edges},
        "area": {name: {"median": median} for name, median in areas},
        "vanished_tags": dict(lost),
        "default": {"miou": 0.01},  # a score, which must not be read
    }
    return {
        "threshold": used,
        "stages": {"seeds": {**masks, "labelled": 0.5, "sweep": sweep}, "pseudo_masks": masks},
        **({"stability": {"iou": stability}} if stability is not None else {}),
    }


def test_good_masks():
    found = verdict(tags=tags(), judged=judged())
    assert (found.level, found.reasons) == ("good", ())
    assert found.score >= GOOD
    assert found.head == "Nothing speaks against these masks"
    assert found.line == f"verdict                good ({found.score:.2f} of 1): nothing speaks against these masks"
    assert [seen.partition(":")[0] for seen in found.seen] == [
        "tags of predictions", "area", "border", "vanished tags", "boundaries",
    ]  # fmt: skip
    assert [command for command, _ in found.steps] == [
        "maskwright evaluate RUN masks=FOLDER classes=RUN/pseudo_masks/classes.txt"
    ]
    assert verdict(tags=tags(), judged=judged(), scored=True).steps == ()


def test_masks_that_fill_the_images():
    areas = [("sheep", 0.89), ("cow", 0.3), ("sky", 0.97)]
    found = verdict(tags=tags(), judged=judged(0.9, 0.85, edges=0.97, areas=areas))
    assert found.level == "bad"
    said = "; ".join(found.reasons)
    assert "sky covers 97 % of its images, sheep covers 89 % of its images" in said
    assert "cow" not in said
    assert "classes cover 90 % of the images" in said
    assert "boundaries are no better than chance (0.97" in said
    assert f"maskwright run RUN/recipe.yaml pseudo_masks.threshold={1 - MOST_AREA:g}" in dict(found.steps)
    assert "maskwright run RUN/recipe.yaml refine=[crf]" in dict(found.steps)
    assert "refine=" not in str(verdict(judged=judged(edges=0.97), refine=["crf"]).steps)
    assert "refine=[irn,crf]" in str(verdict(judged=judged(edges=0.97), refine=["irn"]).steps)
    assert found.line.startswith("verdict                bad (0.")


def test_masks_of_next_to_nothing():
    found = verdict(tags=tags(), judged=judged(0.03, 0.0, kept=0.75, lost=[("cat", [1, 9]), ("dog", [3, 4])], used=0.9))
    assert found.level == "bad"
    assert "classes cover only 3.0 % of the images" in found.reasons
    assert "25 % of the tags have no pixel in their mask: dog 3 of 4, cat 1 of 9" in found.reasons
    # The highest of the lower thresholds at which no more than 2 % of the tags vanish.
    assert f"maskwright run RUN/recipe.yaml pseudo_masks.threshold={0.6:g}" in dict(found.steps)


def test_labels_up_to_the_border():
    inside, outside = (verdict(tags=tags(), judged=judged(0.5, border)) for border in (0.1, 0.6))
    assert inside.level == "good"
    assert outside.level == "bad"
    assert "background seems to be labelled" in outside.reasons[0]
    assert "60 % of the images' border has a class, and 50 % of all" in outside.reasons[0]


def test_predictions_that_are_not_what_the_tags_say():
    found = verdict(tags=tags(0.3, 0.1, 0.15, cat=(9, 0), dog=(2, 0), cow=(5, 3)), judged=judged())
    assert found.level == "bad"
    assert found.reasons[0] == (
        "predictions agree no more than chance with the tags (precision 30 %, recall 10 %, 80 images of val)"
    )
    assert found.reasons[1] == "never predicted where it is tagged: cat (9 images)"
    longer = verdict(
        tags=tags(0.9, 0.5), judged=judged(), lengths={"l2g.train.steps": 1234567, "train.epochs": 2.5}
    ).steps
    assert longer[0][0] == "maskwright run RUN/recipe.yaml l2g.train.steps=2469134 train.epochs=5"


def test_from_scratch_on_few_images_is_at_most_doubtful():
    many = verdict(tags=tags(), judged=judged(), images=5000, pretrained=False)
    few = verdict(tags=tags(), judged=judged(), images=49, pretrained=False)
    assert (many.level, few.level) == ("good", "doubtful")
    assert few.reasons[0] == "the networks began from scratch, on 49 images"
    assert BAD <= few.score < GOOD
    assert few.steps[0][0] == "maskwright run cam data=FOLDER tags=tags.csv"
    masks = verdict(judged=judged(), images=49, pretrained=False, modelled=False, data=["my photos"])
    assert masks.steps[0][0] == "maskwright label 'my photos'"
    assert verdict(tags=tags(), judged=judged(), images=49).level == "good"
    worse = verdict(tags=tags(0.2, 0.1), judged=judged(), images=49, pretrained=False)
    assert "from scratch" in worse.reasons[-1]  # what is wrong is said first


def test_boundaries_and_views_are_told_and_not_counted():
    plain = verdict(tags=tags(), judged=judged())
    found = verdict(tags=tags(), judged=judged(edges=0.8, stability=0.4))
    assert found.score == plain.score
    assert found.factors == plain.factors
    assert len(found.reasons) == 2
    assert "IoU of 40 %" in found.reasons[1]
    assert found.head == "Little speaks against these masks"
    assert verdict(tags=tags(), judged=judged(stability=0.7)).reasons == ()


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (judged(), judged(labelled=LEAST_AREA / 2)),
        (judged(), judged(labelled=min(1.0, 1.2 * MOST_AREA))),
        (judged(), judged(border=0.2)),
        (judged(kept=0.9), judged(kept=0.8)),
    ],
)
def test_every_sign_lowers_the_score(better, worse):
    assert verdict(tags=tags(), judged=better).score > verdict(tags=tags(), judged=worse).score
    assert verdict(tags=tags(), judged=better).score > verdict(tags=tags(recall=0.7), judged=better).score
    assert 0 <= verdict(tags=tags(0.0, 0.0), judged=worse).score < 0.1


def test_scores_against_ground_truth_change_nothing():
    signs = judged()
    before = verdict(tags=tags(), judged=signs)
    for stage in signs["stages"].values():
        stage["default"] = stage["best"] = {"miou": 0.9}
        for row in stage["sweep"]:
            row["miou"] = 0.9
    assert verdict(tags=tags(), judged=signs) == before


def test_too_little_is_known():
    assert verdict() is None
    unknown = judged()
    for stage in unknown["stages"].values():
        del stage["labelled"], stage["border"]  # as before this was written
    assert verdict(judged=unknown) is None
    assert set(verdict(tags=tags(), judged=unknown).factors) == {"tags of predictions", "vanished tags"}
    nothing = {**tags(), "precision": None, "recall": None, "f1": None, "f1_by_chance": None}
    assert set(verdict(tags=nothing, judged=judged()).factors) == {"area", "border", "vanished tags"}
    unknown["stages"]["pseudo_masks"]["labelled"] = None  # no background class
    assert verdict(judged=unknown) is None


def test_every_setting_of_the_steps_exists():
    bad = verdict(
        tags=tags(0.3, 0.1, cat=(9, 0)), judged=judged(0.97, 1.0, 0.5, 0.9, lost=[("cat", [1, 2])]), images=49,
        pretrained=False, lengths={"classifier.train.epochs": 4, "train.epochs": 3}, run="runs/my photos",
    )  # fmt: skip
    commands = [shlex.split(command) for command, _ in bad.steps]
    assert {words[1] for words in commands} == {"run", "data", "explain", "evaluate"}
    for words in commands:
        if words[1] == "run":
            assert words[2] in ("runs/my photos/recipe.yaml", "cam")
            load_recipe("cam-scratch", words[3:])


def write_records(run, **signs):
    write_json(run.folder / "evaluation" / "tags.json", {**tags(), **signs.get("tags", {})})
    write_json(
        run.folder / "seed_evaluation.json",
        {
            "split": "train", "images": 40, "images_judged": 0, "threshold_from": "given", "definitions": {},
            **judged(**signs.get("judged", {})),
        },
    )  # fmt: skip


@pytest.fixture
def photographs(fake_run):
    """Without ground truth, and from pre-trained weights."""
    for name in ("metrics.json", "evaluation/metrics.json", "oracle_evaluation/metrics.json"):
        (fake_run.folder / name).unlink()
    scores = fake_run.folder / "pseudo_masks/scores.json"
    scores.write_text(json.dumps({**read_json(scores), "miou": None, "scores": None}))
    recipe = (fake_run.folder / "recipe.yaml").read_text()
    (fake_run.folder / "recipe.yaml").write_text(recipe.replace("pretrained: false", "pretrained: true"))
    fake_run.train.masked = fake_run.val.masked = False
    return fake_run


def page(run):
    text = build_report(run.folder, dataset_train=run.train, dataset_val=run.val).read_text(encoding="utf-8")
    assert "http" not in text
    return text


@pytest.mark.parametrize(
    ("signs", "level"),
    [
        ({}, "good"),
        ({"tags": tags(0.8, 0.5)}, "doubtful"),
        ({"judged": {"labelled": 0.97, "border": 1.0, "areas": [("cat & <dog>", 0.99)]}}, "bad"),
    ],
)
def test_the_page_opens_with_it(photographs, signs, level):
    found = {key: value for key, value in signs.items() if key == "judged"}
    found = {"labelled": 0.3, "border": 0.05, **found.get("judged", {})}
    write_records(photographs, judged=found, tags=signs.get("tags", {}))
    stages = read_json(photographs.folder / "seed_evaluation.json")
    (photographs.folder / "seed_evaluation.json").write_text(json.dumps(complete(stages)))
    text = page(photographs)
    said = read_verdict(read_run(photographs.folder))
    assert said.level == level
    box = text[text.index(f'<div class="verdict {level}">') :]
    box = box[: box.index("</div>")]
    assert said.head in box
    assert box.count("<li>") == len(said.reasons)
    assert text.index('class="verdict ') < text.index('class="steps"') < text.index('class="tiles"')
    assert text.count(f"--{dict(good='good', doubtful='warn', bad='bad')[level]}: ") == 2  # light and dark
    tiles = [float(value) for value in re.findall(r'class="tile-value" data-value="([^"]+)"', text)]
    agreement = read_json(photographs.folder / "evaluation" / "tags.json")
    assert tiles == [agreement["precision"], agreement["recall"]]
    assert "val, 80 images" in text
    assert "No scores yet" in text


def complete(result):
    """With all that the section on seeds shows."""
    for stage in result["stages"].values():
        stage |= {"kind": "maps", "default": None, "best": None, "best_threshold": None, "outliers": []}
        stage["tag_consistency"] |= {"extra": 0.0, "exact": 1.0}
        for row in stage["sweep"]:
            row["miou"] = None
        for area in stage["area"].values():
            area |= {"images": 9, "low": 0.1, "high": 1.0, "nearly_nothing": 0, "nearly_everything": 1}
    return result


def test_beside_ground_truth_the_miou_stays_the_headline(fake_run):
    write_records(fake_run)
    (fake_run.folder / "seed_evaluation.json").unlink()
    text = page(fake_run)
    tiles = [float(value) for value in re.findall(r'class="tile-value" data-value="([^"]+)"', text)]
    metrics = read_json(fake_run.folder / "metrics.json")
    assert tiles[:2] == [metrics["pseudo_masks"]["miou"], metrics["segmenter"]["miou"]]
    assert tiles[-2:] == [tags()["precision"], tags()["recall"]]
    assert "masks=FOLDER" not in text
    assert '<section id="tags">' in text


def test_without_records_no_verdict(fake_run):
    assert read_verdict(read_run(fake_run.folder)) is None
    text = page(fake_run)
    assert 'class="verdict ' not in text
    assert 'href="#tags"' not in text


@pytest.mark.parametrize(("images", "kind"), [(49, "warn"), (5000, "good")])
def test_from_scratch_on_few_images_is_a_warning(fake_run, images, kind):
    scores = fake_run.folder / "pseudo_masks/scores.json"
    scores.write_text(json.dumps({**read_json(scores), "images": images}))
    text = page(fake_run)
    note = re.search(r'<li class="(\w+)"><b>Trained from scratch\.</b>([^<]*)', text)
    assert note[1] == kind
    assert ("49 images are few" in note[2]) == (images == 49)
