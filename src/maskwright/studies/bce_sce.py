"""ReCAM's study of two losses (Chen et al., CVPR 2022, figures 1 and 4): binary or softmax cross-entropy on one label.

The same classifier is trained twice on images that show exactly one of a few classes that are easily confused, with
the same start, images, order and budget; only the loss on its logits z differs. The paper's claim is that the softmax
(SCE) pushes the logit of the most confusing class down harder than the sigmoids (BCE) do, which gives a higher accuracy
and better seeds. Gradients of one image's loss, with K classes, y its one-hot tag: BCE (sigmoid(z_k) - y_k) / K, SCE
softmax(z)_k - y_k; that of the confusing class is positive and pushes down, that of the target negative. The division
by K, as in the paper, is part of what BCE is; the verdict says what is left without it.

The classes are given, or those that a classifier of all classes tells apart worst. Accuracy and seeds are measured on
images that were not trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskwright.data import BUILT_IN, open_dataset, subset
from maskwright.data.content import FILES
from maskwright.data.dataset import Dataset
from maskwright.data.sample import LabelSpace, Sample
from maskwright.engine import distributed
from maskwright.engine.checkpoint import MODEL
from maskwright.engine.device import choose_device
from maskwright.errors import DataError, RecipeError
from maskwright.files import atomic_write, read_json, write_json
from maskwright.metrics import ConfusionMatrix
from maskwright.recipe.load import load_recipe
from maskwright.runs.data_facts import data_facts
from maskwright.runs.digests import Digests
from maskwright.runs.folder import RunFolder
from maskwright.runs.lock import run_lock
from maskwright.runs.stages import Stage, effective, run_stages
from maskwright.settings import Recipe
from maskwright.studies.bce_sce_confusion import confusion, confusion_lines, plot_confusion
from maskwright.studies.bce_sce_results import plot, read_epochs, table, verdicts
from maskwright.weak.labels import threshold_counts
from maskwright.weak.networks.classifier import tag_scores, train_classifier
from maskwright.weak.pseudo_masks import sweep_thresholds
from maskwright.weak.seeds.extract import extract_maps

LOSSES = ("bce", "sce")
FORMULAS = {"bce": "(sigmoid(z_k) - y_k) / K", "sce": "softmax(z)_k - y_k"}
CLASSES = 4  # that are chosen where none are given
FEWEST = 4  # images of each of two classes without the other, below which nobody can say whether they are confused


class OneOf:
    """The images that show exactly one of some classes; everything else in them counts as background.

    Args:
        dataset: tags, and masks where there are any.
        values: label values of the classes, in the order that they get here.
        most: of more images that qualify only so many, spread evenly over them.
    """

    def __init__(self, dataset: Dataset, values: Sequence[int], most: int | None = None) -> None:
        old: LabelSpace = dataset.labels
        self.position = {value: place + 1 for place, value in enumerate(values)}
        chosen = [
            index
            for index in range(len(dataset))
            if sum(value in self.position for value in dataset.tags(index) or ()) == 1
        ]
        if most is not None and len(chosen) > most:
            chosen = [chosen[place] for place in np.linspace(0, len(chosen) - 1, most).round().astype(int)]
        self.inner = subset(dataset, chosen)
        self.names, self.source = self.inner.names, {**self.inner.source, "classes": [old.names[v] for v in values]}
        self.images, self.masks, self.saliency = self.inner.images, self.inner.masks, self.inner.saliency
        self.tags_from_masks, self.label_map = self.inner.tags_from_masks, self.inner.label_map
        rest = "background" if old.background is None else old.names[old.background]
        names = (rest, *(old.names[value] for value in values))
        self.labels = LabelSpace(names, palette=((0, 0, 0), *(old.palette[value] for value in values)))
        self.table = np.zeros(256, np.uint8)
        self.table[list(self.position)] = list(self.position.values())
        if 0 <= old.ignore_index < 256:
            self.table[old.ignore_index] = self.labels.ignore_index

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Sample:
        return self.get(index)

    def get(self, index: int, with_mask: bool = True) -> Sample:
        sample = self.inner.get(index, with_mask)
        mask = None if sample.mask is None else self.table[sample.mask]
        return Sample(sample.name, sample.image, mask, self.tags(index), sample.saliency)

    def mask(self, index: int) -> np.ndarray | None:
        mask = self.inner.mask(index)
        return None if mask is None else self.table[mask]

    def tags(self, index: int) -> tuple[int, ...]:
        return tuple(self.position[value] for value in self.inner.tags(index) or () if value in self.position)

    def has_mask(self, index: int) -> bool:
        return self.inner.has_mask(index)

    def size(self, index: int) -> tuple[int, int]:
        return self.inner.size(index)


def logit_gradients(logits: Tensor, tags: Tensor, loss: str) -> dict[str, Tensor]:
    """Gradient of an image's loss at the logits of its class and of the most confusing other, means over a batch.

    Args:
        logits: `(B, K)`, K at least 2.
        tags: `(B, K)`, one-hot.
        loss: `bce` or `sce`, see the module.

    Returns:
        `gradient_target` in -1..0 and `gradient_confusing` in 0..1; the most confusing class of an image is the one
        with the highest logit among those that it does not show.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if loss == "bce":
        gradient = (logits.sigmoid() - tags) / logits.shape[1]
    else:
        gradient = logits.softmax(1) - tags
    confusing = logits.masked_fill(tags > 0, -torch.inf).argmax(1, keepdim=True)
    return {
        "gradient_target": gradient[tags > 0].mean(),
        "gradient_confusing": gradient.gather(1, confusing).mean(),
    }


