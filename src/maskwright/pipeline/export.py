"""Masks of a run, or of a data set, written as other tools read them: `maskwright export`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from maskwright.data import Dataset, open_dataset
from maskwright.data.decisions import OPEN, REJECTED, Decision, corrected, read_decisions
from maskwright.data.decode import as_rgb
from maskwright.data.finding import number_of
from maskwright.data.images import image_size
from maskwright.data.masks import read_mask
from maskwright.data.names import split_word
from maskwright.engine.progress import track
from maskwright.errors import DataError, RecipeError, unknown_name
from maskwright.formats import check, write
from maskwright.formats.export import Example, Export
from maskwright.pipeline.evaluate import check_classes, open_run_data, recipe_with
from maskwright.runs.contents import stored_recipe
from maskwright.runs.context import RunContext
from maskwright.runs.folder import RunFolder
from maskwright.settings import DataSettings
from maskwright.weak.one_pass.stage import with_part_masks

SELECTIONS = ("all", "uncertain")

# The mask of one image by its index, and how sure it is: 255 where it is, None where nobody knows.
Masks = Callable[[int], tuple[np.ndarray, np.ndarray | None]]


def export_run(
    where: Path,
    overrides: Sequence[str],
    written_as: str,
    out: str,
    *,
    split: str | None = None,
    which: str | None = None,
    select: str = "all",
    n: int = 50,
    device: str = "auto",
) -> list[str]:
    """Write the masks that a run made for another tool.

    Args:
        where: a run folder.
        overrides: `data=...`, where the images are now, and other settings of the recipe's `data` and `inference`.
        written_as: name of the format.
        out: the folder to write to.
        split: whose images; default the training split where the run has pseudo-masks, else the evaluation split.
        which: `pseudo-masks` or `predictions`; default pseudo-masks, where the run has them of that split.
        select: all, or uncertain: the `n` images most worth correcting, the first the most.
        n: how many.
        device: where predictions are computed.

    Returns:
        What was written, in sentences.

    Raises:
        DataError: no such masks, images that are not where they were, or what `formats.write` refuses.
        RecipeError: a selection or a kind of masks that does not exist.
    """
    check(written_as, out)
    if select not in SELECTIONS:
        raise RecipeError(unknown_name("selection", select, SELECTIONS))
    if which not in (None, "pseudo-masks", "predictions"):
        raise RecipeError(unknown_name("kind of masks", str(which), ("pseudo-masks", "predictions")))
    run = RunFolder(where)
    fields = stored_recipe(run)
    mixed = fields.get("supervision") == "mixed"
    recipe = recipe_with(fields, list(overrides))
    weak = run.masks.is_dir()
    split = split or (recipe.data.train if weak else recipe.data.val)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"val": split})})
    context = RunContext(recipe, run, lambda line: None)
    dataset = open_run_data(run, context, "val")
    kept, masks = kept_masks(context, dataset, split)
    decisions = read_decisions(run.review)
    which = which or ("pseudo-masks" if weak and kept else "predictions")
    if which == "pseudo-masks":
        rejected = {name for name, said in decisions.items() if said.state == REJECTED}
        chosen, masks = [i for i in kept if dataset.names[i] not in rejected], as_reviewed(dataset, masks, decisions)
        if not chosen:
            raise DataError(
                f"{run} has no pseudo-mask of an image of split {split!r}; give split=, or which=predictions for the "
                "model's masks"
            )
    else:
        from maskwright.inference.load import load

        predictor = load(where, device=device)
        predictor.settings = recipe.inference
        check_classes(dataset, predictor, recipe)
        chosen, masks = list(range(len(dataset))), partial(_prediction, predictor.for_many(), dataset)
    if select == "uncertain":
        # What people have corrected already, and the run has trained on, is not asked for again.
        decided = {name for name, said in decisions.items() if said.state != OPEN}
        open_ones = [
            index for index in chosen if not (mixed and dataset.has_mask(index)) and dataset.names[index] not in decided
        ]
        chosen = most_uncertain(dataset, open_ones, masks, n)
    made_by = {"run": str(run.path.resolve()), "split": split, "select": select}
    return _write(dataset, split, which, chosen, masks, written_as, out, made_by)


def export_data(settings: DataSettings, written_as: str, out: str, *, split: str | None = None) -> list[str]:
    """Write the masks of a data set for another tool; images without one are left out.

    Args:
        settings: of the data set.
        written_as: name of the format.
        out: the folder to write to.
        split: whose images; default all of a folder, else the training split.

    Returns:
        What was written, in sentences.

    Raises:
        DataError: no masks, or what `formats.write` refuses.
    """
    check(written_as, out)
    dataset = open_dataset(settings, split or settings.train)
    chosen = [index for index in range(len(dataset)) if dataset.has_mask(index)]
    if not chosen:
        raise DataError(
            f"none of the {len(dataset)} images of {settings.root}, split {split or settings.train!r}, has a mask. "
            "Fix: give masks=FOLDER, another split=, or a run folder for the masks that it made"
        )
    what = settings.masks_are or "ground truth"
    return _write(dataset, split or settings.train, what, chosen, partial(_mask, dataset), written_as, out, {})


def most_uncertain(dataset: Dataset, chosen: Sequence[int], masks: Masks, n: int) -> list[int]:
    """The images most worth correcting, the first the most: whose pixels are least sure on average.

    Args:
        dataset: of the images.
        chosen: indices among which to choose.
        masks: gives how sure each pixel is.
        n: how many.

    Raises:
        DataError: there are none to choose among.
    """
    if not chosen:
        raise DataError(
            "select=uncertain leaves out images whose own mask was trained on and those that were reviewed, which all "
            "of them are"
        )
    doubt = {index: doubt_of(*masks(index), dataset.tags(index)) for index in track(chosen, title="choosing")}
    return sorted(chosen, key=lambda index: (-doubt[index], dataset.names[index]))[:n]


def doubt_of(mask: np.ndarray, certainty: np.ndarray | None, tags: Sequence[int] | None) -> float:
    """How much a mask is worth correcting, 0 to 1 and more: its mean doubt, and 1 for every tag that it has lost.

    Args:
        mask: `(H, W)` uint8.
        certainty: `(H, W)` uint8, 255 where it is sure; None where nobody knows.
        tags: label values said to be in the image; None where nobody said.
    """
    doubt = 0.0 if certainty is None else 1 - float(certainty.mean()) / 255
    present = set(np.unique(mask).tolist())
    return doubt + sum(tag not in present for tag in tags or ())


def as_reviewed(dataset: Dataset, masks: Masks, decisions: Mapping[str, Decision]) -> Masks:
    """Pseudo-masks as people want them, who are sure of what they painted."""

    def reviewed(index: int) -> tuple[np.ndarray, np.ndarray | None]:
        mask, certainty = masks(index)
        decision = decisions.get(dataset.names[index])
        if decision is None or not decision.counts:
            return mask, certainty
        sure = np.full_like(mask, 255) if decision.mask is not None else certainty
        return corrected(mask, decision, dataset.labels), sure

    return reviewed


def kept_masks(context: RunContext, dataset: Dataset, split: str) -> tuple[list[int], Masks]:
    """The images of a split whose pseudo-masks a run has, and what gives them."""
    run = context.out
    if context.one_pass is not None and context.has_shards and split == context.recipe.data.train:
        parts = with_part_masks(context, dataset, ())

        def in_parts(index: int) -> tuple[np.ndarray, np.ndarray | None]:
            mask, confidence = parts.stored("mask", index), parts.stored("confidence", index)
            assert mask is not None
            return read_mask(mask), None if confidence is None else read_mask(confidence)

        return [index for index in range(len(dataset)) if parts.has_mask(index)], in_parts
    found = [index for index, name in enumerate(dataset.names) if (run.masks / f"{name}.png").is_file()]
    return found, partial(pseudo_mask, run, dataset)


def pseudo_mask(run: RunFolder, dataset: Dataset, index: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The pseudo-mask `(H, W)` uint8 of an image, and its confidence, 255 where it is sure; None where none is kept."""
    name = dataset.names[index]
    confidence = run.confidence / f"{name}.png"
    return read_mask(run.masks / f"{name}.png"), read_mask(confidence) if confidence.is_file() else None


