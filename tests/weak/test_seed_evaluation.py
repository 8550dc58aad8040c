"""Judging seeds stage by stage: against true masks, and by signs that need none."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from typer.testing import CliRunner

import maskwright.weak
from maskwright.cli import app
from maskwright.data import subset
from maskwright.data.sample import LabelSpace
from maskwright.data.scenes import scenes
from maskwright.errors import DataError, RecipeError
from maskwright.files import read_json, write_json
from maskwright.metrics import ConfusionMatrix
from maskwright.settings import MaskSettings, Recipe, SeedSettings
from maskwright.weak import SeedMethod
from maskwright.weak.labels import seed_labels, sweep
from maskwright.weak.pseudo_masks import write_pseudo_masks
from maskwright.weak.seed_evaluation import evaluate_seeds, map_stages, table
from maskwright.weak.seed_signs import (
    area_prior,
    boundary_agreement,
    edge_strength,
    label_boundaries,
    labelled_shares,
    stability,
)
from maskwright.weak.seeds.cam import SeedMaps
from maskwright.weak.seeds.extract import load_maps

SETTINGS = MaskSettings(threshold=0.35, sweep=(0.2, 0.8, 0.2))
PROVENANCE = {"method": "cam", "weights": "x", "saliency": None, "crf": False, "pretrained": False}
SIZES = ((24, 40), (32, 24), (24, 40), (24, 24), (16, 20), (20, 20))


@pytest.fixture
def judged(memory_set, save_all, tmp_path):
    dataset = memory_set(sizes=SIZES)
    dataset._tags[:] = [(1,), (3,), (1, 2), (2, 3), (), None]
    save_all(dataset, tmp_path / "maps")
    return dataset, tmp_path / "maps", evaluate_seeds(dataset, {"seeds": tmp_path / "maps"}, SETTINGS, tmp_path)


def masks_at(dataset, maps, threshold):
    """Label maps of the images with known tags, by the plain way."""
    for index in range(5):
        keys, high_res = load_maps(maps, dataset.names[index])
        yield index, seed_labels(high_res, keys, threshold, 0, dataset.labels.foreground)


def test_curve_is_that_of_the_sweep(judged):
    dataset, maps, result = judged
    found = result["stages"]["seeds"]
    rows = sweep(dataset, maps, [0.2, 0.4, 0.6, 0.8])
    assert [{key: row[key] for key in rows[0]} for row in found["sweep"]] == rows
    assert found["best_threshold"] == max(rows, key=lambda row: row["miou"])["threshold"]
    assert found["best"]["miou"] == max(row["miou"] for row in rows)
    assert found["default"]["miou"] == sweep(dataset, maps, [0.35])[0]["miou"]
    assert (result["images"], result["images_judged"], result["threshold"]) == (5, 5, 0.35)


def test_shares_without_a_truth_at_every_threshold(judged):
    dataset, maps, result = judged
    for row in result["stages"]["seeds"]["sweep"]:
        lost, shares = 0, []
        for index, mask in masks_at(dataset, maps, row["threshold"]):
            lost += sum(value not in mask for value in dataset.tags(index))
            shares.append(np.mean(mask != 0))
        assert row["vanished"] == lost / sum(len(dataset.tags(index)) for index in range(5))
        assert row["foreground"] == pytest.approx(np.mean(shares))


def test_how_much_is_labelled_of_images_with_tags_and_of_their_borders(judged):
    dataset, maps, result = judged
    whole, border = [], []
    for index, mask in masks_at(dataset, maps, 0.35):
        if dataset.tags(index):
            inner = np.zeros(mask.shape, bool)
            inner[1:-1, 1:-1] = True
            whole.append(np.mean(mask != 0))
            border.append(np.mean(mask[~inner] != 0))
    found = result["stages"]["seeds"]
    assert found["labelled"] == pytest.approx(np.mean(whole))
    assert found["border"] == pytest.approx(np.mean(border))
    assert found["labelled"] != pytest.approx(found["border"])


def test_shares_of_what_has_a_label():
    labels = LabelSpace(("background", "a", "b"))
    mask = np.zeros((4, 5), np.uint8)
    mask[1:3, 1:3] = 1
    assert labelled_shares(mask, labels) == (4 / 20, 0.0)
    mask[0] = 2
    mask[3] = 255
    assert labelled_shares(mask, labels) == (9 / 15, 5 / 9)
    mask[[0, -1]] = mask[:, [0, -1]] = 255
    assert labelled_shares(mask, labels) is None
    assert labelled_shares(mask, LabelSpace(("a", "b"), background=None)) is None


def test_single_label_against_multi_label_images(judged):
    dataset, maps, result = judged
    default = result["stages"]["seeds"]["default"]
    tagged = {"single_label": [0, 1], "multi_label": [2, 3]}
    confusions = {}
    for group, chosen in tagged.items():
        confusion = confusions[group] = ConfusionMatrix(dataset.labels)
        for index, mask in masks_at(dataset, maps, 0.35):
            if index in chosen:
                confusion.update(mask, dataset.masks[index])
        scores = confusion.scores()
        assert default[group]["images"] == len(chosen)
        assert default[group]["miou"] == scores["miou"]
        assert default[group]["fp"] == scores["foreground"]["fp_rate"]
        assert default[group]["fn"] == scores["foreground"]["fn_rate"]
    both = np.all([confusion.matrix.numpy().sum(1) > 0 for confusion in confusions.values()], 0)
    for group, confusion in confusions.items():
        assert default[group]["miou_common"] == pytest.approx(confusion.rates()["iou"][both].mean())
    whole = default["per_class"]
    assert set(whole) == set(dataset.labels.names)
    for rates in whole.values():
        assert rates["iou"] + rates["fp"] + rates["fn"] == pytest.approx(1)


def test_tags_that_vanish_and_classes_that_are_no_tags(memory_set, tmp_path):
    dataset = memory_set(tags=((1, 2), (3,), (), (2,)))
    keys = [[0, 1], [2], [], [0]]
    for name, classes in zip(dataset.names, keys, strict=True):
        maps = np.full((len(classes), 24, 40), 0.9, np.float16)
        maps[1:] = 0.1
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.savez(tmp_path / f"{name}.npz", keys=np.array(classes, np.int64), high_res=maps)
    found = evaluate_seeds(dataset, {"seeds": tmp_path}, SETTINGS, tmp_path)["stages"]["seeds"]
    assert found["vanished_tags"] == {"cat": [0, 1], "dog": [2, 2], "cow": [0, 1]}
    assert found["tag_consistency"] == {"kept": 0.5, "extra": pytest.approx(1 / 3), "exact": 0.5}
    assert found["sweep"][0]["vanished"] == 0.5
    assert found["area"]["dog"]["nearly_nothing"] == 2
    assert found["area"]["cat"]["nearly_everything"] == 1
    assert {(entry["name"], entry["class"], entry["kind"]) for entry in found["outliers"]} == {
        (dataset.names[0], "cat", "nearly everything"),
        (dataset.names[0], "dog", "nearly nothing"),
        (dataset.names[1], "cow", "nearly everything"),
        (dataset.names[3], "dog", "nearly nothing"),
    }


def test_masks_are_judged_as_the_maps_that_they_are_made_of(judged, tmp_path):
    dataset, maps, _ = judged
    write_pseudo_masks(dataset, maps, SETTINGS, tmp_path / "pseudo", PROVENANCE)
    stages = {"seeds": maps, "pseudo_masks": tmp_path / "pseudo"}
    found = evaluate_seeds(dataset, stages, SETTINGS, tmp_path)["stages"]
    assert found["pseudo_masks"]["kind"] == "masks"
    for key in ("default", "tag_consistency", "vanished_tags", "boundary_agreement", "area", "outliers"):
        assert found["pseudo_masks"][key] == found["seeds"][key], key
    unsure = SETTINGS.model_copy(update={"ignore_below": 0.3})
    scores = write_pseudo_masks(dataset, maps, unsure, tmp_path / "unsure", PROVENANCE)
    found = evaluate_seeds(dataset, {"pseudo_masks": tmp_path / "unsure"}, SETTINGS, tmp_path)["stages"]["pseudo_masks"]
    assert found["default"]["miou"] == scores["miou"] != 0
    assert found["vanished_tags"] == scores["vanished_tags"]


def test_every_image_is_opened_once(memory_set, save_all, tmp_path):
    dataset = memory_set(sizes=SIZES)
    save_all(dataset, tmp_path)
    evaluate_seeds(dataset, {"seeds": tmp_path, "again": tmp_path}, SETTINGS, tmp_path)
    assert sorted(dataset.opened) == list(range(len(SIZES)))


def test_without_true_masks(memory_set, save_all, tmp_path):
    dataset = memory_set(masks=False)
    save_all(dataset, tmp_path)
    result = evaluate_seeds(
        dataset, {"seeds": tmp_path}, SETTINGS, tmp_path / "out", stability={"iou": 0.5, "images": 2}
    )
    assert read_json(tmp_path / "out" / "seed_evaluation.json") == json.loads(json.dumps(result))
    found = result["stages"]["seeds"]
    assert (found["default"], found["best"], found["best_threshold"]) == (None, None, None)
    assert all(row["miou"] is None and row["foreground"] > 0 for row in found["sweep"])
    assert found["boundary_agreement"]["images"] == 4
    lines = "\n".join(table(result))
    assert "0 with ground truth" in lines
    assert "IoU 50.0 on 2 images" in lines
    with pytest.raises(RecipeError, match="give a number"):
        evaluate_seeds(dataset, {"seeds": tmp_path}, MaskSettings(threshold="best"), tmp_path)


def test_best_threshold_is_the_last_stage_s(judged, tmp_path):
    dataset, maps, result = judged
    best = SETTINGS.model_copy(update={"threshold": "best"})
    again = evaluate_seeds(dataset, {"seeds": maps}, best, tmp_path)
    assert again["threshold"] == result["stages"]["seeds"]["best_threshold"]
    assert again["threshold_from"] == "true masks"
    assert again["stages"]["seeds"]["default"] == result["stages"]["seeds"]["best"]


def test_a_best_threshold_at_the_end_of_the_sweep_is_said(judged):
    _, _, result = judged
    stage = result["stages"]["seeds"]

    def sloping(slope, best):
        rows = [{**row, "miou": slope * row["threshold"]} for row in stage["sweep"]]
        return {**stage, "sweep": rows, "best_threshold": best}

    found = {"seeds": sloping(-1, 0.2), "irn": sloping(1, 0.8), "crf": sloping(1, 0.4)}
    lines = table({**result, "stages": found})
    assert any(
        line.startswith("best threshold: seeds 0.2, the first that was tried; irn 0.8, the last") for line in lines
    )
    assert not any("crf 0.4" in line for line in lines)


def test_without_a_background_class(memory_set, save_all, tmp_path):
    dataset = memory_set(LabelSpace(("sky", "road", "tree"), background=None))
    save_all(dataset, tmp_path)
    found = evaluate_seeds(dataset, {"seeds": tmp_path}, SETTINGS, tmp_path)["stages"]["seeds"]
    assert {row["miou"] for row in found["sweep"]} == {found["default"]["miou"]}
    assert {row["foreground"] for row in found["sweep"]} == {1.0}


def test_maps_that_do_not_fit(memory_set, save_all, tmp_path):
    dataset = memory_set()
    save_all(dataset, tmp_path)
    dataset.images[2] = dataset.images[2][:-1]
    dataset.masks[2] = None
    with pytest.raises(DataError, match=r"image2.*\(24, 40\) and image \(23, 40\)"):
        evaluate_seeds(dataset, {"seeds": tmp_path}, SETTINGS, tmp_path)
    with pytest.raises(DataError, match="tags are known, found none"):
        evaluate_seeds(memory_set(tags=[None] * 4), {"seeds": tmp_path}, SETTINGS, tmp_path)


def test_boundaries_on_and_off_the_edges():
    image = np.full((20, 30, 3), 60, np.uint8)
    image[:, 15:, 1] = 200
    edges = edge_strength(image)
    assert edges.shape == (20, 30)
    assert set(np.flatnonzero(edges.any(0))) == {13, 14, 15, 16}
    on = np.zeros((20, 30), np.uint8)
    on[:, 15:] = 1
    off, beside = np.roll(on, 7, 1), np.roll(on, 1, 1)
    off[:, :7] = beside[:, :1] = 0
    assert boundary_agreement(on, edges, 255) == pytest.approx(30 / 4, rel=1e-6)
    assert boundary_agreement(beside, edges, 255) == pytest.approx(30 / 4, rel=1e-6)  # one pixel off counts in full
    assert boundary_agreement(off, edges, 255) == 0
    assert boundary_agreement(np.zeros_like(on), edges, 255) == "one_label"
    assert boundary_agreement(on, np.zeros_like(edges), 255) == "no_edges"
    unsure = on.copy()
    unsure[:, 14] = 255
    assert boundary_agreement(unsure, edges, 255) == "one_label"


def test_sobel_gradient_of_a_ramp():
    ramp = np.zeros((9, 9, 3), np.uint8)
    ramp[..., 2] = 5 * np.arange(9)[:, None]
    assert_allclose(edge_strength(ramp)[2:-2], 40)  # 8 times the step: weights 1, 2, 1 over two pixels


def test_boundary_pixels_are_those_beside_another_label():
    labels = np.array([[0, 0, 1], [0, 0, 255], [2, 0, 0]], np.uint8)
    expected = np.array([[0, 1, 1], [1, 0, 0], [1, 1, 0]], bool)
    assert_array_equal(label_boundaries(labels, 255), expected)


def test_areas_out_of_the_ordinary():
    usual = np.linspace(0.2, 0.3, 20)
    numbers, sides = area_prior(np.concatenate([usual, [0.0, 0.0005, 0.01, 0.97, 0.8]]))
    assert_array_equal(sides, [0] * 20 + [-1, -1, -1, 1, 1])
    assert (numbers["nearly_nothing"], numbers["nearly_everything"], numbers["images"]) == (3, 2, 25)
    assert numbers["low"] <= numbers["median"] <= numbers["high"]
    few, sides = area_prior(np.array([0.2, 0.01, 0.8]))  # nobody can say what is usual
    assert_array_equal(sides, 0)
    assert few["median"] == 0.2


class Bright:
    """A network without weights; the method below maps brightness, so that views agree as far as resizing allows."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def brightness(network, views, *, drift: float = 0.0, always: float = 1.0):
    found = []
    for index, keys in enumerate(views.tags):
        image = sum(
            torch.nn.functional.interpolate(view[index : index + 1, :1], views.size, mode="bilinear")[0]
            + (drift * scale if len(views.images) == 1 else 0)
            for view, scale in zip(views.images, views.scales, strict=True)
        )
        maps = always * image / len(views.images)
        found.append(SeedMaps(torch.tensor(keys), maps.repeat(len(keys), 1, 1), maps.repeat(len(keys), 1, 1)))
    return found