def confusable_pairs(scores: np.ndarray, tags: np.ndarray) -> list[tuple[float, int, int]]:
    """How badly each pair of classes is told apart, the worst first.

    Over pairs of images that show one of the two classes each: the share that the difference of the two scores puts in
    the wrong order (1 - AUC; ties count half). So neither how common a class is nor the scale of its scores matters.

    Args:
        scores: `(N, K)`.
        tags: `(N, K)`, not zero where an image shows a class.

    Returns:
        `(share, class, class)` with share 0 for never and 0.5 for chance; pairs with fewer than `FEWEST` images of
        either class without the other are left out.
    """
    tagged = tags > 0
    found = []
    for one, other in combinations(range(tags.shape[1]), 2):
        difference = scores[:, one] - scores[:, other]
        mine = difference[tagged[:, one] & ~tagged[:, other]]
        theirs = np.sort(difference[tagged[:, other] & ~tagged[:, one]])
        if min(len(mine), len(theirs)) < FEWEST:
            continue
        above = 2 * len(theirs) - theirs.searchsorted(mine, "left") - theirs.searchsorted(mine, "right")
        found.append((float(above.mean() / 2 / len(theirs)), one, other))
    return sorted(found, key=lambda pair: (-pair[0], pair[1:]))


def choose_classes(pairs: Sequence[tuple[float, str, str]], count: int = CLASSES) -> list[str]:
    """Classes of the worst pairs, until there are `count`; pairs that would make more are passed over."""
    chosen: list[str] = []
    for _, *pair in pairs:
        new = [name for name in pair if name not in chosen]
        if len(chosen) + len(new) <= count:
            chosen += new
    return chosen


def measure(network: Any, dataset: OneOf, recipe: Recipe, device: torch.device) -> dict[str, Any]:
    """Accuracy and seed mIoU of a classifier.

    Args:
        network: in inference mode, on `device`.
        dataset: what to evaluate on.
        recipe: `seeds.size`, `seeds.scales`, `seeds.flip` and `pseudo_masks` are read; seeds are plain CAM.
        device: where to compute.

    Returns:
        `accuracy` (of the highest logit), and on the images with ground truth `seed_miou` at the recipe's threshold
        (None for "best") and `seed_best` at `seed_best_threshold`; None without ground truth. mIoU is over the classes
        and the background.
    """
    scores = tag_scores(network, dataset, recipe.seeds.size, device)
    target = [dataset.tags(index)[0] - 1 for index in range(len(dataset))]
    found: dict[str, Any] = {"accuracy": float(np.mean(scores.argmax(1) == target))}
    default = recipe.pseudo_masks.threshold
    fixed = [] if isinstance(default, str) else [default]
    thresholds = np.unique([*sweep_thresholds(recipe.pseudo_masks), *fixed])
    counts = np.zeros((len(thresholds), dataset.labels.num_classes, dataset.labels.num_classes), np.int64)
    judged = [index for index in range(len(dataset)) if dataset.has_mask(index)]
    for index in judged:
        sample, keys = dataset[index], [target[index]]
        maps = extract_maps(
            network,
            sample.image,
            keys,
            scales=recipe.seeds.scales,
            flip=recipe.seeds.flip,
            size=recipe.seeds.size,
            device=device,
        )
        assert sample.mask is not None
        counts += threshold_counts(maps.high_res.cpu().numpy(), keys, sample.mask, thresholds, dataset.labels)
    if not judged:
        return {**found, "seed_miou": None, "seed_best": None, "seed_best_threshold": None}
    mious = [ConfusionMatrix.from_matrix(matrix, dataset.labels).scores()["miou"] for matrix in counts]
    best = int(np.argmax(mious))
    return {
        **found,
        "seed_miou": mious[int(np.searchsorted(thresholds, fixed[0]))] if fixed else None,
        "seed_best": mious[best],
        "seed_best_threshold": float(thresholds[best]),
    }


