"""A run's own training images, labelled again by its model among the classes that their tags name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskwright.data import Dataset
from maskwright.data.provenance import against
from maskwright.engine.checkpoint import PRETRAINED
from maskwright.engine.device import freed_memory_kept
from maskwright.engine.progress import track
from maskwright.engine.weights import weights_of
from maskwright.errors import DataError
from maskwright.files import read_json, remove_unfinished
from maskwright.inference.load import load
from maskwright.inference.predict import Predictor
from maskwright.inference.tagged import how_many_tagged
from maskwright.inference.views import prefetched
from maskwright.pipeline.evaluate import check_classes, open_run_data, recipe_with
from maskwright.runs.contents import stored_recipe
from maskwright.runs.context import RunContext
from maskwright.runs.folder import CLASSES, MASKS, PROVENANCE, RunFolder
from maskwright.settings import Recipe
from maskwright.version import __version__
from maskwright.weak.labels import best_two
from maskwright.weak.pseudo_masks import FORMAT, Result, begin, finish, judged, write_one, written

METHOD = "relabel"  # what the record of such a folder calls it


def relabel(where: Path, overrides: Sequence[str], *, out: str | None = None, device: str = "auto") -> Iterator[str]:
    """Predict the training images of a run whose tags are known, and write the masks as pseudo-masks.

    No mask is read but for the scores. The same call again resumes where it was stopped.

    Args:
        where: a run folder with a finished model.
        overrides: `data=...`, where the images are now, and other settings of the recipe's `data` and `inference`.
        out: the folder to write to, laid out as the pseudo-masks of a run; default `RUN/relabelled`.
        device: where to compute.

    Yields:
        What is done, in sentences.

    Raises:
        DataError: no model, images that are not where they were, no tags, or a folder that holds something else.
    """
    run = RunFolder(where)
    fields = stored_recipe(run)
    recipe = recipe_with(fields, list(overrides))
    predictor = load(where, device=device, settings=recipe.inference)
    dataset = open_run_data(run, RunContext(recipe, run, lambda line: None), "train")
    check_classes(dataset, predictor, recipe)
    tags = [dataset.tags(index) for index in range(len(dataset))]
    chosen = [index for index, known in enumerate(tags) if known is not None]
    if not chosen:
        raise DataError(
            f"no tags are known of the {len(dataset)} images of {recipe.data.root}, split {recipe.data.train!r}. Give "
            "tags=FILE, or predict them without: maskwright predict RUN IMAGES"
        )
    folder = run.relabelled if out is None else Path(out)
    _check_folder(folder)
    yield how_many_tagged(tags, str(dataset.source.get("tag_source")), "left out")
    remove_unfinished(folder)
    begin(folder, _record(run, fields, recipe, dataset, predictor))
    with freed_memory_kept(predictor.device):
        done = prefetched(
            lambda item: _kept(dataset, folder, *item),
            _predicted(predictor.for_many(), dataset, chosen, folder),
            workers=2,
            ahead=4,
        )
        scores = finish(dataset, chosen, (future.result() for future in done), folder, {})
    if scores["miou"] is not None:
        on = f"{scores['split']} ({scores['images_judged']} images)"
        yield ", ".join(filter(None, [f"mIoU {scores['miou']:.4f} on {on}", against(dataset.source)]))
    yield f"written to {folder}"
    yield (
        f"to train on them: supervision=masks masks={folder / MASKS} masks_are=pseudo-masks classes={folder / CLASSES}"
    )


def _check_folder(folder: Path) -> None:
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    record = read_json(folder / PROVENANCE) if (folder / PROVENANCE).is_file() else None
    if not (isinstance(record, dict) and record.get("method") == METHOD):
        raise DataError(
            f"{folder} holds files already, and no {PROVENANCE} in it says that maskwright relabel made them. Expected "
            "a folder that is empty or was made by it, so that nothing is overwritten. Fix: choose another out="
        )


def _record(
    run: RunFolder, fields: dict[str, Any], recipe: Recipe, dataset: Dataset, predictor: Predictor
) -> dict[str, Any]:
    """What `provenance.json` says: of the model, of the tags, and of the masks that the model learned from."""
    learned = read_json(run.provenance) if run.provenance.is_file() else {}
    supervision = fields.get("supervision")
    real = supervision == "mixed" or (supervision == "masks" and not recipe.data.masks_are)
    crfs = [learned.get("crf"), recipe.inference.crf and f"model: {recipe.inference.crf}"]
    source = dict(dataset.source)
    return {
        "format": FORMAT,
        "method": METHOD,
        **predictor.made_by(),
        "inference": recipe.inference.model_dump(mode="json", exclude={"batch_size"}),
        "tag_source": source.get("tag_source", source.get("tags")),
        "tags_read": "no class but those of an image's tags and the background is in its mask",
        "source": source,
        "learned_from": learned or supervision,
        "pretrained": fields.get("model", {}).get("pretrained"),
        PRETRAINED: weights_of(run.model("segmenter")),
        "saliency": recipe.data.saliency,
        "crf": ", ".join(filter(None, crfs)) or False,
        "threshold": learned.get("threshold"),
        "ground_truth_tuned": [*learned.get("ground_truth_tuned", []), *(["model"] if real else [])],
        "unsure_below": 0.0,
        "confidence": "margin of the highest probability over the next; 255 = 1",
        "labels": dataset.labels.to_dict(),
        "maskwright": __version__,
    }


def _predicted(
    predictor: Predictor, dataset: Dataset, chosen: Sequence[int], folder: Path
) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
    """Each image with its mask and 255 times the confidence, `(H, W)` uint8 each; None where both are written."""
    for index in track(chosen, title="relabelling", total=len(chosen)):
        if (mask := written(folder, dataset.names[index])) is not None:
            yield index, mask, None
        else:
            image = dataset.get(index, with_mask=False).image
            best, mask, second = best_two(predictor.of_pixels(image, tags=dataset.tags(index)))
            yield index, mask, np.rint(255 * np.clip(best - second, 0, 1)).astype(np.uint8)


def _kept(dataset: Dataset, folder: Path, index: int, mask: np.ndarray, grey: np.ndarray | None) -> Result:
    if grey is not None:
        write_one(folder, dataset.names[index], mask, grey, dataset.labels)
    return judged(dataset, index, mask)