def _prediction(predictor: Any, dataset: Dataset, index: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The model's mask; it is sure where the entropy of its probabilities is low."""
    prediction = predictor(dataset.get(index, with_mask=False).image, probabilities=True)
    found = prediction.probabilities
    entropy = -(found * np.log(np.maximum(found, 1e-12))).sum(0) / np.log(max(2, len(found)))
    return prediction.mask, np.rint(255 * (1 - np.clip(entropy, 0, 1))).astype(np.uint8)


def _mask(dataset: Dataset, index: int) -> tuple[np.ndarray, np.ndarray | None]:
    mask = dataset.mask(index)
    assert mask is not None
    return mask, None


def _write(
    dataset: Dataset,
    split: str,
    what: str,
    chosen: Sequence[int],
    masks: Masks,
    written_as: str,
    out: str,
    made_by: dict[str, Any],
) -> list[str]:
    paths = dataset.images

    def examples() -> Iterator[Example]:
        for index in track(chosen, title="exporting", total=len(chosen)):
            mask, certainty = masks(index)
            path = None if paths is None else paths[index]
            if path is not None and (size := image_size(path)) != mask.shape:
                raise DataError(
                    f"{dataset.names[index]}: its mask is {mask.shape}, its image {path} {size} (height, width); the "
                    "images are not those that the masks were made from"
                )
            pixels = partial(_pixels, dataset, index)
            yield Example(dataset.names[index], path, pixels, mask, certainty, dataset.tags(index))

    name = split_word(split)
    said = write(Export(dataset.labels, name, what, examples, len(chosen), made_by), written_as, out)
    rest = len(dataset) - len(chosen)
    left = f"; {rest} of the split were left out" if rest else ""
    return [f"{number_of(len(chosen), 'image')} of split {split} with {what} written to {out}{left}", *said]


def _pixels(dataset: Dataset, index: int) -> np.ndarray:
    return as_rgb(dataset.get(index, with_mask=False).image)
