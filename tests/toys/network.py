"""A toy network: a tag classifier with a background that learns from nothing but tags, and maps of its own."""

from typing import Any, ClassVar

from pydantic import Field

from maskwright.data.augment import normalise
from maskwright.settings import PaperTagTraining
from maskwright.weak.networks.classifier import fit_tags, next_network, part_groups
from maskwright.weak.networks.network import Network
from maskwright.weak.networks.recam import first_head_loss
from maskwright.weak.seeds.cam import class_activation_maps
from maskwright.weak.seeds.method import SeedMethod


class ToySettings(PaperTagTraining):
    """A toy."""

    paper: ClassVar[dict[str, Any]] = {"steps": 1, "batch_size": 4, "freeze_batchnorm": True}

    strength: float = Field(1.0, ge=0, description="of its loss")


def train_toy(recipe, settings, start, train, val, folder, device):
    network = next_network(recipe, start, len(train.labels.foreground), background=True)
    mean, std = network.mean, network.std

    def step(runner, batch):
        maps = runner(normalise(batch["image"], mean, std), maps=True)
        loss = first_head_loss(maps[:, :-1].mean((2, 3)), batch["tags"], "bce")
        return settings.strength * loss, {"tags": loss.detach()}

    groups = part_groups(settings.train, old=[network.backbone], new=[network.classifier])
    return fit_tags(
        network, step, recipe, settings.train, train, val, folder, device, parameter_groups=groups, title="toy"
    )


def toy_maps(network, views, *, power: float = 1.0):
    return class_activation_maps(network, views, weight=network.classifier.weight * power)


TOY = Network(
    "train a toy",
    ToySettings,
    train_toy,
    maps=SeedMethod(toy_maps, needs=lambda seeds: ("background",)),
    parts=lambda settings: {"background": True},
)
