"""IR labels from activation maps: without the CRF exactly, with it on nearly every pixel (the README asks for 97 %)."""

import re

import numpy as np

from maskwright.weak.refine.ir_labels import ir_labels

AGREEMENT = 0.995


def labels_of(arrays: dict[str, np.ndarray], system: str, crf: bool) -> np.ndarray:
    thresholds = arrays[f"{system}_fg_bg_thres"].tolist()
    return ir_labels(arrays["cam_full"], arrays["keys"], arrays["image"], *thresholds, crf="irn" if crf else None)


def systems_in(arrays: dict[str, np.ndarray]) -> set[str]:
    return {found[1] for key in arrays if (found := re.fullmatch(r"(\w+)_fg_bg_thres", key))}


def indifferent(key: str, arrays: dict[str, np.ndarray]) -> bool:
    """Thresholds 1 % higher, and grey levels changed here and there, may change fewer labels than the tolerance."""
    changed = arrays[key].copy()
    if key == "image":
        values = np.unique(changed)
        picked = changed.reshape(-1)[::100]
        changed.reshape(-1)[::100] = values[(np.searchsorted(values, picked) + 1) % len(values)]
    elif key.endswith("_thres"):
        changed *= 1.01
    else:
        return False
    after = {**arrays, key: changed}
    return all(
        (labels_of(arrays, system, crf) == labels_of(after, system, crf)).mean() >= (AGREEMENT if crf else 1)
        for system in systems_in(arrays)
        for crf in (False, True)
    )


def check(arrays: dict[str, np.ndarray]) -> None:
    assert systems_in(arrays)
    for system in systems_in(arrays):
        plain = labels_of(arrays, system, crf=False)
        np.testing.assert_array_equal(plain, arrays[f"{system}_ir_label_nocrf"], err_msg=system)
        agreement = (labels_of(arrays, system, crf=True) == arrays[f"{system}_ir_label_crf"]).mean()
        assert agreement >= AGREEMENT, f"{system}: {agreement:.1%} of the pixels agree after the CRF"
