"""The stage that labels all images of a split in one pass: parts, shared by an engine, then their sum."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from maskwright.data.dataset import Dataset
from maskwright.data.names import split_word
from maskwright.data.shards.masks import WithMaskShards
from maskwright.data.shards.stores import is_remote, join, size_of
from maskwright.engine import distributed
from maskwright.engine.progress import Progress
from maskwright.errors import MaskwrightError, RecipeError, unknown_name
from maskwright.files import atomic_write, read_json, remove_unfinished, write_json
from maskwright.runs.context import RunContext
from maskwright.runs.folder import CLASSES, CONFIDENCE, MASKS, SCORES
from maskwright.runs.sharing import Sharing
from maskwright.runs.stages import fingerprint
from maskwright.settings import Recipe
from maskwright.weak.engines import ENGINES
from maskwright.weak.one_pass.chain import Chain
from maskwright.weak.one_pass.parts import Part, label_part, parts_of
from maskwright.weak.one_pass.receipts import read_failure, read_receipt, summed, write_failure
from maskwright.weak.provenance import provenance_of
from maskwright.weak.pseudo_masks import begin, mask_record
from maskwright.weak.refine.threshold import chosen_threshold

READERS = 16  # threads that look for receipts, which may be far away
SHOWN = 5  # parts that a message names


@dataclass(frozen=True)
class LabelJob:
    """Labelling of the parts of a run's split; see `maskwright.weak.engines.job.Job`.

    Args:
        recipe: of the run.
        out: its folder.
        place: folder or address of the parts' files.
        fingerprint: of all that masks depend on.
        parts: by name.
        sharing: how they are labelled.
    """

    recipe: Recipe
    out: str
    place: str
    fingerprint: str
    parts: dict[str, Part]
    sharing: Sharing

    def open(self, device: str) -> Callable[[str], None]:
        """Load the networks; gives what labels one part."""
        recipe = self.recipe.model_copy(update={"device": device})
        chain = Chain(RunContext(recipe, self.out, _silent, asdict(self.sharing)))

        def work(part: str) -> None:
            label_part(chain, self.parts[part], self.place, self.fingerprint, keep_maps=self.sharing.keep_maps)

        return work

    def is_done(self, part: str) -> bool:
        receipt = read_receipt(self.place, part, self.fingerprint)
        if receipt is None or is_remote(self.place):
            return receipt is not None
        return size_of(join(self.place, f"{part}.tar")) == receipt["tar"]["bytes"]

    def failed(self, part: str, why: str) -> None:
        write_failure(self.place, part, why)


def label_in_parts(context: RunContext, folder: Path) -> None:
    """The stage `pseudo_masks` of a run that labels in one pass; resumes where it was stopped, part by part.

    Args:
        context: of the run, whose networks are trained and whose threshold is chosen.
        folder: of the stage; gets scores, classes and provenance, and of a set in files the masks as such, too.

    Raises:
        RecipeError: no such engine.
        MaskwrightError: parts that could not be labelled; all others are.
    """
    job = label_job(context, folder)
    share_parts(job)
    if distributed.is_main():
        if not is_remote(job.place):
            remove_unfinished(Path(job.place))  # of workers that were ended over a part that another has done
        _finish(context, job, folder)
    distributed.barrier()


def label_job(context: RunContext, folder: Path) -> LabelJob:
    """What there is to label in a run, the same in all processes.

    Args:
        context: as for `label_in_parts`.
        folder: of the stage.
    """
    sharing = context.one_pass
    assert sharing is not None
    main = distributed.is_main()
    parts = parts_of(context, sharing.part) if main else []
    made_with = [Chain(context).fingerprint, context.train_facts, sharing.facts(context.has_shards)] if main else None
    return LabelJob(
        context.recipe,
        os.path.abspath(context.out),
        _place(sharing, folder),
        distributed.broadcast(fingerprint(made_with)),
        {part.name: part for part in distributed.broadcast(parts)},
        replace(sharing, device=context.recipe.device),
    )


def share_parts(job: LabelJob) -> None:
    """Label what has no receipt yet.

    Raises:
        RecipeError: no such engine, or one that does not go with torchrun.
    """
    engine = job.sharing.engine
    if engine not in ENGINES:
        raise RecipeError(unknown_name("engine", engine, ENGINES))
    if distributed.world_size() > 1 and engine != "torchrun":
        raise RecipeError(f"engine={engine} starts its own processes; under torchrun give engine=torchrun")
    waiting = distributed.broadcast(_waiting(job))
    with Progress("parts", len(job.parts), len(job.parts) - len(waiting)) as progress:
        if waiting:
            ENGINES[engine](job, waiting, job.sharing, lambda: progress.update(progress.done + 1))


def _place(sharing: Sharing, folder: Path) -> str:
    """Where the parts' files are, wherever workers are started."""
    place = sharing.to or str(folder)
    return place if is_remote(place) else os.path.abspath(place)


def _waiting(job: LabelJob) -> list[str]:
    with ThreadPoolExecutor(READERS if is_remote(job.place) else 1) as pool:
        return [part for part, done in zip(job.parts, pool.map(job.is_done, job.parts), strict=True) if not done]


