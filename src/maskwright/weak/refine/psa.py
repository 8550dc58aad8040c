"""The refinement `psa` (Ahn and Kwak, CVPR 2018): certain labels -> AffinityNet -> maps walk along affinities.

Where IRN learns boundaries, AffinityNet learns features: two positions belong together as far as these are alike, with
`a = exp(-mean |f_i - f_j|)`. It is trained on pairs of certain labels nearer than a radius, as IRNet is:

    L = 1/4 mean_P0(-log a) + 1/4 mean_P1(-log a) + 1/2 mean_N(-log(1 - a))

for pairs of background, of one class, and of different labels. Maps and a background `(1 - highest map) ** alpha` walk
with weights a^beta. Of these maps the result is made as in `crf_maps`: where a class and the background are equally
likely after the walk, the map of the class is the score of the background that masks are made with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from maskwright.data import subset, with_masks
from maskwright.data.augment import Augment, nearest_index, normalise
from maskwright.data.dataset import Dataset
from maskwright.data.loading import TrainingSet
from maskwright.data.sample import Sample
from maskwright.data.sizes import Size
from maskwright.engine.checkpoint import MODEL, describe, weights_digest
from maskwright.engine.fit import fit
from maskwright.errors import DataError
from maskwright.models.affinity import AffinityNet, create_affinity, load_affinity
from maskwright.models.base import parameter_groups
from maskwright.runs.context import RunContext
from maskwright.runs.folder import LABELS, MAPS
from maskwright.runs.stages import Stage, effective
from maskwright.settings import Recipe
from maskwright.weak.refine.ir_labels import background_of, write_ir_labels
from maskwright.weak.refine.irn_loss import BACKGROUND, CLASS, DIFFERENT, EPS, UNCERTAIN, kinds_of, weighted_means
from maskwright.weak.refine.irn_settings import LABEL_SETTINGS, PSASettings
from maskwright.weak.refine.random_walk import directions, margin_of, of_pairs, stencil, walk, walk_type
from maskwright.weak.refine.refinement import Refinement, Refiner, build_network, check_start
from maskwright.weak.refine.rewrite import refiner, rewrite_maps
from maskwright.weak.refine.threshold import chosen_threshold
from maskwright.weak.seeds.extract import make_views

NETWORK_SETTINGS = ("backbone", "pretrained", "output_stride", "options", "train", "radius")
WALK_SETTINGS = ("radius", "beta", "exp_times", "background_alpha")


def affinity_loss(
    features: Tensor, labels: Tensor, num_classes: int, background: int | None = 0, radius: float = 5
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch, and its parts for the log; of all processes together, as `irn_loss`.

    Args:
        features: `(B, D, h, w)`.
        labels: `(B, h, w)` integers; what is not in 0..num_classes - 1 is undecided.
        num_classes: background included.
        background: the value of the background class, or None.
        radius: of pairs.

    Returns:
        A scalar, float32 or wider, and the means `bg_pos`, `fg_pos` and `neg`.
    """
    kind = torch.promote_types(features.dtype, torch.float32)
    margin = margin_of(radius)
    rows, columns = features.shape[2] - margin, features.shape[3] - 2 * margin

    def at(planes: Tensor, dy: int = 0, dx: int = 0) -> Tensor:
        return planes[..., dy : dy + rows, margin + dx : margin + dx + columns]

    own = kinds_of(labels, num_classes, background)
    sums = [features.sum().double() * 0] * 3  # so that every batch has a gradient
    counts = torch.zeros(3, dtype=torch.float64, device=features.device)
    for dy, dx in directions(radius) if rows > 0 and columns > 0 else ():
        pairs = torch.where(at(labels) == at(labels, dy, dx), at(own), DIFFERENT)
        pairs = torch.where((at(own) != UNCERTAIN) & (at(own, dy, dx) != UNCERTAIN), pairs, UNCERTAIN)
        groups = [pairs == group for group in (BACKGROUND, CLASS, DIFFERENT)]
        counts += torch.stack([group.sum() for group in groups])
        # Differences of all channels are made again for the gradient: those of all directions would fill the memory.
        affinity: Tensor = checkpoint(_affinity, at(features), at(features, dy, dx), use_reentrant=False).to(kind)
        energy = -torch.where(groups[DIFFERENT], 1 + EPS - affinity, affinity + EPS).log()
        sums = [total + (energy * group).sum(dtype=torch.float64) for total, group in zip(sums, groups)]
    loss, means = weighted_means(torch.stack(sums), counts, [0.25, 0.25, 0.5])
    return loss.to(kind), dict(zip(("bg_pos", "fg_pos", "neg"), means.to(kind).unbind(), strict=True))


