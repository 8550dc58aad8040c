"""The claims of the papers that are tested here, each as a difference between two rows, and the verdict on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.claims.labels import SHARES
from benchmarks.claims.rows import TOGETHER
from maskwright.runs.results import mean_interval

WORTH = 0.005  # a gain below it is none
EQUAL = 0.01  # a loss below it is none


@dataclass(frozen=True)
class Claim:
    """What a paper says.

    Args:
        words: the claim.
        where: the set, one of `rows.SETS`.
        row: that should be better, or no worse.
        control: with the same budget, which it is compared with.
        score: that is compared, a name of `repetition.run_row`.
        kind: `gain`; `equal`: no worse by more than `EQUAL`; `harm`: the row should be worse; `times`: the score is a
            multiple and should be `expected`, within a factor of two.
        expected: of `times`.
        reason: what was found where it does not hold, or is not clear.
    """

    words: str
    where: str
    row: str
    control: str = ""
    score: str = "val"
    kind: str = "gain"
    expected: float = 0.0
    reason: str = ""


def verdict(claim: Claim, values: Sequence[float]) -> tuple[str, str]:
    """`holds`, `does not hold` or `unclear`, and the figure it rests on, in words.

    Args:
        claim: what is judged.
        values: of each repetition the difference of row and control, or the multiple.
    """
    mean, half = mean_interval(values)
    if claim.kind == "times":
        spread = "" if half is None else f" ± {half:.0f}"
        ratio = mean / claim.expected
        return ("holds" if 0.5 <= ratio <= 2 else "does not hold"), f"{mean:.0f}{spread} times"
    if half is None:
        return "unclear", f"{mean:+.3f}, one repetition"
    low, high = mean - half, mean + half
    figure = f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"
    if claim.kind == "equal":
        return ("holds" if low > -EQUAL else "does not hold" if high < -EQUAL else "unclear"), figure
    if claim.kind == "harm":
        low, high = -high, -low
    return ("holds" if low > 0 else "does not hold" if high < WORTH else "unclear"), figure


def _on_both(words: str, row: str, control: str, score: str = "val", **more: str) -> dict[str, Claim]:
    key = f"{row} over {control}" + ("" if score == "val" else f", {score}")
    return {f"{key}, {where}": Claim(words, where, row, control, score, **more) for where in ("msrc", "scenes")}


def _one(where: str, words: str, row: str, control: str, score: str = "val", kind: str = "gain") -> dict[str, Claim]:
    key = f"{row} over {control}" + ("" if score == "val" else f", {score}")
    return {f"{key}, {where}": Claim(words, where, row, control, score, kind)}


AT_COST, MASKED = "labels: masks at the cost of tags and {} %", "labels: masks of all"
TOGETHER_NONE = "together: none, DeepLabV3+ on instant's masks"
LEFT_OUT = [row.removeprefix("together: ") for row in TOGETHER if row.startswith("together: without")]
CLAIMS: dict[str, Claim] = {
    # Loss max-pooling
    **_one("camvid", "Loss max-pooling lifts rare classes", "loss max-pooling", "cross-entropy", "rare"),
    **_one("camvid", "and does not lower mIoU", "loss max-pooling", "cross-entropy", "val", "equal"),
    **_one("camvid", "with p = 1.3 too: rare classes", "loss max-pooling, p 1.3", "cross-entropy", "rare"),
    **_one("camvid", "It is better than weights by inverse frequency", "loss max-pooling", "inverse frequency"),
    **_one(
        "camvid",
        "Loss max-pooling lifts rare classes",
        "loss max-pooling, all trained",
        "cross-entropy, all trained",
        "rare",
    ),
    **_one(
        "camvid",
        "and does not lower mIoU",
        "loss max-pooling, all trained",
        "cross-entropy, all trained",
        "val",
        "equal",
    ),
    # SeeThroughNet
    **_one("camvid", "CPP beats no auxiliary loss", "CPP pooling", "cross-entropy, all trained"),
    **_one("camvid", "CPP beats nearest pooling", "CPP pooling", "nearest pooling"),
    **_one("camvid", "most on thin classes", "CPP pooling", "nearest pooling", "thin"),
    **_one("camvid", "on other segmenters too: no auxiliary loss", "FCN, CPP pooling", "FCN"),
    **_one("camvid", "on other segmenters too: nearest pooling", "FCN, CPP pooling", "FCN, nearest pooling"),
    **_one("camvid", "on other segmenters too: thin classes", "FCN, CPP pooling", "FCN, nearest pooling", "thin"),
    **_one("camvid", "Its decoder is better than OCR on HRNet", "SeeThrough on HRNet", "OCR on HRNet"),
    # DUpsampling
    **_one(
        "camvid",
        "DUpsampling at stride 32 is about bilinear at 16",
        "DUpsampling at 32",
        "bilinear at 16",
        "val",
        "equal",
    ),
    **_one(
        "camvid",
        "DUpsampling at stride 32 is about bilinear at 16",
        "DUpsampling at 32, all trained",
        "bilinear at 16, all trained",
        "val",
        "equal",
    ),
    **_one("camvid", "DUpsampling is better than bilinear at stride 32", "DUpsampling at 32", "bilinear at 32"),
    **_one("camvid", "and at stride 16", "DUpsampling at 16", "bilinear at 16"),
    **_one("camvid", "The temperature helps", "DUpsampling at 32", "DUpsampling at 32, no temperature"),
    **_one(
        "camvid",
        "A finer map helps: stride 16",
        "DUpsampling at 32, maps of stride 16",
        "DUpsampling at 32, maps of none",
    ),
    **_one(
        "camvid",
        "A finer map helps: stride 8",
        "DUpsampling at 32, maps of stride 8",
        "DUpsampling at 32, maps of none",
    ),
    **_one(
        "camvid",
        "A very early map hurts: stride 4",
        "DUpsampling at 32, maps of stride 4",
        "DUpsampling at 32, maps of none",
        "val",
        "harm",
    ),
    **_one(
        "camvid",
        "The loss on coordinates helps, as the first two of five epochs",
        "DUpsampling at 32, coordinates first",
        "DUpsampling at 32",
    ),
    # ReCAM
    **_on_both("ReCAM is better than CAM", "ReCAM, product", "CAM"),
    **_on_both("ReCAM is better than CAM (the weight agree, ours)", "ReCAM, agree", "CAM"),
    **_on_both("most in images with several classes", "ReCAM, agree", "CAM", "val, multi label"),
    **_on_both("The product is the best of the weights: second head", "ReCAM, product", "ReCAM, w2"),
    **_on_both("The product is the best of the weights: sum", "ReCAM, product", "ReCAM, sum"),
    **_one(
        "msrc",
        "Trained as in the paper it beats CAM trained for as long",
        "ReCAM, trained, lambda 1",
        "CAM, trained on as long",
    ),
    **_one(
        "msrc", "lambda matters little: 0.3", "ReCAM, trained, lambda 0.3", "ReCAM, trained, lambda 1", "val", "equal"
    ),
    **_one("msrc", "lambda matters little: 3", "ReCAM, trained, lambda 3", "ReCAM, trained, lambda 1", "val", "equal"),
    **_one("msrc", "AdvCAM is better than CAM", "AdvCAM", "CAM"),
    "AdvCAM's cost": Claim(
        "AdvCAM's maps cost a hundred times CAM's", "msrc", "AdvCAM", "", "cost of maps", "times", 100
    ),
    # Refinement
    **_on_both("IRN improves CAM", "CAM, IRN", "CAM"),
    **_on_both("IRN improves ReCAM", "ReCAM, IRN", "ReCAM, agree"),
    **_on_both("ReCAM is better than CAM after IRN too", "ReCAM, IRN", "CAM, IRN"),
    **_on_both("A dense CRF improves CAM", "CAM, CRF", "CAM"),
    **_on_both("SEAM is better than CAM", "SEAM", "CAM"),
    # L2G
    **_on_both("L2G is better than CAM", "L2G", "CAM"),
    **_one("msrc", "also with a CRF", "L2G, CRF", "CAM, CRF"),
    **_one("msrc", "L2G is better than CAM on a sliding window", "L2G", "CAM, sliding window"),
    **_one("msrc", "L2G is better than its local network", "L2G", "L2G, local network"),
    **_one("msrc", "Two views are better than one", "L2G, 2 views", "L2G, 1 view"),
    **_one("msrc", "Four views are enough: eight bring no more", "L2G", "L2G, 8 views", "val", "equal"),
    **_one("msrc", "Views that are too small do harm", "L2G, small views", "L2G", "val", "harm"),
    **_one("msrc", "Views that are too large do harm", "L2G, large views", "L2G", "val", "harm"),
    **_one("msrc", "Separate trunks are better than a shared one", "L2G", "L2G, shared trunk"),
    **_one(
        "msrc",
        "A tag loss on the global network does harm",
        "L2G, tag loss on the global network",
        "L2G",
        "val",
        "harm",
    ),
    **_one("msrc", "Shapes from saliency help", "L2G, shapes of the built-in detector", "L2G"),
    # What labels are worth
    **_one("msrc", "Tags of all images are better than masks at their cost", "labels: tags", AT_COST.format(0)),
    **{
        key: claim
        for share in SHARES[1:]
        for key, claim in _one(
            "msrc",
            f"Tags and {share} % masks are better than masks at their cost",
            f"labels: tags, masks of {share} %",
            AT_COST.format(share),
        ).items()
    },
    **_one(
        "msrc",
        "Masks of 10 % beside tags are as good as all masks",
        "labels: tags, masks of 10 %",
        MASKED,
        "val",
        "equal",
    ),
    **_one("msrc", "Strokes on all images are as good as masks", "labels: strokes", MASKED, "val", "equal"),
    **_one("msrc", "Boxes on all images are better than tags", "labels: boxes", "labels: tags"),
    # All of the papers together, and each left out
    **_one("msrc", "All together is better than none of it", "together: all", TOGETHER_NONE),
    **{
        key: claim
        for part in LEFT_OUT
        for key, claim in _one(
            "msrc", f"All together is better than {part}", "together: all", f"together: {part}"
        ).items()
    },
}
