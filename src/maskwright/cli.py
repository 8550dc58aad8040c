"""The command line: one short function per verb. Everything heavy is imported inside the verb."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from maskwright.errors import MaskwrightError
from maskwright.version import __version__

app = typer.Typer(
    name="maskwright",
    help="Semantic segmentation from the cheapest labels you have: image tags, pixel masks, or both.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Look at data before an hour is lost.", no_args_is_help=True, rich_markup_mode=None)
recipes_app = typer.Typer(help="The recipes that come with maskwright.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")
study_app = typer.Typer(help="Repeat what a paper found, on your images.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(recipes_app, name="recipes")
app.add_typer(study_app, name="study")

RecipeName = Annotated[str, typer.Argument(help="a recipe's name (see `maskwright recipes ls`) or a YAML file")]
Overrides = Annotated[list[str] | None, typer.Argument(help="settings as key=value, e.g. data=photos/ tags=tags.csv")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="only build the networks, run two steps, and say what a run will need")
]


def main() -> None:
    """Run the command line; an error that the user can mend is printed as one message, exit code 2."""
    try:
        app()
    except MaskwrightError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    finally:
        gc.freeze()  # the process ends: looking through all that torch has built once more would take 0.7 seconds


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def run(recipe: RecipeName, settings: Overrides = None, dry_run: DryRun = False) -> None:
    """A recipe end to end: data, masks, model, report. The same command again goes on where it was stopped."""
    _run(recipe, settings, until=None, dry=dry_run)


@app.command()
def label(recipe: RecipeName, settings: Overrides = None) -> None:
    """Only the first half of a recipe: tags in, pseudo-masks out."""
    _run(recipe, settings, until="pseudo_masks")


@app.command()
def train(recipe: RecipeName, settings: Overrides = None, dry_run: DryRun = False) -> None:
    """A recipe up to the trained segmenter."""
    _run(recipe, settings, until="segmenter", dry=dry_run)


def _run(recipe: str, settings: list[str] | None, until: str | None, dry: bool = False) -> None:
    from maskwright.recipe.load import load_recipe

    overrides, options = _split(settings, {"plan": False, "dry_run": dry})
    resolved = load_recipe(recipe, overrides)
    if options["dry_run"]:
        from maskwright.plan.dryrun import dry_run

        dry_run(resolved, say=typer.echo)
        return
    if options["plan"]:
        from maskwright.plan.plan import plan, table

        for line in table(plan(resolved, until), resolved):
            typer.echo(line)
        return
    from maskwright.engine import distributed
    from maskwright.pipeline import run as pipeline

    try:
        pipeline.run(resolved, until=until)
    finally:
        distributed.shutdown()


@app.command()
def evaluate(
    run_folder: Annotated[Path, typer.Argument(help="a run folder, or a model file")], settings: Overrides = None
) -> None:
    """Score a trained model on a data set with the same classes: data=FOLDER split=NAME."""
    from maskwright.engine import distributed
    from maskwright.pipeline.evaluate import evaluate_run

    overrides, options = _split(settings, {"out": None})
    try:
        for line in evaluate_run(run_folder, overrides, options["out"]):
            typer.echo(line)
    finally:
        distributed.shutdown()


@app.command()
def seeds(
    where: Annotated[Path, typer.Argument(help="a run folder, or a folder of maps or of pseudo-masks")],
    settings: Overrides = None,
) -> None:
    """Judge seeds stage by stage, with true masks or without: threshold=NUMBER stability=IMAGES split= out=FOLDER."""
    from maskwright.pipeline.evaluate import judge_seeds

    overrides, options = _split(settings, {"threshold": None, "split": None, "stability": 0, "out": None})
    for line in judge_seeds(where, overrides, **options):
        typer.echo(line)


@app.command()
def predict(
    run_folder: Annotated[Path, typer.Argument(help="a run folder, or a model file")],
    images: Annotated[list[str], typer.Argument(help="files, folders or globs; and out=FOLDER inference.KEY=VALUE")],
) -> None:
    """Masks for images: palette PNG and overlay; probabilities=true adds them. Exit code 1 if an image failed."""
    from maskwright.inference.load import load
    from maskwright.inference.predict import predict_files
    from maskwright.pipeline.evaluate import recipe_with

    given, options = _split(images, {"out": "predictions", "overlay": True, "probabilities": False})
    overrides = [one for one in given if one.startswith("inference.") and "=" in one]
    paths = [one for one in given if one not in overrides]
    predictor = load(run_folder)
    if overrides:
        predictor.settings = recipe_with(predictor.metadata["recipe"], overrides, ("inference",)).inference
    done, failures = predict_files(predictor, paths, Path(options.pop("out")), **options)
    for failure in failures:
        typer.echo(f"failed: {failure}", err=True)
    typer.echo(f"{len(done)} predicted, {len(failures)} failed")
    if failures:
        raise typer.Exit(1)


@app.command()
def explain(
    run_folder: Annotated[Path, typer.Argument(help="a run folder, or a model file")],
    images: Annotated[
        list[str],
        typer.Argument(
            help="files, folders or globs; and class=NAMES region=all|predicted|MASK layer=MODULE out=FOLDER"
        ),
    ],
) -> None:
    """Where the model found the evidence for a class (Grad-CAM), as overlays. Exit code 1 if an image failed."""
    from maskwright.inference.explain import explain_files
    from maskwright.inference.load import load

    out = run_folder / "explanations" if run_folder.is_dir() else Path("explanations")
    paths, options = _split(images, {"class": None, "region": "all", "layer": None, "out": str(out)})
    done, failures = explain_files(
        load(run_folder),
        paths,
        options["out"],
        classes=options["class"],
        region=options["region"],
        layer=options["layer"],
    )
    for failure in failures:
        typer.echo(f"failed: {failure}", err=True)
    typer.echo(f"{len(done)} overlays in {options['out']}, {len(failures)} failed")
    if failures:
        raise typer.Exit(1)


@app.command()
def report(run_folder: Annotated[Path, typer.Argument(help="a run folder")]) -> None:
    """Write a run's report.html anew."""
    from maskwright.pipeline.evaluate import report_run

    typer.echo(str(report_run(run_folder)))