def _affinity(one: Tensor, other: Tensor) -> Tensor:
    """Affinities `(B, h, w)` of features `(B, D, h, w)`."""
    return (-(one - other).abs().mean(1)).exp()


def train_affinity(
    recipe: Recipe,
    settings: PSASettings,
    dataset: Dataset,
    labels_folder: str | Path,
    folder: str | Path,
    device: torch.device | str,
    *,
    classifier: str | Path | None = None,
) -> dict[str, Any]:
    """Train AffinityNet on certain labels; resumes where it was stopped.

    Args:
        recipe: `random_seed` is read.
        settings: of the network.
        dataset: images; their ground truth is not read.
        labels_folder: `NAME.png` as `write_ir_labels` makes them.
        folder: gets `log.jsonl`, `state.pt` and `model.safetensors`.
        device: where to train.
        classifier: file of the tag classifier, whose backbone is used where `psa.pretrained` is "classifier".

    Returns:
        What `fit` returns: the last numbers of the log.

    Raises:
        RecipeError: a backbone or weights that cannot be had.
        DataError: no image has labels.
    """
    labelled = with_masks(dataset, labels_folder)
    chosen = [index for index in range(len(labelled)) if labelled.has_mask(index)]
    if not chosen:
        raise DataError(f"{labels_folder} has labels of none of the {len(dataset)} images; run that stage again")
    network = build_affinity(settings, recipe.random_seed, classifier)
    labels, mean, std = dataset.labels, network.mean, network.std

    def step(runner: torch.nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        features, truth = runner(normalise(batch["image"], mean, std)), batch["mask"]
        for axis in (1, 2):
            index = nearest_index(truth.shape[axis], features.shape[axis + 1])
            truth = truth.index_select(axis, torch.from_numpy(index).to(truth.device))
        return affinity_loss(features, truth.long(), labels.num_classes, labels.background, settings.radius)

    made = settings.model_dump(mode="json", include={"backbone", "output_stride", "options"})
    augment = Augment(settings.train.augment, labels, mean=mean)
    return fit(
        network,
        step,
        TrainingSet(subset(labelled, chosen), augment, settings.train.seed + recipe.random_seed),
        settings.train,
        folder,
        parameter_groups=parameter_groups(network, settings.train),
        metadata=describe("affinity", made, network, labels, recipe),
        device=device,
        title="affinity",
    )


def build_affinity(settings: PSASettings, seed: int = 0, classifier: str | Path | None = None) -> AffinityNet:
    """The network as it is before training.

    Raises:
        RecipeError: as `create_affinity`; or the backbone should be the classifier's, but none is given.
    """
    return build_network("psa", create_affinity, settings, seed, classifier)


@torch.no_grad()
def psa_maps(features: Tensor, maps: Tensor, settings: PSASettings, background: float) -> Tensor:
    """Maps after the walk.

    Args:
        features: of AffinityNet, `(B, D, h, w)`.
        maps: `(B, n, H, W)` in 0..1, n at least 1, on the same device.
        settings: of the walk.
        background: score of the background, in 0..1; what even odds become.

    Returns:
        `(B, n, H, W)` float32 in 0..1.
    """
    dtype = walk_type(features)
    features, size = features.to(dtype), (features.shape[2], features.shape[3])

    def affinity(dy: int, dx: int) -> Tensor:
        height, width = size[0] - dy, size[1] - abs(dx)
        left = max(0, -dx)
        return _affinity(features[..., :height, left : left + width], features[..., dy:, left + dx : left + dx + width])

    pairs = of_pairs(features[:, 0], affinity, settings.radius, margin_of(settings.radius))
    step = stencil(pairs, settings.radius, settings.beta)
    small = F.interpolate(maps.float(), size, mode="bilinear", align_corners=False, antialias=True).to(dtype)
    plane = (1 - small.amax(1, keepdim=True)).clamp(min=0) ** settings.background_alpha
    walked = walk(torch.cat([plane, small], 1), step, 2**settings.exp_times).float()
    large = F.interpolate(walked, maps.shape[2:], mode="bilinear", align_corners=False)
    odds = large[:, 1:] / (large[:, 1:] + large[:, :1]).clamp(min=1e-12)
    return odds ** (math.log(background) / math.log(0.5))


def psa_stages(context: RunContext, psa: PSASettings, source: str, suffix: str) -> list[Stage]:
    """The three stages of PSA on the maps of stage `source`.

    Raises:
        RecipeError: AffinityNet is to start from the tag classifier but has another backbone.
    """
    check_start("psa", psa, context.recipe.classifier)
    size = context.recipe.seeds.size
    settings = effective(psa)

    def chosen(names: tuple[str, ...]) -> dict[str, Any]:
        return {name: settings[name] for name in names if name in settings}

    labels, net, walked = (name + suffix for name in ("psa_labels", PSA.network, "psa"))

    def write_labels(folder: Path) -> None:
        write_ir_labels(
            context.train,
            context.out.maps(source),
            folder / LABELS,
            foreground_threshold=psa.foreground_threshold,
            background_threshold=psa.background_threshold,
            crf=psa.crf,
            scale=psa.crf_scale,
            device=context.device,
        )

    def train(folder: Path) -> None:
        start, certain = context.out.model(context.seed_network), context.out.stage(labels) / LABELS
        train_affinity(context.recipe, psa, context.train, certain, folder, context.device, classifier=start)

    def refine(folder: Path) -> None:
        path = context.out.model(net)
        work = _refine(context, psa, path)
        made_with = {"psa": chosen(WALK_SETTINGS), "background": chosen_threshold(context), "size": size}
        made_with |= {"weights": weights_digest(load_affinity(path))}
        maps = context.out.maps(source)
        rewrite_maps(context.train, maps, folder / MAPS, work, made_with=made_with, size=size, title="random walk")

    threshold = context.recipe.pseudo_masks.threshold
    score = "auto" if threshold == "auto" else chosen_threshold(context)
    needs = (source, net, "threshold") if threshold == "auto" else (source, net)
    each = partial(context.each_image, f"{MAPS}/{{}}.npz")
    return [
        Stage(
            labels,
            "certain labels of the maps",
            write_labels,
            chosen(LABEL_SETTINGS),
            (source,),
            each=partial(context.each_image, f"{LABELS}/{{}}.png"),
        ),
        Stage(
            net,
            "train AffinityNet on the labels",
            train,
            {"psa": chosen(NETWORK_SETTINGS), "seed": context.recipe.random_seed},
            (labels, context.seed_network),
            results=(MODEL,),
        ),
        Stage(
            walked,
            "maps along affinities",
            refine,
            {**chosen(WALK_SETTINGS), "background": score, "size": size},
            needs,
            each=each,
        ),
    ]


def _refine(context: RunContext, psa: PSASettings, path: Path) -> Any:
    """What `rewrite_maps` calls: images of one size and their maps to walked maps."""
    device, size, background = context.device, context.recipe.seeds.size, chosen_threshold(context)
    network = load_affinity(path).to(device).eval()
    return partial(walked_maps, network, psa, background, size, device)


@torch.no_grad()
def walked_maps(
    network: AffinityNet,
    psa: PSASettings,
    background: float,
    size: Size,
    device: torch.device,
    samples: Sequence[Sample],
    maps: Tensor,
) -> Tensor:
    """`psa_maps` of images.

    Args:
        network: in evaluation mode, on `device`.
        psa: settings of the walk.
        background: score of the background.
        size: that the network sees images at.
        device: where to compute.
        samples: images of one size.
        maps: theirs, `(B, n, H, W)`.
    """
    images = [sample.image for sample in samples]
    views = make_views(
        images,
        [()] * len(images),
        mean=network.mean,
        std=network.std,
        scales=(1.0,),
        flip=False,
        size=size,
        device=device,
    )
    return psa_maps(network(views.images[0]), maps.to(device), psa, background)


def psa_refiner(context: RunContext, psa: PSASettings, suffix: str) -> Refiner:
    """The walk in memory, with the network that the stage `affinity` trained; see `Refinement.refiner`."""
    work = _refine(context, psa, context.out.model(PSA.network + suffix))
    return refiner(work, context.recipe.seeds.size)


PSA = Refinement(
    "PSA",
    PSASettings,
    psa_stages,
    refiner=psa_refiner,
    reads_threshold=True,
    network="affinity",
    build=lambda psa, pretrained: build_affinity(psa.model_copy(update={"pretrained": pretrained})),
    check=lambda psa, labels: background_of(labels),
    crf=lambda psa: f"certain labels: {psa.crf}" if psa.crf else "",
)
