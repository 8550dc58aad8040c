"""What a person is shown of a run's pseudo-masks, and what is kept of what they decide; nothing here knows of HTTP."""

from __future__ import annotations

import getpass
import io
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskwright.data.dataset import Dataset
from maskwright.data.decisions import OPEN, STATES, Decision, read_decision, read_decisions, write_decision
from maskwright.data.decode import as_rgb
from maskwright.data.masks import allowed_values
from maskwright.errors import DataError
from maskwright.pipeline.evaluate import open_run_data, recipe_with
from maskwright.pipeline.export import Masks, doubt_of, kept_masks, most_uncertain
from maskwright.pipeline.review.regions import regions_of
from maskwright.runs.contents import stored_recipe
from maskwright.runs.context import RunContext
from maskwright.runs.folder import RunFolder

QUALITY = 92  # of the JPEG that is shown


class Review:
    """The pseudo-masks of a run in the order in which a person sees them.

    Args:
        folder: where decisions are kept.
        title: what the page is called.
        dataset: of the images.
        masks: gives the pseudo-mask of an image.
        order: indices of the images, the least certain first.
    """

    def __init__(self, folder: Path, title: str, dataset: Dataset, masks: Masks, order: Sequence[int]) -> None:
        self.folder, self.title, self.dataset, self.masks, self.order = folder, title, dataset, masks, list(order)
        self.user = _user()

    def __len__(self) -> int:
        return len(self.order)

    def overview(self) -> dict[str, Any]:
        """The classes with their colours, and every image with its state."""
        labels, decided = self.dataset.labels, read_decisions(self.folder)
        names = [self.dataset.names[index] for index in self.order]
        return {
            "title": self.title,
            "classes": list(labels.names),
            "colours": [list(colour) for colour in labels.palette],
            "background": labels.background,
            "ignore": labels.ignore_index,
            "images": [{"name": name, "state": decided.get(name, Decision(name)).state} for name in names],
        }

    def image(self, number: int) -> bytes:
        """An image as a JPEG, upright and in RGB."""
        pixels = as_rgb(self.dataset.get(self.order[number], with_mask=False).image)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "jpeg", quality=QUALITY)
        return stream.getvalue()

    def regions(self, number: int) -> dict[str, Any]:
        """Regions of one colour of an image, which are filled with a click; maybe of a smaller copy of it."""
        found = regions_of(as_rgb(self.dataset.get(self.order[number], with_mask=False).image))
        return {"height": found.shape[0], "width": found.shape[1], "runs": runs_of(found)}

    def shown(self, number: int) -> dict[str, Any]:
        """What is known of an image: tags, pseudo-mask, and the decision with the mask that was painted, if any."""
        index = self.order[number]
        decision = read_decision(self.folder, self.dataset.names[index])
        mask, certainty = self.masks(index)
        tags = self.dataset.tags(index)
        painted = None if decision.mask is None else np.array(Image.open(io.BytesIO(decision.mask)))
        if painted is not None and painted.shape != mask.shape:
            painted = None  # of other images than today's
        return {
            **_facts(decision),
            "height": mask.shape[0],
            "width": mask.shape[1],
            "doubt": round(doubt_of(mask, certainty, tags), 4),
            "tags": None if tags is None else [self.dataset.labels.names[value] for value in tags],
            "pseudo": runs_of(mask),
            "painted": None if painted is None else runs_of(painted),
        }

    def save(self, number: int, given: Any) -> dict[str, Any]:
        """Keep what a person decided about an image.

        Args:
            number: of the image, in the order in which they are shown.
            given: `version` that it follows, `state`, the classes `removed` and `added`, and `painted`, the mask as
                `runs_of` gives it, or None.

        Returns:
            The decision as it is kept.

        Raises:
            DataError: what was given cannot be a decision about this image.
            Older: somebody has saved another version meanwhile; nothing is written.
        """
        index = self.order[number]
        name, labels = self.dataset.names[index], self.dataset.labels
        if not isinstance(given, dict) or type(given.get("version")) is not int or given.get("state") not in STATES:
            raise DataError(f"expected a version and a state among {', '.join(STATES)}")
        removed, added = (_classes(given.get(key), labels.tag_names, key) for key in ("removed", "added"))
        pseudo, _ = self.masks(index)
        mask = None if given.get("painted") is None else mask_of(given["painted"], pseudo.shape)
        if mask is not None and not allowed_values(labels)[mask].all():
            raise DataError(f"painted: a value that is no class; there are 0 to {labels.num_classes - 1}")
        if mask is not None and np.array_equal(mask, pseudo):
            mask = None  # so that looking at a mask and finding it right makes no training stale
        when = datetime.now(timezone.utc).isoformat(timespec="seconds")
        decision = Decision(name, given["state"], removed, added, None, given["version"], self.user, when)
        return _facts(write_decision(self.folder, decision, labels, mask))


