"""The networks that maps come from, by the word that a recipe names them with. A new one is one file and one line."""

from __future__ import annotations

from maskwright.weak.networks.classifier import CLASSIFIER
from maskwright.weak.networks.edam_training import EDAM
from maskwright.weak.networks.eps_training import EPS
from maskwright.weak.networks.l2g_training import L2G
from maskwright.weak.networks.network import Network
from maskwright.weak.networks.recam_training import RECAM
from maskwright.weak.networks.seam_training import SEAM

NETWORKS: dict[str, Network] = {
    "classifier": CLASSIFIER,
    "recam": RECAM,
    "l2g": L2G,
    "seam": SEAM,
    "eps": EPS,
    "edam": EDAM,
}
