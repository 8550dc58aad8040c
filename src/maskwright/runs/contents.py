"""What a run folder holds: whatever is there, and nothing for what is not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from maskwright.data.sample import LabelSpace
from maskwright.engine.weights import weights_of
from maskwright.errors import DataError
from maskwright.files import read_json
from maskwright.runs.folder import COMPRESSED, RunFolder
from maskwright.settings.old_names import with_new_names

# Names of stages where a shorter one than the stage's own title will do.
STAGES = {
    "classifier": "Train the tag classifier",
    "seeds": "Seed maps",
    "pseudo_masks": "Pseudo-masks",
    "segmenter": "Train the segmenter",
    "evaluation": "Evaluate the segmenter",
    "oracle": "Train the fully supervised model",
    "oracle_evaluation": "Evaluate the fully supervised model",
}

_WRITES_IT = "give the command of the run again, which writes it"


@dataclass(frozen=True)
class RunContents:
    """The parts of a run folder; every part that does not exist is empty.

    Args:
        folder: the run folder.
        recipe: the resolved recipe's fields, and its text as written.
        facts: run.json.
        stages: stage folder -> stage.json, in the order in which stages run.
        logs: network folder -> the lines of its log.jsonl.
        pseudo_masks: pseudo_masks/scores.json.
        provenance: pseudo_masks/provenance.json.
        scores: "pseudo_masks", "segmenter", "oracle" -> its scores with "split" and "source".
        expected: rows of `maskwright.pipeline.expected.compare`.
        reviewed: what people decided about the pseudo-masks that the model learned from, in words.
        weights: network folder -> the record of the pre-trained weights that its model began with.
        tag_agreement: how far the model's predictions agree with tags, as `inference.tag_agreement` writes it.
        image_scores: "evaluation", "oracle_evaluation" -> sample name -> its line of images.json.
    """

    folder: RunFolder
    recipe: dict[str, Any]
    recipe_text: str
    facts: dict[str, Any]
    stages: dict[str, dict[str, Any]]
    logs: dict[str, list[dict[str, Any]]]
    pseudo_masks: dict[str, Any]
    provenance: dict[str, Any]
    scores: dict[str, dict[str, Any]]
    expected: list[dict[str, Any]]
    reviewed: str
    weights: dict[str, dict[str, Any]]
    tag_agreement: dict[str, Any]
    image_scores: dict[str, dict[str, dict[str, Any]]]

    def setting(self, path: str, default: Any = None) -> Any:
        """A recipe field by its dotted path."""
        value: Any = self.recipe
        for part in path.split("."):
            if not isinstance(value, dict) or part not in value:
                return default
            value = value[part]
        return value

    @property
    def refined(self) -> dict[str, str]:
        """Stages whose maps stand between seeds and pseudo-masks, and how a column of them is called."""
        labels = {name: stage.get("label") or _old_label(name) for name, stage in self.stages.items()}
        return {name: label for name, label in labels.items() if label}


def _old_label(stage: str) -> str:
    """How the maps of a stage are called that was made before stages said so."""
    word, _, times = stage.partition("-")
    known = {"irn": "IRN", "crf": "CRF", "saliency": "saliency"}
    return f"{known[word]} {times}".rstrip() if word in known else ""


def read_run(folder: str | PathLike[str]) -> RunContents:
    """Read the parts of a run folder that a report shows; missing parts are empty.

    Raises:
        DataError: a JSON file that is there is not JSON, or the recipe is damaged.
    """
    folder = RunFolder(folder)
    recipe = stored_recipe(folder) if folder.recipe.is_file() else {}
    recipe_text = folder.recipe.read_text(encoding="utf-8") if recipe else ""
    stages = folder.records()
    trained = [f"{name}{phase}" for name in stages for phase in (f"/{COMPRESSED}", "")]
    logs = {name: read_log(folder.log(name)) for name in trained}
    pseudo_masks = _json(folder.mask_scores)
    metrics = _json(folder.metrics)
    scores = {
        "pseudo_masks": _flat({**pseudo_masks, **(metrics.get("pseudo_masks") or {})}),
        "segmenter": _flat({**_json(folder.evaluation()), **(metrics.get("segmenter") or {})}),
        "oracle": _flat({**_json(folder.evaluation("oracle_evaluation")), **(metrics.get("oracle") or {})}),
    }
    return RunContents(
        folder=folder,
        recipe=with_new_names(recipe),
        recipe_text=recipe_text,
        facts=_json(folder.facts),
        stages={name: stage for name, stage in stages.items() if stage},
        logs={name: lines for name, lines in logs.items() if lines},
        pseudo_masks=pseudo_masks,
        provenance=_json(folder.provenance),
        scores={name: score for name, score in scores.items() if score.get("miou") is not None},
        expected=metrics.get("expected") or [],
        reviewed=str(metrics.get("reviewed") or ""),
        weights={name: record for name in stages if (record := weights_of(folder.model(name)))},
        tag_agreement=_json(folder.tag_agreement()),
        image_scores={
            name: {line["name"]: line for line in _list(folder.image_scores(name))}
            for name in ("evaluation", "oracle_evaluation")
        },
    )


def stored_recipe(run: RunFolder) -> dict[str, Any]:
    """The fields of a run's recipe, as its file has them.

    Raises:
        DataError: there is none, or it is damaged.
    """
    if not run.recipe.is_file():
        raise DataError(f"{run} is not a run folder: {run.recipe} does not exist")
    try:
        fields = yaml.safe_load(run.recipe.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{run.recipe} is damaged ({error}); {_WRITES_IT}") from error
    if not isinstance(fields, dict):
        raise DataError(f"{run.recipe} is damaged (it holds no keys and values); {_WRITES_IT}")
    return fields


def read_log(path: Path) -> list[dict[str, Any]]:
    """Lines of a JSONL log; a last line that was cut short when a run was stopped is left out."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


