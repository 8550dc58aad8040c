"""`data check` and a run agree on what is an error, whatever people bring."""

from __future__ import annotations

import pytest

from maskwright.data import open_dataset
from maskwright.data.check import check
from maskwright.errors import DataError, MaskwrightError
from maskwright.pipeline import check as before_runs
from maskwright.recipe.load import load_recipe
from maskwright.runs.context import RunContext
from maskwright.runs.folder import RunFolder
from maskwright.settings import DataSettings

from .test_what_people_bring import VARIANTS

REFUSED = [name for name, variant in VARIANTS.items() if variant.refused]
SOUND = [name for name, variant in VARIANTS.items() if not variant.refused][::4]


def masked(settings: DataSettings) -> bool:
    """Whether somebody with this folder would train on masks."""
    try:
        data = open_dataset(settings, "all")
    except MaskwrightError:
        return False
    return any(data.has_mask(index) for index in range(len(data)))


@pytest.mark.parametrize("name", REFUSED + SOUND)
def test_what_the_check_calls_an_error_stops_a_run_and_nothing_else_does(tmp_path, monkeypatch, name):
    variant = VARIANTS[name]
    root = tmp_path / "data"
    root.mkdir()
    variant.draw(root)
    settings = DataSettings(root=str(root), train="all", val="all", **variant.settings)
    errors = [finding for finding in check(settings) if finding.level == "error"]
    # Networks say nothing of the data, and take seconds to build.
    monkeypatch.setattr(before_runs, "check_networks", lambda context, stages: {})
    recipe = load_recipe("deeplabv3plus-quick" if masked(settings) else "cam-scratch", [f"data={root}", "device=cpu"])
    context = RunContext(recipe.model_copy(update={"data": settings}), RunFolder(tmp_path / "run"), lambda line: None)
    if not errors:
        before_runs.check_run(context)
        return
    with pytest.raises(DataError) as caught:
        before_runs.check_run(context)
    said = str(caught.value)
    assert any(error.text().rstrip(".") in said for error in errors) or name in SAID_OTHERWISE, said


# Where the recipe itself needs what is not there, it says so in the words of its settings.
SAID_OTHERWISE = ("no tag at all",)
