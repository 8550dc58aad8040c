"""Every row of the tables in `benchmarks/claims` is a recipe with settings that it has."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from maskwright.models.backbones import BACKBONES, import_timm
from maskwright.recipe.load import load_recipe
from maskwright.weak.methods import check_methods

MODULES = {
    name: import_module(f"benchmarks.claims.{name}")
    for name in ("tags", "l2g")
    if find_spec(f"benchmarks.claims.{name}") is not None
}
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


def test_rows_of_camvid_resolve(tmp_path):
    camvid = import_module("benchmarks.claims.camvid")
    seen = []
    for row, settings in camvid.ROWS.items():
        words = [f"data={tmp_path}", f"out={tmp_path}", "epochs=6", *camvid.COMMON, *settings]
        recipe = load_recipe("deeplabv3plus-quick", words)
        assert recipe.supervision == "masks", row
        assert exists(recipe.model.backbone)
        assert recipe not in seen, row
        seen.append(recipe)
    assert set(camvid.THIN) <= set(camvid.RARE)
    assert len(seen) > 1


def test_names_of_folders_differ():
    folder_name = import_module("benchmarks.claims.runs").folder_name
    for module in MODULES.values():
        names = {folder_name(row, seed) for row in module.ROWS for seed in (0, 1)}
        assert len(names) == 2 * len(module.ROWS)
        assert all(Path(name).name == name for name in names)
