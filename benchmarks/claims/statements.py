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


def _on_both(words: str, row: str, control: str, score: str = "val") -> list[Claim]:
    return [Claim(words, where, row, control, score) for where in ("msrc", "scenes")]


AT_COST, MASKED = "labels: masks at the cost of tags and {} %", "labels: masks of all"
TOGETHER_NONE = "together: none, DeepLabV3+ on instant's masks"
LEFT_OUT = [row.removeprefix("together: ") for row in TOGETHER if row.startswith("together: without")]
CLAIMS: list[Claim] = [
    # Loss max-pooling
    Claim("Loss max-pooling lifts rare classes", "camvid", "loss max-pooling", "cross-entropy", "rare"),
    Claim("and does not lower mIoU", "camvid", "loss max-pooling", "cross-entropy", "val", "equal"),
    Claim("with p = 1.3 too: rare classes", "camvid", "loss max-pooling, p 1.3", "cross-entropy", "rare"),
    Claim("It is better than weights by inverse frequency", "camvid", "loss max-pooling", "inverse frequency"),
    Claim(
        "Loss max-pooling lifts rare classes",
        "camvid",
        "loss max-pooling, all trained",
        "cross-entropy, all trained",
        "rare",
    ),
    Claim(
        "and does not lower mIoU",
        "camvid",
        "loss max-pooling, all trained",
        "cross-entropy, all trained",
        "val",
        "equal",
    ),
    # SeeThroughNet
    Claim("CPP beats no auxiliary loss", "camvid", "CPP pooling", "cross-entropy, all trained"),
    Claim("CPP beats nearest pooling", "camvid", "CPP pooling", "nearest pooling"),
    Claim("most on thin classes", "camvid", "CPP pooling", "nearest pooling", "thin"),
    Claim("on other segmenters too: no auxiliary loss", "camvid", "FCN, CPP pooling", "FCN"),
    Claim("on other segmenters too: nearest pooling", "camvid", "FCN, CPP pooling", "FCN, nearest pooling"),
    Claim("on other segmenters too: thin classes", "camvid", "FCN, CPP pooling", "FCN, nearest pooling", "thin"),
    Claim("Its decoder is better than OCR on HRNet", "camvid", "SeeThrough on HRNet", "OCR on HRNet"),
    # DUpsampling
    Claim(
        "DUpsampling at stride 32 is about bilinear at 16",
        "camvid",
        "DUpsampling at 32",
        "bilinear at 16",
        "val",
        "equal",
    ),
    Claim(
        "DUpsampling at stride 32 is about bilinear at 16",
        "camvid",
        "DUpsampling at 32, all trained",
        "bilinear at 16, all trained",
        "val",
        "equal",
    ),
    Claim("DUpsampling is better than bilinear at stride 32", "camvid", "DUpsampling at 32", "bilinear at 32"),
    Claim("and at stride 16", "camvid", "DUpsampling at 16", "bilinear at 16"),
    Claim("The temperature helps", "camvid", "DUpsampling at 32", "DUpsampling at 32, no temperature"),
    Claim(
        "A finer map helps: stride 16",
        "camvid",
        "DUpsampling at 32, maps of stride 16",
        "DUpsampling at 32, maps of none",
    ),
    Claim(
        "A finer map helps: stride 8",
        "camvid",
        "DUpsampling at 32, maps of stride 8",
        "DUpsampling at 32, maps of none",
    ),
    Claim(
        "A very early map hurts: stride 4",
        "camvid",
        "DUpsampling at 32, maps of stride 4",
        "DUpsampling at 32, maps of none",
        "val",
        "harm",
    ),
    Claim(
        "The loss on coordinates helps, as the first two of five epochs",
        "camvid",
        "DUpsampling at 32, coordinates first",
        "DUpsampling at 32",
    ),
    # ReCAM
    *_on_both("ReCAM is better than CAM", "ReCAM, product", "CAM"),
    *_on_both("ReCAM is better than CAM (the weight agree, ours)", "ReCAM, agree", "CAM"),
    *_on_both("most in images with several classes", "ReCAM, agree", "CAM", "val, multi label"),
    *_on_both("The product is the best of the weights: second head", "ReCAM, product", "ReCAM, w2"),
    *_on_both("The product is the best of the weights: sum", "ReCAM, product", "ReCAM, sum"),
    Claim(
        "Trained as in the paper it beats CAM trained for as long",
        "msrc",
        "ReCAM, trained, lambda 1",
        "CAM, trained on as long",
    ),
    Claim(
        "lambda matters little: 0.3", "msrc", "ReCAM, trained, lambda 0.3", "ReCAM, trained, lambda 1", "val", "equal"
    ),
    Claim("lambda matters little: 3", "msrc", "ReCAM, trained, lambda 3", "ReCAM, trained, lambda 1", "val", "equal"),
    Claim("AdvCAM is better than CAM", "msrc", "AdvCAM", "CAM"),
    Claim("AdvCAM's maps cost a hundred times CAM's", "msrc", "AdvCAM", "", "cost of maps", "times", 100),
    # Refinement
    *_on_both("IRN improves CAM", "CAM, IRN", "CAM"),
    *_on_both("IRN improves ReCAM", "ReCAM, IRN", "ReCAM, agree"),
    *_on_both("ReCAM is better than CAM after IRN too", "ReCAM, IRN", "CAM, IRN"),
    *_on_both("A dense CRF improves CAM", "CAM, CRF", "CAM"),
    *_on_both("SEAM is better than CAM", "SEAM", "CAM"),
    # L2G
    *_on_both("L2G is better than CAM", "L2G", "CAM"),
    Claim("also with a CRF", "msrc", "L2G, CRF", "CAM, CRF"),
    Claim("L2G is better than CAM on a sliding window", "msrc", "L2G", "CAM, sliding window"),
    Claim("L2G is better than its local network", "msrc", "L2G", "L2G, local network"),
    Claim("Two views are better than one", "msrc", "L2G, 2 views", "L2G, 1 view"),
    Claim("Four views are enough: eight bring no more", "msrc", "L2G", "L2G, 8 views", "val", "equal"),
    Claim("Views that are too small do harm", "msrc", "L2G, small views", "L2G", "val", "harm"),
    Claim("Views that are too large do harm", "msrc", "L2G, large views", "L2G", "val", "harm"),
    Claim("Separate trunks are better than a shared one", "msrc", "L2G", "L2G, shared trunk"),
    Claim(
        "A tag loss on the global network does harm",
        "msrc",
        "L2G, tag loss on the global network",
        "L2G",
        "val",
        "harm",
    ),
    Claim("Shapes from saliency help", "msrc", "L2G, shapes of the built-in detector", "L2G"),
    # What labels are worth
    Claim("Tags of all images are better than masks at their cost", "msrc", "labels: tags", AT_COST.format(0)),
    *(
        Claim(
            f"Tags and {share} % masks are better than masks at their cost",
            "msrc",
            f"labels: tags, masks of {share} %",
            AT_COST.format(share),
        )
        for share in SHARES[1:]
    ),
    Claim(
        "Masks of 10 % beside tags are as good as all masks",
        "msrc",
        "labels: tags, masks of 10 %",
        MASKED,
        "val",
        "equal",
    ),
    Claim("Strokes on all images are as good as masks", "msrc", "labels: strokes", MASKED, "val", "equal"),
    Claim("Boxes on all images are better than tags", "msrc", "labels: boxes", "labels: tags"),
    # All of the papers together, and each left out
    Claim("All together is better than none of it", "msrc", "together: all", TOGETHER_NONE),
    *(Claim(f"All together is better than {part}", "msrc", "together: all", f"together: {part}") for part in LEFT_OUT),
]
