"""What a report says in words: headline, how far to trust it, stages, facts."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import Any

from maskwright.data.provenance import against
from maskwright.data.tags import TAGS_FROM_MASKS
from maskwright.engine.checkpoint import PRETRAINED
from maskwright.engine.weights import weights_words
from maskwright.metrics import end_of_sweep
from maskwright.report.charts import number
from maskwright.runs.contents import STAGES, RunContents

# Each source of scores with its style in charts, the same on the whole page.
SOURCES = {"pseudo_masks": 1, "segmenter": 2, "oracle": 3}
FROM_MASKS = "derived from ground truth"
FEW_IMAGES = 1000  # below it, to begin from scratch is a warning


def source_name(run: RunContents, source: str) -> str:
    """What a score is of, in words."""
    if source == "pseudo_masks":
        return "Pseudo-masks"
    if source == "oracle":
        return "Fully supervised"
    return {"tags": "Model from tags", "mixed": "Model from tags and masks"}.get(
        run.setting("supervision", ""), "Model from masks"
    )


def headline(run: RunContents) -> list[dict[str, Any]]:
    """The tiles: each number with what it was measured on and how it was obtained."""
    tiles = []
    for source, style in SOURCES.items():
        score = run.scores.get(source)
        if score is None:
            continue
        split = score.get("split")
        where = [f"mIoU on {split}" if split else "mIoU"]
        images = score.get("images_judged") or score.get("images")
        if images:
            where.append(f"{images} images")
        if said := against(score.get("source") or {}):
            where.append(said.partition(":")[0])
        how = pseudo_mask_words(run) if source == "pseudo_masks" else inference_words(run, score)
        tiles.append(
            {
                "name": source_name(run, source),
                "value": percent(score["miou"]),
                "exact": score["miou"],
                "share": score["miou"],
                "where": ", ".join(where),
                "how": how,
                "style": style,
            }
        )
    model, oracle = run.scores.get("segmenter"), run.scores.get("oracle")
    if model and oracle and oracle["miou"]:
        ratio = model["miou"] / oracle["miou"]
        tiles.append(
            {
                "name": "Of full supervision",
                "value": f"{100 * ratio:.0f}",
                "unit": "%",
                "exact": ratio,
                "share": min(1.0, ratio),
                "where": f"{percent(model['miou'])} of {percent(oracle['miou'])}",
                "how": "same architecture, settings and images; only the labels differ",
                "style": 0,
            }
        )
    return tiles + tag_tiles(run)


def tag_tiles(run: RunContents) -> list[dict[str, Any]]:
    """Precision and recall of the tags of predictions."""
    found = run.tag_agreement
    if found.get("f1") is None:
        return []
    split = found["split"] or "the set"
    where = f"{split}, {found['images']} images" + (", which it learned from" if found["trained_on"] else "")
    how = {
        "precision": "of the classes that predictions show, those that are tags of the image",
        "recall": "of the tags, those whose class the prediction shows",
    }
    return [
        {
            "name": f"Tag {key}",
            "value": percent(found[key]),
            "exact": found[key],
            "share": found[key] or 0,
            "where": where,
            "how": words,
            "style": SOURCES["segmenter"],
        }
        for key, words in how.items()
    ]


def pseudo_mask_words(run: RunContents) -> str:
    """How the pseudo-masks were made, for beside their score."""
    found = run.pseudo_masks.get("threshold")
    words = [str(run.provenance.get("method") or run.setting("seeds.method") or "")]
    if found is not None:
        tuned = " tuned on ground truth" if tuned_on_truth(run) else " fixed beforehand"
        words.append(f"threshold {number(found)}{tuned}")
    words.append("with CRF" if run.provenance.get("crf") else "no CRF")
    if run.provenance.get("saliency") or run.setting("data.saliency"):
        words.append("with saliency maps")
    return ", ".join(word for word in words if word)


def inference_words(run: RunContents, score: dict[str, Any]) -> str:
    """How a model was applied, for beside its score."""
    used = score.get("post_processing")
    if not isinstance(used, dict):
        used = run.setting("inference")
    if not isinstance(used, dict):
        return ""
    scales = used.get("scales") or [1.0]
    words = ["single scale" if len(scales) == 1 else f"{len(scales)} scales averaged"]
    words.append("with flip" if used.get("flip") else "no flip")
    if used.get("window"):
        words.append("sliding window {}×{}".format(*used["window"]))
    words.append("with CRF" if used.get("crf") else "no CRF")
    if used.get("autocast", "none") != "none":
        words.append(f"in {used['autocast']}")
    return ", ".join(words)


def tuned_on_truth(run: RunContents) -> bool:
    """Whether ground truth chose the threshold."""
    return run.setting("pseudo_masks.threshold") == "best" or "threshold" in (
        run.provenance.get("ground_truth_tuned") or ()
    )


def data_title(run: RunContents) -> str:
    """What the run was of, in a few words: the data set and its images."""
    root = run.setting("data.root")
    judged = run.scores.get("segmenter", {})
    counts = [
        (run.setting("data.train"), trained_images(run)),
        (judged.get("split") or run.setting("data.val"), judged.get("images") if has_segmenter(run) else None),
    ]
    images = [f"{split} {count:,}" for split, count in counts if split and isinstance(count, int)]
    name = PurePath(str(root)).name if root else ""
    return ": ".join(part for part in (name, f"{', '.join(images)} images" if images else "") if part)


def trained_on(run: RunContents) -> list[tuple[str, str]]:
    """Term and text of what the run learned from."""
    supervision = {
        "tags": "image tags; ground truth only for evaluation",
        "masks": "pixel masks",
        "mixed": "image tags, and ground-truth masks where they exist",
    }
    kept = run.provenance.get("source")
    source = kept if isinstance(kept, dict) else {}
    if run.setting("data.masks_are"):
        supervision["masks"] = f"{run.setting('data.masks_are')} in {run.setting('data.masks')}"
    rows = [("Supervision", supervision.get(run.setting("supervision", ""), ""))]
    root, train, val = (run.setting(f"data.{key}") for key in ("root", "train", "val"))
    judged = run.scores.get("segmenter", {})
    if train:
        count = source.get("count") or run.pseudo_masks.get("images")
        rows.append(("Trained on", _counted(root, train, count)))
    modelled = has_segmenter(run)
    if val and modelled:
        rows.append(("Evaluated on", _counted(root, judged.get("split") or val, judged.get("images"))))
    if run.setting("supervision") in ("tags", "mixed"):
        rows.append(("Tags", tag_source(run)))
        method = f"{run.setting('seeds.method', '')} from {run.setting('classifier.backbone', '')}"
        rows.append(("Maps", method))
    if modelled and run.reviewed:
        rows.append(("Reviewed by people", run.reviewed))
    if run.setting("model.name") and modelled:
        rows.append(("Model", f"{run.setting('model.name')}, {run.setting('model.backbone')}"))
    return [(term, text) for term, text in rows if text]


def has_segmenter(run: RunContents) -> bool:
    """Whether a run goes on to the segmenter; one of `maskwright label` ends with pseudo-masks."""
    return "segmenter" in run.stages or "pseudo_masks" not in run.stages


def trained_images(run: RunContents) -> int | None:
    """Number of images that the run learned from; None where no record says it."""
    if run.pseudo_masks.get("images"):
        return run.pseudo_masks["images"]
    for stage in run.stages.values():
        facts = ((stage.get("settings") or {}).get("data") or {}).get("facts") or {}
        if found := facts.get("mask_count") or facts.get("count"):
            return found
    return None


def tag_source(run: RunContents) -> str:
    """Where the tags come from, in words."""
    source = run.provenance.get("source")
    kept = run.provenance.get("tag_source")
    if not kept and isinstance(source, dict):
        kept = source.get("tag_source")
    kept = str(kept or run.setting("data.tags") or "the data set's own")
    return FROM_MASKS if kept in TAGS_FROM_MASKS else kept


def cautions(run: RunContents) -> list[dict[str, str]]:
    """How far the numbers can be trusted: what tuned what, and what else was used than the labels named."""
    notes: list[dict[str, str]] = []

    def note(kind: str, head: str, text: str) -> None:
        notes.append({"kind": kind, "head": head, "text": text})

    weak = run.setting("supervision") in ("tags", "mixed")
    pseudo = run.pseudo_masks
    said = next((text for score in run.scores.values() if (text := against(score.get("source") or {}))), "")
    if said:
        note("warn", "Not measured against ground truth", f"The model is measured {said}.")
    if pseudo.get("threshold") is not None:
        threshold, best = number(pseudo["threshold"]), pseudo.get("best_threshold")
        end = end_of_sweep(pseudo.get("sweep") or [], best)
        if tuned_on_truth(run):
            text = f"{threshold}{end and f', {end},'} scored best on the ground truth of "
            text += f"{pseudo.get('split', 'the training split')}. "
            note("warn", "Threshold tuned on ground truth", text + "With tags alone this cannot be done; expect less.")
        else:
            text = f"{threshold} was set before anything was scored."
            at_best = next((p["miou"] for p in pseudo.get("sweep") or [] if p.get("threshold") == best), None)
            if best is not None and at_best is not None and pseudo.get("miou") is not None:
                if at_best > pseudo["miou"] + 5e-4:
                    text += f" The best on ground truth would have been {number(best)}{end and f', {end}'} "
                    text += f"({percent(at_best)} mIoU)."
                else:
                    text += " No other in the sweep does better on ground truth."
            note("good", "Threshold fixed beforehand", text)
    if weak:
        if tag_source(run) == FROM_MASKS:
            text = "They are complete and correct, unlike tags that people give; expect less from those."
            note("warn", "Tags derived from ground truth", text)
        else:
            note("fact", "Tags", f"Source: {tag_source(run)}. Used for labelling; predictions are made without them.")
    saliency = run.provenance.get("saliency") or run.setting("data.saliency")
    if saliency:
        text = f"Maps from {saliency}: more supervision than tags. Compare only with runs that use them too."
        note("warn", "Saliency maps used", text)
    if run.provenance.get("crf"):
        where = run.provenance["crf"]
        text = "The pseudo-masks" if where is True else f"Part of making the pseudo-masks ({where})"
        note("fact", "Dense CRF", f"{text} went through a dense CRF; its settings belong to the score.")
    if pretrained := pretrained_words(run):
        named = "; ".join(f"{name}: {words}" for name, words in pretrained.items())
        text = f"{named}. What those weights had seen is part of the result."
        note("warn", "Pre-trained weights", text)
    elif run.recipe:
        text = "No pre-trained weights, so no images or labels beyond these."
        if run.setting("model.pretrained") == "classifier" and has_segmenter(run):
            text += " The segmenter starts from this run's tag classifier."
        count = trained_images(run)
        if few := count is not None and count < FEW_IMAGES:
            text += f" {count} images are few to begin with; recipe cam begins with weights that have seen many."
        note("warn" if few else "good", "Trained from scratch", text)
    uncertain = pseudo.get("unsure_share")
    if uncertain:
        text = (
            f"{percent(uncertain)} % of the pixels have no label in the pseudo-masks and are left out of their score."
        )
        note("warn", "Uncertain pixels", text)
    if "pseudo_masks" in run.scores:
        split = run.scores["pseudo_masks"].get("split") or "train"
        text = f"Measured on {split}, the images that the classifier learned from. Compare it with such scores only."
        note("fact", "The pseudo-mask score", text)
    vanished = sum(count for count, _ in (pseudo.get("vanished_tags") or {}).values())
    if vanished:
        tagged = sum(total for _, total in pseudo["vanished_tags"].values())
        note("warn", "Vanished tags", f"{vanished} of {tagged} tags have no pixel in their pseudo-mask.")
    absent = sorted({name for score in run.scores.values() for name in score.get("absent") or ()})
    if absent:
        text = f"{', '.join(absent)}: neither in the ground truth nor predicted, left out of the mean."
        note("fact", "Absent classes", text)
    if run.expected:
        each = "; ".join(
            f"{row['stage']} {percent(row['found'])} on {row['split']} (expected {percent(row['expected'])})"
            for row in run.expected
        )
        kind = "good" if all(row["agrees"] for row in run.expected) else "warn"
        source = run.setting("source") or "the recipe"
        note(kind, "Compared with published numbers", f"{each}. Source: {source}.")
    if run.scores:
        seed = run.facts.get("seed", run.setting("random_seed"))
        start = "One run" if seed is None else f"One run, random seed {seed}"
        note(
            "fact", "One run", f"{start}: differences of a point or two may be chance. Repeat with other random seeds."
        )
    order = {"warn": 0, "good": 1, "fact": 2}
    return sorted(notes, key=lambda entry: order[entry["kind"]])


def pretrained_words(run: RunContents) -> dict[str, str]:
    """Networks that begin with pre-trained weights from outside the run, and with which; older runs do not say more
    than their recipe."""
    weak = run.setting("supervision") in ("tags", "mixed")
    first = (run.setting("networks") or ["classifier"])[0]
    found = {}
    for name, part, stage in (
        ("classifier", "classifier", first),
        ("IRNet", "irn", "irnet"),
        ("AffinityNet", "psa", "affinity"),
        ("model", "model", "segmenter"),
    ):
        if part == "model" and not has_segmenter(run):
            continue
        kept = run.setting(f"{part}.pretrained") if weak or part == "model" else None
        record = run.weights.get(stage)
        if part == "classifier":
            kept = run.provenance.get("pretrained") or kept
            record = record or run.provenance.get(PRETRAINED)
        if kept not in (None, False, "classifier"):
            found[name] = weights_words(record) if record else "timm default" if kept is True else str(kept)
    return found


def stage_rows(run: RunContents) -> list[dict[str, Any]]:
    """Stages with their times, in order; `share` is of the longest one."""
    longest = max((float(stage.get("seconds") or 0) for stage in run.stages.values()), default=0) or 1
    return [
        {
            "name": STAGES.get(name, str(stage.get("title") or name)),
            "time": duration(float(stage.get("seconds") or 0)),
            "seconds": float(stage.get("seconds") or 0),
            "share": float(stage.get("seconds") or 0) / longest,
            "finished": bool(stage.get("finished", True)),
        }
        for name, stage in run.stages.items()
    ]


def facts(run: RunContents) -> list[tuple[str, str]]:
    """Command, versions, machine, and the artefact's own record."""
    rows = [("Command", _text(run.facts.get("command"), " ")), ("Started", _text(run.facts.get("started")))]
    rows += [("maskwright", _text(run.facts.get("version"))), ("Random seed", _text(run.facts.get("seed")))]
    machine = run.facts.get("machine")
    pairs = machine.items() if isinstance(machine, dict) else [("machine", machine)]
    rows += [(str(key).capitalize(), _text(value)) for key, value in pairs]
    if run.facts.get("processes", 1) != 1:
        rows.append(("Processes", _text(run.facts["processes"])))
    rows += [(f"Weights of {name}", words) for name, words in pretrained_words(run).items()]
    return [(key, text) for key, text in rows if text]


def provenance_rows(run: RunContents) -> list[tuple[str, str]]:
    return [(key.replace("_", " "), _text(value)) for key, value in run.provenance.items() if key != "labels"]


def duration(seconds: float) -> str:
    """Seconds as a person says them: 4.2 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def percent(share: float | None) -> str:
    """A share times 100 with one decimal."""
    return "–" if share is None else f"{100 * share:.1f}"


def _counted(root: Any, split: Any, count: Any) -> str:
    words = f"{root}, {split}" if root else str(split)
    return f"{words}: {count:,} images" if isinstance(count, int) else words


def _text(value: Any, separator: str = ", ") -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple) and not any(isinstance(item, dict | list) for item in value):
        return separator.join(map(str, value))
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
