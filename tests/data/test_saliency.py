"""Detectors of salient objects, data sets that see with them, and the folders that they fill."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from maskwright.cli import app
from maskwright.data import objects_only, open_dataset, subset, with_masks
from maskwright.data.barrier_cpu import barrier_distance
from maskwright.data.content import content_hash
from maskwright.data.saliency import DETECTORS, barrier, border_contrast, centre_weight
from maskwright.data.sample import LabelSpace
from maskwright.data.scenes import scenes
from maskwright.engine.checkpoint import save_model
from maskwright.errors import DataError
from maskwright.files import read_json
from maskwright.models import create_model
from maskwright.recipe.load import build_recipe, load_recipe
from maskwright.settings import DataSettings
from maskwright.weak.saliency import write_saliency

torch.set_num_threads(1)
SCENES = {"root": "scenes", "options": {"count": 3, "size": [64, 64]}}


def shortest_barriers(channel):
    """The same by brute force: for every lower bound, how high one must go with values from it on."""
    found = np.full(channel.shape, np.inf)
    levels = np.unique(channel)
    for low in levels:
        for high in levels[levels >= low]:
            free = (channel >= low) & (channel <= high)
            reached = free.copy()
            reached[1:-1, 1:-1] = False
            while True:
                grown = reached.copy()
                grown[1:] |= reached[:-1]
                grown[:-1] |= reached[1:]
                grown[:, 1:] |= reached[:, :-1]
                grown[:, :-1] |= reached[:, 1:]
                grown &= free
                if (grown == reached).all():
                    break
                reached = grown
            found[reached] = np.minimum(found[reached], high - low)
    return found


def test_barrier_distance_against_all_paths():
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(5):
        channel = rng.integers(0, 6, (9, 12)).astype(np.float32)
        exact, found = shortest_barriers(channel), barrier_distance(channel, 20)
        assert (found >= exact).all(), "every distance is that of some path"
        errors.append((found - exact).mean())
    assert np.mean(errors) < 0.1
    flat = np.full((5, 7), 3, np.float32)
    flat[2, 3] = 10
    expected = np.zeros((5, 7))
    expected[2, 3] = 7
    np.testing.assert_array_equal(barrier_distance(flat, 3), expected)


def test_border_contrast_leaves_out_the_side_that_an_object_touches():
    colours = np.zeros((40, 60, 3), np.float32)
    colours[10:40, 20:40] = (200, 50, 90)
    contrast = border_contrast(colours)
    assert contrast[10:40, 20:40].min() > 1.5
    assert contrast[:8].max() < 0.5


def test_an_object_stands_out_wherever_it_is_and_a_plain_image_has_none():
    for top, left in ((20, 30), (4, 6), (30, 60)):
        image = np.full((64, 96, 3), (90, 140, 60), np.uint8)
        image[top : top + 20, left : left + 24] = (200, 30, 30)
        found = barrier(image)
        assert found.shape == (64, 96)
        assert found.dtype == np.uint8
        inside = np.zeros((64, 96), bool)
        inside[top : top + 20, left : left + 24] = True
        assert found[inside].mean() > 4 * found[~inside].mean()
    assert barrier(np.full((50, 30, 3), 7, np.uint8)).max() < 8


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (700, 20), (33, 47)])
def test_any_size(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert barrier(image).shape == size


def test_centre_weight():
    weight = centre_weight((21, 41))
    assert weight[10, 20] == 1
    assert weight[10, 0] == pytest.approx(0.5, abs=0.01)
    np.testing.assert_allclose(weight, weight[::-1, ::-1])


def test_things_of_the_scenes_are_salient():
    """Better than what the middle alone would say, on pictures made for something else."""
    ranks = {"barrier": [], "centre": []}
    data = scenes("val", count=20)
    for index in range(len(data)):
        sample = data[index]
        thing, rest = sample.mask > 0, sample.mask == 0
        if thing.any():
            for name, found in (("barrier", barrier(sample.image)), ("centre", centre_weight(sample.mask.shape))):
                order = np.searchsorted(np.sort(found[rest].ravel()), found[thing])
                ranks[name].append((order / rest.sum()).mean())
    assert np.mean(ranks["barrier"]) > np.mean(ranks["centre"]) + 0.1
    assert np.mean(ranks["barrier"]) > 0.8


def test_a_detector_by_name_sees_every_image():
    plain = open_dataset(DataSettings(**SCENES), "train")
    found = open_dataset(DataSettings(**SCENES, saliency="barrier"), "train")
    assert plain[0].saliency is None
    np.testing.assert_array_equal(found[1].saliency, barrier(plain[1].image))
    assert found[1].tags == plain[1].tags
    np.testing.assert_array_equal(found.mask(1), plain.mask(1))
    assert (found.size(1), found.has_mask(1), found.tags(1)) == (plain.size(1), True, plain.tags(1))
    assert found.source["saliency"] == {"from": "barrier"}
    assert subset(found, [2])[0].saliency.shape == (64, 64)
    with pytest.raises(DataError, match="Did you mean 'barrier'"):
        open_dataset(DataSettings(**SCENES, saliency="bariers"), "train")


def photos(root):
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for number in range(3):
        sample = scenes("train", count=3, size=(40, 48))[number]
        Image.fromarray(sample.image).save(root / "images" / f"n{number}.png")
        Image.fromarray(np.where(sample.mask > 2, 2, sample.mask).astype(np.uint8)).save(
            root / "masks" / f"n{number}.png"
        )
    (root / "classes.txt").write_text("background\nthis\nthat\n")
    (root / "train.txt").write_text("n0\nn1\n")
    (root / "val.txt").write_text("n2\n")
    return root


def test_a_folder_is_written_once_and_says_what_it_was_made_with(tmp_path):
    root, out = photos(tmp_path / "set"), tmp_path / "maps"
    data = DataSettings(root=str(root))
    assert write_saliency(data, out) == 3
    assert write_saliency(data, out) == 0
    (out / "n1.png").unlink()
    assert write_saliency(data, out) == 1
    assert read_json(out / "maps.json") == {"detector": "barrier"}
    used = open_dataset(data.model_copy(update={"saliency": str(out)}), "train")
    image = used[1].image
    np.testing.assert_array_equal(used[1].saliency, barrier(image))
    assert used.source["saliency"] == {"from": str(out), "made_with": {"detector": "barrier"}}
    before = content_hash(used)
    Image.fromarray(np.zeros((40, 48), np.uint8)).save(out / "n1.png")
    assert content_hash(used) != before
    with pytest.raises(DataError, match="Did you mean 'barrier'"):
        write_saliency(data, out, "barier")
    DETECTORS["other"] = barrier
    try:
        with pytest.raises(DataError, match="holds maps made with other detector"):
            write_saliency(data, out, "other")
    finally:
        del DETECTORS["other"]


def test_maps_of_a_built_in_set_come_from_a_folder_too(tmp_path):
    result = CliRunner().invoke(app, ["saliency", "scenes", "data.options={count: 2, size: 64}", f"out={tmp_path}"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("4 saliency maps written")
    found = open_dataset(DataSettings(root="scenes", options={"count": 2, "size": 64}, saliency=str(tmp_path)), "train")
    np.testing.assert_array_equal(found[1].saliency, barrier(found[1].image))


def test_objects_only(tmp_path):
    root = photos(tmp_path / "set")
    plain = open_dataset(DataSettings(root=str(root)), "train")
    merged = open_dataset(DataSettings(root=str(root), objects=True, saliency="barrier"), "train")
    assert merged.labels.names == ("background", "object")
    np.testing.assert_array_equal(merged[0].mask, (plain[0].mask > 0).astype(np.uint8))
    np.testing.assert_array_equal(merged.mask(1), merged[1].mask)
    assert merged[0].saliency is not None
    assert (merged.has_mask(0), merged.size(0)) == (True, (40, 48))
    assert merged.source["classes_merged"] == ["background", "this", "that"]
    assert content_hash(merged) == content_hash(plain)
    tagged = open_dataset(DataSettings(root=str(root), objects=True, tags="masks"), "train")
    assert tagged[0].tags == (1,)
    with pytest.raises(DataError, match="no background class"):
        objects_only(open_dataset(DataSettings(root=str(root), background=None), "train"))
    pseudo = with_masks(merged, root / "masks", real_everywhere=True)
    assert pseudo[0].saliency is not None


def test_maps_from_a_segmenter_are_what_is_not_background(tmp_path):
    settings = [f"data={tmp_path}", "model.backbone=resnet10t", "model.options={}", "inference.size=[64, 64]"]
    recipe = load_recipe("saliency", settings)
    torch.manual_seed(0)
    model = create_model("deeplabv3plus", backbone="resnet10t", num_classes=2, output_stride=16)
    described = {**recipe.model.model_dump(mode="json", exclude={"pretrained"}), "num_classes": 2}
    labels = LabelSpace(("background", "object"))
    metadata = {
        "kind": "segmenter",
        "model": described,
        "labels": labels.to_dict(),
        "preprocessing": {"mean": list(model.mean), "std": list(model.std)},
        "recipe": recipe.model_dump(mode="json"),
    }
    save_model(tmp_path / "model.safetensors", model, metadata)
    root = photos(tmp_path / "set")
    assert write_saliency(DataSettings(root=str(root)), tmp_path / "maps", str(tmp_path)) == 3
    record = read_json(tmp_path / "maps" / "maps.json")
    assert record["trained_on"] == {"root": str(tmp_path), "train": "train", "masks": None}
    assert record["supervision"] == "masks"
    from maskwright.inference.load import load

    image = np.asarray(Image.open(root / "images" / "n0.png"))
    expected = 255 * (1 - load(tmp_path).probabilities(image)[0])
    found = np.asarray(Image.open(tmp_path / "maps" / "n0.png"))
    assert np.abs(found - expected).max() <= 0.51
    metadata["labels"] = LabelSpace(("one", "two"), background=None).to_dict()
    save_model(tmp_path / "model.safetensors", model, metadata)
    with pytest.raises(DataError, match="without a background class"):
        write_saliency(DataSettings(root=str(root)), tmp_path / "more", str(tmp_path))


def test_the_recipe_trains_on_two_classes():
    recipe = load_recipe("saliency", ["data=scenes"])
    assert open_dataset(recipe.data, "val").labels.names == ("background", "object")
    assert recipe.model.pretrained is True
    assert not build_recipe({}).data.objects