def bce_sce(
    recipe: Recipe,
    *,
    classes: Sequence[str] | None = None,
    repeats: int = 1,
    images: int = 200,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train with both losses, measure after every epoch, write what was found; resumes where it stopped.

    The run folder gets `study.json`, `study.png` and `confusion.png`.

    Args:
        recipe: `data`, `classifier`, `seeds`, `pseudo_masks`, `seed`, `device` and `out` are read.
        classes: names of the classes; by default those that a classifier of all classes, trained first with the
            recipe's budget, tells apart worst on `data.val`; see `confusable_pairs`.
        repeats: how often the comparison is made, each time with another start and order of the images.
        images: the most that are measured on after an epoch, spread evenly over those of `data.val` that qualify; and
            the most of `data.train` that confusions are counted on.
        say: prints one line.

    Returns:
        What is written to `study.json`: `classes`, `confusable_pairs` (None where classes were given), `images`,
        `formulas`, `runs` (per loss, one entry per repeat with `seed` and `epochs`), `confusion` (of the trained
        classifiers, over all repeats, on images that were learned from and on others; see `bce_sce_confusion`),
        `verdicts`, `recipe`, `facts`.

    Raises:
        DataError: unknown classes, fewer than two, or no image that shows exactly one of them.
        RecipeError: settings of the classifier that cannot be.
        TrainingStopped: training could not give a usable model.
    """
    from maskwright.pipeline.run import run_facts

    if classes == []:
        raise RecipeError("classes= names no class; give classes=NAME,NAME or leave it out")
    if repeats < 1 or images < 1:
        raise RecipeError(f"repeats and images must be at least 1, found {repeats} and {images}")
    distributed.initialise(recipe.device)
    main = distributed.is_main()
    say = say if main else _silent
    out = Path(recipe.out or f"runs/study-bce-sce-{Path(recipe.data.root).name}")
    train, val = open_dataset(recipe.data, recipe.data.train), open_dataset(recipe.data, recipe.data.val)
    digests = Digests(RunFolder(out).digests)
    data = [data_facts(dataset, digests, FILES, labels=False) for dataset in (train, val)]
    pairs: list[tuple[float, str, str]] | None = None
    with run_lock(out) if main else nullcontext():
        if main:
            digests.save()
        if classes is None:
            run_stages([_scout(recipe, train, val, data)], out, say)
            pairs = read_json(out / "scout" / "pairs.json")
        values = sorted({train.labels.value(name) for name in classes or choose_classes(pairs or [])})
        learned, judged = _one_of(train, values), _one_of(val, values, images)
        names = learned.labels.tag_names
        say(f"classes: {', '.join(names)}; {len(learned)} images to train on, {len(judged)} to evaluate on")
        jobs = [(recipe.random_seed + repeat, loss) for repeat in range(repeats) for loss in LOSSES]
        stages = [_training(recipe, learned, judged, data, loss, seed) for seed, loss in jobs]
        run_stages(stages, out, say)
        seen = {"learned": OneOf(train, values, images), "judged": judged}
        if recipe.data.train == recipe.data.val:
            del seen["learned"]
        taken = {part: {loss: np.zeros((len(names), len(names)), np.int64) for loss in LOSSES} for part in seen}
        runs: dict[str, list[dict[str, Any]]] = {loss: [] for loss in LOSSES}
        for (seed, loss), stage in zip(jobs, stages, strict=True):
            runs[loss].append({"seed": seed, "epochs": read_epochs(RunFolder(out).log(stage.name))})
            for part, dataset in seen.items():
                taken[part][loss] += confusion(
                    RunFolder(out).model(stage.name), dataset, recipe.seeds.size, choose_device(recipe.device)
                )
        result = {
            "classes": list(names),
            "confusable_pairs": pairs,
            "images": {
                key: {name: _count(dataset, name) for name in names}
                for key, dataset in (("learned", learned), ("judged", judged))
            },
            "splits": {"learned": recipe.data.train, "judged": recipe.data.val},
            "threshold": recipe.pseudo_masks.threshold,
            "formulas": FORMULAS,
            "runs": runs,
            "confusion": {
                part: {loss: found.tolist() for loss, found in by_loss.items()} for part, by_loss in taken.items()
            },
            "verdicts": verdicts(runs, len(names)),
            "recipe": recipe.model_dump(
                mode="json", include={"data", "classifier", "seeds", "pseudo_masks", "random_seed"}
            ),
            "facts": run_facts(recipe),
        }
        if main:
            write_json(out / "study.json", result)
            with atomic_write(out / "study.png") as temporary:
                plot(result, temporary)
            with atomic_write(out / "confusion.png") as temporary:
                plot_confusion(result, temporary)
    distributed.barrier()
    return {**result, "folder": str(out)}


def study_bce_sce(
    overrides: Sequence[str],
    *,
    recipe: str | None = None,
    classes: str | None = None,
    epochs: float = 0,
    repeats: int = 1,
    images: int = 200,
    out: str | None = None,
    say: Callable[[str], None] = print,
) -> list[str]:
    """`bce_sce` as the command line has it.

    Args:
        overrides: `data=...` and any other setting of a recipe.
        recipe: name or file of the recipe whose classifier is trained; by default `demo` for a built-in set, else
            `cam`.
        classes: names with commas between.
        epochs: of each training; 0 for the recipe's.
        repeats: see `bce_sce`.
        images: see `bce_sce`.
        out: folder; default `runs/study-bce-sce-<data>`.
        say: prints one line.

    Returns:
        The result in words, as lines.

    Raises:
        RecipeError: unknown recipe or setting.
        DataError: as `bce_sce`.
    """
    given = next((override[5:] for override in overrides if override.startswith("data=")), BUILT_IN[0])
    name = recipe or ("demo" if given in BUILT_IN else "cam")
    own = [] if not epochs else [f"classifier.train.epochs={epochs}", "classifier.train.steps=none"]
    chosen = load_recipe(name, [*own, *([] if out is None else [f"out={out}"]), *overrides])
    names = None if classes is None else [part.strip() for part in classes.split(",") if part.strip()]
    result = bce_sce(chosen, classes=names, repeats=repeats, images=images, say=say)
    found = [*table(result), "", *confusion_lines(result)]
    return [*found, f"written to {result['folder']}: study.json, study.png, confusion.png"]


def _one_of(dataset: Dataset, values: Sequence[int], most: int | None = None) -> OneOf:
    names = [dataset.labels.names[value] for value in values]
    if len(values) < 2:
        raise DataError(
            f"the study needs at least two classes that can be confused, found {', '.join(names) or 'none'}; "
            "give classes=NAME,NAME"
        )
    found = OneOf(dataset, values, most)
    for name in names:
        if not _count(found, name):
            raise DataError(
                f"no image of split {dataset.source.get('split')!r} shows {name} and none of "
                f"{', '.join(other for other in names if other != name)}; give other classes="
            )
    return found


def _count(dataset: OneOf, name: str) -> int:
    value = dataset.labels.value(name)
    return sum(value in dataset.tags(index) for index in range(len(dataset)))


def _silent(line: str) -> None:
    """Processes other than the first do not speak."""


def _scout(recipe: Recipe, train: Dataset, val: Dataset, data: list[dict[str, Any]]) -> Stage:
    """The stage that finds which classes are confused."""
    device = choose_device(recipe.device)

    def run(folder: Path) -> None:
        from maskwright.models.classifier import load_classifier

        train_classifier(recipe, recipe.classifier, None, train, val, folder, device)
        network = load_classifier(folder / MODEL).to(device)
        tagged = subset(val, [index for index in range(len(val)) if val.tags(index) is not None])
        scores = tag_scores(network, tagged, recipe.seeds.size, device)
        tags = [val.labels.tag_vector(tagged.tags(index) or ()) for index in range(len(tagged))]
        names = val.labels.tag_names
        if distributed.is_main():
            pairs = confusable_pairs(scores, np.array(tags)) if tags else []
            write_json(folder / "pairs.json", [(share, names[one], names[other]) for share, one, other in pairs])

    settings = {"classifier": effective(recipe.classifier), "seed": recipe.random_seed, "data": data}
    return Stage("scout", "train a classifier of all classes, to see which are confused", run, settings)


def _training(recipe: Recipe, train: OneOf, val: OneOf, data: list[dict[str, Any]], loss: str, seed: int) -> Stage:
    """The stage that trains with one loss and measures after every epoch."""
    device = choose_device(recipe.device)
    settings = recipe.classifier.train.model_copy(update={"validate_every": 1, "log_every": 1})
    classifier = recipe.classifier.model_copy(update={"loss": loss, "train": settings})
    own = recipe.model_copy(update={"classifier": classifier, "random_seed": seed})

    def run(folder: Path) -> None:
        train_classifier(
            own,
            classifier,
            None,
            train,
            val,
            folder,
            device,
            watch=lambda logits, tags: logit_gradients(logits, tags, loss),
            validate=lambda network: measure(network, val, own, device),
        )

    facts = {
        "classifier": effective(classifier),
        "seed": seed,
        "data": data,
        "classes": list(train.labels.tag_names),
        "measured": [len(val), effective(recipe.seeds), effective(recipe.pseudo_masks)],
    }
    return Stage(f"{loss}-{seed}", f"train with {loss.upper()}, seed {seed}", run, facts)