@app.command()
def compare(
    methods: Annotated[
        list[str],
        typer.Argument(
            help="recipes or run folders, as NAME, 'NAME key=value' or 'LABEL: NAME key=value'; settings for all as "
            "key=value; and out=FOLDER seeds=0,1,2 until=STAGE images=N"
        ),
    ],
) -> None:
    """Methods side by side: scores, costs, the same images, one page. Exit code 1 if a method failed."""
    from maskwright.engine import distributed
    from maskwright.pipeline.compare import compare as side_by_side
    from maskwright.runs.results import lines

    arguments, options = _split(methods, {"out": "runs/compare", "seeds": None, "until": None, "images": 12})
    try:
        result = side_by_side(arguments, **options)
        if distributed.is_main():
            for line in lines(result):
                typer.echo(line)
            typer.echo(f"page: {options['out']}/compare.html")
    finally:
        distributed.shutdown()
    if any(method["failed"] for method in result["methods"]):
        raise typer.Exit(1)


@app.command()
def ceiling(
    root: Annotated[str, typer.Argument(help="a folder of images, or a built-in set")], settings: Overrides = None
) -> None:
    """The most that upsampling allows: bilinear against DUpsampling on true masks. ratio=8,16,32 dim=256 out=FOLDER."""
    from maskwright.recipe.load import apply_override, build_recipe
    from maskwright.studies.ceiling import ceiling as measure

    defaults = {"ratio": "8,16,32", "dim": 256, "max_patches": 50_000, "out": None}
    overrides, options = _split(settings, defaults)
    fields: dict[str, Any] = {"data": {"root": root}}
    for override in overrides:
        apply_override(fields, override)
    for line in measure(build_recipe(fields, source="ceiling").data, **options):
        typer.echo(line)


@app.command()
def saliency(
    root: Annotated[str, typer.Argument(help="a folder of images, or a built-in set")], settings: Overrides = None
) -> None:
    """Saliency maps of a set's images: out=FOLDER detector=barrier, or detector=RUN (see the recipe saliency)."""
    from maskwright.recipe.load import apply_override, build_recipe
    from maskwright.weak.saliency import write_saliency

    overrides, options = _split(settings, {"out": "saliency", "detector": "barrier"})
    fields: dict[str, Any] = {"data": {"root": root}}
    for override in overrides:
        apply_override(fields, override)
    data = build_recipe(fields, source="saliency").data
    typer.echo(f"{write_saliency(data, **options)} saliency maps written to {options['out']}")


@data_app.command("check")
def data_check(
    root: Annotated[str, typer.Argument(help="a folder of images, or a built-in set")],
    settings: Annotated[list[str] | None, typer.Argument(help="a tags file, and settings as key=value")] = None,
) -> None:
    """What is wrong with these labels. Exit code 1 where training would go wrong."""
    from maskwright.data.check import check
    from maskwright.data.check import report as findings_report
    from maskwright.recipe.load import apply_override, build_recipe

    fields: dict[str, Any] = {"data": {"root": root}}
    for setting in settings or []:
        apply_override(fields, setting if "=" in setting else f"tags={setting}")
    data = build_recipe(fields, source="data check").data
    findings = check(data, tuple(dict.fromkeys((data.train, data.val))))
    typer.echo(findings_report(findings))
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)


@study_app.command("bce-sce")
def study_bce_sce(settings: Overrides = None) -> None:
    """Sigmoid or softmax loss (ReCAM, figures 1, 4): classes=A,B epochs=N repeats=N images=N recipe=NAME out=FOLDER."""
    from maskwright.engine import distributed
    from maskwright.studies.bce_sce import study_bce_sce as study

    defaults = {"classes": None, "epochs": 0, "repeats": 1, "images": 200, "recipe": None, "out": None}
    overrides, options = _split(settings, defaults)
    try:
        for line in study(overrides, **options):
            typer.echo(line)
    finally:
        distributed.shutdown()


@recipes_app.command("ls")
def recipes_ls() -> None:
    """Every recipe with its first line."""
    from maskwright.recipe.load import recipe_file, recipe_names

    for name in recipe_names():
        first = recipe_file(name).read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        typer.echo(f"{name:<28} {first}")


@recipes_app.command("show")
def recipes_show(name: str) -> None:
    """Print a recipe, written out where it rests on others."""
    from maskwright.recipe.load import recipe_text

    typer.echo(recipe_text(name), nl=False)


@recipes_app.command("cp")
def recipes_cp(name: str, target: Path) -> None:
    """Copy a recipe to edit it, written out where it rests on others; never overwrites."""
    from maskwright.recipe.load import recipe_text

    text = recipe_text(name)
    try:
        with open(target, "x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise MaskwrightError(f"{target} exists; choose another name") from None
    typer.echo(f"{target}: edit it, then maskwright run {target}")


def _split(arguments: list[str] | None, options: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Part arguments into those of the verb itself (`key=value` with a key of `options`) and the rest."""
    import yaml

    rest = []
    found = dict(options)
    for argument in arguments or []:
        key, separator, value = argument.partition("=")
        if separator and key in options:
            found[key] = value if isinstance(options[key], str | None) else yaml.safe_load(value)
        else:
            rest.append(argument)
    return rest, found
