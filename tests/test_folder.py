"""One place says where everything in a run folder lies."""

import ast
from pathlib import Path

import pytest

import maskwright
from maskwright.files import write_json
from maskwright.runs.folder import RunFolder

ROOT = Path(maskwright.__file__).parent
# The three names of any training's folder are with those who write them; readers of VOC have a name from there.
OWNERS = {"runs/folder.py", "data/provenance.py", "engine/checkpoint.py", "engine/progress.py", "engine/resume.py"}
OTHERS = {
    "models/pretrained.py": {"model.safetensors"},
    "data/readers/folder.py": {"SegmentationClass"},
    "data/readers/cvat_masks.py": {"SegmentationClass"},
    "formats/cvat.py": {"SegmentationClass"},
    "inference/hub.py": {"recipe.yaml"},  # in a repository that a model is pushed to
    "cli/completion.py": {"recipe.yaml"},  # has no time to load what the class needs
}
FILES = {
    *("recipe.yaml", "run.json", "stage.json", "metrics.json", "images.json", "scores.json", "provenance.json"),
    *("seed_evaluation.json", "report.html", "picture.png", "model.safetensors", "state.pt", "log.jsonl", ".lock"),
    *("explanations.json", "SegmentationClass", "Confidence"),
}
FOLDERS = {"maps", "predictions", "pseudo_masks", "evaluation", "seeds", "segmenter", "evaluations", "explanations"}


def spelled(source: str) -> set[str]:
    """Names of a run folder that a module writes out: as a whole string, or as a part of a path."""
    tree = ast.parse(source)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            sides = [side.value for side in (node.left, node.right) if isinstance(side, ast.Constant)]
            found |= {side for side in sides if side in FOLDERS | FILES}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not node.value.count(" "):
            parts = node.value.split("/")
            found |= {part for part in parts if part in FILES or (part in FOLDERS and len(parts) > 1)}
            found |= {".stale-"} if ".stale-" in node.value else set()
    return found


def test_no_other_module_spells_a_name_of_a_run_folder():
    wrong = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name not in OWNERS and (found := spelled(path.read_text(encoding="utf-8")) - OTHERS.get(name, set())):
            wrong[name] = found
    assert wrong == {}, "ask maskwright.runs.folder.RunFolder for the place"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('folder / "maps"', {"maps"}),
        ('f"{run}/pseudo_masks/x"', {"pseudo_masks"}),
        ('open("a/stage.json")', {"stage.json"}),
        ('name + ".stale-" + number', {".stale-"}),
        ('if "pseudo_masks" in done: pass', set()),
        ('folder / "other"', set()),
    ],
)
def test_a_name_would_be_seen(source, found):
    assert spelled(source) == found


def test_stages_in_order_without_those_set_aside(tmp_path):
    run = RunFolder(tmp_path)
    for number, name in ((2, "a"), (1, "b")):
        write_json(run.record(name), {"number": number})
    assert list(run.records()) == ["b", "a"]
    assert run.set_aside("a") == tmp_path / "a.stale-1"
    write_json(run.record("a"), {"number": 2})
    assert run.set_aside("a") == tmp_path / "a.stale-2"
    assert list(run.records()) == ["b"]
    assert run.aside("a") == [tmp_path / "a.stale-2", tmp_path / "a.stale-1"]
    (tmp_path / "a.stale-2").rename(tmp_path / "a")
    assert run.set_aside("a") == tmp_path / "a.stale-2"
