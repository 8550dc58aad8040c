"""What speaks for and against the masks of a run where nobody drew any: a level, reasons, and what to do next.

The score is a product. Each factor says at most which share of the IoU one sign leaves: classes that are never
predicted have none, and masks that are twice as large as their objects have half. Boundary agreement and the stability
of views are said, and change nothing: the smaller a mask, the more its boundary lies on edges, whatever it shows
(`benchmarks/claims/verdict.py` has the numbers). No ground truth is read, even where there is some.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maskwright.files import read_json
from maskwright.report.content import FEW_IMAGES, has_segmenter, pretrained_words, trained_images
from maskwright.runs.contents import RunContents
from maskwright.runs.folder import RunFolder

BAD, GOOD = 0.3, 0.6  # a score below the first is bad, from the second on good

# What masks of objects usually have, chosen on the built-in scenes: share of the image; how often its border is
# labelled, as a multiple of the whole, where that is fine and where it is as bad as it gets; the factor there.
LEAST_AREA, MOST_AREA = 0.15, 0.6
BORDER_FINE, BORDER_BAD, BORDER_FACTOR = 0.4, 1.0, 0.2
LEAST = 0.02  # of a factor, so that the others still count

SAID_BELOW = 0.8  # a factor below it is a reason
KEPT = 0.9  # share of the tags below which those that vanished are a reason
LARGE_CLASS = 0.8  # median share of its images above which a class is named
CHANCE, UNSTABLE = 1.05, 0.5  # boundary agreement and IoU of views below which they are said
HARDLY = 0.02  # share of the tags that may vanish at another threshold
FEW_TAGS = 3  # images with a tag that is never predicted, to be worth saying
NAMED = 3  # classes of a reason

HEADS = {
    "bad": "These masks look wrong",
    "doubtful": "These masks are doubtful",
    "good": "Nothing speaks against these masks",
}


@dataclass(frozen=True)
class Verdict:
    """See `verdict`.

    Args:
        level: `good`, `doubtful` or `bad`.
        score: 0 to 1, that the level is cut from.
        factors: 0 to 1, by the sign that they come from; the score is their product, or below it from scratch.
        reasons: what speaks against the masks, the worst first.
        seen: what was looked at, with its numbers.
        steps: commands, each with why to give it.
    """

    level: str
    score: float
    factors: dict[str, float]
    reasons: tuple[str, ...]
    seen: tuple[str, ...]
    steps: tuple[tuple[str, str], ...]

    @property
    def head(self) -> str:
        if self.level == "good" and self.reasons:
            return "Little speaks against these masks"
        return HEADS[self.level]

    @property
    def line(self) -> str:
        """In one line, for a terminal."""
        why = "; ".join(self.reasons[:2]) or f"{self.head[0].lower()}{self.head[1:]}"
        return f"{'verdict':<22} {self.level} ({self.score:.2f} of 1): {why}"


@dataclass(frozen=True)
class _Sign:
    name: str
    factor: float
    numbers: str
    reasons: tuple[str, ...] = ()
    steps: tuple[tuple[str, str], ...] = ()


def verdict(
    *,
    tags: Mapping[str, Any] | None = None,
    judged: Mapping[str, Any] | None = None,
    images: int | None = None,
    pretrained: bool = True,
    scored: bool = False,
    modelled: bool = True,
    refine: Sequence[str] = (),
    lengths: Mapping[str, float] | None = None,
    run: str = "RUN",
    data: Sequence[str] = ("FOLDER", "tags.csv"),
) -> Verdict | None:
    """What signs that need no ground truth say of a run's masks.

    Args:
        tags: how far predictions agree with tags, as `inference.tag_agreement` writes it.
        judged: signs of maps and masks, as `weak.seed_evaluation` writes them; its scores are not read.
        images: that the run was trained on.
        pretrained: whether a network began with pre-trained weights.
        scored: whether the model was scored against ground truth: then nobody need be asked to draw some.
        modelled: whether the run has a segmenter; else its next steps are those of masks.
        refine: refinements of the maps.
        lengths: epochs or steps of the trainings, by the setting's name.
        run: folder, for the commands.
        data: folder, and tags where they are in a file, likewise.

    Returns:
        None where too little is known: neither tags of predictions, nor areas.
    """
    judged = judged or {}
    last = list(judged.get("stages", {}).values())[-1:]
    again = f"maskwright {'run' if modelled else 'label'} {shlex.quote(str(RunFolder(run).recipe))}"
    signs: list[_Sign] = []
    if tags and tags["f1"] is not None:
        longer = " ".join(f"{key}={2 * count:.12g}" for key, count in (lengths or {}).items())
        signs.append(_tags(tags, f"{again} {longer}" if longer else "", data))
    if last and last[0].get("labelled") is not None:
        signs += [_area(judged, again), _border(last[0], run if modelled else "")]
    if not signs:
        return None
    if last and last[0]["tag_consistency"]["kept"] is not None:
        signs.append(_vanished(judged, again))
    factors = {sign.name: sign.factor for sign in signs}
    score = math.prod(max(LEAST, factor) for factor in factors.values())
    signs.sort(key=lambda sign: sign.factor)
    # Told, and not counted.
    if last and last[0]["boundary_agreement"]["mean"] is not None:
        with_crf = "" if "crf" in refine else f"{again} refine=[{','.join([*refine, 'crf'])}]"
        signs.append(_boundaries(last[0]["boundary_agreement"]["mean"], with_crf))
    if (judged.get("stability") or {}).get("iou") is not None:
        signs.append(_views(judged["stability"]["iou"]))
    if not pretrained and images is not None and images < FEW_IMAGES:
        score = min(score, (BAD + GOOD) / 2)
        signs.insert(len(signs) if score < BAD else 0, _from_scratch(images, modelled, data))
    steps = dict(step for sign in signs for step in sign.steps)
    if not modelled:
        steps[f"maskwright run {shlex.quote(str(RunFolder(run).recipe))}"] = (
            "trains a model on these masks, for photographs that have no tags; what is done stays"
        )
    elif not scored:
        classes = shlex.quote(f"classes={RunFolder(run).classes}")
        steps[f"maskwright evaluate {shlex.quote(run)} masks=FOLDER {classes}"] = (
            "a score to rely on, once masks of a few dozen validation images are drawn"
        )
    return Verdict(
        "bad" if score < BAD else "doubtful" if score < GOOD else "good",
        score,
        factors,
        tuple(reason for sign in signs for reason in sign.reasons),
        tuple(f"{sign.name}: {sign.numbers}" for sign in signs),
        tuple(steps.items()),
    )


def read_verdict(run: RunContents) -> Verdict | None:
    """The verdict on a run, from its records.

    Raises:
        DataError: a record is not JSON.
    """
    path = run.folder.seed_evaluation
    trainings = [*(f"{word}.train" for word in run.setting("networks") or ()), "train"]
    places = [run.setting(f"data.{key}") for key in ("root", "tags")]
    return verdict(
        tags=run.tag_agreement,
        judged=read_json(path) if path.is_file() else None,
        images=trained_images(run),
        pretrained=bool(pretrained_words(run)),
        scored="segmenter" in run.scores,
        modelled=has_segmenter(run),
        refine=run.setting("refine") or (),
        lengths={
            f"{training}.{key}": run.setting(f"{training}.{key}")
            for training in trainings
            for key in ("epochs", "steps")
            if run.setting(f"{training}.{key}")
        },
        run=str(run.folder),
        data=[str(place) for place in places if place],
    )


def _tags(tags: Mapping[str, Any], longer: str, data: Sequence[str]) -> _Sign:
    """Jaccard index of predicted and given tags, 0 where it is that of predictions on images in random order."""
    found, chance = (f1 / (2 - f1) for f1 in (tags["f1"], tags["f1_by_chance"]))
    factor = max(0.0, (found - chance) / (1 - chance)) if chance < 1 else 1.0
    rates = f"precision {_percent(tags['precision'])}, recall {_percent(tags['recall'])}"
    where = f"{tags['images']} images of {tags['split']}"
    where += ", which it was trained on" if tags["trained_on"] else ""
    reasons = []
    if factor < SAID_BELOW:
        much = "no more than chance" if factor < LEAST else "little" if factor < 0.5 else "in part"
        reasons.append(f"predictions agree {much} with the tags ({rates}, {where})")
    rows = tags["per_class"].items()
    never = [(name, row["tagged"]) for name, row in rows if row["tagged"] >= FEW_TAGS and row["both"] == 0]
    if never:
        reasons.append("never predicted where it is tagged: " + _listed(never, "{0} ({1} images)"))
    steps = [(longer, "trains for twice as long")] if longer else []
    steps.append(
        (f"maskwright data check {shlex.join(data)}", "wrong and missing tags, and tags that always occur together")
    )
    return _Sign("tags of predictions", factor, f"{rates}, {where}", tuple(reasons), tuple(steps if reasons else ()))


def _area(judged: Mapping[str, Any], again: str) -> _Sign:
    last = list(judged["stages"].values())[-1]
    labelled = last["labelled"]
    factor = min(1.0, labelled / LEAST_AREA, MOST_AREA / max(labelled, LEAST))
    large = [(area["median"], name) for name, area in last["area"].items() if area and area["median"] > LARGE_CLASS]
    reasons = []
    if large:
        rows = [(name, _percent(area)) for area, name in sorted(large, reverse=True)]
        reasons.append(_listed(rows, "{0} covers {1} of its images"))
    covered = f"classes cover {'only ' if labelled < LEAST_AREA else ''}{_percent(labelled)} of the images"
    if factor < SAID_BELOW:
        reasons.append(covered)
    steps = _other_threshold(judged, labelled >= LEAST_AREA, again) if reasons else ()
    return _Sign("area", factor, covered, tuple(reasons), steps)


def _border(last: Mapping[str, Any], run: str) -> _Sign:
    """Objects lie within an image; what is labelled up to its border as often as inside is likely its background."""
    ratio = last["border"] / max(last["labelled"], 1e-6)
    factor = 1 - (1 - BORDER_FACTOR) * min(1.0, max(0.0, (ratio - BORDER_FINE) / (BORDER_BAD - BORDER_FINE)))
    numbers = f"{_percent(last['border'])} of the images' border has a class, and {_percent(last['labelled'])} of all"
    if factor >= SAID_BELOW:
        return _Sign("border", factor, numbers)
    reason = f"background seems to be labelled, since objects seldom reach the border: {numbers}"
    step = (f"maskwright explain {shlex.quote(run)} photo.jpg class=NAME", "where the model looks for a class")
    return _Sign("border", factor, numbers, (reason,), (step,) if run else ())


def _vanished(judged: Mapping[str, Any], again: str) -> _Sign:
    last = list(judged["stages"].values())[-1]
    kept = last["tag_consistency"]["kept"]
    numbers = f"{_percent(1 - kept)} have no pixel in their mask"
    if kept >= KEPT:
        return _Sign("vanished tags", kept, numbers)
    lost = [(name, *pair) for name, pair in last["vanished_tags"].items() if pair[0]]
    lost.sort(key=lambda row: -row[1] / row[2])
    reason = f"{_percent(1 - kept)} of the tags have no pixel in their mask: {_listed(lost, '{0} {1} of {2}')}"
    return _Sign("vanished tags", kept, numbers, (reason,), _other_threshold(judged, False, again))


def _boundaries(agreement: float, with_crf: str) -> _Sign:
    numbers = f"{agreement:.2f} times the image's mean edge strength"
    if agreement > CHANCE:
        return _Sign("boundaries", 1.0, numbers)
    steps = [(with_crf, "moves boundaries to the edges of the image")] if with_crf else []
    reason = f"boundaries are no better than chance ({agreement:.2f}, where chance is 1)"
    return _Sign("boundaries", 1.0, numbers, (reason,), tuple(steps))


def _views(iou: float) -> _Sign:
    said = f"single views agree with all of them to an IoU of {_percent(iou)}"
    return _Sign("views", 1.0, said, (f"masks change with the size of the image: {said}",) if iou < UNSTABLE else ())


def _from_scratch(images: int, modelled: bool, data: Sequence[str]) -> _Sign:
    said = f"from scratch, on {images} images"
    places = [f"{key}={place}" for key, place in zip(("data", "tags"), data, strict=False)]
    step = f"maskwright {shlex.join(['run', 'cam', *places] if modelled else ['label', *data])}"
    return _Sign("training", 1.0, said, (f"the networks began {said}",), ((step, "begins with pre-trained weights"),))


def _other_threshold(judged: Mapping[str, Any], lower_area: bool, again: str) -> tuple[tuple[str, str], ...]:
    """The nearest threshold of the sweep at which areas are usual and hardly a tag vanishes, or else the farthest."""
    used = judged["threshold"]
    sweeps = [stage["sweep"] for stage in judged["stages"].values() if stage["sweep"]]
    sweep = sweeps[-1] if sweeps else []
    if lower_area:
        rows = [row for row in sweep if row["threshold"] > used]
        fine = [row for row in rows if row["foreground"] <= MOST_AREA]
    else:
        rows = [row for row in reversed(sweep) if row["threshold"] < used]
        fine = [row for row in rows if row["foreground"] >= LEAST_AREA and (row["vanished"] or 0) <= HARDLY]
    return tuple(
        (
            f"{again} pseudo_masks.threshold={row['threshold']:g}",
            f"classes would cover {_percent(row['foreground'])} of the images",
        )
        for row in (fine or rows[-1:])[:1]
    )


def _listed(rows: Sequence[Sequence[Any]], form: str) -> str:
    words = ", ".join(form.format(*row) for row in rows[:NAMED])
    return words + (f" and {len(rows) - NAMED} more" if len(rows) > NAMED else "")


def _percent(share: float | None) -> str:
    if share is None:
        return "–"
    return f"{100 * share:.1f} %" if 0 < share < 0.095 else f"{100 * share:.0f} %"
