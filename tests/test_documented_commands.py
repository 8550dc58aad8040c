"""Every `maskwright run` that README and docs show has a recipe and settings that exist; recipes of weak methods."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from maskwright.recipe.load import build_recipe, load_recipe, recipe_file, recipe_names, recipe_text
from maskwright.weak.methods import check_methods, seed_methods
from maskwright.weak.networks import NETWORKS
from maskwright.weak.refine import REFINEMENTS

ROOT = Path(__file__).parents[1]
METHODS = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WORDS_OF_THE_COMMAND = ("plan", "dry_run")


def commands() -> list[str]:
    """`NAME key=value ...` of every command for one recipe, from blocks of code, lines and the recipes' first lines."""
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    texts += [recipe_file(name).read_text(encoding="utf-8").splitlines()[0] for name in recipe_names()]
    found = []
    for text in texts:
        blocks = "\n".join(re.findall(r"^```\n(.*?)^```", text, re.M | re.S))
        found += re.findall(r"^maskwright (?:run|label|train) (.*?)(?:\s+#.*)?$", blocks, re.M)
        found += re.findall(
            r"`maskwright (?:run|label|train) (.*?)`", re.sub(r"^```\n.*?^```", "", text, flags=re.M | re.S)
        )
    # The first word may be a folder of photographs, or the recipe in a run folder.
    return sorted({command for command in found if not re.match(r"[A-Z_]+\b|\S*/", command)})


def resolved(command: str):
    name, *words = shlex.split(command)
    return load_recipe(
        name, [word for word in words if not word.startswith("-") and word.split("=")[0] not in WORDS_OF_THE_COMMAND]
    )


def test_there_are_commands():
    assert len(commands()) > len(recipe_names())


@pytest.mark.parametrize("command", commands())
def test_a_command_resolves(command):
    recipe = resolved(command)
    if recipe.supervision == "tags":
        check_methods(recipe)


@pytest.mark.parametrize("words", [NETWORKS, seed_methods(), REFINEMENTS])
def test_the_page_of_methods_names_every_word(words):
    first = re.findall(r"^\| (`[^|]*) \|", METHODS, re.M)
    named = {word for cell in first for word in re.findall(r"`([\w+]+)`", cell)}
    assert set(words) <= named


@pytest.mark.parametrize("name", ["voc-l2g", "voc-l2g-shape"])
def test_form_paper_is_the_papers_text(name):
    code, paper = (load_recipe(name, [f"l2g.form={form}"]).l2g for form in ("code", "paper"))
    assert (code.views, code.sampling, code.alignment) == (6, "corners_random", "roi")
    assert (code.threshold, code.background, code.winner_takes_all) == (0.001, "binary", True)
    assert (paper.views, paper.sampling, paper.alignment) == (4, "random", "crop")
    assert (paper.threshold, paper.background, paper.winner_takes_all) == (0.1, "none", False)
    assert paper.binary_saliency
    assert paper.attention_where_empty


CODE = {"views": 6, "sampling": "corners_random", "winner_takes_all": True, "alignment": "roi", "background": "binary"}
CODE |= {"threshold": 0.001, "binary_saliency": False, "attention_where_empty": False, "form": "code", "pcm": True}
L2G_RECIPES = {
    "voc-l2g": {"weight": 10.0},
    "voc-l2g-shape": {"transfer": "shape"},
    "voc-l2g-uniform": {"views": 9, "sampling": "uniform"},
    "voc-l2g-shape-shared": {"transfer": "shape", "shared_backbone": True},
    "voc-l2g-shape-global-loss": {"transfer": "shape", "global_classification": 1.0},
    "coco-l2g": {"views": 4, "sampling": "corners", "weight": 30.0},
    "coco-l2g-shape": {
        **{"views": 4, "sampling": "corners", "weight": 30.0},
        **{"transfer": "shape", "threshold": 0.1, "background": "continuous"},
    },
}


def test_l2gs_published_recipes_are_the_released_code():
    assert L2G_RECIPES.keys() == {name for name in recipe_names() if "-l2g" in name} - {"voc-l2g-cam"}
    for name, apart in L2G_RECIPES.items():
        recipe = load_recipe(name)
        expected = {**CODE, "transfer": "attention", **apart, "view_size": (320, 320)}
        assert {key: getattr(recipe.l2g, key) for key in expected} == expected, name
        assert recipe.classifier.backbone == "resnet38"
        assert recipe.seeds.options == {}


def test_the_control_of_l2g_is_a_classifier_trained_as_it_is():
    control, l2g = load_recipe("voc-l2g-cam"), load_recipe("voc-l2g")
    assert (control.networks, control.seeds.method) == (["classifier"], "cam")
    assert control.classifier.train == l2g.l2g.train
    changed = {key for key in type(l2g).model_fields if getattr(control, key, None) != getattr(l2g, key)}
    assert changed == {"name", "source", "expected", "networks", "classifier", "l2g", "seeds"}


@pytest.mark.parametrize("word", ["seam", "eps", "edam", "recam", "l2g"])
def test_what_a_paper_recipe_writes_out_is_what_the_settings_have_by_themselves(word):
    recipe = load_recipe(f"voc-{word}")
    said = {"l2g": {"form": "code", "pcm": True}} if word == "l2g" else {}
    own = build_recipe({"networks": recipe.networks, **said})
    told, default = (getattr(each, word).model_dump() for each in (recipe, own))
    apart = {"workers", "augment", "decay_norm_and_bias"} if word == "recam" else {"workers"}
    for key in apart:
        told["train"].pop(key), default["train"].pop(key)
    assert told == default


def test_ablations_change_one_thing():
    def different(one, other):
        changed = {key for key in type(one).model_fields if getattr(one, key) != getattr(other, key)}
        return changed - {"name", "source", "expected", "notes"}

    base = load_recipe("voc-l2g")
    shape = load_recipe("voc-l2g-shape")
    for name, before, settings in (
        ("voc-l2g-uniform", base, {"views": 9, "sampling": "uniform"}),
        ("voc-l2g-shape-shared", shape, {"shared_backbone": True}),
        ("voc-l2g-shape-global-loss", shape, {"global_classification": 1.0}),
    ):
        recipe = load_recipe(name)
        assert different(before, recipe) == {"l2g"}
        assert different(before.l2g, recipe.l2g) == set(settings)
        assert all(getattr(recipe.l2g, key) == value for key, value in settings.items())
        assert before.expected["seeds"] > recipe.expected["seeds"]


def test_rows_e_and_m_of_recams_table():
    row = load_recipe("voc-recam-eps")
    assert (row.networks, row.recam.saliency_weight, row.seeds.method) == (["eps", "recam"], 1.0, "eps")
    assert row.eps == load_recipe("voc-eps").eps
    row, plain = load_recipe("voc-recam-saliency"), load_recipe("voc-recam")
    assert (row.refine, row.saliency_background.mode, row.data.saliency) == (
        ["saliency_background"],
        "soft",
        "saliency",
    )
    assert (row.networks, row.recam, row.seeds) == (plain.networks, plain.recam, plain.seeds)


def test_a_recipe_that_rests_on_others_can_be_written_out(tmp_path):
    (tmp_path / "copy.yaml").write_text(recipe_text("voc-recam-eps"), encoding="utf-8")
    assert load_recipe(str(tmp_path / "copy.yaml")) == load_recipe("voc-recam-eps")
