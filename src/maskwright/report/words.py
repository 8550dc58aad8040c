"""The words of a report, explained where they stand."""

from __future__ import annotations

WORDS = {
    "IoU": "of the pixels that are of a class in the ground truth or in the mask, the share that is in both, in %",
    "mIoU": "the mean of the IoU over the classes, the background included where there is one",
    "seed": "a map from the tag classifier, 0 to 1 at each pixel, of where it saw a tagged class",
    "pseudo-mask": "the mask made of the maps and the tags, from which the segmenter learns as if it were ground truth",
    "threshold τ": "where no map of a tagged class is above it, a pixel of a pseudo-mask is background",
    "confidence": "how far the class of a pixel is ahead of the next, 0 to 100, by the maps",
    "wrong pixels": "the share of an image's labelled pixels whose class is not that of the ground truth",
    "fully supervised": "the same network trained with ground-truth masks: what tags are measured against",
    "precision": "of the pixels of a class in the mask, the share that is right",
    "recall": "of the pixels of a class in the ground truth, the share that was found",
    "F1": "the harmonic mean of precision and recall",
    "mean accuracy": "the mean of the recall over the classes",
    "pixel accuracy": "the share of all pixels that are right; large classes rule it",
    "frequency-weighted IoU": "the mean of the IoU, in which a class counts by its pixels",
}
SUMMARY = ("mIoU", "IoU", "pseudo-mask", "threshold τ", "fully supervised")
IMAGES = ("seed", "pseudo-mask", "confidence", "wrong pixels", "threshold τ", "mIoU")
CLASSES = ("IoU", "F1", "precision", "recall", "mean accuracy", "pixel accuracy", "frequency-weighted IoU")


def words(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """Words with what they mean."""
    return [(name, WORDS[name]) for name in names]
