"""What a seed method is: one object that says how maps are taken of a network, and what that needs."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any

from torch import Tensor

from maskwright.errors import RecipeError, unknown_name
from maskwright.settings import ClassifierSettings, SeedSettings
from maskwright.settings.options import check_values
from maskwright.weak.seeds.cam import SeedMaps

# Called as `maps(network, views, **options)`; gives one entry per image.
MapsOf = Callable[..., list[SeedMaps]]

# Pixels of the largest scale, mirrors included, that go through the network at once: enough to keep it busy.
BATCH_PIXELS = {"cpu": 2**21, "cuda": 2**25}


def needs_nothing(settings: Any) -> tuple[str, ...]:
    """For methods that any network and any images will do for."""
    return ()


@dataclass(frozen=True)
class SeedMethod:
    """A way to take maps of a network.

    Args:
        maps: called as `maps(network, views, **options)`; gives one `SeedMaps` per image. What it takes by keyword are
            the method's options, and their annotations say which values they can have.
        needs: called with the recipe's `seeds`; what must be there beside a tag classifier, in the words of
            `maskwright.weak.methods`: `saliency`, `unsigned_map`, or a part of the network, as `recam_head` or
            `pcm=cam`.
        refuses: types of `seeds.autocast` that it cannot work in, each with why.
        cheap: called with `seeds` and `classifier`; options for a plan's trial, and the share of the work on an image
            that they leave. None where its own options take seconds.
        reads_features: whether it reads nothing of a network but the map that `features` gives, and weights of heads:
            then it can take maps of a frozen backbone that are kept in files.
        per_class: whether each tagged class is worked on by itself, so that time goes with the tags of an image.
        batch_pixels: by type of device, pixels that it works on at once.
    """

    maps: MapsOf
    needs: Callable[[SeedSettings], tuple[str, ...]] = needs_nothing
    refuses: Mapping[str, str] = field(default_factory=dict)
    cheap: Callable[[SeedSettings, ClassifierSettings], tuple[dict[str, Any], float]] | None = None
    reads_features: bool = False
    per_class: bool = False
    batch_pixels: Mapping[str, int] = field(default_factory=lambda: BATCH_PIXELS)

    def check(self, settings: SeedSettings) -> None:
        """Refuse what can be known to fail before there is a network.

        Raises:
            RecipeError: an option that the method does not have, a value that the option cannot have, or a type of
                `autocast` that the method cannot work in.
        """
        if settings.autocast in self.refuses:
            raise RecipeError(f"seeds.autocast={settings.autocast}: {self.refuses[settings.autocast]}")
        types = typing.get_type_hints(self.maps)
        known = [
            name
            for name in list(inspect.signature(self.maps).parameters)[2:]  # after the network and the views
            if not set(typing.get_args(types.get(name)) or [types.get(name)]) <= {Tensor, NoneType}  # of Python alone
        ]
        for name in settings.options:
            if name not in known:
                raise RecipeError(unknown_name(f"option of seeds {settings.method}", name, known))
        check_values(self.maps, settings.options, "seeds.options")
