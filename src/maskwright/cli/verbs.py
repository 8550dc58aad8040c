"""The verbs, one short function each. Everything heavy is imported inside the verb."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskwright.cli.app import app, data_app, recipes_app, study_app, verb
from maskwright.cli.words import VERBS, Given
from maskwright.errors import MaskwrightError, RecipeError
from maskwright.version import __version__

if TYPE_CHECKING:
    from maskwright.settings import DataSettings

START = """\
maskwright: semantic segmentation from image tags, pixel masks, or both

  maskwright label photos/ tags.csv                                   from tags to masks, in minutes
  maskwright run instant data=photos/ tags=tags.csv out=runs/photos   from tags to masks, a model and a report
  maskwright predict runs/photos new/ out=masks                       masks for new photographs

Check your labels first: maskwright data check photos/ tags.csv. No photographs at hand: maskwright run demo-instant.
More: maskwright --help, maskwright recipes ls, maskwright settings instant."""


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(START)


@verb(app, "run")
def run(given: Given) -> None:
    """Train from start to finish: tags or masks in, a model out.

    RECIPE is a name (see maskwright recipes ls) or a YAML file. The same command again resumes where it stopped.
    """
    _run(given, until=None)


@verb(app, "label")
def label(given: Given) -> None:
    """Make pseudo-masks from image tags, without a segmenter.

    DATA is a folder of images or a built-in set, TAGS a CSV or JSON file. All images of a folder are labelled, unless
    its lists make splits or it has masks to judge by. A page shows the first images while it works, then a report takes
    its place. The same command again resumes where it stopped.
    """
    from maskwright.cli.photographs import all_of_a_folder, recipe_and_settings

    recipe, settings = recipe_and_settings("label", given)
    if recipe != given.names[0]:
        settings = [*all_of_a_folder(recipe, settings), *settings]
    _run(Given([recipe], settings, given.options), until="pseudo_masks")


@verb(app, "train")
def train(given: Given) -> None:
    """Train a segmenter, without its evaluation and the report."""
    _run(given, until="segmenter")


def _run(given: Given, until: str | None) -> None:
    from maskwright.cli.sharing import sharing_of
    from maskwright.recipe.load import load_recipe

    resolved = load_recipe(given.names[0], given.settings)
    if given.options["dry_run"]:
        from maskwright.plan.dryrun import dry_run

        dry_run(resolved, say=typer.echo)
        return
    if given.options["plan"]:
        from maskwright.plan.plan import plan, table

        for line in table(plan(resolved, until, sharing_of(given.options)), resolved):
            typer.echo(line)
        return
    from maskwright.engine import distributed
    from maskwright.pipeline import run as pipeline

    try:
        out = pipeline.run(resolved, until=until, page=until == "pseudo_masks", sharing=sharing_of(given.options))
        if distributed.is_main():
            typer.echo(f"written to {out if until is None else out / until}")
    finally:
        distributed.shutdown()


@verb(app, "evaluate")
def evaluate(given: Given) -> None:
    """Score a trained model on any data set with the same classes.

    RUN is a run folder or a model file; data=FOLDER split=NAME choose the images.
    """
    from maskwright.engine import distributed
    from maskwright.pipeline.evaluate import evaluate_run

    try:
        for line in evaluate_run(Path(given.names[0]), given.settings, **given.options):
            typer.echo(line)
    finally:
        distributed.shutdown()


@verb(app, "seeds")
def seeds(given: Given) -> None:
    """Score the class maps and pseudo-masks of a run, stage by stage.

    RUN is a run folder, or a folder of maps or of pseudo-masks, which needs data=FOLDER. Ground truth is optional.
    """
    from maskwright.pipeline.evaluate import judge_seeds

    for line in judge_seeds(Path(given.names[0]), given.settings, **given.options):
        typer.echo(line)


@verb(app, "verify")
def verify(given: Given) -> None:
    """Compare a run with the numbers that its recipe expects.

    Stage by stage, with the first that is off. RUN is a run folder; data=FOLDER says where its images are now. Exit
    code 1 if a stage is too low.
    """
    from maskwright.pipeline.verify import verify as compared

    lines, agrees = compared(Path(given.names[0]), given.settings, **given.options)
    for line in lines:
        typer.echo(line)
    if not agrees:
        raise typer.Exit(1)


@verb(app, "predict")
def predict(given: Given) -> None:
    """Write masks for images with a trained model.

    RUN is a run folder, a model file, an exported model.onnx (which needs no torch) or hf:user/name; IMAGES are files,
    folders or globs. Writes OUT/masks/NAME.png (palette). Exit code 1 if an image failed; the others are still written.
    """
    from maskwright.inference.files import predict_files

    predictor = _predictor(given.names[0], given.options.pop("device"), given.settings)
    out = Path(given.options.pop("out"))
    done, failures = predict_files(predictor, given.names[1:], out, say=typer.echo, **given.options)
    _finish_images(f"{len(done)} predicted, {len(failures)} failed; written to {out}", failures)


@verb(app, "relabel")
def relabel(given: Given) -> None:
    """Label the training images of a run again with its model.

    RUN is a run folder. Each image is predicted among the classes of its tags; OUT is laid out as pseudo-masks are.
    Where the run has ground truth, it is only scored against. The same command again resumes where it stopped.
    """
    from maskwright.pipeline.relabel import relabel as work

    for line in work(Path(given.names[0]), given.settings, **given.options):
        typer.echo(line)


@verb(app, "review")
def review(given: Given) -> None:
    """Correct the least certain pseudo-masks of a run in the browser.

    RUN is a run folder; data=FOLDER says where its images are now. Prints the address of a page on this machine, where
    masks are accepted, rejected or painted over; what is decided lies in RUN/review, and the next maskwright run of the
    same recipe trains on it.
    """
    from maskwright.pipeline.review.server import serve
    from maskwright.pipeline.review.work import open_review

    serve(open_review(Path(given.names[0]), given.settings, given.options["n"]), given.options["port"], typer.echo)


@verb(app, "explain")
def explain(given: Given) -> None:
    """Show where a model found the evidence for a class (Grad-CAM).

    RUN is a run folder or a model file, IMAGES are files, folders or globs. against=RUN2 writes one picture for each
    image with the maps of both, and says how much of it each predicts as the class. Exit code 1 if an image failed.
    """
    from maskwright.inference.explain import explain_files
    from maskwright.inference.onnx_predictor import SUFFIX
    from maskwright.runs.folder import RunFolder

    others = [name.strip() for name in (given.options.pop("against") or "").split(",") if name.strip()]
    names = [given.names[0], *others]
    for name in names:
        if name.endswith(SUFFIX):
            raise RecipeError(f"{name} is an exported model, without gradients; give the run that it came from")
        if names.count(name) > 1:
            raise RecipeError(f"{name} is named twice; give against= another run")
    device, run_folder = given.options.pop("device"), Path(given.names[0])
    predictors = [_predictor(name, device, given.settings) for name in names]
    out = given.options.pop("out") or str(RunFolder(run_folder if run_folder.is_dir() else ".").explanations)
    given.options["classes"] = given.options.pop("class")
    if not others:
        done, failures = explain_files(predictors[0], given.names[1:], out, **given.options)
        _finish_images(f"{len(done)} overlays in {out}, {len(failures)} failed", failures)
        return
    from maskwright.report.side_by_side import SIDE_BY_SIDE, explain_side_by_side

    short = [Path(name).name for name in names]
    titles = short if len(set(short)) == len(short) else names
    done, said, failures = explain_side_by_side(
        dict(zip(titles, predictors, strict=True)), given.names[1:], out, **given.options
    )
    for line in said:
        typer.echo(line)
    count = "1 picture" if len(done) == 1 else f"{len(done)} pictures"
    _finish_images(f"{count} in {Path(out) / SIDE_BY_SIDE}, {len(failures)} failed", failures)


def _predictor(name: str, device: str, settings: list[str]) -> Any:
    """A model on a device and with settings that were given."""
    from maskwright.inference.finished import load
    from maskwright.inference.onnx_predictor import OnnxPredictor

    predictor = load(name, device=device)
    if settings:
        if isinstance(predictor, OnnxPredictor):
            raise RecipeError(f"{settings[0]}: {name} is applied as it was exported; give that to maskwright export")
        from maskwright.pipeline.evaluate import recipe_with

        predictor.settings = recipe_with(predictor.metadata["recipe"], settings, ("inference",)).inference
    return predictor


def _finish_images(line: str, failures: list[str]) -> None:
    for failure in failures:
        typer.echo(f"failed: {failure}", err=True)
    typer.echo(line)
    if failures:
        raise typer.Exit(1)


@verb(app, "export")
def export(given: Given) -> None:
    """Write masks, or the model, for other tools and programs.

    RUN is a run folder, whose pseudo-masks or predictions are written, or with format=onnx, torch-export or safetensors
    its model; DATA a data folder or a built-in set, whose own masks are. The tools and what each format cannot say:
    docs/formats.md; models: docs/models-out.md.
    """
    from maskwright.formats import MODEL_FORMATS
    from maskwright.pipeline.export import export_data, export_run
    from maskwright.pipeline.export_model import export_run_model
    from maskwright.runs.folder import RunFolder

    options = given.options
    written_as, out, images = (options.pop(key) for key in ("format", "out", "images"))
    for key, value in (("format", written_as), ("out", out)):
        if value is None:
            raise RecipeError(f"{key}= is missing; as in: maskwright export runs/photos format=coco out=photos-coco")
    own = VERBS["export"].options
    of_masks = [key for key in options if key != "device" and options[key] != own[key].default]
    if written_as in MODEL_FORMATS:
        if of_masks:
            raise RecipeError(f"{of_masks[0]}= is about masks, and format={written_as} is the model")
        lines = export_run_model(Path(given.names[0]), given.settings, written_as, out, images)
    elif images is not None:
        raise RecipeError(f"images= is what a model is compared on, and format={written_as} has none")
    elif RunFolder(given.names[0]).recipe.is_file():
        lines = iter(export_run(Path(given.names[0]), given.settings, written_as, out, **options))
    else:
        for key in ("which", "select"):
            if key in of_masks:
                raise RecipeError(f"{key}= is about what a run made, and {given.names[0]} is no run folder")
        lines = iter(export_data(_data("export", given), written_as, out, split=options["split"]))
    for line in lines:
        typer.echo(line)


@verb(app, "push")
def push(given: Given) -> None:
    """Put a run's model into a repository of Hugging Face.

    REPO is hf:user/name, or a folder, which gets the same files: weights, config.json, recipe and a model card made
    from the run. Paths of this machine are left out.
    """
    from maskwright.pipeline.export_model import push_run

    typer.echo(f"written to {push_run(Path(given.names[0]), given.settings, given.names[1])}")


@verb(app, "pull")
def pull(given: Given) -> None:
    """Get a model that somebody pushed.

    REPO is hf:user/name, or a folder. maskwright predict takes what is written, and REPO itself.
    """
    from maskwright.inference.hub import pull as get

    out = given.options["out"] or given.names[0].rpartition("/")[2]
    typer.echo(f"written to {get(given.names[0], out)}: maskwright predict {out} IMAGES")


@verb(app, "report")
def report(given: Given) -> None:
    """Write the report of a run again.

    RUN is a run folder; data=FOLDER says where its images are now.
    """
    from maskwright.pipeline.evaluate import report_run

    typer.echo(f"written to {report_run(Path(given.names[0]), given.settings)}")


@verb(app, "compare")
def compare(given: Given) -> None:
    """Run several methods on the same images, side by side.

    METHODS are recipes or run folders, as NAME, 'NAME key=value' or 'LABEL: NAME key=value'; settings outside the
    quotes are for all. Writes one page with scores, costs and pictures. Exit code 1 if a method failed.
    """
    from maskwright.engine import distributed
    from maskwright.pipeline.compare import compare as side_by_side
    from maskwright.runs.results import lines

    try:
        result = side_by_side([*given.names, *given.settings], **given.options)
        if distributed.is_main():
            for line in lines(result):
                typer.echo(line)
            typer.echo(f"written to {given.options['out']}/compare.html")
    finally:
        distributed.shutdown()
    if any(method["failed"] for method in result["methods"]):
        raise typer.Exit(1)


@verb(app, "ceiling")
def ceiling(given: Given) -> None:
    """Measure the best score that upsampling allows on a data set.

    Bilinear upsampling against DUpsampling, without a network. DATA is a data folder or a built-in set.
    """
    from maskwright.studies.ceiling import ceiling as measure

    for line in measure(_data("ceiling", given), **given.options):
        typer.echo(line)


@verb(app, "saliency")
def saliency(given: Given) -> None:
    """Write a saliency map for every image of a data set.

    DATA is a data folder or a built-in set. See also the recipe saliency, which trains a detector.
    """
    from maskwright.weak.saliency import write_saliency

    data = _data("saliency", given)
    typer.echo(f"{write_saliency(data, **given.options)} saliency maps written to {given.options['out']}")


@verb(app, "shard")
def shard(given: Given) -> None:
    """Write a data set as shards: tar files of many images each.

    DATA is a data folder or a built-in set, TAGS a CSV or JSON file; data=OUT then reads what is written. For very many
    images, and for object stores. Exit code 1 if an image is broken; the others are still written.
    """
    from maskwright.pipeline.shard import shard as write

    lines, left_out = write(_data("shard", given), **given.options)
    for line in left_out:
        typer.echo(f"left out: {line}", err=True)
    for line in lines:
        typer.echo(line)
    if left_out:
        raise typer.Exit(1)


@verb(data_app, "data check")
def data_check(given: Given) -> None:
    """Say what is wrong with images, masks and tags.

    DATA is a data folder or a built-in set, TAGS a CSV or JSON file. Exit code 1 where training would go wrong.
    """
    from maskwright.data.check import check
    from maskwright.data.check import report as findings_report

    data = _data("data check", given)
    findings = check(data, tuple(dict.fromkeys((data.train, data.val))))
    typer.echo(findings_report(findings))
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)


def _data(name: str, given: Given) -> DataSettings:
    """The data set that is named first or by `data=`, then perhaps its tags, with the settings that were given."""
    from maskwright.recipe.load import apply_override, build_recipe

    names = list(given.names)
    fields: dict[str, Any] = {"data": {}}
    if not any(setting.startswith(("data=", "data.root=")) for setting in given.settings):
        if not names:
            raise RecipeError(f"DATA is missing; expected: maskwright {name} {VERBS[name].usage}")
        fields["data"]["root"] = names.pop(0)
    if len(names) > VERBS[name].names.count("[TAGS]"):
        raise RecipeError(f"{names[0]!r} is one name too many: the data are given as data= already")
    if names:
        fields["data"]["tags"] = names[0]
    for setting in given.settings:
        apply_override(fields, setting)
    return build_recipe(fields, source=name).data


@verb(study_app, "study bce-sce")
def study_bce_sce(given: Given) -> None:
    """Compare sigmoid and softmax loss on classes that are easily confused (ReCAM, figures 1 and 4)."""
    from maskwright.engine import distributed
    from maskwright.studies.bce_sce import study_bce_sce as study

    try:
        for line in study(given.settings, **given.options):
            typer.echo(line)
    finally:
        distributed.shutdown()


@verb(study_app, "study pooling")
def study_pooling(given: Given) -> None:
    """Show what masks lose on a coarse grid: nearest pixel against CPP pooling (SeeThroughNet).

    DATA is a data folder or a built-in set.
    """
    from maskwright.studies.pooling import pooling

    for line in pooling(_data("study pooling", given), **given.options):
        typer.echo(line)


@verb(study_app, "study autoencoder")
def study_autoencoder(given: Given) -> None:
    """Train what DUpsampling has in closed form, and encoders for the best score that upsampling allows (DUpsampling).

    DATA is a data folder or a built-in set. See also maskwright ceiling, which trains nothing.
    """
    from maskwright.studies.autoencoder import autoencoder

    for line in autoencoder(_data("study autoencoder", given), **given.options):
        typer.echo(line)


@verb(study_app, "study sweep")
def study_sweep(given: Given) -> None:
    """Vary one setting of a recipe, and draw the curve of its scores.

    Stages that do not depend on it are made once. Exit code 1 if a run failed.
    """
    from maskwright.engine import distributed
    from maskwright.studies.sweep import lines
    from maskwright.studies.sweep import sweep as study

    for key in ("over", "values"):
        if given.options[key] is None:
            raise RecipeError(
                f"{key}= is missing; as in: maskwright study sweep recam over=recam.sce_weight values=0.1,0.5,1,2"
            )
    try:
        result = study(given.names[0], given.settings, **given.options)
        if distributed.is_main():
            for line in lines(result):
                typer.echo(line)
    finally:
        distributed.shutdown()
    if any(point["failed"] for point in result["points"]):
        raise typer.Exit(1)


@verb(app, "settings")
def settings(given: Given) -> None:
    """List the settings of a recipe: value, default, meaning.

    FILTER is a part of a setting's name or description. A default is shown where the recipe has another value.
    """
    from maskwright.cli.lists import schema_text, settings_lines
    from maskwright.recipe.load import load_recipe

    recipe = load_recipe(given.names[0], given.settings)
    if given.options["json"]:
        typer.echo(schema_text(recipe))
        return
    for line in settings_lines(recipe, *given.names[1:], every=given.options["all"]):
        typer.echo(line)


@verb(recipes_app, "recipes ls")
def recipes_ls(given: Given) -> None:
    """List the recipes by the data they are for.

    Each FILTER is a word that must occur in a recipe's line.
    """
    from maskwright.cli.lists import recipe_lines

    for line in recipe_lines(given.names):
        typer.echo(line)


@verb(recipes_app, "recipes show")
def recipes_show(given: Given) -> None:
    """Print a recipe, complete where it extends others."""
    from maskwright.recipe.load import recipe_text

    typer.echo(recipe_text(given.names[0]), nl=False)


@verb(recipes_app, "recipes cp")
def recipes_cp(given: Given) -> None:
    """Copy a recipe to a new file of your own."""
    from maskwright.recipe.load import recipe_text

    name, target = given.names
    text = recipe_text(name)
    try:
        with open(target, "x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise MaskwrightError(f"{target} exists; choose another name") from None
    typer.echo(f"written to {target}: edit it, then maskwright run {target}")