def test_stability_of_views(memory_set, monkeypatch):
    monkeypatch.setitem(maskwright.weak.SEED_METHODS, "brightness", SeedMethod(brightness))
    dataset = memory_set(sizes=((40, 60),) * 6, tags=[(2,), (1,), (), None, (3,), (1,)])
    for image in dataset.images:
        image[:] = 20
        image[6:30, 4:22] = 220  # not symmetric, so a mask that is not turned back does not fit
    settings = SeedSettings(method="brightness", scales=(1.0, 2.0))
    found = stability(dataset, Bright(), settings, "cpu", threshold=0.5)
    assert found["iou"] > 0.95
    assert [(view["scale"], view["mirrored"]) for view in found["views"]] == [
        (1.0, False), (1.0, True), (2.0, False), (2.0, True),
    ]  # fmt: skip
    assert (found["images"], found["undefined"]) == (4, 0)
    assert found["per_class"]["dog"] > 0.95
    drifting = settings.model_copy(update={"options": {"drift": 0.3}})
    worse = stability(dataset, Bright(), drifting, "cpu", threshold=0.5, sample=2)
    assert worse["images"] == 2
    one, _, two, _ = (view["iou"] for view in worse["views"])
    assert one > 0.95  # 0.3 lifts the dark part to 0.38
    assert two == pytest.approx(24 * 18 / 2400, rel=0.05)  # 0.6 lifts all of it above the threshold
    nothing = settings.model_copy(update={"options": {"always": 0.0}})
    found = stability(dataset, Bright(), nothing, "cpu", threshold=0.5)
    assert (found["iou"], found["undefined"]) == (None, 16)


