"""A toy seed method: class activation maps, blurred or not."""

from typing import Literal

from torch.nn import functional as F

from maskwright.weak.seeds.cam import class_activation_maps
from maskwright.weak.seeds.method import SeedMethod


def toy_maps(network, views, *, blur: Literal["none", "box"] = "none"):
    found = class_activation_maps(network, views)
    for maps in found if blur == "box" else ():
        maps.high_res = F.avg_pool2d(maps.high_res, 3, 1, 1)
    return found


TOY = SeedMethod(toy_maps)
