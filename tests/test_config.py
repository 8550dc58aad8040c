import pytest
import yaml

from maskwright.errors import RecipeError
from maskwright.recipe.load import apply_override, build_recipe, dump_recipe, load_recipe, recipe_names, recipe_text

pytestmark = pytest.mark.versions


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_resolves_and_round_trips(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert build_recipe(yaml.safe_load(dump_recipe(recipe))) == recipe


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_begins_with_the_command_that_runs_it(name):
    from maskwright.recipe.load import recipe_file

    first = recipe_file(name).read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert f"`maskwright run {name}" in first


def test_short_keys_and_yaml_values():
    recipe = load_recipe(
        "deeplabv3plus-quick", ["data=photos", "train.augment.crop=[64, 96]", "epochs=2", "train.clip=none"]
    )
    assert recipe.data.root == "photos"
    assert recipe.train.augment.crop == (64, 96)
    assert recipe.train.epochs == 2
    assert recipe.train.clip is None


def test_none_is_a_word_where_a_setting_has_it():
    recipe = load_recipe("deeplabv3plus-quick", ["loss.class_weights=none", "train.autocast=none", "train.steps=none"])
    assert recipe.loss.class_weights == "none"
    assert recipe.train.autocast == "none"
    recipe = load_recipe("demo", ["inference.autocast=none", "seeds.autocast=bfloat16"])
    assert (recipe.inference.autocast, recipe.seeds.autocast) == ("none", "bfloat16")
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
        ("inference.autocast=fp16", "'none', 'bfloat16' or 'float16'"),
        ("seeds={method: advcam, autocast: float16}", "advcam climbs"),
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


def write(folder, **texts):
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return str(folder / f"{name}.yaml")


def test_a_recipe_goes_on_from_another(tmp_path):
    file = write(
        tmp_path,
        first="# top\nextends: voc-recam-irn\nirn: {beta: 8.0}\nexpected: {irn: 0.7}\n",
        second="# mine\nextends: first.yaml\ndata: photos\nclassifier: {options: {dilate: true}}\nirn: {radius: 4}\n",
    )
    recipe, base = load_recipe(file), load_recipe("voc-recam-irn")
    assert (recipe.name, recipe.data.root, recipe.data.layout) == ("second", "photos", "voc")
    assert (recipe.irn.radius, recipe.irn.beta) == (4, 8.0)
    # Blocks are merged; free keys, whose meaning may depend on each other, are replaced whole.
    assert recipe.classifier.options == {"dilate": True}
    assert recipe.expected == {"irn": 0.7}
    assert recipe.recam == base.recam
    assert recipe.irn.model_copy(update={"radius": 5, "beta": 10.0}) == base.irn
    assert load_recipe(file, ["irn.beta=9"]).irn.beta == 9


def test_the_segmenter_of_another_recipe_comes_whole(tmp_path):
    text = "extends: voc-recam-irn\nsegmenter: voc-upernet-swin\ntrain: {steps: 10}\n"
    recipe = load_recipe(write(tmp_path, mine=text))
    masks, segmenter = load_recipe("voc-recam-irn"), load_recipe("voc-upernet-swin")
    assert (recipe.model, recipe.loss, recipe.inference) == (segmenter.model, segmenter.loss, segmenter.inference)
    assert recipe.train == segmenter.train.model_copy(update={"steps": 10})
    assert (recipe.networks, recipe.irn, recipe.data) == (masks.networks, masks.irn, masks.data)


def test_the_segmenter_of_another_recipe_may_be_typed():
    recipe = load_recipe("voc-recam", ["train.steps=10", "segmenter=voc-upernet-swin", "model.backbone=resnet18"])
    masks, segmenter = load_recipe("voc-recam"), load_recipe("voc-upernet-swin")
    assert recipe.model == segmenter.model.model_copy(update={"backbone": "resnet18"})
    assert (recipe.loss, recipe.inference) == (segmenter.loss, segmenter.inference)
    assert recipe.train == segmenter.train.model_copy(update={"steps": 10})
    assert (recipe.networks, recipe.recam, recipe.data) == (masks.networks, masks.recam, masks.data)
    assert load_recipe("voc-recam-irn", ["segmenter=voc-upernet-swin"]).expected == {"seeds": 0.548, "irn": 0.709}
    with pytest.raises(RecipeError, match="Did you mean 'voc-upernet-swin'"):
        load_recipe("voc-recam", ["segmenter=voc-upernet-swim"])


def test_a_recipe_that_rests_on_others_is_shown_written_out(tmp_path):
    text = recipe_text("voc-recam-irn-upernet-swin")
    assert text.startswith("# ReCAM and IRN with UperNet-Swin")
    assert "extends" not in text
    (tmp_path / "copy.yaml").write_text(text)
    assert load_recipe(str(tmp_path / "copy.yaml")) == load_recipe("voc-recam-irn-upernet-swin")
    alone = recipe_text("voc-cam")
    assert "# Not a slip of ours" in alone


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("extends: voc-recan", "Did you mean 'voc-recam'"),
        ("extends: mine.yaml", "in a circle"),
        ("segmenter: [voc-recam]", "segmenter must be a recipe's name"),
        ("extends: nowhere.yaml", "does not exist"),
        ("extend: voc-recam", "Did you mean 'extends'"),
    ],
)
def test_what_a_recipe_rests_on_must_be_there(tmp_path, text, words):
    with pytest.raises(RecipeError, match=words):
        load_recipe(write(tmp_path, mine=text))


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.startswith(("voc-", "coco-"))])
def test_recipes_of_papers_have_the_kernels_of_a_crf_as_published(name):
    recipe = load_recipe(name, ["data=folder"])
    scales = [recipe.irn.crf_scale] if "irn" in recipe.refine and recipe.irn.crf else []
    scales += [recipe.crf.scale] if "crf" in recipe.refine else []
    scales += [recipe.inference.crf_scale] if recipe.inference.crf else []
    assert set(scales) <= {1.0}
