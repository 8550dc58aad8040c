"""PSA: the affinity of pairs, its loss and its walk against the definition, and the refinement in a run."""

import math

import numpy as np
import pytest
import torch

from maskwright.data.sample import Sample
from maskwright.errors import RecipeError
from maskwright.files import read_arrays
from maskwright.models.affinity import create_affinity, load_affinity
from maskwright.pipeline.run import run
from maskwright.recipe.load import load_recipe
from maskwright.runs.context import RunContext
from maskwright.runs.folder import RunFolder
from maskwright.weak.refine import refinement_stages
from maskwright.weak.refine.irn_settings import PSASettings
from maskwright.weak.refine.psa import affinity_loss, build_affinity, psa_maps, psa_refiner
from maskwright.weak.seeds.cam import SeedMaps
from maskwright.weak.seeds.extract import load_maps

RADIUS = 3
SMALL = [
    "device=cpu",
    "data.options={count: 6, size: [48, 64]}",
    "classifier.train={steps: 2, batch_size: 3, workers: 0, augment: {crop: [48, 48]}}",
    "seeds={scales: [1.0], flip: false}",
    "refine=[psa]",
    "psa={backbone: resnet10t, radius: 3, exp_times: 3, options: {dilate: false}}",
    "psa.train={steps: 2, batch_size: 3, lr: 0.01, workers: 0, augment: {crop: [48, 48]}}",
    "pseudo_masks.threshold=0.3",
]


def pairs_of(height, width, radius):
    """Every pair of positions nearer than the radius, once."""
    places = [(y, x) for y in range(height) for x in range(width)]
    for i, (y, x) in enumerate(places):
        for j, (v, u) in enumerate(places):
            if i < j and (v - y) ** 2 + (u - x) ** 2 < radius**2:
                yield (y, x), (v, u)


def affinity(features, one, other):
    difference = (features[:, one[0], one[1]] - features[:, other[0], other[1]]).abs()
    return (-difference.mean()).exp()


@pytest.mark.parametrize("background", [0, 2, None])
def test_loss_and_gradient_are_those_of_the_definition(background):
    torch.manual_seed(0)
    features = torch.randn(2, 5, 7, 8, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 4, (2, 7, 8))
    labels[labels == 3] = 255
    found, parts = affinity_loss(features, labels, 3, background, RADIUS)
    (gradient,) = torch.autograd.grad(found, features)
    sums, counts = [0.0, 0.0, 0.0], [0, 0, 0]
    margin = RADIUS - 1
    for image in range(2):
        for one, other in pairs_of(7, 8, RADIUS):
            # As in the released code the upper one lies where every neighbour below is in the image.
            if one[0] >= 7 - margin or not margin <= one[1] < 8 - margin:
                continue
            first, second = labels[image][one].item(), labels[image][other].item()
            if 255 in (first, second):
                continue
            kind = 2 if first != second else 0 if first == background else 1
            a = affinity(features[image], one, other)
            sums[kind] = sums[kind] - ((1 + 1e-5 - a) if kind == 2 else a + 1e-5).log()
            counts[kind] += 1
    means = [total / (count + 1e-5) for total, count in zip(sums, counts)]
    expected = means[0] / 4 + means[1] / 4 + means[2] / 2
    (wanted,) = torch.autograd.grad(expected, features)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(gradient, wanted, rtol=1e-7, atol=1e-12)
    for name, mean in zip(("bg_pos", "fg_pos", "neg"), means, strict=True):
        assert parts[name].item() == pytest.approx(torch.as_tensor(mean).item())


def test_nothing_certain_gives_no_gradient_and_no_error():
    features = torch.randn(1, 5, 6, 6, requires_grad=True)
    loss, _ = affinity_loss(features, torch.full((1, 6, 6), 255), 3, 0, RADIUS)
    (gradient,) = torch.autograd.grad(loss, features)
    assert loss == 0
    assert gradient.abs().max() == 0


