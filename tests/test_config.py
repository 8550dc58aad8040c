import pytest

from maskwright.config import apply_override, build_recipe, dump_recipe, load_recipe, recipe_names
from maskwright.errors import RecipeError


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_resolves_and_round_trips(name):
    import yaml

    recipe = load_recipe(name)
    assert recipe.name == name
    assert build_recipe(yaml.safe_load(dump_recipe(recipe))) == recipe


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_begins_with_the_command_that_runs_it(name):
    from maskwright.config import recipe_file

    first = recipe_file(name).read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert f"`maskwright run {name}" in first


def test_short_keys_and_yaml_values():
    recipe = load_recipe("demo", ["data=photos", "train.augment.crop=[64, 96]", "epochs=2", "train.clip=none"])
    assert recipe.data.root == "photos"
    assert recipe.train.augment.crop == (64, 96)
    assert recipe.train.epochs == 2
    assert recipe.train.clip is None


def test_none_is_a_word_where_a_setting_has_it():
    recipe = load_recipe("deeplabv3plus-quick", ["loss.class_weights=none", "train.autocast=none", "train.steps=none"])
    assert recipe.loss.class_weights == "none"
    assert recipe.train.autocast == "none"
    assert recipe.train.steps is None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epoks=3", "did you mean 'epochs'"),
        ("trian.epochs=3", "did you mean 'train'"),
        ("tgas=x", "did you mean 'tags'"),
        ("train=3", "holds several settings"),
        ("train.lr", "key=value"),
        ("train.lr=fast", "train.lr"),
        ("train.lr=[1", "cannot be read"),
    ],
)
def test_wrong_overrides_say_what_was_meant(override, words):
    with pytest.raises(RecipeError) as caught:
        load_recipe("demo", [override])
    assert words in str(caught.value).lower()


def test_unknown_recipe_lists_the_nearest():
    with pytest.raises(RecipeError, match="deeplabv3plus-quick"):
        load_recipe("deeplabv3-quick")
    with pytest.raises(RecipeError, match="does not exist"):
        load_recipe("nowhere.yaml")


def test_unknown_key_in_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("model: {nam: deeplabv3plus}\n")
    with pytest.raises(RecipeError, match="Did you mean 'name'"):
        load_recipe(str(path))
    path.write_text("- a list\n")
    with pytest.raises(RecipeError, match="keys and values"):
        load_recipe(str(path))


def test_options_take_any_key():
    fields = {}
    apply_override(fields, "model.options.decoder_channels=64")
    assert build_recipe(fields).model.options == {"decoder_channels": 64}
