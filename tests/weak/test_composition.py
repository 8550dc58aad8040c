"""Networks, seed methods and refinements of different papers in one recipe, each a word; every stage is run."""

from __future__ import annotations

import pytest
import torch

from maskwright.data import open_dataset
from maskwright.plan.cut import Budget, cut_down
from maskwright.plan.images import cropped_samples
from maskwright.plan.trial import try_stages
from maskwright.recipe.load import load_recipe

CPU = torch.device("cpu")
TRAIN = "{epochs: 1, steps: null, batch_size: 2, augment: {resize: [48, 48], crop: [48, 48]}}"
BASE = [
    "device=cpu",
    "data.options={count: 6, size: [48, 48]}",
    "classifier.train={epochs: 1, batch_size: 2, augment: {crop: [48, 48]}}",
    "seeds.scales=[1.0]",
]
IRN = [
    "irn={backbone: resnet10t, train_radius: 3, options: {dilate: false}, exp_times: 3}",
    "irn.train={batch_size: 2, augment: {crop: [48, 48]}}",
]
L2G = [f"l2g.train={TRAIN}", "l2g.view_size=[32, 32]"]

COMPOSITIONS = {
    "ReCAM on L2G's global network": ["networks=[classifier, l2g, recam]", "seeds.method=recam", *L2G],
    "L2G, then IRN": ["networks=[l2g]", "seeds.method=l2g", "refine=[irn]", *L2G, *IRN],
    "PCM under ReCAM": ["networks=[seam, recam]", "seeds.method=seam", "seeds.options={weight: product}"],
    "AdvCAM on ReCAM, IRN": [
        "networks=[classifier, recam]",
        "seeds.method=advcam",
        "seeds.options={steps: 1, weight: product}",
        "refine=[irn]",
        *IRN,
    ],
    "a CRF before saliency and after IRN": ["data.saliency=barrier", "refine=[crf, saliency, irn, crf]", *IRN],
    "row -E, then saliency": [
        "data.saliency=barrier",
        "networks=[eps, recam]",
        "recam.eps=1",
        "seeds.method=eps",
        "refine=[saliency]",
    ],
    "ReCAM on EDAM's masks": ["networks=[edam, recam]", "recam.masks=edam", "seeds.method=gradcam++"],
    "shape transfer, on EPS": [
        "data.saliency=barrier",
        "networks=[eps, l2g]",
        "l2g.transfer=shape",
        "seeds.method=layercam",
        *L2G,
    ],
}


@pytest.mark.parametrize("words", COMPOSITIONS.values(), ids=COMPOSITIONS)
def test_every_stage_runs(words):
    trainings = [f"{word}.train={TRAIN}" for word in ("recam", "seam", "eps", "edam") if word in words[0] + words[1]]
    recipe = load_recipe("demo", [*BASE, *words, *trainings])
    dataset = open_dataset(recipe.data, "train")
    cut = cut_down(recipe, dataset.labels, dataset.size(0), Budget(2**12, 2**12), CPU)
    samples = cropped_samples(dataset, 2**12, True)
    tried = {
        trial.name: trial
        for trial in try_stages(recipe, cut, samples, dataset.labels, len(dataset), CPU, "pseudo_masks")
    }
    stages = ["saliency" if word == "saliency_background" else word for word in recipe.refine]
    repeated = [f"{stage}-2" for place, stage in enumerate(stages) if stage in stages[:place]]
    wanted = [*recipe.networks, "seeds", *dict.fromkeys(stages), *repeated, "pseudo_masks"]
    assert set(wanted) <= set(tried)
    assert list(tried)[-1] == "pseudo_masks"
    for name in [*recipe.networks, *(["irnet"] if "irn" in recipe.refine else [])]:
        assert all(loss == loss and abs(loss) < 1e6 for loss in tried[name].training.losses)
