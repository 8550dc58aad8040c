"""Which classes of an image maps are made for, and which of a classifier's heads they are taken with."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from maskwright.errors import RecipeError, unknown_name

NO_CLASS = -1

# The paper's w, w'', their sum and their elementwise product; and the product with the sign that both agree on, ours.
Weight = Literal["w1", "w2", "sum", "product", "agree"]
WEIGHT_OPTIONS = get_args(Weight)


def positive_classes(tags: Tensor) -> Tensor:
    """The classes of each image, ascending, in a table as wide as the image with most of them needs.

    Args:
        tags: `(B, K)`, above 0 where an image shows a class.

    Returns:
        `(B, n)` int64, filled up with -1; n may be 0.
    """
    positive = tags > 0
    counts = positive.sum(1)
    width = int(counts.max()) if len(counts) else 0
    order = torch.argsort(positive.to(torch.uint8), dim=1, descending=True, stable=True)[:, :width]
    return order.where(torch.arange(width, device=tags.device) < counts[:, None], NO_CLASS)


def class_weight(w1: Tensor, w2: Tensor, option: str) -> Tensor:
    """What the maps are taken with after training: one of the heads, their sum, or what both of them say.

    The heads' scale matters for `sum` alone, since every map is divided by its maximum; as in the paper nothing is
    rescaled. Where both heads are negative in a channel, `product` makes it speak for the class. `agree` is
    `sign(w1) * |w1 * w2|` where the signs are the same and 0 where they are not: the product where both are positive,
    but evidence against a class stays that.

    Args:
        w1: of the first head.
        w2: of the second head, of the same shape.
        option: one of `WEIGHT_OPTIONS`; the released code takes `product` on VOC and `w1` on COCO.

    Raises:
        RecipeError: unknown option.
    """
    if option not in WEIGHT_OPTIONS:
        raise RecipeError(unknown_name("weight option", option, WEIGHT_OPTIONS))
    options = {
        "w1": lambda: w1,
        "w2": lambda: w2,
        "sum": lambda: w1 + w2,
        "product": lambda: w1 * w2,
        "agree": lambda: w1.sign() * (w1 * w2).clamp(min=0),
    }
    return options[option]()


def network_weight(network: Any, option: str) -> Tensor:
    """`class_weight` of a classifier's own heads.

    Raises:
        RecipeError: unknown option, or one that needs a second head where there is none.
    """
    w1 = network.classifier.weight
    if option == "w1":
        return w1
    second = getattr(network, "recam_head", None)
    if second is None:
        class_weight(w1, w1, option)  # an unknown name is the first thing to say
        raise RecipeError(
            f"weight: {option} needs a classifier with ReCAM's second head, found one without; train it with a "
            "recipe that has `recam`, or set weight: w1"
        )
    return class_weight(w1, second.weight, option)


def weight_needs(option: str | None) -> tuple[str, ...]:
    """What `network_weight` must find in a network, as `SeedMethod.needs` says it.

    `product` is for features that are never negative, as the released code's: where both heads are negative it turns
    the sign around, and on features with signs of their own nothing of the class is left.
    """
    if option in (None, "w1"):
        return ()
    return ("recam_head", "unsigned_map") if option == "product" else ("recam_head",)
