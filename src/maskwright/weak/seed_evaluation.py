"""How good maps and masks are, stage by stage: against ground truth where there is any, and by their own signs.

Of each image every stage's file is read once, and one count of its pixels gives every threshold. With ground truth:
threshold curves, false positives and negatives per class, single-label against multi-label images (ReCAM, figure 6b).
Without: tags that vanished, boundaries, areas; `seed_signs.DEFINITIONS` says what each number is. Such signs do not
find a class that is wrong everywhere in the same way.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskwright.data.dataset import Dataset
from maskwright.data.masks import read_mask
from maskwright.data.sample import LabelSpace
from maskwright.engine.progress import track
from maskwright.errors import DataError, RecipeError
from maskwright.files import read_arrays, write_json
from maskwright.inference.prefetch import prefetched
from maskwright.metrics import ConfusionMatrix, end_of_sweep
from maskwright.runs.folder import MASKS, SEED_EVALUATION, RunFolder
from maskwright.settings import MaskSettings
from maskwright.weak.labels import add_confusion, best_two, count_above, sweep, sweep_row, winner_labels
from maskwright.weak.pseudo_masks import judge_mask, mask_path, sweep_thresholds
from maskwright.weak.seed_signs import (
    DEFINITIONS,
    area_prior,
    boundary_agreement,
    edge_strength,
    labelled_shares,
    mean_agreement,
)
from maskwright.weak.seeds.extract import load_maps

MOST_OUTLIERS = 100  # that the file names of each stage
GROUPS = ("untagged", "single_label", "multi_label")


def evaluate_seeds(
    dataset: Dataset, stages: dict[str, Path], settings: MaskSettings, folder: str | Path, **extra: Any
) -> dict[str, Any]:
    """Evaluate every stage's maps or masks and write `seed_evaluation.json`. Call it in one process.

    Args:
        dataset: images and tags, and ground truth where there is any; images of which nobody said what they show are
            left out.
        stages: stage name -> folder of `NAME.npz` maps, or the pseudo-mask artefact's, in the order they were made.
        settings: the default threshold, and the sweep. With "best" the maps of the last stage are read once more.
        folder: gets the file.
        **extra: kept in the file as it is, such as `stability`.

    Returns:
        What is written: `split`, `images`, `images_judged`, `threshold`, `threshold_from`, `definitions`, and `stages`,
        for each of which `kind` (maps or masks), `sweep` (rows as of `seeds.sweep`, None without ground truth, with
        `vanished`, the share of the tags without a pixel, and `foreground`), `best_threshold`, `default` and `best`
        (scores at that threshold: those of a row, `per_class`, `single_label`, `multi_label`; None without ground
        truth), and, at the default threshold, `tag_consistency`, `vanished_tags`, `boundary_agreement`, `labelled`,
        `border`, `area`, `outliers`.

    Raises:
        DataError: maps or masks are missing or do not fit, or no image has known tags.
        RecipeError: threshold "best" without ground truth or maps, or a sweep that has no steps.
    """
    chosen = [index for index in range(len(dataset)) if dataset.tags(index) is not None]
    if not chosen:
        raise DataError("seeds are evaluated on images whose tags are known, found none; give tags=FILE (CSV or JSON)")
    swept = sweep_thresholds(settings)
    default = _default_threshold(dataset, stages, settings, swept)
    thresholds = np.unique(np.asarray([*swept, default], np.float64))
    tables = {name: _Table(dataset, thresholds, default, _is_masks(Path(where))) for name, where in stages.items()}

    def work(index: int) -> list[_Found]:
        sample = dataset[index]
        truth = sample.mask if dataset.has_mask(index) else None
        edges = edge_strength(sample.image)
        return [_look(Path(where), sample.name, truth, edges, tables[name]) for name, where in stages.items()]

    threads = min(4, os.cpu_count() or 1)
    counted = prefetched(work, chosen, workers=threads, ahead=2 * threads)
    done = track(counted, title="evaluating seeds", total=len(chosen))
    for index, found in zip(chosen, done, strict=True):
        for table, entry in zip(tables.values(), found.result(), strict=True):
            table.add(index, entry)
    masks_are = dict(dataset.source).get("masks_are")
    result = {
        "split": dict(dataset.source).get("split"),
        "images": len(chosen),
        "images_judged": sum(dataset.has_mask(index) for index in chosen),
        "threshold": default,
        "threshold_from": (masks_are or "true masks") if settings.threshold == "best" else "given",
        "definitions": DEFINITIONS,
        "stages": {name: table.summary(swept) for name, table in tables.items()},
        **({"masks_are": masks_are} if masks_are else {}),
        **extra,
    }
    write_json(Path(folder) / SEED_EVALUATION, result)
    return result


def _default_threshold(
    dataset: Dataset, stages: dict[str, Path], settings: MaskSettings, swept: Sequence[float]
) -> float:
    if not isinstance(settings.threshold, str):
        return settings.threshold
    maps = [where for where in stages.values() if not _is_masks(Path(where))]
    rows = [row for row in sweep(dataset, maps[-1], swept) if row["miou"] is not None] if maps else []
    if not rows:
        raise RecipeError("pseudo_masks.threshold=best needs maps and ground truth, found none; give a number")
    return max(rows, key=lambda row: row["miou"])["threshold"]


def _is_masks(where: Path) -> bool:
    return (where / MASKS).is_dir()


@dataclass
class _Found:
    """What one stage shows in one image.

    Args:
        keys: tag position of each map, `(n,)`.
        above: of `count_above`, all ground truth together `(n, T)`; None for a mask.
        counts: confusion counts that are not zero anyway, as `count_above` gives them; `(C, C)` for a mask; or None.
        areas: pixels of each class at the default threshold, `(C,)`.
        pixels: that have a label.
        agreement: `boundary_agreement`.
        labelled: `labelled_shares`.
    """

    keys: np.ndarray
    above: np.ndarray | None
    counts: Any
    areas: np.ndarray
    pixels: int
    agreement: float | str
    labelled: tuple[float, float] | None


class _Table:
    """Sums over the images of one stage."""

    def __init__(self, dataset: Dataset, thresholds: np.ndarray, default: float, masks: bool) -> None:
        self.dataset, self.labels, self.masks = dataset, dataset.labels, masks
        self.thresholds = np.array([default]) if masks else thresholds
        self.default = default
        classes = self.labels.num_classes
        self.counts = np.zeros((len(GROUPS), len(self.thresholds), classes, classes), np.int64)
        self.judged = [0] * len(GROUPS)
        self.vanished = np.zeros(len(self.thresholds), np.int64)
        self.foreground = np.zeros(len(self.thresholds))
        self.areas: dict[int, list[tuple[float, str]]] = {value: [] for value in self.labels.foreground}
        self.agreement: list[float | str] = []
        self.labelled: list[tuple[float, float]] = []
        self.kept = self.extra = self.exact = self.images = 0

    def add(self, index: int, found: _Found) -> None:
        tags = self.dataset.tags(index) or ()
        self.images += 1
        self.agreement.append(found.agreement)
        if tags and found.labelled is not None:
            self.labelled.append(found.labelled)
        if found.counts is not None:
            group = min(len(tags), 2)
            self.judged[group] += 1
            if self.masks:
                self.counts[group, 0] += found.counts
            else:
                above, total = found.counts
                add_confusion(self.counts[group], above, total, found.keys, self.labels)
        pixels = max(found.pixels, 1)
        shown = {value for value in self.labels.foreground if found.areas[value]}
        self.kept += len(shown & set(tags))
        self.extra += len(shown - set(tags))
        self.exact += shown == set(tags)
        for value in tags:
            self.areas[value].append((float(found.areas[value]) / pixels, self.dataset.names[index]))
        if found.above is None:
            self.vanished += len(set(tags) - shown)
            self.foreground += sum(int(found.areas[value]) for value in self.labels.foreground) / pixels
        else:
            mapped = np.isin(np.asarray(self.labels.foreground)[found.keys], tags)
            self.vanished += len(tags) - (found.above[mapped] > 0).sum(0)
            self.foreground += found.above.sum(0) / pixels

    def summary(self, swept: Sequence[float]) -> dict[str, Any]:
        """What the file says of this stage."""
        tags = sum(len(entries) for entries in self.areas.values())
        rows = []
        for place, threshold in enumerate(self.thresholds):
            row: dict[str, Any] = {"threshold": round(float(threshold), 10), "miou": None}
            if any(self.judged):
                row = sweep_row(threshold, ConfusionMatrix.from_matrix(self.counts[:, place].sum(0), self.labels))
            row["vanished"] = int(self.vanished[place]) / tags if tags else None
            row["foreground"] = float(self.foreground[place]) / self.images
            rows.append(row)
        listed = [row for row in rows if row["threshold"] in set(swept)]
        scored = [place for place, row in enumerate(rows) if row["miou"] is not None and row in listed]
        best = max(scored, key=lambda place: rows[place]["miou"]) if scored and not self.masks else None
        used = int(np.searchsorted(self.thresholds, self.default))
        shown = self.kept + self.extra
        return {
            "kind": "masks" if self.masks else "maps",
            "sweep": [] if self.masks else listed,
            "best_threshold": None if best is None else rows[best]["threshold"],
            "default": self._scores(used, rows[used]),
            "best": None if best is None else self._scores(best, rows[best]),
            "tag_consistency": {
                "kept": self.kept / tags if tags else None,
                "extra": self.extra / shown if shown else None,
                "exact": self.exact / self.images,
            },
            "vanished_tags": {
                self.labels.names[value]: [sum(share == 0 for share, _ in entries), len(entries)]
                for value, entries in self.areas.items()
            },
            "boundary_agreement": mean_agreement(self.agreement),
            **dict(zip(("labelled", "border"), np.mean(self.labelled, 0).tolist() if self.labelled else (None, None))),
            **self._areas(),
        }

    def _scores(self, place: int, row: dict[str, Any]) -> dict[str, Any] | None:
        if row["miou"] is None:
            return None
        rates = ConfusionMatrix.from_matrix(self.counts[:, place].sum(0), self.labels).scores()["per_class"]
        truth = self.counts[:, place].sum(2) > 0
        common = truth[1] & truth[2]
        groups = {}
        for group in (1, 2):
            confusion = ConfusionMatrix.from_matrix(self.counts[group, place], self.labels)
            scores = sweep_row(row["threshold"], confusion)
            ious = confusion.rates()["iou"][common]
            groups[GROUPS[group]] = {
                "images": self.judged[group],
                **{key: scores[key] for key in ("miou", "fp", "fn")},
                "miou_common": float(np.mean(ious)) if len(ious) else None,
            }
        return {
            **{key: value for key, value in row.items() if key not in ("vanished", "foreground")},
            "per_class": {
                name: {"iou": rate["iou"], "fp": rate["fp_rate"], "fn": rate["fn_rate"]} for name, rate in rates.items()
            },
            **groups,
        }

    def _areas(self) -> dict[str, Any]:
        """Area prior of every class, and the images that are out of the ordinary, the farthest off first."""
        area: dict[str, Any] = {}
        odd: list[tuple[float, dict[str, Any]]] = []
        for value, entries in self.areas.items():
            name = self.labels.names[value]
            if not entries:
                area[name] = None
                continue
            shares = np.array([share for share, _ in entries])
            area[name], sides = area_prior(shares)
            for side, (share, image) in zip(sides.tolist(), entries, strict=True):
                if side:
                    kind = "nearly nothing" if side < 0 else "nearly everything"
                    odd.append((min(share, 1 - share), {"name": image, "class": name, "share": share, "kind": kind}))
        odd.sort(key=lambda entry: entry[0])
        return {"area": area, "outliers": [entry for _, entry in odd[:MOST_OUTLIERS]]}


def _look(where: Path, name: str, truth: np.ndarray | None, edges: np.ndarray, table: _Table) -> _Found:
    """Read one stage's file of one image, and count it.

    Raises:
        DataError: it is missing or does not fit.
    """
    labels: LabelSpace = table.labels
    counts: Any = None
    if table.masks:
        mask = read_mask(mask_path(where, name))
        _check_size(name, mask.shape, edges.shape)
        if truth is not None:
            confusion = ConfusionMatrix(labels)
            judge_mask(confusion, mask, truth, name)
            counts = confusion.matrix.numpy()
        keys, above = np.zeros(0, np.int64), None
    else:
        keys, maps = load_maps(where, name)
        _check_size(name, maps.shape[1:], edges.shape)
        best, winner = best_two(maps)[:2] if len(maps) else (None, None)
        try:
            found, total = count_above(best, winner, len(keys), truth, table.thresholds, labels)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
        above = found.sum(0)
        if truth is not None:
            # Copies, so that the rows of what is no class do not wait in memory.
            counts = (found[: labels.num_classes].copy(), total[: labels.num_classes].copy())
        if best is None or winner is None:
            empty = labels.ignore_index if labels.background is None else labels.background
            mask = np.full(edges.shape, empty, np.uint8)
        else:
            mask = winner_labels(best, winner, keys, table.default, labels.background, labels.foreground)
    areas = np.bincount(mask.ravel(), minlength=256)[: labels.num_classes]
    agreement = boundary_agreement(mask, edges, labels.ignore_index)
    return _Found(keys, above, counts, areas, int(areas.sum()), agreement, labelled_shares(mask, labels))


def _check_size(name: str, found: tuple[int, ...], image: tuple[int, ...]) -> None:
    if tuple(found) != tuple(image):
        raise DataError(
            f"{name}: maps or mask {tuple(found)} and image {tuple(image)} differ in size (height, width); make the "
            "maps again from these images"
        )


def map_stages(run_folder: str | os.PathLike[str]) -> dict[str, Path]:
    """The finished stages of a run that left maps, then its pseudo-masks: name -> folder, in the order of their making.

    Raises:
        DataError: there is none.
    """
    run = RunFolder(run_folder)
    records = run.records()

    def depth(name: str) -> int:
        return 1 + max((depth(need) for need in records[name]["needs"] if need in records), default=0)

    found = {}
    for name in sorted((name for name in records if records[name]["finished"]), key=depth):
        if _holds_maps(run.maps(name)):
            found[name] = run.maps(name)
        elif _is_masks(run.stage(name)):
            found[name] = run.stage(name)
    if not found:
        raise DataError(f"{run} has no finished stage with seed maps or pseudo-masks; run `maskwright label` first")
    return found


def _holds_maps(folder: Path) -> bool:
    """Whether the files of a folder are seed maps, and not edges."""
    path = next(folder.rglob("*.npz"), None)
    if path is None:
        return False
    return "high_res" in read_arrays(path)


def table(result: dict[str, Any]) -> list[str]:
    """What `evaluate_seeds` found, as lines of text: one per stage, then what needs a look."""
    lines = [
        f"{'stage':<14}{'mIoU':>7}{'best':>7}{'at':>6}{'fp':>7}{'fn':>7}{'single':>8}{'multi':>7}"
        f"{'tags kept':>11}{'edges':>7}{'odd areas':>11}"
    ]
    for name, stage in result["stages"].items():
        default, best = stage["default"] or {}, stage["best"] or {}
        odd = sum(
            entry["nearly_nothing"] + entry["nearly_everything"]
            for entry in stage["area"].values()
            if entry is not None
        )
        groups = [(default.get(group) or {}).get("miou") for group in GROUPS[1:]]
        cells = [
            (_number(default.get("miou")), 7),
            (_number(best.get("miou")), 7),
            ("-" if stage["best_threshold"] is None else f"{stage['best_threshold']:g}", 6),
            (_number(default.get("fp")), 7),
            (_number(default.get("fn")), 7),
            (_number(groups[0]), 8),
            (_number(groups[1]), 7),
            (_number(stage["tag_consistency"]["kept"]), 11),
            (_number(stage["boundary_agreement"]["mean"], 1, 2), 7),
            (str(odd), 11),
        ]
        lines.append(f"{name:<14}" + "".join(f"{text:>{width}}" for text, width in cells))
    kind = f"a mask of {result['masks_are']}" if result.get("masks_are") else "ground truth"
    where = f"{result['images']} images of split {result['split']}, {result['images_judged']} with {kind}"
    chosen = f"tuned on {result.get('masks_are') or 'ground truth'}" if result["threshold_from"] != "given" else "given"
    lines.append(f"at threshold {result['threshold']:g} ({chosen}); {where}; numbers but edges in %")
    best_at = {name: (stage["best_threshold"], stage["sweep"]) for name, stage in result["stages"].items()}
    ends = [f"{name} {best:g}, {end}" for name, (best, rows) in best_at.items() if (end := end_of_sweep(rows, best))]
    if ends:
        lines.append(f"best threshold: {'; '.join(ends)}. To try more: pseudo_masks.sweep=[first, last, step]")
    last = list(result["stages"].values())[-1]
    lost = {name: pair for name, pair in last["vanished_tags"].items() if pair[0]}
    if lost:
        listed = sorted(lost.items(), key=lambda item: -item[1][0] / item[1][1])
        lines.append("tags lost in the last stage: " + ", ".join(f"{n} {a} of {b}" for n, (a, b) in listed[:12]))
    stable = result.get("stability")
    if stable:
        lines.append(f"single views agree with all of them: IoU {_number(stable['iou'])} on {stable['images']} images")
    return lines


def _number(value: float | None, factor: float = 100, digits: int = 1) -> str:
    return "-" if value is None else f"{factor * value:.{digits}f}"
