"""Short keys mean what people mean, and messages name what was typed."""

import pytest

from maskwright.data import open_dataset
from maskwright.errors import DataError, RecipeError
from maskwright.recipe import build_recipe, load_recipe

DATA = "data=scenes"


def networks(recipe, key):
    blocks = [recipe.classifier, *([recipe.irn] if "irn" in recipe.refine else []), recipe.model]
    return [getattr(block, key) for block in blocks]


@pytest.mark.parametrize(
    ("name", "typed", "key", "expected"),
    [
        ("cam", ["backbone=resnet50"], "backbone", ["resnet50"] * 2),
        ("cam-irn", ["backbone=resnet34"], "backbone", ["resnet34"] * 3),
        ("cam", ["backbone=resnet34", "refine=[irn]"], "backbone", ["resnet34"] * 3),
        ("cam-irn", ["model.backbone=resnet50", "backbone=resnet34"], "backbone", ["resnet34", "resnet34", "resnet50"]),
        ("cam", ["backbone=resnet50", "backbone=resnet34"], "backbone", ["resnet34"] * 2),
        ("cam", ["pretrained=true"], "pretrained", [True, True]),
        ("cam-irn", ["pretrained=weights.pth"], "pretrained", ["weights.pth"] * 3),
        ("cam-irn", ["pretrained=true", "irn.pretrained=classifier"], "pretrained", [True, "classifier", True]),
        ("cam-scratch", ["pretrained=classifier"], "pretrained", [False, "classifier"]),
    ],
)
def test_every_network_of_the_chain_is_set(name, typed, key, expected):
    assert networks(load_recipe(name, [DATA, *typed]), key) == expected


def test_a_recipe_with_masks_has_one_network():
    recipe = load_recipe("deeplabv3plus-scratch", [DATA, "backbone=resnet34", "pretrained=true", "epochs=3", "lr=0.5"])
    assert (recipe.model.backbone, recipe.model.pretrained) == ("resnet34", True)
    assert (recipe.train.epochs, recipe.train.lr) == (3, 0.5)
    assert recipe.classifier == build_recipe({}).classifier
    mixed = load_recipe("deeplabv3plus-scratch", [DATA, "supervision=tags", "backbone=resnet34"])
    assert mixed.classifier.backbone == "resnet34"


def test_loader_processes_are_set_for_every_training():
    recipe = load_recipe("recam-irn", [DATA, "workers=0"])
    blocks = (recipe.classifier, recipe.recam, recipe.irn, recipe)
    assert [block.train.workers for block in blocks] == [0] * 4


@pytest.mark.parametrize("typed", ["epochs=2", "lr=0.1", "steps=5", "batch_size=3"])
def test_a_setting_of_one_training_says_which(typed):
    with pytest.raises(RecipeError) as caught:
        load_recipe("recam-irn", [DATA, typed])
    said = str(caught.value)
    assert said.startswith(f"{typed}: this recipe trains 4 networks")
    for spelling in (f"classifier.train.{typed}", f"recam.train.{typed}", f"irn.train.{typed}", f" train.{typed}"):
        assert spelling in said
        load_recipe("recam-irn", [DATA, spelling.strip()])


def test_weights_that_cannot_fit_all_backbones_say_so():
    with pytest.raises(
        RecipeError, match=r"classifier.pretrained=w.pth \(resnet18\), model.pretrained=w.pth \(resnet50\)"
    ):
        load_recipe("cam-scratch", [DATA, "pretrained=w.pth", "model.backbone=resnet50"])
    load_recipe("cam-scratch", [DATA, "pretrained=true", "model.backbone=resnet50"])
    load_recipe("cam-scratch", [DATA, "pretrained=w.pth", "model.backbone=resnet50", "model.pretrained=false"])


@pytest.mark.parametrize("name", ["cam", "seam", "deeplabv3plus-quick"])
def test_data_must_be_given(name):
    recipe = load_recipe(name)
    with pytest.raises(DataError, match="give data=FOLDER"):
        open_dataset(recipe.data, "train")
    assert len(open_dataset(load_recipe(name, [DATA, "data.options={count: 2}"]).data, "train")) == 2
    assert load_recipe("demo").data.root == "scenes"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("classifier.train.lr=abc", "classifier.train.lr: Input should be a valid number"),
        ("backbone=[1]", "backbone: Input should be a valid string"),
        ("seeds={scales: [a]}", "seeds.scales.0: Input should be a valid number"),
        ("supervision=both", "supervision: Input should be 'tags', 'masks' or 'mixed'"),
    ],
)
def test_a_wrong_type_names_the_setting_as_typed(typed, said):
    with pytest.raises(RecipeError) as caught:
        load_recipe("cam", [DATA, typed])
    assert str(caught.value).startswith(said)
    assert "cam.yaml" not in str(caught.value)


def test_a_wrong_type_in_a_file_names_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("train: {lr: abc}\n")
    with pytest.raises(RecipeError, match=r"mine.yaml: train.lr: Input should be a valid number"):
        load_recipe(str(path))


def test_a_message_cuts_long_values(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 7)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join([*lines, "device: *a6", "name: " + "n" * 10_000_000 + "\n"]))
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path))
    assert "device" in str(caught.value)
    assert len(str(caught.value)) < 3000
