import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from maskwright.cli import app

runner = CliRunner()


def test_import_and_help_do_not_import_torch():
    code = (
        "import sys, maskwright, maskwright.cli; from typer.testing import CliRunner;"
        "r = CliRunner().invoke(maskwright.cli.app, ['--help']); assert r.exit_code == 0, r.output;"
        "bad = [m for m in ('torch', 'numpy', 'pydantic', 'PIL', 'matplotlib', 'numba') if m in sys.modules];"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_recipes_ls_show_cp(tmp_path):
    listed = runner.invoke(app, ["recipes", "ls"]).output
    assert "demo" in listed
    assert "deeplabv3plus-quick" in listed
    target = tmp_path / "mine.yaml"
    assert runner.invoke(app, ["recipes", "cp", "demo", str(target)]).exit_code == 0
    assert target.read_text() == runner.invoke(app, ["recipes", "show", "demo"]).output
    again = runner.invoke(app, ["recipes", "cp", "demo", str(target)])
    assert again.exit_code != 0
    assert "exists" in str(again.exception)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["run", "dmo"], "Did you mean 'demo'"), (["run", "demo", "epoch=3"], "Did you mean 'epochs'")],
)
def test_mistakes_are_one_line_and_exit_code_two(arguments, words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "maskwright", *arguments], capture_output=True, text=True, timeout=60, env=environment
    )
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_unknown_attribute_names_the_nearest():
    import maskwright

    with pytest.raises(AttributeError, match="create_model"):
        _ = maskwright.create_mdel