def open_review(where: Path, overrides: Sequence[str], n: int) -> Review:
    """The pseudo-masks of a run, the least certain first.

    Args:
        where: a run folder.
        overrides: `data=...`, where the images are now, and other settings of the recipe's `data`.
        n: how many of those that nobody has decided about; the others come after them.

    Raises:
        DataError: no run, images that are not where they were, or no pseudo-masks.
    """
    run = RunFolder(where)
    fields = stored_recipe(run)
    recipe = recipe_with(fields, list(overrides), ("data",))
    context = RunContext(recipe, run, lambda line: None)
    if not run.mask_scores.is_file():  # the last thing that is written of them
        raise DataError(f"{run} has no pseudo-masks to review; make them first: maskwright label DATA out={run}")
    dataset = open_run_data(run, context, "train")
    kept, masks = kept_masks(context, dataset, recipe.data.train)
    mixed = fields.get("supervision") == "mixed"
    kept = [index for index in kept if not (mixed and dataset.has_mask(index))]
    if not kept:
        raise DataError(
            f"{run} has no pseudo-mask of an image of split {recipe.data.train!r} without a mask of its own"
        )
    decided = {name for name, said in read_decisions(run.review).items() if said.state != OPEN}
    left = [index for index in kept if dataset.names[index] not in decided]
    order = most_uncertain(dataset, left, masks, n) if left else []
    order += [index for index in kept if dataset.names[index] in decided]
    return Review(run.review, run.path.resolve().name, dataset, masks, order)


def runs_of(mask: np.ndarray) -> list[int]:
    """A mask, or a map of regions, row by row as value, count, value, count, ..."""
    flat = mask.ravel()
    begins = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    counts = np.diff(np.append(begins, flat.size))
    return np.stack([flat[begins].astype(np.int64), counts], 1).ravel().tolist()


def mask_of(runs: Any, size: tuple[int, ...]) -> np.ndarray:
    """The mask `(H, W)` uint8 that `runs_of` gave as a list.

    Raises:
        DataError: no list of whole numbers, values above 255, or counts that do not add up.
    """
    pixels = size[0] * size[1]
    if not isinstance(runs, list) or len(runs) % 2 or any(type(number) is not int for number in runs):
        raise DataError("painted: expected a list of value, count, value, count, ...")
    values, counts = runs[::2], runs[1::2]
    if any(not 0 <= value <= 255 for value in values) or any(not 0 < count <= pixels for count in counts):
        raise DataError(f"painted: expected values 0 to 255 and counts 1 to {pixels}")
    if sum(counts) != pixels:
        raise DataError(f"painted: expected {size[0]} x {size[1]} = {pixels} pixels, found {sum(counts)}")
    return np.repeat(np.array(values, np.uint8), counts).reshape(size)


def _classes(given: Any, names: Sequence[str], key: str) -> tuple[str, ...]:
    if not isinstance(given, list) or any(name not in names for name in given):
        raise DataError(f"{key}: expected a list of classes, among {', '.join(names[:8])}")
    return tuple(sorted(set(given)))


def _facts(decision: Decision) -> dict[str, Any]:
    fields = ("name", "state", "version", "who", "when", "removed", "added")
    return {key: getattr(decision, key) for key in fields}


def _user() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # a user number without a name, as in containers
        return "somebody"
