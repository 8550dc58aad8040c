"""What stages depend on of a data set: what it holds, not where it lies; and how version 0.1 wrote that down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from maskwright.data.content import PLACES, content_hash, content_hash_of_0_1, facts
from maskwright.data.dataset import Dataset
from maskwright.engine import distributed
from maskwright.runs.digests import Digests
from maskwright.runs.stages import Renewed, fingerprint


def data_facts(
    dataset: Dataset, digests: Digests, files: Sequence[str] = ("images", "masks"), *, labels: bool = True
) -> dict[str, Any]:
    """Facts on a data set for the settings of a stage; empty but in the first process, which alone decides by them.

    Args:
        dataset: of any reader.
        digests: of its files.
        files: which of them count.
        labels: whether version 0.1 recorded the label space too.
    """
    if not distributed.is_main():
        return {}

    @cache
    def as_before() -> dict[str, Any]:
        source = dict(dataset.source)
        if "saliency" not in files:
            source.pop("saliency", None)
        written = {"source": source, "content": content_hash_of_0_1(dataset, files)}
        return {**written, "labels": fingerprint(dataset.labels.to_dict())} if labels else written

    now = {
        "facts": facts(dataset),
        "labels": fingerprint(dataset.labels.to_dict()),
        "content": content_hash(dataset, files, digests),
    }
    places = PLACES if "layout" in dataset.source else ()
    return Renewed(now, lambda recorded: _wherever_it_lay(recorded, as_before, places))


def saliency_facts(dataset: Dataset, digests: Digests) -> dict[str, Any]:
    """Facts on a data set's saliency maps, likewise: the detector, or what the files hold."""
    if not distributed.is_main():
        return {}
    source = dict(dataset.source).get("saliency")

    @cache
    def as_before() -> dict[str, Any]:
        return {"source": source, "content": content_hash_of_0_1(dataset, ["saliency"])}

    now = {"content": content_hash(dataset, ["saliency"], digests)}
    if dataset.saliency is not None:
        return Renewed(now, lambda recorded: _wherever_it_lay(recorded, as_before, ("from",)))
    return Renewed({**now, "detector": source}, lambda recorded: as_before())


def _wherever_it_lay(recorded: Any, as_before: Callable[[], dict[str, Any]], places: Sequence[str]) -> Any:
    """What version 0.1 would write of a data set today, with places spelled as they are in the record."""
    found = as_before()
    then = recorded.get("source") if isinstance(recorded, dict) else None
    if not isinstance(then, dict):
        return found
    spelled = {key: value for key, value in then.items() if key in places}
    return {**found, "source": {**found["source"], **spelled}}
