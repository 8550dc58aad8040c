"""One row in one repetition: another random seed and other training images, and what came of it."""

from __future__ import annotations

import json
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.claims.labels import hours, write_labels
from benchmarks.claims.rows import DRAWN, ROWS, SCENES, SETS, Row
from benchmarks.facts import facts
from maskwright.data import open_dataset
from maskwright.data.content import file_digest
from maskwright.engine.checkpoint import MODEL
from maskwright.files import atomic_write, write_json
from maskwright.pipeline.relabel import relabel
from maskwright.pipeline.run import run
from maskwright.pipeline.stages import recipe_stages
from maskwright.recipe.load import load_recipe
from maskwright.runs.context import RunContext
from maskwright.runs.folder import RunFolder
from maskwright.runs.taking_over import share_stages
from maskwright.settings import Recipe
from maskwright.weak.seed_evaluation import evaluate_seeds
from maskwright.weak.seeds import SEED_METHODS
from maskwright.weak.seeds.extract import extract_maps
from maskwright.weak.stages import label_stages

SHARE = 0.8  # of the training images, drawn for each repetition
RARE = ("pole", "sign_symbol", "fence", "pedestrian", "bicyclist")  # below 1.5 % of the training pixels
THIN = ("pole", "sign_symbol")
SOME, EVERY = "some.txt", 4  # training images that choose a threshold where maps of all would take too long
COST_IMAGES = 6


def folder_name(row: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in row)


def recipe_of(name: str, where: str, data: str, folder: Path, repetition: int) -> Recipe:
    """The recipe of a row.

    Args:
        name: of the row.
        where: the set, one of `SETS`.
        data: its folder, or `scenes`.
        folder: of the run; its parent holds the list of training images.
        repetition: its number.
    """
    row = ROWS[name]
    words = [f"out={folder}", f"data={data}", f"random_seed={repetition}", *SETS[where]]
    if where == "scenes":
        words.append(f"data.options={{size: [128, 128], count: {SCENES}, seed: {repetition}}}")
    elif where in DRAWN:
        words.append(f"data.train={folder.parent / 'train.txt'}")
    return load_recipe(row.recipe, [*words, *(word.replace("{home}", str(folder.parent)) for word in row.settings)])


def draw_images(where: str, data: str, folder: Path, repetition: int) -> None:
    """Write `train.txt`, the training images of a repetition, and the cheaper labels of those with tags."""
    path = folder / "train.txt"
    if where not in DRAWN or (path.is_file() and (where != "msrc" or (folder / "boxes.txt").is_file())):
        return
    words = [word for word in SETS[where] if word.split("=")[0] in ("masks", "classes", "tags")]
    settings = load_recipe("cam", [f"data={data}", *words]).data
    train = open_dataset(settings, "train")
    val = open_dataset(settings, "val")
    known = {file_digest(str(path)) for path in val.images}  # MSRC-21 has one image in both
    own = [index for index, path in enumerate(train.images) if file_digest(str(path)) not in known]
    drawn = np.random.default_rng(repetition).permutation(own)[: round(SHARE * len(own))]
    names = [train.names[index] for index in sorted(drawn)]
    for listed, chosen in ((path, names), (folder / SOME, names[::EVERY])):
        with atomic_write(listed) as temporary:
            temporary.write_text("".join(f"{name}\n" for name in chosen))
    if where == "msrc":
        write_labels(train, val, names, folder, repetition)


def run_row(name: str, where: str, data: str, out: Path, repetition: int) -> dict[str, Any]:
    """Run a row, or what is left of it.

    Args:
        name: of the row.
        where: the set, one of `SETS`.
        data: its folder, or `scenes`.
        out: folder of all repetitions of the set.
        repetition: its number.

    Returns:
        Scores by name, all from 0 to 1, and what they were made with.
    """
    import torch

    torch.set_num_threads(1)
    home, row = out / str(repetition), ROWS[name]
    folder = home / folder_name(name)
    folder.mkdir(parents=True, exist_ok=True)
    draw_images(where, data, home, repetition)
    recipe = recipe_of(name, where, data, folder, repetition)
    # Kept maps of a backbone are the same for all rows from tags; segmenters read different ones.
    kept = out / ("features" if where != "camvid" else f"features-{folder_name(name)}")
    kept.mkdir(parents=True, exist_ok=True)
    _link(kept, folder / "features")
    if row.model == "only" or recipe.supervision == "masks":
        scores = of_model(recipe, folder, home)
    else:
        scores = of_maps(recipe, row, folder, home)
    if row.model == "too":
        scores["model"] = of_model(recipe, folder, home)["val"]
    if row.relabel:
        scores["relabelled"] = relabelled(folder)
    if recipe.fully_supervised:
        run(recipe, until="oracle_evaluation", say=_silent)
        scores["model from true masks"] = json.loads((folder / "oracle_evaluation" / "metrics.json").read_text())[
            "miou"
        ]
    if name.startswith("labels: "):
        count = len((home / "train.txt").read_text().splitlines())
        scores["hours"] = hours(name, count, int((home / "boxes.txt").read_text()))
    stages = {name: record["processor_seconds"] for name, record in RunFolder(folder).records().items()}
    return {"row": name, "set": where, "repetition": repetition, "scores": scores, "stages": stages, "facts": facts()}


