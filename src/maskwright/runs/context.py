"""What the stages of one run share: its recipe and folder, the device, the data sets, and facts about them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskwright.data import open_dataset, subset
from maskwright.data.dataset import Dataset
from maskwright.data.decisions import Decision, read_decisions
from maskwright.data.finding import Finding, refuse
from maskwright.data.shards.reader import is_shards
from maskwright.data.tables.grid import read_text
from maskwright.data.tags import image_key
from maskwright.engine.device import choose_device
from maskwright.errors import DataError
from maskwright.runs.data_facts import data_facts, saliency_facts
from maskwright.runs.digests import Digests
from maskwright.runs.folder import RunFolder
from maskwright.runs.sharing import Sharing, remembered
from maskwright.settings import Recipe


class RunContext:
    """One recipe in one folder; data sets are opened when they are first asked for.

    Args:
        recipe: what is run.
        out: the run folder.
        say: prints one line.
        sharing: what is said of how images are labelled part by part, by the names of `Sharing`; the rest is as the
            folder remembers it. Where neither says anything, maps of all images are files, but for sets of shards.
    """

    def __init__(
        self,
        recipe: Recipe,
        out: str | PathLike[str],
        say: Callable[[str], None],
        sharing: Mapping[str, Any] | None = None,
    ) -> None:
        self.recipe, self.out, self.say = recipe, RunFolder(out), say
        self.sharing = sharing

    @cached_property
    def one_pass(self) -> Sharing | None:
        """How images are labelled in one pass, part by part; None where maps of all images are files."""
        found = remembered(self.out, self.sharing)
        if found is None and self.recipe.supervision != "masks" and self.has_shards:
            return Sharing()
        return found

    @cached_property
    def has_shards(self) -> bool:
        """Whether the data are a set of shards."""
        data = self.recipe.data
        return data.layout == "shards" or (data.layout == "auto" and bool(data.root) and is_shards(data.root))

    @cached_property
    def sampled(self) -> RunContext:
        """The same run on some images of the training split, evenly spread over those that have tags.

        Maps are made as files of these alone where all are labelled in one pass.
        """
        if self.one_pass is None:
            return self
        tagged = [index for index in range(len(self.train)) if self.train.tags(index)]
        places = np.linspace(0, len(tagged) - 1, min(self.one_pass.sample, len(tagged))).round().astype(int)
        found = copy.copy(self)
        found.train = subset(self.train, [tagged[place] for place in places])
        found.__dict__.pop("train_facts", None)
        return found

    @cached_property
    def device(self) -> torch.device:
        return choose_device(self.recipe.device)

    @cached_property
    def train(self) -> Dataset:
        """The split that is labelled and trained on."""
        return self._open(self.recipe.data.train)

    @cached_property
    def val(self) -> Dataset:
        """The split that scores are measured on."""
        return self._open(self.recipe.data.val)

    def _open(self, split: str) -> Dataset:
        """A split; of shards that are not whole labelling in one pass tells itself, and the data check."""
        return open_dataset(self.recipe.data, split, complain=refuse if self.one_pass is None else _but_torn)

    @cached_property
    def judged(self) -> Dataset:
        """The images that maps are evaluated on to compare with published numbers."""
        split = self.recipe.expected_split
        if split is None:
            return self.train
        judged, labelled = open_dataset(self.recipe.data, split), set(self.train.names)
        chosen = [index for index, name in enumerate(judged.names) if name in labelled]
        if not chosen:
            raise DataError(
                f"expected_split={split}: none of its {len(judged)} images is in split {self.recipe.data.train!r}, "
                "which gets maps; give a part of it, or expected_split=none"
            )
        return subset(judged, chosen)

    @cached_property
    def real(self) -> list[str]:
        """Names whose ground-truth masks may be trained on beside pseudo-masks."""
        if self.recipe.supervision != "mixed":
            return []
        have = [name for index, name in enumerate(self.train.names) if self.train.has_mask(index)]
        if not have:
            raise DataError(
                f"supervision=mixed needs masks of some images of split {self.recipe.data.train!r}, found none (masks "
                "that maskwright wrote do not count); give masks=FOLDER, or supervision=tags"
            )
        if self.recipe.mixed_list is None:
            return have
        path = Path(self.recipe.mixed_list)
        if not path.is_file():
            raise DataError(f"mixed_list: {path} does not exist; expected a file with one image name per line")
        listed = [image_key(line) for line in read_text(path)[0].splitlines() if line.strip()]
        missing = sorted(set(listed) - set(have))
        if missing:
            raise DataError(
                f"{path} lists {len(missing)} images without a mask in split {self.recipe.data.train!r}: "
                f"{', '.join(missing[:5])}"
            )
        return listed

    @cached_property
    def reviewed(self) -> dict[str, Decision]:
        """What people want otherwise of pseudo-masks, by the name of the image; an image's own mask goes before that.

        The masks that they painted are in memory from then on, so that whoever reviews may go on meanwhile.
        """
        if self.recipe.supervision == "masks" or not self.out.review.is_dir():
            return {}
        concerned = set(self.train.names) - set(self.real)
        decisions = read_decisions(self.out.review)
        return {name: said for name, said in decisions.items() if said.counts and name in concerned}

    def each_image(self, *forms: str, tagged_only: bool = False) -> list[str]:
        """What a stage makes of every image whose tags are known.

        Args:
            *forms: of files' names in the stage's folder, such as `maps/{}.npz`.
            tagged_only: leave out the images without tags.
        """
        tags = self.train.tags
        return [
            form.format(name)
            for form in forms
            for index, name in enumerate(self.train.names)
            if (tags(index) if tagged_only else tags(index) is not None)
        ]

    @property
    def seed_network(self) -> str:
        """The stage whose network the maps come from."""
        return self.recipe.networks[-1]

    @cached_property
    def train_facts(self) -> dict[str, Any]:
        """What stages that look at images and masks of the training split depend on."""
        return self.facts_of(self.train)

    @cached_property
    def val_facts(self) -> dict[str, Any]:
        """The same of the evaluation split."""
        return self.facts_of(self.val)

    @cached_property
    def saliency_facts(self) -> dict[str, Any]:
        """What the stages that may look at saliency maps depend on, and the tag classifier does not."""
        source = dict(self.train.source).get("saliency")
        if source is None and self.train.saliency is None:
            return {}
        return {"saliency_maps": saliency_facts(self.train, self.digests)}

    @cached_property
    def digests(self) -> Digests:
        """Of the files of the data sets; kept in the run folder when `save` is called."""
        return Digests(self.out.digests)

    def facts_of(self, dataset: Dataset) -> dict[str, Any]:
        """What a stage that looks at images and masks of a data set depends on; the files are read once.

        Only the first process decides what is stale, so only there anything is read.
        """
        return data_facts(dataset, self.digests)


def _but_torn(finding: Finding) -> None:
    if finding.kind != "shard-torn":
        refuse(finding)
