"""`maskwright verify`: a run beside the numbers that are expected of it."""

import json

import pytest

from maskwright.errors import RecipeError
from maskwright.pipeline.run import run
from maskwright.pipeline.verify import verify
from maskwright.recipe.load import load_recipe

SMALL = [
    *("data.options={size: [48, 48], count: 12}", "classifier.train.steps=2", "classifier.train.batch_size=4"),
    *("classifier.backbone=resnet10t", "classifier.train.epochs=none", "seeds.scales=[1.0]", "fully_supervised=false"),
    *("classifier.train.augment.crop=[48, 48]", "model.pretrained=false", "expected={}"),
]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify") / "run"
    run(load_recipe("demo", [*SMALL, f"out={folder}"]), until="pseudo_masks", say=lambda line: None)
    return folder


def found(folder):
    masks = json.loads((folder / "pseudo_masks" / "scores.json").read_text())
    seeds = json.loads((folder / "seed_evaluation.json").read_text())["stages"]["seeds"]["best"]
    log = [json.loads(line) for line in (folder / "classifier" / "log.jsonl").read_text().splitlines()]
    tags = [line["tag_map"] for line in log if "tag_map" in line][-1]
    return {"classifier": tags, "seeds": seeds["miou"], "pseudo_masks": masks["miou"]}


def expecting(numbers):
    return ["expected={" + ", ".join(f"{name}: {value}" for name, value in numbers.items()) + "}"]


def test_every_stage_agrees_with_what_it_found(labelled):
    lines, agrees = verify(labelled, expecting(found(labelled)))
    assert agrees
    assert [line.split()[0] for line in lines[1:4]] == ["classifier", "seeds", "pseudo_masks"]
    assert "tag mAP" in lines[1]
    assert lines[-1] == "3 of 3 agree"


def test_the_first_stage_that_is_off_is_named_with_what_is_not_as_in_the_recipe(labelled):
    numbers = {**found(labelled), "pseudo_masks": 0.99, "irn": 0.7}
    numbers["seeds"] += 0.2
    lines, agrees = verify(labelled, expecting(numbers))
    assert not agrees
    text = "\n".join(lines)
    assert "the first that is off: seeds; what it was made of agrees (classifier)" in text
    assert "not judged here, for want of a stage or of masks: irn 0.7" in text
    assert "not as in the recipe demo: classifier.train.steps=2 (there None)" in text
    within, agrees = verify(labelled, [*expecting({"seeds": numbers["seeds"]}), "tolerance=0.3"])
    assert agrees, within


def test_another_run_gives_the_numbers(labelled):
    lines, agrees = verify(labelled, [], against=str(labelled))
    assert agrees
    assert lines[0] == f"compared with {labelled}:"
    assert "seeds" in lines[2]


def test_without_numbers_it_says_how_to_give_them(labelled):
    with pytest.raises(RecipeError, match=r"expects no numbers; give them, .* against=RUN"):
        verify(labelled, [])
    with pytest.raises(RecipeError, match="of which a number is expected"):
        verify(labelled, ["expected={irn: 0.7}"])
