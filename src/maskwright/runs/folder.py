"""Where everything in a run folder lies; no other module spells a name of it.

recipe.yaml, run.json              what was asked for; when, where and by which command
STAGE/stage.json                   each stage's folder; STAGE.stale-N is one that was set aside
STAGE/model.safetensors, log.jsonl, state.pt                                       of a stage that trains
segmenter/compressed/               the same of a first training of its own, where it has one
segmenter/snapshots/001/predictions/NAME.png                                       after each validation
STAGE/snapshots/001/model.safetensors                                              of a network, after each epoch
STAGE/maps/NAME.npz                                                                of a stage that makes maps
pseudo_masks/SegmentationClass/NAME.png, Confidence/, scores.json, provenance.json, classes.txt
evaluation/predictions/NAME.png, metrics.json, images.json, tags.json
evaluation/training/               the same of some images of the training split, where the others have no tags
features/                          maps of a frozen backbone, which stages share; deleted when the run is finished
sharing.json                       how a run is labelled part by part
pseudo_masks/PART.tar, .json, .receipt.json   its masks, where they are, and what they say in numbers
data_check.json                    what was found of the data before the run began
metrics.json, seed_evaluation.json, picture.png, report.html                       what was found, for people
charts/                            those of the report, as PNG and CSV
report_files/                      pictures of the report, where there are too many for one file
preview.html                       how far `maskwright label` is; leads to the report when it is done
evaluations/, explanations/        of `maskwright evaluate`, `seeds` and `explain`
relabelled/                        of `maskwright relabel`, laid out as pseudo_masks/
review/                            what people decided in `maskwright review`, as `data.decisions` has it
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskwright.data.provenance import FILE_NAME as PROVENANCE
from maskwright.engine.checkpoint import MODEL, RECORD
from maskwright.engine.progress import LOG
from maskwright.engine.resume import STATE
from maskwright.errors import DataError
from maskwright.files import read_json

# Names inside a stage's folder.
MAPS = "maps"
LABELS = "labels"
MASKS = "SegmentationClass"
CONFIDENCE = "Confidence"
SCORES = "scores.json"
CLASSES = "classes.txt"
PREDICTIONS = "predictions"
METRICS = "metrics.json"
IMAGES = "images.json"
TAG_AGREEMENT = "tags.json"
TRAINING = "training"
SNAPSHOTS = "snapshots"
COMPRESSED = "compressed"

SEED_EVALUATION = "seed_evaluation.json"
EXPLANATIONS = "explanations.json"  # in the folder `explanations`
KINDS: dict[str, type | tuple[type, ...]] = {  # of what a record says
    "fingerprint": str,
    "finished": bool,
    "seconds": (int, float),
    "settings": dict,
    "needs": list,
}
ASIDE = re.compile(r"\.stale-(\d+)$")


def read_record(path: Path, needed: Sequence[str] = ()) -> dict[str, Any]:
    """What is known of a stage.

    Args:
        path: of the record.
        needed: what it must say.

    Raises:
        DataError: it is damaged; the message says what to delete.
    """
    try:
        record = read_json(path)
    except DataError as error:
        raise DataError(f"{path} is damaged ({error.__cause__ or error}){_remedy(path)}") from error
    said, needed = (record, needed) if isinstance(record, dict) else ({}, list(KINDS))
    wrong = [key for key in KINDS if key in {*said, *needed} and not isinstance(said.get(key), KINDS[key])]
    if wrong:
        raise DataError(f"{path} does not say {', '.join(wrong)}{_remedy(path)}")
    return said | {key: value for key, value in (("needs", []), ("finished", False)) if key not in said}


def _remedy(path: Path) -> str:
    what = f"the folder {path.parent}" if path.name == RECORD else "it"
    return f"; delete {what} and give the same command again, which makes it anew"


class RunFolder(os.PathLike[str]):
    """The places of one run's files, which may or may not be there.

    Args:
        path: of the folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.recipe = self.path / "recipe.yaml"
        self.facts = self.path / "run.json"
        self.metrics = self.path / METRICS
        self.seed_evaluation = self.path / SEED_EVALUATION
        self.picture = self.path / "picture.png"
        self.report = self.path / "report.html"
        self.charts = self.path / "charts"
        self.report_files = self.path / "report_files"
        self.preview = self.path / "preview.html"
        self.evaluations = self.path / "evaluations"
        self.explanations = self.path / "explanations"
        self.pseudo_masks = self.path / "pseudo_masks"
        self.relabelled = self.path / "relabelled"
        self.review = self.path / "review"
        self.threshold = self.path / "threshold" / "threshold.json"
        self.features = self.path / "features"
        self.lock = self.path / ".lock"
        self.digests = self.path / ".digests.json"
        self.sharing = self.path / "sharing.json"
        self.data_check = self.path / "data_check.json"

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def stage(self, name: str) -> Path:
        return self.path / name

    def record(self, name: str) -> Path:
        """What is known of a stage: its settings, fingerprint, time, and whether it is finished."""
        return self.path / name / RECORD

    def after(self, name: str) -> Path:
        """The record of what is made after the run, whose results lie in the run folder itself."""
        return self.path / "after" / f"{name}.json"

    def records(self) -> dict[str, dict[str, Any]]:
        """The records of all stages that are there and not set aside, in the order in which stages run.

        Raises:
            DataError: a record is damaged.
        """
        places = [path for path in self.path.glob(f"*/{RECORD}") if not ASIDE.search(path.parent.name)]
        found = {path.parent.name: read_record(path) for path in places}
        return dict(sorted(found.items(), key=lambda item: (item[1].get("number", 0), item[0])))

    def aside(self, name: str) -> list[Path]:
        """The folders of a stage that were set aside, the last one first."""
        found = [path for path in self.path.glob(f"{name}.stale-*") if ASIDE.search(path.name)]
        return sorted(found, key=lambda path: -int(path.name.rpartition("-")[2]))

    def set_aside(self, name: str) -> Path:
        """Give a stage's folder the next free name beside it; nothing is deleted."""
        taken = [int(path.name.rpartition("-")[2]) for path in self.aside(name)]
        kept = self.path / f"{name}.stale-{max(taken, default=0) + 1}"
        os.rename(self.stage(name), kept)
        return kept

    def model(self, name: str) -> Path:
        return self.path / name / MODEL

    def log(self, name: str) -> Path:
        return self.path / name / LOG

    def state(self, name: str) -> Path:
        return self.path / name / STATE

    def maps(self, name: str) -> Path:
        return self.path / name / MAPS

    def predictions(self, name: str = "evaluation") -> Path:
        return self.path / name / PREDICTIONS

    def snapshots(self, name: str = "segmenter") -> list[Path]:
        """Folders of the masks that a network predicted at each validation of its training, in order."""
        return sorted((self.path / name / SNAPSHOTS).glob(f"*/{PREDICTIONS}"))

    def epochs(self, name: str) -> list[Path]:
        """Models of a network after each epoch of its training, in order."""
        return sorted((self.path / name / SNAPSHOTS).glob(f"*/{MODEL}"))

    def evaluation(self, name: str = "evaluation") -> Path:
        """The scores of a model."""
        return self.path / name / METRICS

    def image_scores(self, name: str = "evaluation") -> Path:
        """The scores of a model image by image."""
        return self.path / name / IMAGES

    def tag_agreement(self, name: str = "evaluation") -> Path:
        """How far a model's predictions agree with the tags of their images."""
        own = self.path / name / TAG_AGREEMENT
        return own if own.is_file() else self.path / name / TRAINING / TAG_AGREEMENT

    @property
    def masks(self) -> Path:
        return self.pseudo_masks / MASKS

    @property
    def confidence(self) -> Path:
        return self.pseudo_masks / CONFIDENCE

    @property
    def mask_scores(self) -> Path:
        return self.pseudo_masks / SCORES

    @property
    def provenance(self) -> Path:
        return self.pseudo_masks / PROVENANCE

    @property
    def classes(self) -> Path:
        return self.pseudo_masks / CLASSES
