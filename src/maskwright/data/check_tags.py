"""What the data check says of tags: those that a classifier cannot tell apart, slips, and tags on next to no image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maskwright.data.finding import Finding, number_of
from maskwright.data.spelling import FEW, rename_words, slips

TOGETHER_AT_LEAST = 3  # images with a tag, before "always together" means anything
BY_CHANCE = 0.05  # a pair that is as likely as this to be together by chance is not reported
SHOWN_PAIRS = 10


def tag_findings(names: Sequence[str], together: np.ndarray, tagged: int, *, given: bool) -> list[Finding]:
    """Findings on the tags of the split that is trained on.

    Args:
        names: of the tags.
        together: `(K, K)` images tagged with both.
        tagged: images whose tags are known.
        given: whether somebody wrote them; those that follow from masks have no slips.
    """
    counts = np.diagonal(together)
    found = _always(names, counts, tagged)
    everywhere = {name for name, count in zip(names, counts) if count == tagged}
    found += _together(names, together, tagged, everywhere)
    found += _slips(names, counts.tolist()) if given else []
    return found


def _always(names: Sequence[str], counts: np.ndarray, tagged: int) -> list[Finding]:
    everywhere = [name for name, count in zip(names, counts) if count == tagged]
    if not everywhere or tagged < TOGETHER_AT_LEAST:
        return []
    what = f"on every tagged image: {', '.join(everywhere)}; the classifier sees no image without"
    fix = "add images without, or make it part of the background"
    return [Finding("warning", what, count=len(everywhere), fix=fix, kind="tag-always")]


def _together(names: Sequence[str], together: np.ndarray, tagged: int, everywhere: set[str]) -> list[Finding]:
    counts = np.diagonal(together)
    pairs = []
    for first, second in np.argwhere(together == counts[:, None]):
        count, other = int(counts[first]), int(counts[second])
        mutual = count == other
        chance = (other / tagged) ** count
        if first == second or count < TOGETHER_AT_LEAST or names[second] in everywhere or (mutual and first > second):
            continue
        if mutual or chance < BY_CHANCE:
            relation = "never one without the other" if mutual else f"{names[second]} also without"
            text = f"`{names[first]}` always with `{names[second]}` ({count} images, {relation})"
            pairs.append((not mutual, -count, text))
    if not pairs:
        return []
    shown = ", ".join(text for _, _, text in sorted(pairs)[:SHOWN_PAIRS])
    more = f" and {len(pairs) - SHOWN_PAIRS} more pairs" if len(pairs) > SHOWN_PAIRS else ""
    what = f"tags that always occur together: {shown}{more}; masks made from tags merge them"
    fix = "add images of the one without the other, or masks for some of them"
    return [Finding("warning", what, count=len(pairs), fix=fix, kind="tag-together")]


def _slips(names: Sequence[str], counts: list[int]) -> list[Finding]:
    """Two spellings of one word, and tags on fewer images than a classifier learns from."""
    alike, near = slips(names, counts)
    of, found = dict(zip(names, counts)), []
    if alike:
        listed = ", ".join(f"{new!r} and {old!r}" for old, new in alike.items())
        what = f"tags that differ only in case, blanks or dashes: {listed}"
        fix = f"choose one spelling, as in {rename_words(alike)}"
        found.append(Finding("warning", what, count=len(alike), fix=fix, kind="tag-spelling"))
    if near:
        listed = ", ".join(
            f"{old!r} ({number_of(of[old], 'image')}) and {new!r} ({number_of(of[new], 'image')})"
            for old, new in near.items()
        )
        what = f"tags that are one letter apart: {listed}; a slip makes a class of its own"
        fix = f"if they are the same, give {rename_words(near)}"
        found.append(Finding("warning", what, count=len(near), fix=fix, kind="tag-slip"))
    few = [name for name in names if 0 < of[name] < FEW and name not in alike and name not in near]
    if few:
        shown = ", ".join(f"{name} ({of[name]})" for name in few[:SHOWN_PAIRS])
        more = f" and {len(few) - SHOWN_PAIRS} more" if len(few) > SHOWN_PAIRS else ""
        what = f"tags on fewer than {FEW} images: {shown}{more}; too few to learn from"
        typed = rename_words({few[0]: ""})
        fix = f"tag more images with them, give them the name of another tag, or leave them out, as with {typed}"
        found.append(Finding("warning", what, count=len(few), fix=fix, kind="tag-few"))
    return found
