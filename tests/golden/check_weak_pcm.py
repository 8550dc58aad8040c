"""PCM on given maps and embeddings, and in SEAM's and L2G's networks on given feature maps."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from maskwright.models.backbones import Backbone
from maskwright.models.classifier import ImageTagClassifier
from maskwright.models.pcm import pcm, resize_aligned

UNUSED = {
    "*_pcm_f": "embeddings are divided by their length, so a common factor is undone; other values than these fail",
    "*_w_f9": "as above",
}
EVERY = 3  # the stored pixels of SEAM's maps at image size
CLOSE = {"rtol": 0, "atol": 1e-5}


class GivenFeatures(Backbone):
    """A trunk that gives what it is told."""

    def __init__(self, given: list[torch.Tensor]) -> None:
        super().__init__("given", [maps.shape[1] for maps in given], (8,) * len(given))
        self.given = given

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return self.given


def network(arrays: dict[str, torch.Tensor], who: str, kind: str, background: bool) -> ImageTagClassifier:
    """The product's network with the stored weights; SEAM's background has a row in front that nothing reads."""
    trunk = GivenFeatures([arrays[f"{who}_conv{number}"] for number in (4, 5, 6)])
    head = arrays[f"{who}_w_fc8"]
    made = ImageTagClassifier(trunk, len(head) - 1, pcm=kind, background=background)
    assert made.pcm is not None
    if background:
        made.background.weight = nn.Parameter(head[-1:])
    made.classifier.weight = nn.Parameter(head[:-1] if background else head[1:])
    for layer, name in zip((*made.pcm.low, made.pcm.embed), ("f8_3", "f8_4", "f9"), strict=True):
        layer.weight = nn.Parameter(arrays[f"{who}_w_{name}"])
    return made


@torch.no_grad()
def check(arrays: dict[str, np.ndarray]) -> None:
    given = {key: torch.from_numpy(value) for key, value in arrays.items()}
    for who in ("seam", "l2g"):
        embedding = nn.functional.conv2d(given[f"{who}_pcm_f"], given[f"{who}_w_f9"])
        for chunk in (None, 1, 5):
            found = pcm(given[f"{who}_pcm_in"], embedding, chunk)
            np.testing.assert_allclose(found, arrays[f"{who}_pcm_out"], **CLOSE)

    seam = network(given, "seam", "cam", background=False)
    images = given["seam_x"]
    maps, refined = (
        resize_aligned(maps, images.shape[2:])[..., ::EVERY, ::EVERY] for maps in seam(images, refined=True)
    )
    background = seam.class_maps(given["seam_conv6"], given["seam_w_fc8"][:1])
    background = resize_aligned(background, images.shape[2:])[..., ::EVERY, ::EVERY]
    shown = arrays["seam_out0"].shape[1]
    np.testing.assert_allclose(torch.cat([background, maps], 1)[:, :shown], arrays["seam_out0"], **CLOSE)
    np.testing.assert_allclose(refined.roll(1, 1)[:, :shown], arrays["seam_out1"], **CLOSE)

    l2g = network(given, "l2g", "features", background=True)
    images = given["l2g_x"]
    np.testing.assert_allclose(l2g(images, maps=True), arrays["l2g_out0"], **CLOSE)
    np.testing.assert_allclose(l2g(images), arrays["l2g_out1"], **CLOSE)
    np.testing.assert_allclose(l2g.class_maps(l2g.features(images)), arrays["l2g_out0"][:, :-1], **CLOSE)
