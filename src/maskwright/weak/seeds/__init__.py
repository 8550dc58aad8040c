"""Seed methods: how maps are taken of a tag classifier. A new one is one file and one line in `SEED_METHODS`.

Maps that only one network has, such as `seam`'s, come with the network: see `maskwright.weak.networks`.
"""

from __future__ import annotations

from maskwright.weak.seeds.advcam import ADVCAM
from maskwright.weak.seeds.cam import class_activation_maps
from maskwright.weak.seeds.gradcam import gradcam, gradcam_plus_plus
from maskwright.weak.seeds.layercam import layercam
from maskwright.weak.seeds.method import SeedMethod
from maskwright.weak.seeds.scorecam import SCORECAM

SEED_METHODS: dict[str, SeedMethod] = {
    "advcam": ADVCAM,
    "cam": SeedMethod(class_activation_maps, reads_features=True),
    "gradcam": SeedMethod(gradcam),
    "gradcam++": SeedMethod(gradcam_plus_plus),
    "layercam": SeedMethod(layercam),
    "scorecam": SCORECAM,
}