def run_labels(run: RunContents) -> LabelSpace | None:
    """The label space of the pseudo-masks on disk, for a report without a dataset; None where nothing names it."""
    kept = run.provenance.get("labels")
    if isinstance(kept, dict) and {"names", "background", "ignore_index", "palette"} <= set(kept):
        return LabelSpace.from_dict(kept)
    names: tuple[str, ...] = ()
    for score in run.scores.values():
        names = names or tuple(score.get("per_class") or ())
    if run.folder.classes.is_file():
        names = tuple(line for line in run.folder.classes.read_text(encoding="utf-8").splitlines() if line.strip())
    if not names:
        return None
    background = names.index("background") if "background" in names else None
    ignore = run.setting("data.ignore_index", 255)
    return LabelSpace(names, background=background, ignore_index=ignore, palette=_stored_palette(run, len(names)))


def _stored_palette(run: RunContents, count: int) -> tuple[tuple[int, int, int], ...]:
    for folder in (run.folder.masks, run.folder.predictions()):
        path = next(folder.rglob("*.png"), None)
        if path is None:
            continue
        with Image.open(path) as image:
            flat = image.getpalette() if image.mode == "P" else None
        if flat and len(flat) >= 3 * count:
            return tuple((flat[3 * k], flat[3 * k + 1], flat[3 * k + 2]) for k in range(count))
    return ()


def _json(path: Path) -> dict[str, Any]:
    value = read_json(path) if path.is_file() else {}
    return value if isinstance(value, dict) else {}


def _list(path: Path) -> list[dict[str, Any]]:
    value = read_json(path) if path.is_file() else []
    return value if isinstance(value, list) else []


def _flat(score: dict[str, Any]) -> dict[str, Any]:
    """Scores kept under "scores" beside their facts, as one dictionary."""
    inner = score.get("scores")
    return {**score, **inner} if isinstance(inner, dict) else score
