"""What each verb takes, and one way to read it: `key=value` is a setting, everything else a name or a path."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from maskwright.errors import RecipeError, unknown_name

# A path with `=` in its name has a separator before it: `./a=b.jpg`. Spaces are in paths and in compare's methods only.
SETTING = re.compile(r"([\w.-]+)=(.*)", re.DOTALL)

# Options of verbs that had other names: (verb, old) -> new.
OLD_OPTIONS = {("compare", "seeds"): "random_seeds"}

QUICKEST = "instant"  # the recipe for a folder of images without a word about the method

EVERY = ("*",)  # any setting of a recipe
DATA = ("data",)


class Option(NamedTuple):
    """An option of one verb: what it is without being given, what it means, and how its text is read."""

    default: Any
    meaning: str
    read: Callable[[str, str], Any] = lambda key, text: text


def _yes_or_no(key: str, text: str) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if text.lower() not in words:
        raise RecipeError(f"{key} must be true or false, found {text!r}")
    return words[text.lower()]


def _number(kind: type[int] | type[float], words: str) -> Callable[[str, str], Any]:
    def read(key: str, text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            raise RecipeError(f"{key} must be {words}, found {text!r}") from None

    return read


_whole, _decimal = _number(int, "a whole number"), _number(float, "a number")

PLAN = {
    "plan": Option(False, "only list the stages: finished or not, time, memory, disk", _yes_or_no),
    "dry_run": Option(False, "only try every stage on a few small images; works without the data", _yes_or_no),
}
SHARING = {
    "engine": Option(None, "label in one pass, part by part, shared by local, torchrun, task or ray"),
    "workers": Option(0, "processes that label; 0: one a processor, or GPU where there is one", _whole),
    "task": Option(None, "of engine=task: first (the networks), i/N (parts i, i + N, ...), last (the sum)"),
    "address": Option(None, "of a Ray cluster that runs already; default: one on this machine alone"),
    "part": Option(None, "images of a part, of a set that has no shards; default 1000", _whole),
    "sample": Option(None, "images whose maps are files: for thresholds, training and eyes; default 1000", _whole),
    "keep": Option(None, "maps: keep those of all images in the parts' tar files"),
    "to": Option(None, "folder or address that gets the parts' files; default: the run folder"),
    "skip_failed": Option(False, "go on without parts that could not be labelled", _yes_or_no),
}
DEVICE = {"device": Option("auto", "auto, cpu, cuda, cuda:1, mps; auto: a GPU where there is one")}


@dataclass(frozen=True)
class Verb:
    """What one verb takes.

    Args:
        names: its names and paths in order; `[NAME]` may be left out, `NAME...` may be several.
        options: its own options.
        settings: blocks and keys of a recipe that it reads; `EVERY` for all.
        resumes: whether the same command resumes where it was stopped.
    """

    names: tuple[str, ...] = ()
    options: dict[str, Option] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    resumes: bool = False

    @property
    def usage(self) -> str:
        return " ".join([*self.names, *(["[KEY=VALUE]..."] if self.options or self.settings else [])])


VERBS = {
    "run": Verb(("RECIPE",), {**PLAN, **SHARING}, EVERY, resumes=True),
    "label": Verb(
        ("RECIPE|DATA", "[TAGS]"),
        {"recipe": Option(None, f"recipe, where DATA is given in its place; default {QUICKEST}"), **PLAN, **SHARING},
        EVERY,
        resumes=True,
    ),
    "train": Verb(("RECIPE",), {**PLAN, **SHARING}, EVERY, resumes=True),
    "evaluate": Verb(
        ("RUN",),
        {"out": Option(None, "folder to write to; default RUN/evaluations/DATA-SPLIT"), **DEVICE},
        ("data", "inference"),
    ),
    "seeds": Verb(
        ("RUN",),
        {
            "threshold": Option(None, "score of the background, or best; default: that of the run's pseudo-masks"),
            "split": Option(None, "split whose images the maps are of; default: the recipe's training split"),
            "stability": Option(0, "number of images on which the maps of single views are compared", _whole),
            "out": Option(None, "folder to write to; default RUN"),
            **DEVICE,
        },
        ("data", "seeds", "pseudo_masks"),
    ),
    "verify": Verb(
        ("RUN",),
        {"against": Option(None, "a run whose numbers are expected; default: those of the recipe")},
        ("data", "expected", "tolerance"),
    ),
    "predict": Verb(
        ("RUN", "IMAGES..."),
        {
            "out": Option("predictions", "folder to write to"),
            "overlay": Option(True, "also write each image with its mask laid over it", _yes_or_no),
            "probabilities": Option(False, "also write the probabilities of all classes of every image", _yes_or_no),
            "tags": Option(None, "table or folder of the images' tags, where known: nothing else is predicted"),
            **DEVICE,
        },
        ("inference",),
    ),
    "relabel": Verb(
        ("RUN",),
        {"out": Option(None, "folder to write to; default RUN/relabelled"), **DEVICE},
        ("data", "inference"),
        resumes=True,
    ),
    "review": Verb(
        ("RUN",),
        {
            "port": Option(0, "to listen on, of this machine alone; 0: any that is free", _whole),
            "n": Option(500, "how many of the least certain masks are shown", _whole),
        },
        DATA,
    ),
    "explain": Verb(
        ("RUN", "IMAGES..."),
        {
            "class": Option(None, "class names, separated by commas; default: every class predicted in the image"),
            "region": Option("all", "pixels to explain: all, predicted (those of the class), or the path of a mask"),
            "layer": Option(None, "module of the network; default: the input of its last classification layer"),
            "against": Option(None, "other runs or models, separated by commas; one picture has the maps of all"),
            "out": Option(None, "folder to write to; default RUN/explanations"),
            **DEVICE,
        },
        ("inference",),
    ),
    "export": Verb(
        ("RUN|DATA", "[TAGS]"),
        {
            "format": Option(None, "how it is written; must be given, a wrong name lists those there are"),
            "out": Option(None, "folder to write to, or file of a model; must be given"),
            "images": Option(None, "what an exported model is compared on; default: the run's validation split"),
            "split": Option(None, "whose images; default: those of a run's pseudo-masks, else those scores are of"),
            "which": Option(None, "masks of a run: pseudo-masks or predictions; default: pseudo-masks where it can be"),
            "select": Option("all", "all, or uncertain: the images of a run that are most worth correcting"),
            "n": Option(50, "how many select=uncertain takes", _whole),
            **DEVICE,
        },
        ("data", "inference"),
    ),
    "push": Verb(("RUN", "REPO"), {}, ("inference",)),
    "pull": Verb(("REPO",), {"out": Option(None, "folder to write to; default: the repository's name")}),
    "report": Verb(("RUN",), {}, DATA),
    "compare": Verb(
        ("METHODS...",),
        {
            "out": Option("runs/compare", "folder to write to"),
            "random_seeds": Option(None, "random seeds, separated by commas; each method runs once per seed"),
            "until": Option(None, "last stage to run, such as pseudo_masks"),
            "images": Option(12, "number of images shown, of the training and of the validation split each", _whole),
        },
        EVERY,
        resumes=True,
    ),
    "ceiling": Verb(
        ("[DATA]",),
        {
            "ratio": Option("8,16,32", "output strides, separated by commas"),
            "dim": Option(256, "dimensions of DUpsampling's basis", _whole),
            "max_patches": Option(50_000, "largest number of patches that a basis is fitted to", _whole),
            "out": Option(None, "folder to write to; default runs/ceiling-DATA"),
        },
        DATA,
    ),
    "saliency": Verb(
        ("[DATA]",),
        {
            "out": Option("saliency", "folder to write to"),
            "detector": Option("barrier", "barrier (built in), or a run whose model tells objects from background"),
            **DEVICE,
        },
        DATA,
        resumes=True,
    ),
    "settings": Verb(
        ("RECIPE", "[FILTER]"),
        {
            "all": Option(False, "also list settings of networks and refinements that are not used", _yes_or_no),
            "json": Option(False, "print a JSON schema, for editors that check and complete recipe files", _yes_or_no),
        },
        EVERY,
    ),
    "shard": Verb(
        ("[DATA]", "[TAGS]"),
        {
            "out": Option("shards", "folder to write to, or an address such as s3://bucket/photos"),
            "size": Option(1000, "images in a shard", _whole),
            "split": Option(None, "which splits, separated by commas; default: data.train and data.val"),
        },
        DATA,
        resumes=True,
    ),
    "data check": Verb(("[DATA]", "[TAGS]"), {}, DATA),
    "study pooling": Verb(
        ("[DATA]",),
        {
            "ratio": Option("8,16,32", "sides of a cell in pixels, separated by commas"),
            "images": Option(4, "how many are shown", _whole),
            "out": Option(None, "folder to write to; default runs/pooling-DATA"),
        },
        DATA,
    ),
    "study autoencoder": Verb(
        ("[DATA]",),
        {
            "ratio": Option("8,16", "output strides, separated by commas"),
            "dim": Option(256, "dimensions of DUpsampling's basis", _whole),
            "steps": Option(2000, "optimiser steps of each training", _whole),
            "out": Option(None, "folder to write to; default runs/autoencoder-DATA"),
            **DEVICE,
        },
        DATA,
    ),
    "study sweep": Verb(
        ("RECIPE",),
        {
            "over": Option(None, "key of the setting that varies, such as recam.sce_weight; must be given"),
            "values": Option(None, "its values, separated by commas, or a list in brackets; must be given"),
            "until": Option(None, "last stage to run, such as seeds or pseudo_masks"),
            "random_seeds": Option(None, "random seeds, separated by commas; each value runs once per seed"),
            "images": Option(12, "number of images shown, of the training and of the validation split each", _whole),
            "out": Option(None, "folder to write to; default runs/sweep-KEY"),
        },
        EVERY,
        resumes=True,
    ),
    "study bce-sce": Verb(
        (),
        {
            "classes": Option(None, "class names, separated by commas; default: those confused most often"),
            "epochs": Option(0.0, "passes over the images in each training; 0: the recipe's", _decimal),
            "repeats": Option(1, "trainings with each loss, each with another random seed", _whole),
            "images": Option(200, "largest number of images that are measured on", _whole),
            "recipe": Option(None, "recipe whose classifier is trained; default demo or cam"),
            "out": Option(None, "folder to write to; default runs/study-bce-sce-DATA"),
        },
        EVERY,
        resumes=True,
    ),
    "recipes ls": Verb(("[FILTER...]",)),
    "recipes show": Verb(("RECIPE",)),
    "recipes cp": Verb(("RECIPE", "FILE")),
}


@dataclass
class Given:
    """What was typed after a verb: names and paths, settings of a recipe as `key=value`, and the verb's own options."""

    names: list[str]
    settings: list[str]
    options: dict[str, Any]