@pytest.mark.parametrize("background", [0.25, 0.5])
def test_maps_walk_as_in_the_dense_form(background):
    torch.manual_seed(1)
    settings = PSASettings(radius=RADIUS, beta=2.0, exp_times=2, background_alpha=3.0)
    features, maps = torch.randn(1, 5, 6, 7, dtype=torch.float64), torch.rand(1, 2, 6, 7)
    matrix = torch.eye(42, dtype=torch.float64)
    for one, other in pairs_of(6, 7, RADIUS):
        i, j = one[0] * 7 + one[1], other[0] * 7 + other[1]
        matrix[i, j] = matrix[j, i] = affinity(features[0], one, other) ** 2
    matrix = torch.linalg.matrix_power(matrix / matrix.sum(0, keepdim=True), 4)
    planes = torch.cat([(1 - maps.amax(1, keepdim=True)) ** 3, maps], 1).double()
    walked = (planes.flatten(2)[0] @ matrix).view(3, 6, 7)
    found = psa_maps(features, maps, settings, background)[0]
    odds = walked[1:] / (walked[1:] + walked[:1])
    torch.testing.assert_close(found.double(), odds ** (math.log(background) / math.log(0.5)), rtol=1e-4, atol=1e-5)
    # A class is above the score of the background where it beats the background that walked.
    assert torch.equal(found > background, (walked[1:] > walked[:1]))


def test_maps_fill_what_belongs_together_and_nothing_else():
    features = torch.zeros(1, 4, 12, 12)
    features[..., 6:] = 20.0
    maps = torch.zeros(1, 1, 12, 12)
    maps[..., 4:8, 2:4] = 1.0
    settings = PSASettings(radius=5, exp_times=6, background_alpha=1e-6)
    after = psa_maps(features, maps, settings, 0.25)[0, 0]
    assert after[:, :6].min() > 0.001
    assert after[:, 6:].max() < 1e-6


@pytest.mark.parametrize("backbone", ["resnet10t", "resnet38", "tf_efficientnet_lite0"])
def test_any_backbone_gives_features_at_the_stride_of_its_last_map_but_two(backbone):
    options = {"width": 1 / 16} if backbone == "resnet38" else {}
    network = create_affinity(backbone=backbone, output_stride=8 if options else 16, **options)
    found = network.eval()(torch.randn(1, 3, 33, 47))
    stride = network.backbone.strides[-3]
    assert found.shape == (1, 448, -(-33 // stride), -(-47 // stride))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("psa") / "run")
    recipe = load_recipe("demo", [*SMALL, f"out={folder.path}"])
    run(recipe, until="pseudo_masks", say=lambda line: None)
    return folder, recipe


def test_a_run_from_seeds_to_pseudo_masks(finished):
    folder, recipe = finished
    assert list(folder.records()) == ["classifier", "seeds", "psa_labels", "affinity", "psa", "pseudo_masks"]
    network = load_affinity(folder.model("affinity"))
    begun = build_affinity(recipe.psa, recipe.random_seed, folder.model("classifier"))
    assert not torch.equal(network.merge.weight, begun.merge.weight)
    changed = 0.0
    for path in sorted(folder.maps("psa").glob("*.npz")):
        (keys, found), (same, seeds) = (load_maps(folder.maps(stage), path.stem) for stage in ("psa", "seeds"))
        assert keys.tolist() == same.tolist()
        assert found.shape == seeds.shape
        if len(keys):
            assert 0 <= found.min() <= found.max() <= 1
            changed = max(changed, np.abs(found - seeds).max())
    assert changed > 0.05
    assert (folder.masks / f"{path.stem}.png").is_file()


@pytest.mark.bit_equal
def test_in_memory_it_gives_the_maps_of_the_files(finished):
    folder, recipe = finished
    context = RunContext(recipe, folder.path, print)
    data = context.train
    index = next(index for index in range(len(data)) if data.tags(index))
    arrays = read_arrays(folder.maps("seeds") / f"{data.names[index]}.npz")
    seeds = SeedMaps(*(torch.from_numpy(arrays[name]) for name in ("keys", "cam", "high_res")))
    refine = psa_refiner(context, recipe.psa, "")
    (found,) = refine([Sample(data.names[index], data[index].image, None)], [seeds])
    expected = load_maps(folder.maps("psa"), data.names[index])[1]
    assert np.array_equal(found.high_res.half().numpy(), expected)


def test_a_changed_walk_trains_nothing(finished, tmp_path):
    folder, _ = finished
    said = []
    recipe = load_recipe("demo", [*SMALL, f"out={folder.path}", "psa.beta=2.0"])
    run(recipe, until="psa", say=said.append)
    assert any("train AffinityNet on the labels: done already" in line for line in said)
    assert any("psa.beta" in line or "beta absent" in line for line in said)


def test_the_classifiers_backbone_must_be_the_same(tmp_path):
    recipe = load_recipe("demo", [*SMALL, "psa.backbone=resnet18"])
    with pytest.raises(RecipeError, match=r"set psa\.backbone=resnet10t, found resnet18"):
        refinement_stages(RunContext(recipe, tmp_path, print))
