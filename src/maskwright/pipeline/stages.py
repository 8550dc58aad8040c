"""The stages of a recipe, in order: tags to masks, the segmenter, its evaluation, the same fully supervised."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from maskwright.data import subset, with_masks
from maskwright.data.dataset import Dataset
from maskwright.data.decisions import WithDecisions
from maskwright.engine.checkpoint import MODEL
from maskwright.errors import DataError, RecipeError
from maskwright.inference.load import load
from maskwright.inference.tag_agreement import tag_line
from maskwright.pipeline.segment import evaluate_to_folder, measured_on, train_segmenter
from maskwright.runs.context import RunContext
from maskwright.runs.folder import IMAGES, METRICS, PREDICTIONS
from maskwright.runs.stages import Stage, effective, fingerprint
from maskwright.weak.one_pass.stage import with_part_masks
from maskwright.weak.stages import label_stages


def recipe_stages(context: RunContext, until: str | None = None) -> list[Stage]:
    """The stages of a recipe, in order, up to and including `until`.

    Raises:
        DataError: a split, images, masks or tags that cannot be used.
        RecipeError: settings that do not go together, or no stage `until`.
    """
    recipe = context.recipe
    labels = label_stages(context) if recipe.supervision != "masks" else []
    stages = [*labels, *segmenter_stages(context, labels[-1] if labels else None)]
    if until is None:
        return stages
    names = [stage.name for stage in stages]
    if until not in names:
        raise RecipeError(
            f"recipe {recipe.name} (supervision: {recipe.supervision}) has no stage {until!r}; "
            f"it has {', '.join(names)}"
        )
    return stages[: names.index(until) + 1]


def segmenter_stages(context: RunContext, pseudo_masks: Stage | None) -> list[Stage]:
    """Training and evaluation of the segmenter and, with `fully_supervised`, of the same model on ground truth.

    Args:
        context: of the run.
        pseudo_masks: the stage that makes the masks, where they are made from tags.

    Raises:
        RecipeError: the segmenter is to start from the tag classifier but cannot.
    """
    recipe, weak = context.recipe, context.recipe.supervision != "masks"
    from_classifier = recipe.model.pretrained == "classifier"
    if from_classifier and (not weak or recipe.model.backbone != recipe.classifier.backbone):
        raise RecipeError(
            "model.pretrained=classifier starts the segmenter from the tag classifier's backbone: it needs a "
            f"recipe with tags, and model.backbone={recipe.classifier.backbone}; found supervision: "
            f"{recipe.supervision}, model.backbone={recipe.model.backbone}"
        )
    training = {
        "model": effective(recipe.model),
        "loss": effective(recipe.loss),
        "train": effective(recipe.train),
        "seed": recipe.random_seed,
    }
    on_masks = {**training, "data": context.train_facts}
    settings = {**training, "real_masks": fingerprint(context.real)} if weak else on_masks
    if context.reviewed:  # where nobody has decided anything, runs of earlier versions stay as they are
        settings["review"] = fingerprint({name: said.facts() for name, said in context.reviewed.items()})
    evaluation = {"data": context.val_facts, "inference": effective(recipe.inference)}
    predictions = [f"{PREDICTIONS}/{name}.png" for name in context.val.names]
    scores = (METRICS, IMAGES) if any(map(context.val.has_mask, range(len(context.val)))) else ()

    def model(
        names: tuple[str, str],
        titles: tuple[str, str],
        train: Callable[[Path], None],
        settings: dict[str, Any],
        needs: tuple[str, ...],
    ) -> list[Stage]:
        judge = partial(_evaluate, context, names[0])
        return [
            Stage(names[0], titles[0], train, settings, needs, results=(MODEL,)),
            Stage(names[1], titles[1], judge, evaluation, names[:1], results=scores, each=lambda: predictions),
        ]

    stages = model(
        ("segmenter", "evaluation"),
        ("train the segmenter", "evaluate the segmenter"),
        partial(_train_segmenter, context, pseudo_masks),
        settings,
        ("pseudo_masks",) if weak else (),
    )
    if weak and recipe.fully_supervised:
        stages += model(
            ("oracle", "oracle_evaluation"),
            ("train the same model fully supervised, for comparison", "evaluate the fully supervised model"),
            partial(_train_oracle, context),
            on_masks,
            (recipe.networks[0],) if from_classifier else (),
        )
    return stages


def _train_segmenter(context: RunContext, pseudo_masks: Stage | None, folder: Path) -> None:
    train = context.train
    if pseudo_masks is not None:
        if context.one_pass is not None and context.has_shards:
            train = with_part_masks(context, train, context.real)
        else:
            train = with_masks(train, context.out.masks, real=context.real)
        if context.reviewed:
            train = WithDecisions(train, context.reviewed)
    _train_model(context, with_mask_only(train, context.recipe.data.train), folder)


def _train_oracle(context: RunContext, folder: Path) -> None:
    _train_model(context, oracle_images(context.train), folder)


def with_mask_only(train: Dataset, split: str) -> Dataset:
    """The images of a training split that have a mask.

    Raises:
        DataError: none has one.
    """
    chosen = [index for index in range(len(train)) if train.has_mask(index)]
    if not chosen:
        raise DataError(
            f"no image of split {split!r} has a mask; give masks=, or train from tags with a recipe such as cam"
        )
    return subset(train, chosen)


def oracle_images(train: Dataset) -> Dataset:
    """The images that the comparison model is trained on.

    Raises:
        DataError: none has a ground-truth mask.
    """
    chosen = [index for index in range(len(train)) if train.has_mask(index)]
    if not chosen:
        raise DataError(
            "fully_supervised=true needs ground-truth masks in the training split, found none; set it to false"
        )
    return subset(train, chosen)


def _train_model(context: RunContext, train: Dataset, folder: Path) -> None:
    recipe = context.recipe
    if recipe.model.pretrained == "classifier":
        start = {"pretrained": str(context.out.model(recipe.networks[0]))}
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update=start)})
    train_segmenter(recipe, train, context.val, folder, context.device)


def _evaluate(context: RunContext, model: str, folder: Path) -> None:
    predictor = load(context.out.model(model), device=context.device)
    tagged = context.train if model == "segmenter" and context.recipe.supervision != "masks" else None
    scores, agreement = evaluate_to_folder(predictor, context.val, context.recipe.inference, folder, tagged)
    if scores is not None:
        context.say(f"    mIoU {scores['miou']:.3f} {measured_on(scores)}")
    else:
        context.say("    no ground truth in the evaluation split: predictions are written, nothing is scored")
    if agreement is not None:
        context.say(f"    {tag_line(agreement)}")