def read(name: str, words: Sequence[str] | None) -> Given:
    """Sort the words after a verb.

    Args:
        name: of the verb, a key of `VERBS`.
        words: as they were typed.

    Raises:
        RecipeError: a key that the verb does not have (the message names the nearest), a value of the wrong type,
            names that are missing or too many.
    """
    verb = VERBS[name]
    given = Given([], [], {key: option.default for key, option in verb.options.items()})
    for word in words or ():
        found = SETTING.fullmatch(_flag(name, verb, word) if word.startswith("-") else word)
        if found is None:
            given.names.append(word)
        elif (key := _spelled(name, found[1])) in verb.options:
            given.options[key] = verb.options[key].read(key, found[2])
        else:
            _check_setting(name, verb, found[1], word)
            given.settings.append(word)
    _check_names(name, verb, given.names)
    return given


def _spelled(verb: str, key: str) -> str:
    """An option as it is called now; an old name still works, with a line that says the new one."""
    if (verb, key) not in OLD_OPTIONS:
        return key
    print(f"{key} is now called {OLD_OPTIONS[verb, key]}; the old name still works", file=sys.stderr)
    return OLD_OPTIONS[verb, key]


def _flag(name: str, verb: Verb, word: str) -> str:
    """`--dry-run` as `dry_run=true`: what other programs call options are settings here."""
    key, _, value = word.lstrip("-").replace("-", "_").partition("=")
    option = verb.options.get(key)
    if option is None or option.read is not _yes_or_no or value:
        raise RecipeError(f"{word}: maskwright {name} takes settings as key=value, as in {key}={value or 'VALUE'}")
    print(f"{word} is spelled {key}=true", file=sys.stderr)
    return f"{key}=true"


