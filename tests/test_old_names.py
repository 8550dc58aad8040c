"""Settings with old names still load, say the new one, and leave finished runs as they are."""

import pytest
import yaml

from maskwright.errors import RecipeError
from maskwright.recipe import build_recipe, dump_recipe, load_recipe
from maskwright.recipe.load import _tell
from maskwright.runs.contents import read_run
from maskwright.runs.context import RunContext
from maskwright.runs.stages import effective, fingerprints
from maskwright.settings.old_names import OLD_NAMES, OLD_WORDS, with_new_names
from maskwright.weak.stages import label_stages

# A recipe that has the setting, and a value that is not the default.

CASES = {
    "seed": ({}, 7),
    "oracle": ({}, True),
    "judged_on": ({}, "val"),
    "recam.lam": ({"networks": ["classifier", "recam"]}, 0.1),
    "recam.masks": ({"networks": ["classifier", "recam"]}, "gradcam"),
    "recam.eps": ({"networks": ["eps", "recam"]}, 0.5),
    "l2g.shared_trunk": ({"networks": ["l2g"]}, True),
    "pseudo_masks.unsure_below": ({}, 0.4),
    "saliency": ({"refine": ["saliency"]}, {"mode": "hard"}),
}


def nested(key, value):
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def at(fields, key):
    for part in key.split("."):
        fields = fields[part]
    return fields


def test_every_old_name_has_a_case():
    assert CASES.keys() == OLD_NAMES.keys()
    assert OLD_WORDS == {"refine": {"saliency": "saliency_background"}}


@pytest.mark.parametrize("old", OLD_NAMES)
def test_an_old_name_in_a_file_loads_and_says_the_new_one(old, tmp_path, capsys):
    fields, value = CASES[old]
    new = OLD_NAMES[old]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**fields, **nested(old, value)}))
    _tell.cache_clear()
    found = yaml.safe_load(dump_recipe(load_recipe(str(path))))
    said = capsys.readouterr().err
    assert f"{old} is now called {new}; the old name still works\n" in said
    found = at(found, new)
    assert found == value if not isinstance(value, dict) else value.items() <= found.items()
    again = build_recipe({**with_new_names(fields), **nested(new, value)})
    assert again == build_recipe({**fields, **nested(old, value)})
    assert capsys.readouterr().err == "", "stored recipes load without a word"


@pytest.mark.parametrize("old", [old for old in OLD_NAMES if old != "saliency"])
def test_an_old_name_may_be_typed(old, capsys):
    fields, value = CASES[old]
    more = [f"{key}=[{', '.join(words)}]" for key, words in fields.items()]
    _tell.cache_clear()
    recipe = load_recipe("cam", ["data=scenes", *more, f"{old}={value}"])
    assert at(recipe.model_dump(), OLD_NAMES[old]) == value
    assert f"{old} is now called {OLD_NAMES[old]}" in capsys.readouterr().err


def test_the_refinement_by_its_old_name(capsys):
    _tell.cache_clear()
    typed = ["data=scenes", "saliency=barrier", "refine=[saliency, crf]", "saliency.mode=hard"]
    recipe = load_recipe("cam", typed)
    assert recipe.refine == ["saliency_background", "crf"]
    assert (recipe.saliency_background.mode, recipe.data.saliency) == ("hard", "barrier")
    assert "saliency.mode is now called saliency_background.mode" in capsys.readouterr().err


def test_a_setting_under_both_names_is_refused():
    with pytest.raises(RecipeError, match="oracle is now called fully_supervised, and both are given"):
        build_recipe({"oracle": True, "fully_supervised": False})


def test_stages_go_by_the_names_that_they_had_first(tmp_path):
    fields = {
        "supervision": "tags",
        "data": {"root": "scenes", "saliency": "barrier", "options": {"count": 4, "size": [32, 32]}},
        "networks": ["eps", "recam"],
        "seed": 3,
        "recam": {"lam": 0.1, "masks": "gradcam", "eps": 0.5},
        "refine": ["saliency"],
        "saliency": {"mode": "hard"},
        "pseudo_masks": {"unsure_below": 0.4},
    }
    recipe = build_recipe(fields)
    assert effective(recipe.recam) == {**{"lam": 0.1, "masks": "gradcam", "eps": 0.5}, "train": PAPER}
    stages = {stage.name: stage for stage in label_stages(RunContext(recipe, tmp_path, print))}
    assert list(stages) == ["eps", "recam", "seeds", "saliency", "pseudo_masks"]
    assert stages["recam"].settings["seed"] == 3
    assert stages["pseudo_masks"].settings == {"pseudo_masks": {"unsure_below": 0.4}}
    assert stages["saliency"].settings["mode"] == "hard"
    stored = build_recipe(yaml.safe_load(dump_recipe(recipe)))
    again = label_stages(RunContext(stored, tmp_path, print))
    assert fingerprints(again) == fingerprints(list(stages.values()))


PAPER = {
    "epochs": 4.0,
    "lr": 5e-4,
    "backbone_lr": 0.1,
    "momentum": 1e-4,
    "freeze_batchnorm": True,
}


def test_a_report_reads_the_recipe_of_an_old_run(tmp_path):
    (tmp_path / "recipe.yaml").write_text("seed: 3\noracle: true\nrefine: [saliency]\nsaliency: {mode: hard}\n")
    run = read_run(tmp_path)
    assert run.setting("random_seed") == 3
    assert run.setting("fully_supervised") is True
    assert run.setting("saliency_background.mode") == "hard"
