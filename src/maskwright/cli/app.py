"""What verbs are made of: the programs that typer runs, and how a function becomes a verb."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from maskwright.cli.words import EVERY, VERBS, Given, read


class Ended(Exception):
    """Carries an error past typer, which would print its own word for it.

    Args:
        error: what ended the verb.
    """

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Verbs(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, EOFError) as error:
            raise Ended(error) from error


class Words(TyperCommand):
    """A verb whose usage shows what `cli.words` makes of its words."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [str(argument.metavar) for argument in self.params if argument.param_type_name == "argument"]


PLAIN: dict[str, Any] = {"rich_markup_mode": None, "no_args_is_help": True}
app = typer.Typer(
    name="maskwright",
    help="Semantic segmentation from image tags, pixel masks, or both.",
    cls=Verbs,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Check images, masks and tags before training.", **PLAIN)
recipes_app = typer.Typer(help="List, print and copy the recipes that come with maskwright.", **PLAIN)
study_app = typer.Typer(help="Repeat an experiment of a paper on your own images.", **PLAIN)
app.add_typer(data_app, name="data")
app.add_typer(recipes_app, name="recipes")
app.add_typer(study_app, name="study")


def verb(group: typer.Typer, name: str) -> Callable[[Callable[[Given], None]], Callable[[Given], None]]:
    """Make a function of what was given the verb `name` of `cli.words.VERBS`; its docstring is the help."""

    def completed(ctx: typer.Context, incomplete: str) -> list[str]:
        from maskwright.cli.completion import complete

        return complete(name, ctx.params.get("words") or [], incomplete)

    words = typer.Argument(metavar=VERBS[name].usage, autocompletion=completed, hidden=True)

    def register(work: Callable[[Given], None]) -> Callable[[Given], None]:
        def call(words=None):
            work(read(name, words))

        call.__annotations__ = {"words": Annotated[list[str] | None, words]}
        about = (work.__doc__ or "").strip()
        group.command(
            name.rpartition(" ")[2],
            cls=Words,
            help=about,
            short_help=about.partition("\n")[0],
            epilog=_options(name),
            context_settings={"ignore_unknown_options": True},
        )(call)
        return work

    return register


def _options(name: str) -> str | None:
    """The part of a verb's help that lists what it takes; none for a verb without settings."""
    verb = VERBS[name]
    rows = [
        (f"{key}={'...' if option.default is None else str(option.default).lower()}", option.meaning)
        for key, option in verb.options.items()
    ]
    width = max((len(key) for key, _ in rows), default=0)
    lines = [f"  {key:<{width}}  {meaning}" for key, meaning in rows]
    if verb.settings:
        which = "any setting" if verb.settings == EVERY else f"settings of {', '.join(verb.settings)}"
        lines.append(f"  and {which} of the recipe: maskwright settings RECIPE lists them")
    return "\b\n" + "\n".join(lines) if lines else None