def _check_setting(name: str, verb: Verb, key: str, word: str) -> None:
    if not verb.settings:
        taken = unknown_name("setting", key, verb.options) if verb.options else "it takes none"
        raise RecipeError(f"maskwright {name}: {taken}{_or_path(word)}")
    from maskwright.recipe.describe import known_keys
    from maskwright.recipe.load import apply_override

    known = known_keys()
    if verb.settings == EVERY and key in known:
        return
    fields: dict[str, Any] = {}
    try:
        apply_override(fields, word)
    except RecipeError:
        if key in known:
            raise
        raise RecipeError(_unknown(name, verb, key, known) + _or_path(word)) from None
    if verb.settings != EVERY and not set(fields) <= set(verb.settings):
        raise RecipeError(f"{_unknown(name, verb, key, known)} {key} is a setting of other verbs.")


def _unknown(name: str, verb: Verb, key: str, known: Iterable[str]) -> str:
    from maskwright.recipe.load import SHORT_KEYS

    if verb.settings != EVERY:
        known = [one for one in known if SHORT_KEYS.get(one, one).partition(".")[0] in verb.settings]
    known = [*verb.options, *known]
    last = key.rpartition(".")[2]
    same = [one for one in known if one.rpartition(".")[2] == last][:3]
    if same:
        return f"unknown setting {key!r}. Did you mean {' or '.join(map(repr, same))}?"
    return unknown_name("setting", key, known)


def _or_path(word: str) -> str:
    return f" The file of that name is ./{word}" if Path(word).exists() else ""


def _check_names(name: str, verb: Verb, names: Sequence[str]) -> None:
    needed = sum(not one.startswith("[") for one in verb.names)
    many = any("..." in one for one in verb.names)
    usage = f"maskwright {name} {verb.usage}"
    if len(names) < needed:
        raise RecipeError(f"{verb.names[len(names)].removesuffix('...')} is missing; expected: {usage}")
    if len(names) > len(verb.names) and not many:
        extra = names[len(verb.names)]
        hint = f"; to set what it is, write key=value, as in data={extra}" if verb.settings else ""
        raise RecipeError(f"{extra!r} is one name too many; expected: {usage}{hint}")
