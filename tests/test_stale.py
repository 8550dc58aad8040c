"""What makes a stage stale: what the data holds and what is asked for, never a time or how a path is spelled."""

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import maskwright.runs.digests as digests_module
from maskwright.data.content import file_digest
from maskwright.errors import DataError
from maskwright.files import read_json, write_json
from maskwright.pipeline import run as pipeline
from maskwright.pipeline.evaluate import evaluate_run, judge_seeds, report_run
from maskwright.pipeline.stages import recipe_stages
from maskwright.recipe.load import load_recipe
from maskwright.runs.contents import read_run
from maskwright.runs.context import RunContext
from maskwright.runs.digests import Digests
from maskwright.runs.folder import RunFolder
from maskwright.runs.stages import Stage, run_stages, states
from maskwright.weak import seed_evaluation

LABEL_STAGES = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A run of this version, from tags, to the pseudo-masks; its data beside it."""
    folder = tmp_path_factory.mktemp("made")
    with zipfile.ZipFile(Path(__file__).with_name("runs_before.zip")) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith(("photos/", "tags/recipe"))])
    os.rename(folder / "tags/recipe.yaml", folder / "recipe.yaml")
    shutil.rmtree(folder / "tags")
    here = os.getcwd()
    os.chdir(folder)
    try:
        run(until=None)
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def there(made, tmp_path, monkeypatch) -> Path:
    shutil.copytree(made, tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    return tmp_path / "there"


def run(*changes: str, until: str | None = "pseudo_masks") -> list[str]:
    said: list[str] = []
    pipeline.run(load_recipe("recipe.yaml", changes), until=until, say=said.append)
    return said


def words(*changes: str) -> set[str]:
    context = RunContext(load_recipe("recipe.yaml", changes), RunFolder("tags"), print)
    return {state.word for state in states(recipe_stages(context), "tags").values()}


def paint(path: str) -> None:
    """Another image of the same size in bytes and the same time of change."""
    facts = os.stat(path)
    held = bytearray(Path(path).read_bytes())
    held[-20] ^= 255
    Path(path).write_bytes(held)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


@pytest.mark.parametrize("spelled", ["photos/", "./photos", "{here}/photos", "../there/photos"])
def test_the_same_data_however_it_is_spelled(there, spelled):
    assert words(f"data={spelled.format(here=there)}") == {"finished"}


def test_data_and_run_that_moved_go_on(there, monkeypatch):
    (there.parent / "new").mkdir()
    shutil.copytree("photos", "../new/pictures")  # all times are others
    shutil.rmtree("photos")
    os.rename("tags", "../new/run")
    os.rename("recipe.yaml", "../new/recipe.yaml")
    monkeypatch.chdir(there.parent / "new")
    said = run("data=pictures", "out=run", until=None)
    assert sum("done already" in line for line in said) == LABEL_STAGES + 2
    own = load_recipe("run/recipe.yaml", ["data=pictures"])
    assert own.out == "run"  # and not where it lay when it was begun
    assert load_recipe("run/recipe.yaml", ["out=other"]).out == "other"
    (RunFolder("run").report).unlink()
    os.rename("pictures", "gone")
    with pytest.raises(DataError, match=r"were in pictures; say where they are now: data=FOLDER"):
        report_run(Path("run"))
    assert report_run(Path("run"), ["data=gone"]).is_file()
    assert "2 images of split val" in "".join(evaluate_run(Path("run"), ["data=gone"]))


def test_times_alone_change_nothing_and_content_alone_does(there):
    for path in there.glob("photos/*/*"):
        os.utime(path)
    assert words() == {"finished"}
    paint("photos/masks/00.png")
    assert words() == {"stale"}


def test_a_moved_data_set_with_another_image_is_another(there):
    shutil.copytree("photos", "copy")
    assert words("data=copy") == {"finished"}
    paint("copy/images/01.png")
    assert words("data=copy") == {"stale"}


def test_a_stopped_stage_goes_on_with_data_that_moved(there):
    record = there / "tags/seeds/stage.json"
    write_json(record, {**read_json(record), "finished": False})
    next((there / "tags/seeds/maps").glob("*.npz")).unlink()
    os.rename("photos", "moved")
    said = run("data=moved")
    stages = [line.partition(": ")[2] for line in said if line.startswith("[")]
    assert stages == ["done already", "resuming", "done already"]


def test_files_are_read_once(tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (1, 1))
    monkeypatch.setattr(digests_module, "FRESH_SECONDS", -1)
    monkeypatch.setattr(digests_module, "_known", {})
    read = []
    monkeypatch.setattr(digests_module, "file_digest", lambda *file: read.append(file[0]) or file_digest(*file))
    files = [(str(tmp_path / name), True) for name in "ab"]
    first = Digests(tmp_path / "kept.json")
    found = first(files)
    first.save()
    monkeypatch.setattr(digests_module, "_known", {})
    again = Digests(tmp_path / "kept.json")
    assert again(files) == found == [file_digest(*file) for file in files]
    assert len(read) == 2
    os.utime(tmp_path / "a")
    assert again(files) == found
    assert [Path(path).name for path in read[2:]] == ["a"]
    paint_over = tmp_path / "b"
    paint_over.write_text("c")
    os.utime(paint_over, (1, 1))  # as `cp -p` would leave it
    assert again(files)[1] != found[1]


def test_a_file_that_was_just_written_is_not_remembered(tmp_path):
    (tmp_path / "a").write_text("a")
    digests = Digests(tmp_path / "kept.json")
    digests([(str(tmp_path / "a"), True)])
    digests.save()
    assert not (tmp_path / "kept.json").exists()


def test_of_a_large_photograph_blocks_are_read_and_of_a_mask_all(tmp_path):
    path = tmp_path / "large"
    held = bytearray(np.random.default_rng(0).bytes(2**20))
    path.write_bytes(held)
    before = [file_digest(str(path), whole) for whole in (True, False)]
    held[0] ^= 1
    path.write_bytes(held)
    assert file_digest(str(path), False) != before[1]
    held[0] ^= 1
    held[20_000] ^= 1  # between the first two blocks
    path.write_bytes(held)
    assert file_digest(str(path), False) == before[1]
    assert file_digest(str(path), True) != before[0]


def test_going_back_takes_back_what_was_set_aside(there):
    hashes = {path.name: path.read_bytes() for path in (there / "tags/seeds/maps").glob("*.npz")}
    run("seeds.scales=[1.0,1.5]")
    assert {path.name: path.read_bytes() for path in (there / "tags/seeds/maps").glob("*.npz")} != hashes
    assert words() == {"finished"}  # as plan=true shows it
    said = run()
    assert [line.rpartition(": ")[2] for line in said[1:]] == [
        "made before with these settings, taken back from seeds.stale-1",
        "made before with these settings, taken back from pseudo_masks.stale-1",
    ]
    assert {path.name: path.read_bytes() for path in (there / "tags/seeds/maps").glob("*.npz")} == hashes
    said = run("seeds.scales=[1.0,1.5]")
    assert all("taken back" in line for line in said[1:])
    assert len(RunFolder("tags").aside("seeds")) == 1


def test_what_was_set_aside_is_of_no_use_beside_another_making_of_its_input(tmp_path):
    def stages(setting: int) -> list[Stage]:
        def work(folder: Path) -> None:
            (folder / "made").touch()

        return [Stage("a", "a", work), Stage("b", "b", work, {"x": setting}, ("a",))]

    for setting in (0, 1):
        run_stages(stages(setting), tmp_path, str)
    assert states(stages(0), tmp_path)["b"].aside == tmp_path / "b.stale-1"
    shutil.rmtree(tmp_path / "a")
    run_stages(stages(1)[:1], tmp_path, str)
    assert states(stages(0), tmp_path)["b"].word == "stale"
    assert states(stages(1), tmp_path)["b"].word == "stale"  # made of an `a` that is gone


# What is made after the run.


def test_the_evaluation_is_of_the_masks_that_are_there_whatever_the_clock_says(there):
    os.utime("tags/seed_evaluation.json", (2**32, 2**32))
    run("pseudo_masks.threshold=0.55")
    assert read_json("tags/seed_evaluation.json")["threshold"] == 0.55


def test_nothing_is_read_again_while_nothing_has_changed(there, monkeypatch):
    files = [there / "tags" / name for name in ("seed_evaluation.json", "metrics.json", "report.html", "picture.png")]
    times = [path.stat().st_mtime_ns for path in files]
    monkeypatch.setattr(seed_evaluation, "load_maps", None)
    said = run(until=None)
    assert said[-1] == "report: tags/report.html"
    assert any(line.startswith("pseudo-masks") for line in said)
    assert [path.stat().st_mtime_ns for path in files] == times
    (there / "tags/report.html").unlink()
    run(until=None)
    assert (there / "tags/report.html").is_file()


def test_an_evaluation_by_other_settings_does_not_count_as_the_recipes(there):
    before = Path("tags/seed_evaluation.json").read_bytes()
    said = judge_seeds(Path("tags"), [], threshold="0.7")
    assert said[-1] == "written to tags/evaluations/seeds-train-0.7"
    assert read_json("tags/evaluations/seeds-train-0.7/seed_evaluation.json")["threshold"] == 0.7
    said = judge_seeds(Path("tags"), ["pseudo_masks.unsure_below=0.3"])
    assert said[-1].startswith("written to tags/evaluations/")
    assert Path("tags/seed_evaluation.json").read_bytes() == before


def test_an_evaluation_by_the_recipes_settings_is_the_runs_own(there):
    assert judge_seeds(Path("tags"), [], stability=2)[-1] == "written to tags"
    assert read_json("tags/seed_evaluation.json")["stability"]["images"] == 2
    run()
    assert "stability" in read_json("tags/seed_evaluation.json")  # nothing has changed: it is kept
    own = judge_seeds(Path("tags"), [])
    shutil.copytree("photos", "other")
    Image.fromarray(np.zeros((32, 32), np.uint8)).save("other/masks/00.png")
    assert judge_seeds(Path("tags"), ["data=other"]) != own
    run()  # of other masks, so it does not count
    assert judge_seeds(Path("tags"), []) == own
    assert read_json("tags/seed_evaluation.json")["images"] == 4


def test_expected_scores_take_what_the_evaluation_found(there, monkeypatch):
    import maskwright.weak.labels

    found = read_json("tags/seed_evaluation.json")["stages"]["seeds"]["best"]["miou"]
    monkeypatch.setattr(maskwright.weak.labels, "sweep", None)
    run("expected={seeds: 0.5}", until=None)
    row = read_json("tags/metrics.json")["expected"][0]
    assert (row["stage"], row["found"]) == ("seeds", found)


@pytest.mark.parametrize(
    ("lost", "changes", "said"),
    [
        (["pseudo_masks/SegmentationClass/01.png"], ["train.lr=0.02"], "1 of 8 files in tags/pseudo_masks"),
        (["pseudo_masks/Confidence/01.png"], ["train.lr=0.02"], "1 of 8 files in tags/pseudo_masks"),
        (
            ["pseudo_masks/SegmentationClass/01.png", "seeds/maps/01.npz"],
            ["train.lr=0.02"],
            "1 of 4 files in tags/seeds",
        ),
        (["seeds/maps/01.npz", "seeds/maps/02.npz"], ["pseudo_masks.threshold=0.4"], "2 of 4 files in tags/seeds"),
        (["pseudo_masks/scores.json"], [], "resuming"),
        (["evaluation/metrics.json"], [], "resuming"),
        (["evaluation/predictions/04.png", "report.html"], [], "1 of 2 files in tags/evaluation"),
        (["segmenter/model.safetensors"], [], "train the segmenter: resuming"),
        (["seeds/maps/01.npz", "seed_evaluation.json"], [], "1 of 4 files in tags/seeds"),
    ],
)
@pytest.mark.bit_equal
def test_what_vanished_of_a_finished_run_comes_back_the_same(there, lost, changes, said):
    """Nothing goes on with fewer images unsaid, and what the message advises to delete is made again."""
    kept = {name: Path("tags", name).read_bytes() for name in lost}
    for name in lost:
        os.remove(Path("tags", name))
    assert any(said in line for line in run(*changes, until=None))
    for name, held in kept.items():
        if name.endswith((".npz", ".png", ".safetensors")) and not (changes and "pseudo_masks" in name + changes[0]):
            assert Path("tags", name).read_bytes() == held
        else:
            assert Path("tags", name).is_file()
    assert words(*changes) == {"finished"}


def test_an_empty_file_that_a_power_cut_left_is_made_again(there):
    path = Path("tags/seeds/maps/02.npz")
    held = path.read_bytes()
    path.write_bytes(b"")
    run("pseudo_masks.threshold=0.4")
    assert path.read_bytes() == held


def test_a_pseudo_mask_that_was_cut_off_is_made_again(there):
    path, scores = Path("tags/pseudo_masks/SegmentationClass/02.png"), Path("tags/pseudo_masks/scores.json")
    held = path.read_bytes()
    path.write_bytes(held[: len(held) // 2])
    scores.unlink()
    run()
    assert path.read_bytes() == held


@pytest.mark.parametrize("name", ["pseudo_masks/scores.json", "pseudo_masks/classes.txt", "evaluation/images.json"])
@pytest.mark.parametrize("keep", [0.5, 1.0])
def test_a_result_that_was_damaged_is_made_again(there, name, keep):
    path = Path("tags", name)
    held = path.read_bytes()
    damaged = bytearray(held[: int(keep * len(held))])
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    assert sum("resuming" in line for line in run(until=None)) == 1
    assert path.read_bytes() == held


@pytest.mark.parametrize("held", [b"", b"name: [", b"- tags", b"\xff\xfe"])
def test_a_damaged_recipe_of_a_run_says_what_writes_it(there, held):
    Path("tags/recipe.yaml").write_bytes(held)
    for work in (read_run, report_run, lambda folder: judge_seeds(folder, [])):
        with pytest.raises(DataError, match=r"(?s)recipe.yaml is damaged .*; give the command of the run again"):
            work(Path("tags"))


@pytest.mark.parametrize("record", ["", "{}", "[]", "null", "7", "\xff", '{"finished": "yes"}', '{"finished": true}'])
def test_a_damaged_record_names_the_folder_to_delete(there, record):
    Path("tags/seeds/stage.json").write_bytes(record.encode("latin-1"))
    with pytest.raises(DataError, match=r"delete the folder tags.seeds and give the same command again"):
        words()


def test_a_stage_whose_folder_was_deleted_is_made_again(there):
    shutil.rmtree("tags/seeds")
    run()
    assert Path("tags/seeds/maps/03.npz").is_file()


def test_damaged_notes_of_what_was_read_cost_nothing_but_reading(there):
    for held in ("", "[]", '{"a": 1}', '{"a": {"b": 1}}'):
        Path("tags/.digests.json").write_text(held)
        assert words() == {"finished"}


def test_a_model_that_comes_back_with_other_bits_is_another_making(tmp_path):
    held = [b"one"]

    def train(folder):
        (folder / "model.safetensors").write_bytes(held[0])

    stages = [Stage("a", "train", train, results=("model.safetensors",)), Stage("b", "read", str, needs=("a",))]
    run_stages(stages, tmp_path, str)
    for bits, after in ((b"one", "finished"), (b"other", "stale")):
        held[0] = bits
        (tmp_path / "a/model.safetensors").unlink()
        assert states(stages, tmp_path)["a"].word == "unfinished"
        run_stages(stages[:1], tmp_path, str)
        assert states(stages, tmp_path)["b"].word == after
