"""Every golden file holds, and one array altered by 1 % makes its check fail.

A file `<half>/<name>.npz`, listed in `NAMES`, is checked by `check(arrays)` in `tests/golden/check_<half>_<name>.py`,
which raises AssertionError where a relation does not hold. It must use every array; one that cannot matter is named,
with the reason, in the module's `UNUSED = {"array name or fnmatch pattern": "reason"}`; one that cannot matter for its
numbers (the p of a single loss, whose weight is 1 for every p) is told by the module's
`indifferent(key, arrays) -> bool`.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("MASKWRIGHT_GOLDEN") or HERE / "data")


@cache
def checker(half: str, name: str):
    path = HERE / f"check_{half}_{name}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Every file, each with its checker: one that is deleted is missed.
NAMES = {
    "full": (
        *("cpp_kl", "cpp_pooling", "dupsample_forward", "dupsample_pca", "lmp_segmentation", "lmp_vectors", "metrics"),
        *("ocr", "poly_lr", "rmi", "scale_attention", "seg_gradcam", "sliding_window"),
    ),
    "weak": (
        *("advcam_a", "advcam_b", "cam_extract", "deeplab_msc", "dense_crf", "eps_loss", "ir_label", "irn_heads"),
        *("irn_losses", "irn_path_affinity", "irn_random_walk", "l2g_coco_sal", "l2g_nosal", "l2g_voc_sal"),
        *("l2g_voc_sal_empty", "pcm", "poly_lr", "recam_step", "resnet50_trunk", "seam_losses", "seg_metrics"),
    ),
}
FILES = [(half, name) for half, names in NAMES.items() for name in names]
IDS = [f"{half}/{name}" for half, name in FILES]


@cache
def load(half: str, name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / half / f"{name}.npz", allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def altered(array: np.ndarray) -> np.ndarray | None:
    """The array changed by 1 %: floats scaled, integers changed at one entry in a hundred; None where it cannot be."""
    if array.size == 0 or array.dtype.kind not in "fiub":
        return None
    if array.dtype.kind == "f":
        changed = array * np.asarray(1.01, array.dtype)
        return None if np.array_equal(changed, array, equal_nan=True) else changed
    if array.dtype.kind == "b":
        changed = array.copy()
        changed.ravel()[:: max(1, min(100, array.size))] ^= True
        return changed
    values = np.unique(array)
    changed = array.copy().reshape(-1)
    picked = np.arange(0, changed.size, 100)
    if len(values) > 1:  # another value that occurs, so that labels stay labels
        changed[picked] = values[(np.searchsorted(values, changed[picked]) + 1) % len(values)]
    else:
        changed[picked] += 1
    return changed.reshape(array.shape)


def test_every_file_and_every_checker_is_there():
    files = {f"{half}/{path.stem}" for half in NAMES for path in (FOLDER / half).glob("*.npz")}
    assert files == set(IDS), f"in {FOLDER}; MASKWRIGHT_GOLDEN names another folder"
    assert {path.stem for path in HERE.glob("check_*.py")} == {f"check_{half}_{name}" for half, name in FILES}


@pytest.mark.parametrize(("half", "name"), FILES, ids=IDS)
def test_holds(half: str, name: str):
    checker(half, name).check(dict(load(half, name)))


@pytest.mark.parametrize(("half", "name"), FILES, ids=IDS)
def test_altered_array_fails(half: str, name: str):
    module, arrays = checker(half, name), load(half, name)
    unused = getattr(module, "UNUSED", {})
    indifferent = getattr(module, "indifferent", lambda key, arrays: False)
    unnoticed = []
    for key, array in arrays.items():
        changed = altered(array)
        if changed is None or any(fnmatch.fnmatch(key, pattern) for pattern in unused):
            continue
        if indifferent(key, arrays):
            continue
        case, separator, _ = key.partition("__")  # the other cases of a file cannot notice
        kept = {
            name: value
            for name, value in arrays.items()
            if not separator or "__" not in name or name.startswith(f"{case}__")
        }
        try:
            module.check({**kept, key: changed})
        except Exception:  # a shape or range error notices the change as well
            continue
        unnoticed.append(key)
    assert not unnoticed, f"altered by 1 % without any check failing: {unnoticed}"