def of_model(recipe: Recipe, folder: Path, home: Path) -> dict[str, float]:
    """Train a segmenter, and its scores on images that nothing was learned from."""
    share_stages(recipe_stages(RunContext(recipe, folder, _silent), "evaluation"), folder, runs_in(home), _silent)
    run(recipe, until="evaluation", say=_silent)
    found = json.loads((folder / "evaluation" / "metrics.json").read_text())
    iou = {name: row["iou"] or 0.0 for name, row in found["per_class"].items()}
    groups = {"rare": RARE, "thin": THIN} if set(RARE) <= set(iou) else {}
    return {
        "val": found["miou"],
        **{word: sum(iou[name] for name in names) / len(names) for word, names in groups.items()},
    }


def relabelled(folder: Path) -> float:
    """mIoU of the training images' masks as the model labels them among their tags."""
    list(relabel(folder, []))
    return json.loads((folder / "relabelled" / "scores.json").read_text())["miou"]


def runs_in(home: Path) -> list[Path]:
    return [path for path in home.iterdir() if (path / "recipe.yaml").is_file()]


def of_maps(recipe: Recipe, row: Row, folder: Path, home: Path) -> dict[str, float]:
    """Train on tags, and the scores of masks made from tags: of the training images, and of others.

    A threshold that is chosen from tags is chosen on images that the classifier learned from: of others it is less
    sure, which the choice would take for what the maps leave out.
    """
    last = recipe.networks[-1] if row.unseen else "pseudo_masks"
    own = label_stages(RunContext(recipe, folder, _silent))
    names = [stage.name for stage in own]
    share_stages(own[: names.index(last) + 1], folder, runs_in(home), _silent)
    run(recipe, until=last, say=_silent)
    scores = {}
    if not row.unseen:
        scores = judged("train", json.loads((folder / "seed_evaluation.json").read_text()))
    threshold = recipe.pseudo_masks.threshold
    if threshold == "auto":
        some = (
            label(recipe, folder, "some", str(home / SOME), "threshold")
            if row.unseen
            else RunContext(recipe, folder, _silent)
        )
        threshold = json.loads(some.out.threshold.read_text())["threshold"]
    fixed = recipe.pseudo_masks.model_copy(update={"threshold": threshold})
    context = label(recipe.model_copy(update={"pseudo_masks": fixed}), folder, "unseen", recipe.data.val)
    maps = context.out.maps([name for name in names if name not in ("threshold", "pseudo_masks")][-1])
    scores |= judged("val", evaluate_seeds(context.train, {"maps": maps}, fixed, folder / "unseen"))
    scores["threshold"] = float(threshold)
    if row.unseen:
        scores["cost of maps"] = cost_of_maps(context, recipe)
    return scores


def label(recipe: Recipe, folder: Path, word: str, images: str, until: str | None = None) -> RunContext:
    """Maps and masks of other images by the networks of a run, in a folder of it.

    Args:
        recipe: of the run.
        folder: of the run.
        word: name of the folder in it.
        images: split, or list of images.
        until: the last stage; none: all.
    """
    data = recipe.data.model_copy(update={"train": images})
    context = RunContext(recipe.model_copy(update={"data": data}), folder / word, _silent)
    (folder / word).mkdir(exist_ok=True)
    _link(folder / "features", folder / word / "features")
    for stage in label_stages(context):
        made = context.out.stage(stage.name)
        if MODEL in stage.results:
            _link(folder / stage.name, made)
        elif not stage.name.startswith("ir_labels"):  # the network has learned from those of the run
            made.mkdir(exist_ok=True)
            stage.run(made)
        if stage.name == until:
            break
    return context


def _link(made: Path, here: Path) -> None:
    if not here.exists():
        os.symlink(made.resolve(), here)


def judged(split: str, found: dict[str, Any]) -> dict[str, float]:
    """Scores of the last maps of an evaluation: at the threshold that was chosen without masks, and at the best."""
    stage = next(stage for stage in reversed(found["stages"].values()) if stage["best"] is not None)
    default, best = stage["default"], stage["best"]
    scores = {split: default["miou"], f"{split}, best": best["miou"]}
    for group in ("single_label", "multi_label"):
        if default.get(group) and default[group].get("miou_common") is not None:
            scores[f"{split}, {group.replace('_', ' ')}"] = default[group]["miou_common"]
    return scores


def cost_of_maps(context: RunContext, recipe: Recipe) -> float:
    """Processor time of the recipe's maps as a multiple of plain CAM's, on a few images."""
    from maskwright.models.classifier import load_classifier

    network = load_classifier(context.out.model(context.seed_network)).eval()
    data, used = context.train, {}
    position = {value: place for place, value in enumerate(data.labels.foreground)}
    for method in (recipe.seeds.method, "cam"):
        make = partial(
            extract_maps,
            network,
            method=SEED_METHODS[method].maps,
            scales=recipe.seeds.scales,
            size=recipe.seeds.size,
        )
        started = time.process_time()
        for index in range(COST_IMAGES):
            make(data[index].image, [position[value] for value in data.tags(index) or ()])
        used[method] = time.process_time() - started
    return used[recipe.seeds.method] / used["cam"]


def write_row(name: str, where: str, data: str, out: Path, repetition: int) -> None:
    """The work of one process: `row.json` in the folder of the row."""
    found = run_row(name, where, data, out, repetition)
    write_json(out / str(repetition) / folder_name(name) / "row.json", found)


def _silent(line: str) -> None:
    """What a run says is in its folder."""
