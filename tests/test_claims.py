"""Every row of the tables in `benchmarks/claims` is a recipe with settings that it has."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from maskwright.data.scenes import scenes
from maskwright.models.backbones import BACKBONES, import_timm
from maskwright.recipe.load import load_recipe
from maskwright.weak.methods import check_methods

MODULES = {
    name: import_module(f"benchmarks.claims.{name}")
    for name in ("tags", "l2g")
    if find_spec(f"benchmarks.claims.{name}") is not None
}
VERDICT = import_module("benchmarks.claims.verdict")
CASES = [
    pytest.param(module, row, data, id=f"{name}-{row}-{data}")
    for name, module in MODULES.items()
    for row in module.ROWS
    for data in ("scenes", "photographs")
]


def exists(backbone: str) -> bool:
    return backbone in BACKBONES or import_timm().is_model(backbone)


@pytest.mark.parametrize(("module", "row", "data"), CASES)
def test_a_row_from_tags_resolves(module, row, data, tmp_path):
    name, words = module.overrides(row, data, tmp_path, 7)
    recipe = load_recipe(name, words)
    assert (recipe.random_seed, recipe.out, recipe.data.root) == (7, str(tmp_path), data)
    assert recipe.supervision == "tags"
    check_methods(recipe)
    trunks = [recipe.classifier.backbone, *([recipe.irn.backbone] if "irn" in recipe.refine else [])]
    assert all(exists(trunk) for trunk in trunks)
    assert len(set(trunks)) == 1 or recipe.irn.pretrained != "classifier"


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_rows_take_stages_from_rows_that_are_there_and_differ(module, tmp_path):
    told = {row: load_recipe(*module.overrides(row, "scenes", tmp_path, 0)) for row in module.ROWS}
    for row, fields in module.ROWS.items():
        assert set(fields.get("shares", [])) <= set(module.ROWS), row
    rows = list(told)
    for place, row in enumerate(rows):
        same = [other for other in rows[:place] if told[other] == told[row]]
        assert not same, f"{row} is {same}"


def test_rows_of_l2gs_form_resolve_and_differ(tmp_path):
    form = import_module("benchmarks.claims.l2g_form")
    told = {row: load_recipe(*form.overrides(row, tmp_path, 7)) for row in form.ROWS}
    for row, recipe in told.items():
        check_methods(recipe)
        assert [recipe == other for other in told.values()].count(True) == 1, row
        assert recipe.classifier == told["CAM"].classifier, "all go on from the same one"
    for row, other in form.TRAINED_AS.items():
        assert (told[row].networks, told[row].l2g) == (told[other].networks, told[other].l2g)


def test_rows_of_camvid_resolve(tmp_path):
    camvid = import_module("benchmarks.claims.camvid")
    seen = []
    for row, settings in camvid.ROWS.items():
        words = [f"data={tmp_path}", f"out={tmp_path}", "epochs=6", *camvid.COMMON, *settings]
        recipe = load_recipe("deeplabv3plus-scratch", words)
        assert recipe.supervision == "masks", row
        assert exists(recipe.model.backbone)
        assert recipe not in seen, row
        seen.append(recipe)
    assert set(camvid.THIN) <= set(camvid.RARE)
    assert len(seen) > 1


def test_bad_runs_for_the_verdict_are_made_as_they_are_called():
    maps = np.linspace(0, 1, 2 * 6 * 8, dtype=np.float32).reshape(2, 6, 8)
    assert len(VERDICT.VARIANTS) >= 10
    assert len(set(VERDICT.VARIANTS.values())) == len(VERDICT.VARIANTS)
    assert_array_equal(VERDICT.inverted(maps, 0), 1 - maps)
    assert_array_equal(VERDICT.moved(maps, 0)[:, :, :4], maps[:, :, 4:])
    blob = VERDICT.blob(0.2)(maps, 0)
    assert blob.shape == maps.shape
    assert blob[0, 2, 3] > 0.8 > blob[0, 2, 0] > blob[0, 0, 0]
    assert VERDICT.noise(maps, 1).shape == maps.shape
    assert not np.array_equal(VERDICT.noise(maps, 1), VERDICT.noise(maps, 2))


def test_ranks_with_ties():
    assert VERDICT.rank_correlation([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert VERDICT.rank_correlation([1, 2, 3], [1, 0.5, -9]) == pytest.approx(-1)
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    assert VERDICT.rank_correlation([0, 5, 5, 9], [1, 2, 3, 4]) == pytest.approx(4.5 / np.sqrt(4.5 * 5))


def test_a_row_is_a_run_folder_with_its_verdict(tmp_path):
    sets = [scenes(split, count=4, size=32) for split in ("train", "val")]
    classes = len(sets[0].labels.foreground)
    generator = torch.Generator().manual_seed(0)
    features = [torch.rand(4, 2, 5, 3, 3, generator=generator) for _ in sets]
    weight = VERDICT.fit_head(features[0], sets[0], range(4))
    assert weight.shape == (classes, 5)
    perfect = VERDICT.make_row(VERDICT.Variant(0.5, truth=True), sets, features, weight, 4, tmp_path / "perfect")
    assert perfect["pseudo_masks"] == perfect["predictions"] == 1
    assert perfect["tags"]["precision"] == 1
    full = VERDICT.make_row(VERDICT.Variant(0.0, change=VERDICT.blob(9)), sets, features, weight, 4, tmp_path / "full")
    assert full["labelled"] == full["border"] == 1
    assert full["level"] == "bad"
    assert full["score"] < perfect["score"]
    assert full["predictions"] < perfect["predictions"]
    others = VERDICT.shuffled(sets[0], np.random.default_rng(3), every=1)
    assert [others.tags(i) for i in range(4)] != [sets[0].tags(i) for i in range(4)]


def test_weights_of_recam_are_judged_on_features_as_they_are():
    """Features are the classes themselves, so that the heads can learn all of them."""
    weights = import_module("benchmarks.claims.recam_weights")
    sets = {split: scenes(split, count=16, size=32) for split in ("train", "val")}
    labels = sets["train"].labels
    features = {}
    for split, dataset in sets.items():
        masks = torch.from_numpy(np.stack([dataset.mask(index) for index in range(len(dataset))])).long()
        masks = masks.where(masks < labels.num_classes, labels.background)
        found = torch.nn.functional.one_hot(masks, labels.num_classes).permute(0, 3, 1, 2).float()
        found = torch.nn.functional.avg_pool2d(found, 2)
        features[split] = torch.stack([found, found.flip(-1)], 1).half()
    found = weights.judge(sets, features, lambda line: None)
    assert found["negative"] == 0
    for option, least in {"w1": 0.7, "w2": 0.3, "product": 0.5, "agree": 0.7}.items():
        scores = found["weights"][option]["train"]
        assert scores["best"] >= scores["given"] > least, option
    text = weights.table("scenes", {"signed": found, "unsigned": found}, import_module("benchmarks.facts").facts())
    assert text.count("| agree |") == 2


def test_names_of_folders_differ():
    folder_name = import_module("benchmarks.claims.runs").folder_name
    for module in MODULES.values():
        names = {folder_name(row, seed) for row in module.ROWS for seed in (0, 1)}
        assert len(names) == 2 * len(module.ROWS)
        assert all(Path(name).name == name for name in names)


ROWS = import_module("benchmarks.claims.rows")
STATEMENTS = import_module("benchmarks.claims.statements")
REPETITION = import_module("benchmarks.claims.repetition")


@pytest.mark.parametrize("row", ROWS.ROWS)
def test_a_row_of_the_claims_resolves(row, tmp_path):
    for where in ROWS.ROWS[row].sets:
        recipe = REPETITION.recipe_of(row, where, where if where == "scenes" else str(tmp_path), tmp_path / "run", 3)
        check_methods(recipe)
        assert recipe.random_seed == 3
        fully = where == "camvid" or row.startswith(("labels: masks", "labels: strokes", "labels: boxes"))
        mixed = row.startswith("labels: tags, masks")
        assert recipe.supervision == ("masks" if fully else "mixed" if mixed else "tags")
        assert "best" not in str(recipe.pseudo_masks.threshold), "thresholds are never tuned on masks"
        if where == "photographs":
            assert recipe.data.train == "train"
            assert recipe.seeds.size == 480, "as it is"
        elif where == "scenes":
            assert recipe.data.options["seed"] == 3, "other images"
        else:
            listed = Path(recipe.data.train)
            assert (listed.parent, listed.name) == (tmp_path, listed.name)
            assert (listed.name == "train.txt") == (not row.startswith("labels: masks at the cost"))


LABELS = import_module("benchmarks.claims.labels")


def test_cheaper_labels_hold_nothing_but_the_truth_of_what_they_show():
    from maskwright.data.scenes.dataset import LABELS as labels

    mask = np.zeros((40, 60), np.uint8)
    mask[5:20, 10:30], mask[25:35, 40:50], mask[0] = 2, 3, 255
    drawn = LABELS.strokes(mask, labels, np.random.default_rng(0))
    shown = drawn != 255
    assert_array_equal(drawn[shown], mask[shown])
    assert set(np.unique(drawn)) == {0, 2, 3, 255}
    assert shown.mean() < 0.2
    painted, count = LABELS.boxes(mask, labels)
    assert count == 2
    assert_array_equal(painted[1:], mask[1:])  # these parts are boxes
    assert (painted[0] == 0).all()


def test_labels_of_equal_cost_take_as_long():
    count = 283
    for share in LABELS.SHARES:
        mixed = "labels: tags" if share == 0 else f"labels: tags, masks of {share} %"
        hours = (
            LABELS.hours(mixed, count, 0),
            LABELS.hours(f"labels: masks at the cost of tags and {share} %", count, 0),
        )
        assert hours[0] == pytest.approx(hours[1], abs=LABELS.MASK / 3600)
    assert LABELS.hours("labels: strokes", count, 0) < LABELS.hours("labels: masks of all", count, 0) / 6
    assert LABELS.hours("labels: boxes", count, 1000) == 7000 / 3600


def test_no_image_is_both_learned_from_and_scored_on(tmp_path):
    from PIL import Image

    for folder in ("images", "masks"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for number in range(10):
        pixels = np.full((24, 24, 3), 20 * number if number != 9 else 0, np.uint8)  # the last is the first once more
        Image.fromarray(pixels).save(tmp_path / f"data/images/{number}.png")
        Image.fromarray(np.full((24, 24), number % 2, np.uint8)).save(tmp_path / f"data/masks/{number}.png")
    (tmp_path / "data/train.txt").write_text("".join(f"{number}\n" for number in range(7)))
    (tmp_path / "data/val.txt").write_text("7\n8\n9\n")
    (tmp_path / "data/classes.txt").write_text("ground\nthing\n")
    drawn = []
    for repetition in range(3):
        home = tmp_path / str(repetition)
        home.mkdir()
        REPETITION.draw_images("camvid", str(tmp_path / "data"), home, repetition)
        drawn.append((home / "train.txt").read_text().split())
        assert "0" not in drawn[-1]
        assert len(drawn[-1]) == 5
    assert len({tuple(names) for names in drawn}) > 1, "each repetition has other images"


def test_rows_of_the_claims_differ(tmp_path):
    told = {
        row: REPETITION.recipe_of(row, has.sets[0], str(tmp_path), tmp_path / "run", 0)
        for row, has in ROWS.ROWS.items()
    }
    for row, recipe in told.items():
        assert [recipe == other for other in told.values()].count(True) == 1, row


def test_claims_compare_rows_that_are_run_on_their_set():
    for claim in STATEMENTS.CLAIMS:
        for row in (claim.row, claim.control) if claim.control else (claim.row,):
            assert claim.where in ROWS.ROWS[row].sets, claim.words
    compared = {row for claim in STATEMENTS.CLAIMS for row in (claim.row, claim.control)}
    assert len(compared) > 40


def test_quick_rows_are_rows():
    for where, rows in ROWS.QUICK.items():
        assert all(where in ROWS.ROWS[row].sets for row in rows)
        assert any(claim.where == where and {claim.row, claim.control} <= set(rows) for claim in STATEMENTS.CLAIMS)


@pytest.mark.parametrize(
    ("kind", "values", "word"),
    [
        ("gain", [0.02, 0.03, 0.025], "holds"),
        ("gain", [-0.02, 0.003, 0.001], "unclear"),
        ("gain", [0.001, 0.002, 0.0], "does not hold"),
        ("gain", [-0.05, -0.04, -0.06], "does not hold"),
        ("gain", [0.1], "unclear"),
        ("equal", [0.001, -0.002, 0.0], "holds"),
        ("equal", [-0.05, -0.04, -0.06], "does not hold"),
        ("equal", [-0.05, 0.04, 0.0], "unclear"),
        ("harm", [-0.05, -0.04, -0.06], "holds"),
        ("harm", [0.05, 0.04, 0.06], "does not hold"),
    ],
)
def test_a_verdict_rests_on_the_interval(kind, values, word):
    claim = STATEMENTS.Claim("words", "msrc", "CAM", "CAM", kind=kind)
    assert STATEMENTS.verdict(claim, values)[0] == word


def test_the_table_of_the_readme_is_made_from_the_rows(tmp_path, monkeypatch):
    front = import_module("benchmarks.claims.front")
    facts = {"machine": "2 cores", "commit": "abc", "date": "2026-01-01"}
    stages = {"classifier": 60.0, "crf": 60.0, "segmenter": 240.0, "evaluation": 0.0, "oracle": 180.0}
    scores = {"train": 0.7, "model": 0.74, "model from true masks": 0.8, "relabelled": 0.75}
    rows = [
        {"row": f"recipe {name}", "scores": {**scores, "model": 0.74 + 0.01 * number}, "stages": stages, "facts": facts}
        for name in ("instant", "seam")
        for number in range(3)
    ]
    assert front.front(rows[:3]) == "", "a row is missing"
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{front.BEGIN}old{front.END}\nafter\n")
    monkeypatch.setattr(front, "README", readme)
    front.write_front(rows)
    text = readme.read_text()
    assert "| masks of the 354 photographs | `maskwright label photos/ tags.csv` | 0.700 | 2 min |" in text
    assert "| 0.750 (median of 3) | 6 min |" in text
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert "old" not in text


def test_the_readme_says_what_the_kept_rows_say():
    import json

    front = import_module("benchmarks.claims.front")
    text, kept = front.README.read_text(encoding="utf-8"), front.README.parent / "benchmarks/claims/results/claims.json"
    table = front.front(json.loads(kept.read_text())["rows"])
    if not table:
        pytest.skip("the recipes for photographs have not been run for the kept results")
    assert front.BEGIN + table + front.END in text


def test_a_page_says_what_was_not_run_and_how_often_the_rest_was():
    page = import_module("benchmarks.claims.__main__").page
    done = {
        ("msrc", row, n): {"val": 0.5 + 0.1 * (row != "CAM") + 0.001 * n} for row in ("CAM", "SEAM") for n in (0, 1, 2)
    }
    done["msrc", "SEAM", 3] = {"val": 0.9}  # without its control
    facts = {key: "" for key in ("command", "commit", "date", "machine", "threads", "python", "torch")}
    lines = page(done, facts).splitlines()
    (seam,) = (line for line in lines if "SEAM is better than CAM | msrc" in line)
    assert "| 3 | +0.100 (+0.100 to +0.100) | **holds**" in seam
    assert any("CPP beats no auxiliary loss" in line and "| 0 | | not run |" in line for line in lines)