def _finish(context: RunContext, job: LabelJob, folder: Path) -> None:
    failed: dict[str, str] = {}

    def receipts() -> Iterator[dict[str, Any]]:
        for part in job.parts:
            found = read_receipt(job.place, part, job.fingerprint)
            if found is None:
                failed[part] = read_failure(job.place, part) or "nobody has labelled it"
            else:
                yield found

    labels, threshold = context.train.labels, chosen_threshold(context)
    settings = context.recipe.pseudo_masks
    begin(folder, mask_record(context.train, settings, threshold, provenance_of(context)))
    figures = summed(labels, receipts())
    done = [part for name, part in job.parts.items() if name not in failed]
    if failed and not job.sharing.skip_failed:
        raise MaskwrightError(
            f"{len(failed)} of {len(job.parts)} parts could not be labelled, the others are: {_named(failed)}. Give "
            "the command again when that is mended, or with skip_failed=true to go on without them"
        )
    with atomic_write(folder / CLASSES) as temporary:
        temporary.write_text("".join(f"{name}\n" for name in labels.names), encoding="utf-8")
    _write_files(context, job, done, folder)
    scores = {
        "split": str(context.train.source.get("split", "train")),
        **figures,
        "threshold": threshold,
        "sweep": [],
        "best_threshold": None,
        "parts": len(job.parts),
        "failed_parts": failed,
    }
    write_json(folder / SCORES, scores)
    for text in _said(scores):
        context.say(f"    {text}")


def named_failures(job: LabelJob, failed: Sequence[str]) -> str:
    """The first parts that could not be labelled, each with why."""
    return _named({part: read_failure(job.place, part) or "nobody has labelled it" for part in failed})


def _named(failed: dict[str, str]) -> str:
    shown = "; ".join(f"{part}: {why}" for part, why in list(failed.items())[:SHOWN])
    return shown + (f"; and {len(failed) - SHOWN} more" if len(failed) > SHOWN else "")


def _said(scores: dict[str, Any]) -> Iterator[str]:
    yield f"{scores['images']} images labelled in {scores['parts']} parts"
    if scores["failed"]:
        first = next(iter(scores["failures"].values()))
        yield f"warning    {scores['failed']} images could not be labelled, such as: {first}"
    if scores["failed_parts"]:
        yield f"warning    left out: {_named(scores['failed_parts'])}"
    if scores["miou"] is not None:
        yield (
            f"pseudo-masks: mIoU {scores['miou']:.3f} on {scores['split']} at threshold {scores['threshold']:.2f} "
            f"({scores['images_judged']} images)"
        )


def part_files(context: RunContext) -> list[str]:
    """What the stage made one by one: the parts' tar files, and of a set in files the masks."""
    sharing, folder = context.one_pass, context.out.pseudo_masks
    assert sharing is not None
    failed = read_json(folder / SCORES)["failed_parts"]
    parts = [part for part in parts_of(context, sharing.part) if part.name not in failed]
    place = _place(sharing, folder)
    found = [] if is_remote(place) else [join(place, f"{part.name}.tar") for part in parts]
    if context.has_shards or not all(map(os.path.isfile, found)):
        return found
    masks = masks_of(context.train, place, parts)
    names = [name for index, name in enumerate(masks.names) if masks.has_mask(index)]
    return found + [f"{inside}/{name}.png" for name in names for inside in (CONFIDENCE, MASKS)]


def with_part_masks(context: RunContext, train: Dataset, real: Iterable[str]) -> WithMaskShards:
    """The training split with the masks of its parts.

    Args:
        context: of a run that labels in one pass.
        train: its training split.
        real: names whose ground-truth masks are used.

    Raises:
        DataError: a file is missing or damaged.
    """
    assert context.one_pass is not None
    place = _place(context.one_pass, context.out.pseudo_masks)
    failed = read_json(context.out.mask_scores)["failed_parts"]
    parts = [part for part in parts_of(context, context.one_pass.part) if part.name not in failed]
    return masks_of(train, place, parts, real)


def masks_of(train: Dataset, place: str, parts: Sequence[Part], real: Iterable[str] = ()) -> WithMaskShards:
    """A split with the masks of its parts; see `WithMaskShards`."""
    return WithMaskShards(train, place, [(part.name, part.start, part.stop) for part in parts], list(real))


def _write_files(context: RunContext, job: LabelJob, done: Sequence[Part], folder: Path) -> None:
    """Masks as files: of a set that has shards those of the sample, for eyes and reports; of others all."""
    masks = masks_of(context.train, job.place, done)
    wanted = set(context.sampled.train.names) if context.has_shards else None
    split = str(context.train.source.get("split", "train"))
    listed = folder / "ImageSets" / "Segmentation" / f"{split_word(split)}.txt"
    with atomic_write(listed) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        for index, name in enumerate(masks.names):
            if (wanted is not None and name not in wanted) or not masks.has_mask(index):
                continue
            stream.write(f"{name}\n")
            for kind, inside in (("confidence", CONFIDENCE), ("mask", MASKS)):
                path = folder / inside / f"{name}.png"
                stored = masks.stored(kind, index)
                if stored is not None and not path.is_file():
                    with atomic_write(path) as partly:
                        partly.write_bytes(stored.read())


def _silent(line: str) -> None:
    """Workers do not speak."""