def test_stability_needs_tags_and_a_method(memory_set):
    with pytest.raises(DataError, match="found none"):
        stability(memory_set(tags=[()] * 4), Bright(), SeedSettings(), "cpu", threshold=0.5)
    with pytest.raises(RecipeError, match="Did you mean 'cam'"):
        stability(memory_set(), Bright(), SeedSettings(method="camm"), "cpu", threshold=0.5)


def make_stage(run, name, needs, key="high_res", finished=True):
    write_json(run / name / "stage.json", {"name": name, "needs": needs, "finished": finished})
    if key:
        (run / name / "maps").mkdir()
        np.savez(run / name / "maps" / "a.npz", **{key: np.zeros((1, 2, 2))})


def test_stages_of_a_run_in_their_order(tmp_path):
    make_stage(tmp_path, "crf", ["irn"])
    make_stage(tmp_path, "classifier", [], key="")
    make_stage(tmp_path, "irn", ["seeds", "edges"])
    make_stage(tmp_path, "edges", ["classifier"], key="edge")
    make_stage(tmp_path, "seeds", ["classifier"])
    make_stage(tmp_path, "seeds.stale-1", ["classifier"])
    make_stage(tmp_path, "advcam", ["seeds"], finished=False)
    make_stage(tmp_path, "pseudo_masks", ["crf"], key="")
    (tmp_path / "pseudo_masks" / "SegmentationClass").mkdir()
    assert list(map_stages(tmp_path)) == ["seeds", "irn", "crf", "pseudo_masks"]
    assert map_stages(tmp_path)["crf"] == tmp_path / "crf" / "maps"
    with pytest.raises(DataError, match="no finished stage"):
        map_stages(tmp_path / "crf")


