"""Nothing is made on another device than the caller's: what is made without saying where lands on `meta` here.

On a device without data such a tensor cannot be added to one on the CPU, as it could not be on a GPU. So the GPU's ways
through losses, the dense CRF and the random walk are walked without one.
"""

from __future__ import annotations

import pytest
import torch

from maskwright.crf import dense_crf as dense
from maskwright.models.irnet import create_irnet, infer_edges
from maskwright.settings import SeedSettings
from maskwright.weak.networks.edam import CollaborativeAttention, activation_masks
from maskwright.weak.networks.eps import eps_loss
from maskwright.weak.networks.l2g import cut_views, l2g_loss
from maskwright.weak.networks.recam import recam_loss
from maskwright.weak.networks.seam import seam_loss
from maskwright.weak.networks.soft_masks import SOFT_MASKS
from maskwright.weak.refine import random_walk as walk
from maskwright.weak.refine.crf_maps import crf_maps
from maskwright.weak.refine.instances import find_centroids
from maskwright.weak.refine.irn_loss import irn_loss
from maskwright.weak.refine.irn_settings import PSASettings
from maskwright.weak.refine.psa import affinity_loss, psa_maps
from maskwright.weak.refine.random_walk import enlarge_walk, random_walk
from maskwright.weak.refine.saliency_maps import background_score, overruled_maps
from maskwright.weak.seeds.windows import in_windows

from .contract import trained_like

TAGS = torch.tensor([[1.0, 0, 1], [0, 0, 0]])
NETWORK = {"background": True, "edam": True, "pcm": "cam"}


def rand(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))


SIZES = [(64, 64), (32, 32)]
IMAGES, FEATURES, SALIENCY = rand(2, 3, 64, 64), rand(2, 8, 6, 6), rand(2, 1, 64, 64)
PICTURES = (rand(2, 20, 24, 3) * 255).to(torch.uint8)
CORNERS = torch.tensor([[[0, 0], [16, 32]], [[32, 0], [8, 8]]])
LABELS = (rand(2, 12, 12) * 4).long()
WALK, WINDOWS = PSASettings(radius=3, exp_times=3), SeedSettings(window=(32, 32))


def network():
    return trained_like("resnet10t", **NETWORK)


@pytest.fixture(scope="module")
def edges():
    return create_irnet(backbone="resnet10t").eval()


WAYS = {
    "random walk": lambda: random_walk(rand(2, 3, 12, 14), rand(2, 1, 12, 14), steps=8),
    "random walk, series": lambda: random_walk(rand(2, 3, 12, 14), rand(2, 1, 12, 14), steps=64, tolerance=1e-5),
    "enlarged walk": lambda: enlarge_walk(rand(3, 12, 14), (46, 55)),
    "dense CRF": lambda: dense._lattice_torch(PICTURES, rand(2, 3, 20, 24), (2, 2), (20, 8, 5), 3),
    "dense CRF, exact": lambda: dense.dense_crf(
        PICTURES, rand(2, 3, 20, 24), gaussian=(2, 2), bilateral=(20, 8, 5), iterations=3, mode="exact"
    ),
    "maps through the CRF": lambda: crf_maps(PICTURES, rand(2, 3, 20, 24), background=0.3, mode="exact"),
    "labels through the CRF": lambda: dense.crf_labels(PICTURES, LABELS[:, :1, :1].expand(2, 20, 24), 4, mode="exact"),
    "centroids": lambda: find_centroids(rand(2, 9, 9) - 0.5, 5),
    "loss of IRN": lambda: irn_loss(rand(2, 1, 12, 12), rand(2, 2, 12, 12), LABELS, 4, radius=3)[0],
    "loss of PSA": lambda: affinity_loss(FEATURES, LABELS[:, :6, :6], 4, radius=3)[0],
    "walk of PSA": lambda: psa_maps(FEATURES, rand(2, 3, 12, 12), WALK, 0.3),
    "features of windows": lambda: in_windows(network(), WINDOWS).features(IMAGES),
    "loss of ReCAM": lambda: recam_loss(FEATURES, rand(3, 8, 1, 1), rand(3, 8, 1, 1), TAGS, 1.0)[0],
    "loss of EPS": lambda: eps_loss(rand(2, 4, 8, 8), SALIENCY, TAGS),
    "loss of SEAM": lambda: seam_loss(network()([IMAGES, IMAGES[..., ::2, ::2]], refined=True), SIZES, TAGS)[0],
    "loss of L2G": lambda: l2g_loss(rand(2, 4, 8, 8), rand(4, 4, 4, 4), TAGS, CORNERS, (32, 32), 8, saliency=SALIENCY)[
        0
    ],
    "views of L2G": lambda: cut_views(IMAGES, CORNERS, (32, 32)),
    "attention of EDAM": lambda: attended(),
    "overruled maps": lambda: overruled_maps(rand(2, 3, 9, 9), background_score(rand(2, 1, 9, 9), mode="hard"), 0.3),
}


def attended():
    with torch.device("cpu"):  # where every module is made
        torch.manual_seed(0)
        module = CollaborativeAttention(8, 3, width=8, heads=2, grid=4)
    return module(rand(2, 8, 6, 6), torch.nn.functional.normalize(rand(2, 4, 6, 6), dim=1))


def rand_elsewhere(monkeypatch):
    """`rand` stands for what the caller brings."""
    plain = rand

    def on_cpu(*shape):
        with torch.device("cpu"):
            return plain(*shape)

    monkeypatch.setitem(globals(), "rand", on_cpu)


@pytest.mark.parametrize("way", WAYS)
def test_all_is_made_where_the_caller_is(way, monkeypatch):
    network()
    for module in (walk, dense):
        monkeypatch.setattr(module, "find_spec", lambda name: None)  # not the compiled forms, which are the CPU's alone
    rand_elsewhere(monkeypatch)
    expected = WAYS[way]()
    with torch.device("meta"):
        found = WAYS[way]()
    assert found.device.type == "cpu"
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", [name for name, masks in SOFT_MASKS.items() if masks is not None])
def test_soft_masks(name):
    classifier = network()
    features = classifier.features(IMAGES)
    with torch.device("meta"):
        found = SOFT_MASKS[name](classifier, IMAGES, features, TAGS)
    assert found.device.type == "cpu"
    assert found.detach().amax((2, 3))[0, [0, 2]].min() > 0.5
    assert found[1].detach().abs().max() == 0


def test_edges_and_masks_of_a_network(edges):
    classifier = network()
    with torch.device("meta"):
        found, displacement = infer_edges(edges, IMAGES, displacement=True)
        masks = activation_masks(classifier, classifier.features(IMAGES))
    assert found.device.type == displacement.device.type == masks.device.type == "cpu"
    assert torch.isfinite(found).all()


def test_something_made_elsewhere_is_noticed():
    with torch.device("meta"), pytest.raises(RuntimeError):
        rand(3).add(torch.ones(3)).sum().item()
