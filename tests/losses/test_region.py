"""Balanced, focal, Dice and Lovasz-softmax losses against their definitions."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from maskwright.errors import DataError, RecipeError
from maskwright.losses.balanced import BalancedCrossEntropy, balanced_cross_entropy
from maskwright.losses.cross_entropy import cross_entropy, cross_entropy_map
from maskwright.losses.dice import Dice, dice_loss
from maskwright.losses.focal import Focal, focal_loss
from maskwright.losses.lovasz import LovaszSoftmax, lovasz_softmax_loss

from .contract import LossContract, example, value_and_gradient


class TestFocal(LossContract):
    def make(self, **arguments):
        return Focal(**arguments)


class TestFocalBelowOne(LossContract):
    def make(self, **arguments):
        return Focal(gamma=0.5, **arguments)


class TestBalancedCrossEntropy(LossContract):
    def make(self, **arguments):
        return BalancedCrossEntropy(**arguments)


class TestDice(LossContract):
    def make(self, **arguments):
        return Dice(**arguments)


class TestDicePerImage(LossContract):
    def make(self, **arguments):
        return Dice(scope="image", smooth=1.0, cross_entropy=0.5, **arguments)


class TestLovasz(LossContract):
    def make(self, **arguments):
        return LovaszSoftmax(**arguments)


class TestLovaszPerImage(LossContract):
    def make(self, **arguments):
        return LovaszSoftmax(scope="image", cross_entropy=1.0, **arguments)


def test_focal_is_its_formula():
    logits, labels = example(1, dtype=torch.float64)
    losses, valid = cross_entropy_map(logits, labels)
    losses = losses[valid]
    for gamma in (0.5, 1.0, 2.0, 5.0):
        expected = ((1 - (-losses).exp()) ** gamma * losses).mean()
        torch.testing.assert_close(focal_loss(logits, labels, gamma=gamma), expected)


def test_background_and_objects_weigh_alike():
    logits, labels = example(1, dtype=torch.float64)
    losses, valid = cross_entropy_map(logits, labels)
    for background in (0, 3):
        expected = (losses[valid & (labels == background)].mean() + losses[valid & (labels != background)].mean()) / 2
        torch.testing.assert_close(balanced_cross_entropy(logits, labels, background=background), expected)
    alone = labels.where((labels == 0) | ~valid, torch.full_like(labels, 255))
    torch.testing.assert_close(balanced_cross_entropy(logits, alone), losses[labels == 0].mean())
    with pytest.raises(DataError, match="one of the 4 classes, found 4"):
        balanced_cross_entropy(logits, labels, background=4)


@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 2.0, 5.0]])
def test_focal_without_focus_is_cross_entropy(weights):
    logits, labels = example(1)
    weights = None if weights is None else torch.tensor(weights)
    torch.testing.assert_close(
        focal_loss(logits, labels, gamma=0, class_weights=weights), cross_entropy(logits, labels, class_weights=weights)
    )


def test_focal_at_certain_pixels_has_a_finite_gradient():
    logits = torch.tensor([200.0, -200.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    value, gradient = value_and_gradient(Focal(gamma=0.5), logits, torch.zeros(1, 2, 2, dtype=torch.long))
    assert value == 0
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_dice_is_its_formula(smooth):
    logits, labels = example(2, batch=3, dtype=torch.float64)
    labels[labels == 3] = 0  # a class that does not occur
    labels[1][labels[1] == 2] = 255  # and one that is missing in one image
    labels[2] = 255

    def plain(logits, labels):
        valid = labels != 255
        terms = []
        for value in labels[valid].unique().tolist():
            p, y = logits.softmax(1)[:, value][valid], (labels[valid] == value).double()
            terms.append(1 - (2 * (p * y).sum() + smooth) / (p.sum() + y.sum() + smooth))
        return torch.stack(terms).mean()

    torch.testing.assert_close(dice_loss(logits, labels, smooth=smooth), plain(logits, labels))
    per_image = torch.stack([plain(logits[i : i + 1], labels[i : i + 1]) for i in (0, 1)]).mean()
    torch.testing.assert_close(dice_loss(logits, labels, smooth=smooth, scope="image"), per_image)


def jaccard_loss(predicted, labels, value):
    mine, guess = labels == value, predicted == value
    return 1 - (mine & guess).sum() / (mine | guess).sum()


def test_lovasz_of_hard_predictions_is_the_jaccard_loss():
    """The extension agrees with `1 - IoU` at the corners, its defining property."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (2, 8, 9), generator=generator)
    predicted = torch.randint(0, 4, (2, 8, 9), generator=generator)
    labels[0, :2] = 255
    logits = 1e4 * torch.nn.functional.one_hot(predicted, 4).movedim(-1, 1).double()
    valid = labels != 255
    classes = labels[valid].unique().tolist()
    expected = sum(jaccard_loss(predicted[valid], labels[valid], value) for value in classes) / len(classes)
    torch.testing.assert_close(lovasz_softmax_loss(logits, labels), expected.double())


def test_lovasz_is_the_integral_over_level_sets():
    """Per class: the integral over t of `1 - IoU` of the prediction that is wrong where the error is above t."""
    logits, labels = example(4, batch=1, height=3, width=4, dtype=torch.float64)
    valid = labels != 255
    truth = labels[valid]
    terms = []
    for value in truth.unique().tolist():
        p = logits.softmax(1)[:, value][valid]
        mine = truth == value
        errors = torch.where(mine, 1 - p, p)
        edges = torch.cat([torch.zeros(1, dtype=torch.float64), errors.sort().values])
        total = 0.0
        for low, high in pairwise(edges):
            guess = mine ^ (errors > low)  # the pixels with larger errors are wrong
            union = (mine | guess).sum()
            total = total + (high - low) * (1 - (mine & guess).sum() / union)
        terms.append(total)
    torch.testing.assert_close(lovasz_softmax_loss(logits, labels), torch.stack(terms).mean())


def test_lovasz_per_image_averages_the_images_with_labels():
    logits, labels = example(5, batch=3)
    labels[1] = 255
    alone = [lovasz_softmax_loss(logits[i : i + 1], labels[i : i + 1]) for i in (0, 2)]
    torch.testing.assert_close(lovasz_softmax_loss(logits, labels, scope="image"), torch.stack(alone).mean())


def test_cross_entropy_can_be_added():
    logits, labels = example()
    for kind in (Dice, LovaszSoftmax):
        expected = kind()(logits, labels) + 0.3 * cross_entropy(logits, labels)
        torch.testing.assert_close(kind(cross_entropy=0.3)(logits, labels), expected)


@pytest.mark.parametrize("kind", [Dice, LovaszSoftmax])
def test_unknown_scope(kind):
    with pytest.raises(RecipeError, match="'batch' or 'image', found 'pixel'"):
        kind(scope="pixel")


def test_negative_gamma():
    with pytest.raises(RecipeError, match="gamma >= 0, found -1"):
        focal_loss(*example(), gamma=-1)
