"""Which pre-trained weights a network began with: the record of them, kept in its model file, and that in words.

    {"source": "timm", "name": "resnet50.a1_in1k", "sha256": "...", "trained_on": "ImageNet-1k",
     "license": "apache-2.0"}

`source` is one of `file`, `timm`, `hub` and `package`; what is not known is null. A model that maskwright saved says in
`began_with` what it had begun with itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from maskwright.engine.checkpoint import HEADER_KEY, PRETRAINED

# What the weight tags of timm call data sets, in the order in which a network sees them.
DATA_SETS = {
    "cc12m": "CC12M",
    "coco": "COCO",
    "datacomp1b": "DataComp-1B",
    "datacompxl": "DataComp-1B",
    "dfn2b": "DFN-2B",
    "dfn5b": "DFN-5B",
    "ig1b": "Instagram-1B",
    "in12k": "ImageNet-12k",
    "in1k": "ImageNet-1k",
    "in21k": "ImageNet-21k",
    "in22k": "ImageNet-22k",
    "jft": "JFT-300M",
    "laion2b": "LAION-2B",
    "laion400m": "LAION-400M",
    "lvd142m": "LVD-142M",
    "lvd1689m": "LVD-1689M",
    "openai": "OpenAI's images with texts",
    "sa1b": "SA-1B",
    "sat493m": "SAT-493M",
    "webli": "WebLI",
    "yfcc100m": "YFCC100M",
    "yfcc15m": "YFCC15M",
}


def weights_record(
    source: str, name: str, *, sha256: str | None = None, trained_on: str | None = None, license: str | None = None
) -> dict[str, Any]:
    """The record of weights.

    Args:
        source: `file`, `timm`, `hub` or `package`.
        name: path, architecture with tag, repository, or package with version.
        sha256: of the file, 64 hexadecimal digits.
        trained_on: names of data sets.
        license: as whoever offers them calls it.
    """
    return {"source": source, "name": name, "sha256": sha256, "trained_on": trained_on, "license": license}


def data_sets(tag: str) -> str | None:
    """What weights were trained on by their timm tag, such as `augreg_in21k_ft_in1k`; None where it does not say."""
    found = dict.fromkeys(DATA_SETS[word] for word in tag.split("_") if word in DATA_SETS)
    return ", then ".join(found) or None


def weights_words(record: Mapping[str, Any]) -> str:
    """A record in words: which weights, trained on what, with what licence."""
    trained_on, license = record.get("trained_on"), record.get("license")
    words = [f"{record['source']} {record['name']}"]
    if record.get("began_with"):
        words.append(f"which began with {weights_words(record['began_with'])}")
    elif trained_on or license:
        words += [f"trained on {trained_on or 'nobody says what'}", f"licence {license or 'not known'}"]
    else:
        words.append("training data and licence not known")
    return ", ".join(words)


def weights_of(path: str | Path) -> dict[str, Any] | None:
    """The record in the header of a model file; None where there is no such file, or it does not say."""
    if not Path(path).is_file():
        return None
    try:
        with safe_open(str(path), "pt") as stream:
            found = json.loads((stream.metadata() or {}).get(HEADER_KEY, "{}")).get(PRETRAINED)
    except (SafetensorError, ValueError, AttributeError, RecursionError):
        return None  # whoever uses the model says what is wrong with the file
    known = isinstance(found, dict) and all(isinstance(found.get(key), str) for key in ("source", "name"))
    return found if known else None
