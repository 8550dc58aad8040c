import hashlib
import multiprocessing

import pytest

from maskwright.errors import MaskwrightError
from maskwright.files import read_json
from maskwright.recipe.load import build_recipe
from maskwright.runs.lock import run_lock
from maskwright.runs.stages import Stage, effective, fingerprints, run_stages, states


class Log(list):
    def stage(self, name, settings=None, needs=(), fails=False):
        def work(folder):
            self.append(name)
            (folder / "made").write_text(name)
            if fails:
                raise KeyboardInterrupt

        return Stage(name, f"make {name}", work, settings or {}, needs)


def test_finished_stages_are_skipped(tmp_path):
    log = Log()
    stages = [log.stage("a", {"x": 1}), log.stage("b", needs=("a",))]
    said = []
    run_stages(stages, tmp_path, said.append)
    run_stages(stages, tmp_path, said.append)
    assert log == ["a", "b"]
    assert said[2:] == ["[1/2] make a: done already", "[2/2] make b: done already"]
    assert read_json(tmp_path / "b" / "stage.json")["finished"] is True


def test_the_record_of_a_finished_training_has_the_hash_of_its_model(tmp_path):
    def work(folder):
        assert "model_hash" not in read_json(folder / "stage.json")
        (folder / "model.safetensors").write_bytes(b"weights")

    run_stages([Stage("a", "train", work), Log().stage("b")], tmp_path, str)
    assert read_json(tmp_path / "a" / "stage.json")["model_hash"] == hashlib.sha256(b"weights").hexdigest()[:16]
    assert "model_hash" not in read_json(tmp_path / "b" / "stage.json")


def test_stopped_stage_goes_on_in_its_folder(tmp_path):
    log = Log()
    with pytest.raises(KeyboardInterrupt):
        run_stages([log.stage("a", fails=True)], tmp_path, str)
    assert states([log.stage("a")], tmp_path)["a"].word == "unfinished"
    said = []
    run_stages([log.stage("a")], tmp_path, said.append)
    assert said == ["[1/1] make a: resuming"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_changed_settings_set_the_old_result_aside_and_all_that_needs_it(tmp_path):
    log = Log()
    run_stages([log.stage("a", {"lr": 1}), log.stage("b", needs=("a",)), log.stage("c")], tmp_path, str)
    said = []
    run_stages([log.stage("a", {"lr": 2}), log.stage("b", needs=("a",)), log.stage("c")], tmp_path, said.append)
    assert log == ["a", "b", "c", "a", "b"]
    assert "lr 1 -> 2" in said[0]
    assert "a.stale-1" in said[0]
    assert "earlier stage" in said[1]
    assert (tmp_path / "a.stale-1" / "made").is_file()


def test_fingerprint_does_not_depend_on_key_order():
    log = Log()
    one, other = log.stage("a", {"x": 1, "y": 2}), log.stage("a", {"y": 2, "x": 1})
    assert fingerprints([one]) == fingerprints([other])
    assert fingerprints([one]) != fingerprints([log.stage("a", {"x": 1, "y": 3})])


def _try_lock(path, queue):
    try:
        with run_lock(path):
            queue.put("held")
    except MaskwrightError as error:
        queue.put(str(error))


def test_two_runs_cannot_share_a_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with run_lock(tmp_path):
        process = context.Process(target=_try_lock, args=(tmp_path, queue))
        process.start()
        assert "another process" in queue.get(timeout=60)
        process.join()


@pytest.mark.parametrize("given", [{}, {"channels_last": "auto"}, {"channels_last": False}])
def test_the_earlier_layout_of_memory_leaves_fingerprints_as_they_are(given):
    """A recipe.yaml of an earlier version says channels_last: false in every block, and its stages do not."""
    words = {"data": {"root": "scenes"}, "networks": ["classifier", "recam"], "refine": ["irn"]}
    blocks = {"classifier": {"train": {"lr": 0.5, **given}}, "irn": {"train": given}, "recam": {"train": given}}
    recipe = build_recipe({**words, **blocks, "train": given})
    plain = build_recipe({**words, "classifier": {"train": {"lr": 0.5}}})
    for block in ("classifier", "irn", "recam", "train"):
        assert effective(getattr(recipe, block)) == effective(getattr(plain, block))
    assert effective(recipe.classifier)["train"] == {"lr": 0.5}
    asked = recipe.train.model_copy(update={"channels_last": True})
    assert effective(asked) == {"channels_last": True}
