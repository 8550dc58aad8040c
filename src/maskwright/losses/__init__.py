"""Segmentation losses: each a function and a thin module `(logits (B, C, H, W), labels (B, H, W)) -> scalar`.

A new loss is one file and one line in `LOSSES`. Its class takes keyword arguments only, `ignore_index` among them, and
`class_weights` where it can use them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from maskwright.data.sample import LabelSpace
from maskwright.errors import DataError, RecipeError, unknown_name
from maskwright.losses.balanced import BalancedCrossEntropy, balanced_cross_entropy
from maskwright.losses.cpp import CPPLoss, cell_counts, count_pyramid, cpp_loss, pool_labels, pool_to
from maskwright.losses.cross_entropy import CrossEntropy, NearestCrossEntropy, cross_entropy
from maskwright.losses.dice import Dice, dice_loss
from maskwright.losses.focal import Focal, focal_loss
from maskwright.losses.ignore import flatten_valid, mean_over_valid, valid_pixels
from maskwright.losses.loss_max_pooling import LossMaxPooling, loss_max_pooling, loss_max_pooling_weights
from maskwright.losses.lovasz import LovaszSoftmax, lovasz_softmax_loss
from maskwright.losses.ohem import OHEM, ohem_cross_entropy
from maskwright.losses.resizing import of_one_size, resize_labels
from maskwright.losses.rmi import RMI, rmi_loss
from maskwright.settings import LossSettings

LOSSES: dict[str, Callable[..., nn.Module]] = {
    "balanced_cross_entropy": BalancedCrossEntropy,
    "cross_entropy": CrossEntropy,
    "dice": Dice,
    "focal": Focal,
    "loss_max_pooling": LossMaxPooling,
    "lovasz_softmax": LovaszSoftmax,
    "ohem": OHEM,
    "rmi": RMI,
}

# Auxiliary outputs with a loss of their own, by the part of the output's name before the first dot: `cpp.8` is found
# under `cpp`. It is built with what it takes of `ignore_index` and `num_classes`, and gets the logits at the head's
# own size and the labels at full size. Every other auxiliary output is resized to the labels and gets the main loss, or
# what the main loss has as `auxiliary_loss(logits, labels)` for this.
AUXILIARY_LOSSES: dict[str, Callable[..., nn.Module]] = {
    "cpp": CPPLoss,
    "nearest": NearestCrossEntropy,
}

__all__ = [
    "AUXILIARY_LOSSES",
    "LOSSES",
    "OHEM",
    "RMI",
    "BalancedCrossEntropy",
    "CPPLoss",
    "CrossEntropy",
    "Dice",
    "Focal",
    "LossMaxPooling",
    "LovaszSoftmax",
    "NearestCrossEntropy",
    "SegmentationLoss",
    "balanced_cross_entropy",
    "cell_counts",
    "class_weights_from",
    "count_pyramid",
    "cpp_loss",
    "create_loss",
    "cross_entropy",
    "dice_loss",
    "flatten_valid",
    "focal_loss",
    "loss_max_pooling",
    "loss_max_pooling_weights",
    "lovasz_softmax_loss",
    "mean_over_valid",
    "ohem_cross_entropy",
    "pool_labels",
    "pool_to",
    "resize_labels",
    "rmi_loss",
    "valid_pixels",
]


class SegmentationLoss(nn.Module):
    """The main output's loss plus weighted losses of auxiliary outputs.

    Args:
        main: `(logits, labels) -> scalar`.
        auxiliary: weight of each auxiliary output. A name stands for the output of that name and for every output whose
            name begins with it and a dot (`scale` for `scale.0.5` and `scale.1`); their losses are added, not averaged.
        ignore_index: for the losses of `AUXILIARY_LOSSES`.
        num_classes: for those of them that want to know.
        resize: what is brought to the other's size where an output has not that of the labels: "logits" (bilinear) or
            "labels" (nearest pixel, as DeepLabV2 trains). The losses of `AUXILIARY_LOSSES` see to it themselves.
    """

    def __init__(
        self,
        main: nn.Module,
        auxiliary: Mapping[str, float] | None = None,
        *,
        ignore_index: int = 255,
        num_classes: int | None = None,
        resize: Literal["logits", "labels"] = "logits",
    ) -> None:
        super().__init__()
        self.main = main
        self.resize: Literal["logits", "labels"] = resize
        self.auxiliary = dict(auxiliary or {})
        known = {"ignore_index": ignore_index, "num_classes": num_classes}
        self.special = nn.ModuleDict(
            {name: build(**_accepted(build, known)) for name, build in AUXILIARY_LOSSES.items() if self._wants(name)}
        )

    def check(self, outputs: Iterable[str]) -> None:
        """Compare the names of a model's outputs with those that have a weight.

        Raises:
            DataError: an auxiliary output that the model does not give.
        """
        names = list(outputs)
        for name in self.auxiliary:
            _matching(name, names)

    def _wants(self, kind: str) -> bool:
        return any(name.split(".")[0] == kind for name in self.auxiliary)

    def forward(self, outputs: Mapping[str, Tensor], labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise and what it is made of.

        Args:
            outputs: "logits" `(B, C, h, w)` and the auxiliary outputs; one of another size than the labels is
                resized, or the labels are; see `resize`.
            labels: `(B, H, W)` integer.

        Returns:
            A scalar, and the detached unweighted terms: "main" and one per name in `auxiliary`.

        Raises:
            DataError: an auxiliary output that the model does not give.
        """
        loss = self.main(*of_one_size(outputs["logits"], labels, self.resize))
        parts = {"main": loss.detach()}
        plain = getattr(self.main, "auxiliary_loss", self.main)
        for name, weight in self.auxiliary.items():
            term = loss.new_zeros(())
            for found in _matching(name, outputs):
                special = found.split(".")[0]
                if special in self.special:
                    term = term + self.special[special](outputs[found], labels)
                else:
                    term = term + plain(*of_one_size(outputs[found], labels, self.resize))
            parts[name] = term.detach()
            loss = loss + weight * term
        return loss, parts


