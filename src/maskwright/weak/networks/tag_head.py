"""Heads of a frozen classifier: convex fits on the means of its feature maps, in seconds and without a learning rate.

The tag logit of class k is `w_k . GAP(f) + b_k`: of a frozen backbone only the means of the maps matter, one vector for
each view of an image, and the best head is the minimum of a convex function. How much the weights are held down is
cross-validated on tags, never on masks. The constant b is in no map: where it is missing, weights must say "not there"
of every image that shows nothing, and maps shrink to what is most typical of a class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

# Called with logits and targets; gives the loss of each example.
Loss = Callable[[Tensor, Tensor], Tensor]

DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)  # on features of unit deviation
FOLDS = 4
STEPS = 200


def tag_loss(logits: Tensor, tags: Tensor) -> Tensor:
    """Binary cross-entropy summed over classes, `(N,)`, of logits and tags `(N, K)`."""
    return F.binary_cross_entropy_with_logits(logits, tags, reduction="none").sum(1)


def class_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Softmax cross-entropy `(N,)` of logits `(N, K)` and classes `(N,)`: ReCAM's second head."""
    return F.cross_entropy(logits, classes, reduction="none")


def fit_head(
    features: Tensor, targets: Tensor, loss: Loss, decay: float, count: int, *, constant: bool = True
) -> tuple[Tensor, Tensor]:
    """The linear head with the least mean loss plus `decay / 2` times the squares of its weights on scaled features.

    Args:
        features: `(N, D)` float32; each channel is divided by its deviation for the fit.
        targets: `(N, ...)`, as `loss` takes them.
        loss: convex in the logits.
        decay: above 0.
        count: of classes, K.
        constant: whether there is a constant, which is not held down.

    Returns:
        Weights `(K, D)` for the features as they are, and constants `(K,)`.
    """
    deviation = features.std(0)
    deviation = deviation.clamp(min=max(1e-3 * float(deviation.mean()), 1e-6))  # a channel that is nearly constant
    scaled = features / deviation
    weight = torch.zeros(count, features.shape[1], device=features.device, requires_grad=True)
    bias = torch.zeros(count, device=features.device, requires_grad=constant)
    optimizer = torch.optim.LBFGS(
        [weight, bias] if constant else [weight], max_iter=STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-6
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = loss(scaled @ weight.mT + bias, targets).mean() + decay / 2 * weight.square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(closure)
    return (weight / deviation).detach(), bias.detach()


def choose_decay(
    features: Tensor,
    targets: Tensor,
    loss: Loss,
    count: int,
    groups: Tensor,
    *,
    decays: Sequence[float] = DECAYS,
    constant: bool = True,
) -> tuple[float, dict[float, float]]:
    """The decay whose heads are best on images that they were not fitted on.

    Args:
        features: as for `fit_head`, as the others.
        targets: as for `fit_head`.
        loss: as for `fit_head`.
        count: of classes.
        groups: `(N,)` int64, the image of each example: all of an image are in one fold.
        decays: to choose from.
        constant: as for `fit_head`.

    Returns:
        The best, and the loss on images left out by decay; with fewer than two images the first and nothing.
    """
    images = groups.unique()
    folds = min(FOLDS, len(images))
    if folds < 2:
        return decays[0], {}
    shuffled = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
    ends = [len(images) * fold // folds for fold in range(folds + 1)]
    found = dict.fromkeys(decays, 0.0)
    for start, end in pairwise(ends):
        out = torch.isin(groups, shuffled[start:end])
        for decay in decays:
            weight, bias = fit_head(features[~out], targets[~out], loss, decay, count, constant=constant)
            found[decay] += float(loss(features[out] @ weight.mT + bias, targets[out]).sum()) / len(features)
    return min(found, key=lambda decay: found[decay]), found
