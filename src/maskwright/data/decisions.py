"""What people decided about pseudo-masks, image by image, and the data set with masks as they want them.

decisions/NAME.json                what was decided, in which version, by whom and when
masks/NAME.VERSION.png             the mask that a person painted, where one did; the version that the record names
provenance.json                    says what the folder holds, so that no reader takes it for images
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from maskwright.data.finding import number_of
from maskwright.data.masks import palette_png, read_labels
from maskwright.data.provenance import FILE_NAME, mark
from maskwright.data.sample import LabelSpace, Sample
from maskwright.data.stored import Stored
from maskwright.data.views import View
from maskwright.errors import DataError, MaskwrightError
from maskwright.files import atomic_write, read_json, write_json

if TYPE_CHECKING:
    from maskwright.data.dataset import Dataset

FORMAT = 1
OPEN, ACCEPTED, REJECTED = STATES = ("open", "accepted", "rejected")
_writing = Lock()
KINDS: dict[str, type] = {"name": str, "state": str, "removed": list, "added": list, "version": int}


@dataclass(frozen=True)
class Decision:
    """What a person decided about one image.

    Args:
        name: of the image.
        state: `accepted`, `rejected` (the image is left out of training), or `open`: begun, and of no effect yet.
        removed: classes that the image was tagged with and does not show.
        added: classes that it shows and was not tagged with.
        mask: what the person painted, as a palette PNG; None where the pseudo-mask is to stay.
        version: counts what was saved of this image; 0 where nothing was.
        who: the user's name.
        when: in UTC, ISO 8601.
    """

    name: str
    state: str = OPEN
    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    mask: bytes | None = None
    version: int = 0
    who: str = ""
    when: str = ""

    @property
    def counts(self) -> bool:
        """Whether training goes on from anything else than the pseudo-mask."""
        changed = self.mask is not None or bool(self.removed or self.added)
        return self.state == REJECTED or (self.state == ACCEPTED and changed)

    def facts(self) -> list[Any]:
        """What a training depends on."""
        if self.state == REJECTED:
            return [REJECTED]
        painted = None if self.mask is None else sha256(self.mask).hexdigest()
        return [sorted(self.removed), sorted(self.added), painted]


def read_decision(folder: Path, name: str) -> Decision:
    """What was decided about an image, version 0 where nothing was.

    Raises:
        DataError: its record is damaged, or the mask that it names is missing.
    """
    path = _record(folder, name)
    return _read(folder, path) if path.is_file() else Decision(name)


def read_decisions(folder: Path) -> dict[str, Decision]:
    """All decisions of a folder, by the name of the image; none where there is no such folder.

    Raises:
        DataError: as `read_decision`.
    """
    found = (_read(folder, path) for path in sorted((folder / "decisions").rglob("[!.]*.json")))
    return {decision.name: decision for decision in found}


class Older(MaskwrightError):
    """A decision that follows another version than the last one."""


def write_decision(folder: Path, decision: Decision, labels: LabelSpace, mask: np.ndarray | None) -> Decision:
    """Keep a decision as the next version; whatever happens, the folder holds the old one or the new one whole.

    Args:
        folder: of all decisions of a run.
        decision: what was decided; its `version` is the one that it follows.
        labels: what the values of `mask` mean.
        mask: `(H, W)` uint8, what was painted, or None.

    Returns:
        The decision as it is kept.

    Raises:
        Older: somebody has saved another version meanwhile; nothing is written.
        DataError: what is there of the image is damaged.
    """
    if not (folder / FILE_NAME).is_file():
        mark({folder: "corrections"}, {}, ours=True)
    with _alone(folder):
        last = read_decision(folder, decision.name)
        if last.version != decision.version:
            raise Older(f"{decision.name} was saved as version {last.version} meanwhile, by {last.who or 'somebody'}")
        png = None if mask is None else palette_png(mask, labels)
        decision = replace(decision, version=decision.version + 1, mask=png)
        if png is not None:
            with atomic_write(_painted(folder, decision.name, decision.version), lasting=True) as temporary:
                temporary.write_bytes(png)
        fields = {"format": FORMAT, **asdict(decision), "mask": png is not None}
        write_json(_record(folder, decision.name), fields, lasting=True)
        _remove_others(folder, decision)
    return decision


def _remove_others(folder: Path, decision: Decision) -> None:
    """Remove what was painted for other versions, also for those whose writer was killed."""
    kept = _painted(folder, decision.name, decision.version)
    stem = Path(decision.name).name
    for path in kept.parent.glob(f"{glob.escape(stem)}.*.png"):
        if (path != kept or decision.mask is None) and path.name.removeprefix(f"{stem}.").removesuffix(
            ".png"
        ).isdigit():
            path.unlink(missing_ok=True)


def saved() -> None:
    """Wait until what another thread is writing is written."""
    with _writing:
        pass


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes and threads from writing; on a system without `flock` (Windows) threads alone."""
    with _writing:
        if os.name == "nt":
            yield
            return
        import fcntl

        with open(folder / ".writing", "w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


def _record(folder: Path, name: str) -> Path:
    return folder / "decisions" / f"{name}.json"


def _painted(folder: Path, name: str, version: int) -> Path:
    return folder / "masks" / f"{name}.{version}.png"


def _read(folder: Path, path: Path) -> Decision:
    fields = read_json(path)
    wrong = not isinstance(fields, dict) or any(not isinstance(fields.get(key), kind) for key, kind in KINDS.items())
    if wrong or fields["state"] not in STATES:
        raise DataError(f"{path} is damaged: expected {', '.join(KINDS)} in it; delete it and review the image again")
    mask = None
    if fields.get("mask"):
        painted = _painted(folder, fields["name"], fields["version"])
        try:
            mask = painted.read_bytes()
        except FileNotFoundError:
            if read_json(path) != fields:  # somebody has saved the next version between the two
                return _read(folder, path)
            raise DataError(f"{painted} is missing, which {path} names; delete {path} and paint it again") from None
    removed, added = (tuple(map(str, fields[key])) for key in ("removed", "added"))
    who, when = (str(fields.get(key, "")) for key in ("who", "when"))
    return Decision(fields["name"], fields["state"], removed, added, mask, fields["version"], who, when)


def corrected(mask: np.ndarray, decision: Decision, labels: LabelSpace) -> np.ndarray:
    """A pseudo-mask as a person wants it.

    Pixels of classes that the image does not show are ignored: nobody said what is there in their place. Where the
    image shows a class that its mask lacks, the background is ignored, for the class is somewhere in it.

    Args:
        mask: `(H, W)` uint8, the pseudo-mask.
        decision: about its image.
        labels: what the values mean.

    Returns:
        `(H, W)` uint8.

    Raises:
        DataError: classes that are not there any more, or a painted mask of another size.
    """
    if decision.mask is not None:
        size, png = mask.shape, decision.mask
        mask = read_labels(Stored(f"the mask painted of {decision.name}.png", lambda: png), labels)
        if mask.shape != size:
            raise DataError(
                f"the mask that was painted of {decision.name} is {mask.shape}, its image {size} (height, width). Fix: "
                "review it again, or give data= the images that were reviewed"
            )
    unknown = [labels.value(name) for name in decision.removed]
    absent = [name for name in decision.added if not (mask == labels.value(name)).any()]
    if absent and labels.background is not None:
        unknown.append(labels.background)
    if unknown:
        values = np.arange(256, dtype=np.uint8)
        values[unknown] = labels.ignore_index
        mask = values[mask]
    return mask


class WithDecisions(View):
    """A data set with pseudo-masks as people want them; images that they rejected have none."""

    def __init__(self, dataset: Dataset, decisions: Mapping[str, Decision]) -> None:
        super().__init__(dataset)
        self.decisions = {
            index: decisions[name]
            for index, name in enumerate(self.names)
            if name in decisions and decisions[name].counts and dataset.has_mask(index)
        }
        self.masks = None
        self.source = {**dataset.source, "corrected_mask_count": len(self.decisions)}

    def get(self, index: int, with_mask: bool = True) -> Sample:
        sample = self.dataset.get(index, with_mask and self.has_mask(index))
        if sample.mask is not None and index in self.decisions:
            sample.mask = corrected(sample.mask, self.decisions[index], self.labels)
        return sample

    def mask(self, index: int) -> np.ndarray | None:
        """The mask `(H, W)` of one image, without decoding the image; None where there is none."""
        if not self.has_mask(index):
            return None
        mask = self.dataset.mask(index)
        if mask is None or index not in self.decisions:
            return mask
        return corrected(mask, self.decisions[index], self.labels)

    def has_mask(self, index: int) -> bool:
        decision = self.decisions.get(index)
        return self.dataset.has_mask(index) and (decision is None or decision.state != REJECTED)


def in_words(decisions: Mapping[str, Decision]) -> str:
    """How many decisions of each kind count, such as `2 masks painted, 1 image with other tags, 1 left out`."""
    counted = [decision for decision in decisions.values() if decision.counts]
    rejected = [decision for decision in counted if decision.state == REJECTED]
    painted = [decision for decision in counted if decision.state == ACCEPTED and decision.mask is not None]
    tags = len(counted) - len(rejected) - len(painted)
    parts = (
        f"{number_of(len(painted), 'mask')} painted" if painted else "",
        f"{number_of(tags, 'image')} with other tags" if tags else "",
        f"{number_of(len(rejected), 'image')} left out" if rejected else "",
    )
    return ", ".join(filter(None, parts))