def create_loss(
    settings: LossSettings, labels: LabelSpace, class_frequencies: Sequence[float] | None = None
) -> SegmentationLoss:
    """The loss that a recipe asks for; move it to the device as any module.

    Args:
        settings: name, class weights, auxiliary weights, and options for the loss's class.
        labels: gives the number of classes and the ignore value.
        class_frequencies: `(C,)` pixels per class in the training masks (counts or fractions), for class weights
            "inverse" and "sqrt_inverse".

    Returns:
        `loss(outputs, labels) -> (scalar, parts)`; see `SegmentationLoss.forward`.

    Raises:
        RecipeError: unknown loss or option, class weights that do not fit the classes or that the loss cannot use, or
            an auxiliary weight that is negative.
    """
    if settings.name not in LOSSES:
        raise RecipeError(unknown_name("loss", settings.name, LOSSES))
    build = LOSSES[settings.name]
    arguments: dict[str, Any] = {**settings.options, "ignore_index": labels.ignore_index}
    weights = _class_weights(settings, labels, class_frequencies)
    if weights is not None:
        arguments["class_weights"] = weights
    accepted = list(inspect.signature(build).parameters)
    for name in arguments:
        if name == "class_weights" and name not in accepted:
            raise RecipeError(f"loss {settings.name!r} cannot use class weights; set loss.class_weights=none")
        if name not in accepted:
            options = [known for known in accepted if known not in ("ignore_index", "class_weights")]
            raise RecipeError(unknown_name(f"option of loss {settings.name!r}:", name, options))
    wrong = {name: weight for name, weight in settings.auxiliary.items() if not (math.isfinite(weight) and weight >= 0)}
    if wrong:
        raise RecipeError(f"loss.auxiliary weights must be finite and not negative, found {wrong}")
    return SegmentationLoss(
        build(**arguments),
        settings.auxiliary,
        ignore_index=labels.ignore_index,
        num_classes=labels.num_classes,
        resize=settings.resize,
    )


def class_weights_from(frequencies: Sequence[float] | Tensor, kind: str, *, largest_ratio: float = 50.0) -> list[float]:
    """Class weights from how often each class occurs.

    The weight is `1 / f` ("inverse") or `1 / sqrt(f)` ("sqrt_inverse"). Weights larger than `largest_ratio` times the
    smallest are cut to that, since a class of a few pixels would otherwise rule every batch it is in; then all are
    scaled to mean 1 over the classes that occur. A class that does not occur gets 1.

    Args:
        frequencies: `(C,)` pixels per class, counts or fractions.
        kind: "inverse" or "sqrt_inverse".
        largest_ratio: bound on largest / smallest weight.

    Raises:
        RecipeError: unknown kind.
        DataError: negative or non-finite frequencies, or no pixel of any class.
    """
    powers = {"inverse": -1.0, "sqrt_inverse": -0.5}
    if kind not in powers:
        raise RecipeError(unknown_name("kind of class weights", kind, powers))
    counts = torch.as_tensor(frequencies, dtype=torch.float64).flatten().cpu()
    present = counts > 0
    if not torch.isfinite(counts).all() or (counts < 0).any() or not present.any():
        raise DataError(f"class frequencies must be finite, not negative and not all 0, found {counts.tolist()}")
    weights = counts[present] ** powers[kind]
    weights = weights.clamp(max=largest_ratio * float(weights.min()))
    result = torch.ones_like(counts)
    result[present] = weights / weights.mean()
    return result.tolist()


def _accepted(build: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name in inspect.signature(build).parameters}


def _class_weights(
    settings: LossSettings, labels: LabelSpace, frequencies: Sequence[float] | None
) -> list[float] | None:
    if settings.class_weights == "none":
        return None
    if isinstance(settings.class_weights, str):
        if frequencies is None or len(frequencies) != labels.num_classes:
            found = "none" if frequencies is None else f"{len(frequencies)}"
            raise RecipeError(
                f"loss.class_weights={settings.class_weights} needs the pixel frequency of each of the "
                f"{labels.num_classes} classes in the training masks, found {found}; or give one number per class"
            )
        return class_weights_from(frequencies, settings.class_weights)
    weights = settings.class_weights
    if len(weights) != labels.num_classes:
        raise RecipeError(
            f"loss.class_weights has {len(weights)} numbers for {labels.num_classes} classes; expected one for each of "
            f"{', '.join(labels.names)}"
        )
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        named = dict(zip(labels.names, weights))
        raise RecipeError(f"loss.class_weights must be finite, not negative and not all 0, found {named}")
    return list(weights)


def _matching(name: str, outputs: Iterable[str]) -> list[str]:
    found = [key for key in outputs if key == name or key.startswith(f"{name}.")]
    if not found:
        given = [key for key in outputs if key != "logits"]
        raise DataError(
            unknown_name("auxiliary output", name, given)
            + " The model gives them; loss.auxiliary must name what it gives."
        )
    return found
