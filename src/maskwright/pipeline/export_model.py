"""A run's model in another form, or in a repository: what it is compared on, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from maskwright.data.scenes import scenes
from maskwright.errors import DataError, MaskwrightError
from maskwright.inference.export import export_model
from maskwright.inference.files import REPOSITORY, find_images
from maskwright.inference.hub import push, without_places
from maskwright.inference.load import load
from maskwright.pipeline.evaluate import open_run_data, recipe_with
from maskwright.report.model_card import model_card
from maskwright.runs.contents import read_run
from maskwright.runs.context import RunContext
from maskwright.runs.folder import RunFolder

COMPARED = 3  # images


def export_run_model(
    run: Path, overrides: list[str], written_as: str, out: str, images: str | None = None
) -> Iterator[str]:
    """Write the model of a run in another form.

    Args:
        run: a run folder, or a model file.
        overrides: settings of `inference` that the file is applied with, and of `data`.
        written_as: one of `formats.MODEL_FORMATS`.
        out: the file.
        images: what it is compared on; default: the first images of the run's validation split.

    Yields:
        What was compared with what result, and where the file is.

    Raises:
        RecipeError: as `export_model`.
        DataError: as `export_model`; images that are not there.
    """
    predictor = load(run, device="cpu")
    recipe = recipe_with(predictor.metadata["recipe"], overrides)
    predictor.settings = recipe.inference
    if images is not None:
        found, failures = find_images([images], Path(out).parent)
        if not found:
            raise DataError(f"images={images}: {failures[0]}")
        pictures, where = [predictor.pixels(path) for path in list(found.values())[:COMPARED]], images
    else:
        try:
            folder = RunFolder(run if run.is_dir() else run.parent)
            dataset = open_run_data(folder, RunContext(recipe, folder, lambda line: None), "val")
            pictures = [dataset[number].image for number in range(min(COMPARED, len(dataset)))]
            where = recipe.data.root
        except MaskwrightError as error:
            yield f"compared on drawn scenes, as the run's images cannot be read ({error}); images=FOLDER names others"
            drawn = scenes("val", count=COMPARED, size=(192, 256))
            pictures, where = [drawn[number].image for number in range(COMPARED)], "scenes"
    lines = export_model(predictor, written_as, out, pictures)
    yield f"compared with the model on {len(pictures)} images of {where}, at three sizes:"
    yield from (f"  {line}" for line in lines)
    yield f"written to {out}"


def push_run(run: Path, overrides: list[str], where: str) -> str:
    """Put the model of a run, with its card, into a repository of Hugging Face or a folder of the same form.

    Args:
        run: a run folder.
        overrides: settings of `inference` that the model is applied with from then on.
        where: `hf:user/name`, or a folder.

    Returns:
        Where it is now.

    Raises:
        DataError: no run folder with a model, or as `inference.hub.push`.
    """
    if not RunFolder(run).model("segmenter").is_file():
        raise DataError(
            f"{run} is no run folder with a model; expected one, as its records are what the model card is made from"
        )
    predictor = load(run, device="cpu")
    if overrides:
        predictor.settings = recipe_with(predictor.metadata["recipe"], overrides, ("inference",)).inference
    contents = read_run(run)
    said = ("recipe", "provenance", "pseudo_masks", "scores", "weights")
    contents = replace(contents, **{part: without_places(getattr(contents, part)) for part in said})
    address = where if where.startswith(REPOSITORY) else f"{REPOSITORY}user/{Path(where).resolve().name}"
    return push(predictor, model_card(contents, without_places(predictor.metadata), address), where)
