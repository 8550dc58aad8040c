"""The networks that maps come from, by the word that a recipe names them with.

A network is trained by `train(recipe, start, train, val, folder, device) -> dict`, where `start` is the file of the
network before it in the recipe's chain, or None; it writes a classifier that `load_classifier` reads. A new one is one
new file and one line here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from maskwright.weak.networks.classifier import train_classifier
from maskwright.weak.networks.edam_training import train_edam
from maskwright.weak.networks.eps_training import train_eps
from maskwright.weak.networks.l2g_training import train_l2g
from maskwright.weak.networks.recam_training import train_recam
from maskwright.weak.networks.seam_training import train_seam

NETWORKS: dict[str, Callable[..., dict[str, Any]]] = {
    "classifier": train_classifier,
    "recam": train_recam,
    "l2g": train_l2g,
    "seam": train_seam,
    "eps": train_eps,
    "edam": train_edam,
}

TITLES = {
    "classifier": "train the tag classifier",
    "recam": "train ReCAM's second head",
    "l2g": "train L2G's global network from a local one",
    "seam": "train SEAM's two branches",
    "eps": "train on tags and saliency (EPS)",
    "edam": "train the layer of discriminative activation (EDAM)",
}