def test_command_on_a_run(save_all, tmp_path):
    from maskwright.engine.checkpoint import describe, save_model
    from maskwright.models import create_classifier

    data = scenes("train", count=5, size=(32, 48))
    run, made = tmp_path / "run", {"backbone": "resnet10t", "num_tags": 10, "output_stride": 16, "options": {}}
    network = create_classifier(backbone="resnet10t", num_tags=10)
    described = describe("classifier", made, network, data.labels, Recipe())
    save_model(run / "net" / "model.safetensors", network, described)
    make_stage(run, "net", [], key="")
    make_stage(run, "seeds", ["net"], key="")
    save_all(subset(data, range(5)), run / "seeds" / "maps")
    recipe = {"data": {"root": "scenes", "options": {"count": 5, "size": [32, 48]}}, "pseudo_masks": {"threshold": 0.2}}
    write_json(run / "recipe.yaml", {**recipe, "of_another_version": 1})
    done = CliRunner().invoke(app, ["seeds", str(run), "stability=2"])
    assert done.exit_code == 0, done.output
    written = read_json(run / "seed_evaluation.json")
    assert (written["threshold"], written["images"], written["stability"]["images"]) == (0.2, 5, 2)
    assert len(written["stability"]["views"]) == 8  # the recipe's four scales, mirrored or not
    write_pseudo_masks(data, run / "seeds" / "maps", SETTINGS, run / "pseudo_masks", PROVENANCE)
    make_stage(run, "pseudo_masks", ["seeds"], key="")
    CliRunner().invoke(app, ["seeds", str(run)])
    written = read_json(run / "seed_evaluation.json")
    assert list(written["stages"]) == ["seeds", "pseudo_masks"]
    assert written["threshold"] == 0.35  # what the masks were made with
    assert list(written["stages"]["seeds"]["default"]["per_class"]) == list(data.labels.names)


def test_command_on_a_folder_of_maps(save_all, tmp_path):
    data = scenes("train", count=6, size=(32, 48))
    save_all(subset(data, range(6)), tmp_path / "mine" / "maps")
    arguments = ["seeds", str(tmp_path / "mine" / "maps"), "threshold=0.4", f"out={tmp_path / 'out'}"]
    refused = CliRunner().invoke(app, arguments)
    assert "data=FOLDER" in str(refused.exception)
    options = ["data=scenes", "data.options={count: 6, size: [32, 48]}"]
    done = CliRunner().invoke(app, [*arguments, *options])
    assert done.exit_code == 0, done.output
    written = read_json(tmp_path / "out" / "seed_evaluation.json")
    assert list(written["stages"]) == ["mine"]
    assert f"{100 * written['stages']['mine']['default']['miou']:.1f}" in done.output
    refused = CliRunner().invoke(app, [*arguments, *options, "stability=4"])
    assert "give a run folder" in str(refused.exception)
    assert "is no folder" in str(CliRunner().invoke(app, ["seeds", str(tmp_path / "gone"), *options]).exception)
