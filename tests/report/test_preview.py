"""The page of a run that goes on: made, made again with what is new, whole and escaped; at the end the report."""

from __future__ import annotations

import re

import numpy as np
import pytest
from tests.report.test_report import Page

from maskwright.engine.progress import track
from maskwright.errors import DataError
from maskwright.files import write_json
from maskwright.pipeline.preview import _Preview, previewed
from maskwright.report.verdict import read_verdict
from maskwright.runs.contents import read_run
from maskwright.runs.folder import RunFolder
from maskwright.runs.stages import Stage, fingerprints


class Context:
    def __init__(self, folder, train):
        self.out, self.train = RunFolder(folder), train


def stages():
    return [
        Stage("classifier", "train the tag classifier", lambda folder: None),
        Stage("seeds", "seed maps", lambda folder: None, needs=("classifier",)),
        Stage("pseudo_masks", "maps to pseudo-masks", lambda folder: None, needs=("seeds",)),
    ]


def at(fake_run, **finished):
    """Records as a run has them in which these stages have begun."""
    for path in fake_run.folder.glob("*/stage.json"):
        path.unlink()
    hashes = fingerprints(stages())
    for name, done in finished.items():
        fields = {"fingerprint": hashes[name], "finished": done, "seconds": 1.0, "settings": {}}
        write_json(fake_run.folder / name / "stage.json", fields)


def read(fake_run):
    text = (fake_run.folder / "preview.html").read_text(encoding="utf-8")
    page = Page(text)
    assert (page.wrong, page.open) == ([], [])
    assert "http://" not in text
    assert "https://" not in text
    return page, text


def columns(text):
    return re.findall(r"<span>([^<]+)</span>", re.search(r'class="columns".*?</div>', text, re.S)[0])


def test_it_shows_what_there_is_and_no_more(fake_run):
    page = _Preview(Context(fake_run.folder, fake_run.train), stages())
    at(fake_run, classifier=False)
    page.write()
    found, text = read(fake_run)
    # Maps and masks lie in the folder, but of stages that have not begun.
    assert columns(text) == ["image"]
    assert [attrs["content"] for attrs in found.all("meta") if attrs.get("http-equiv") == "refresh"] == ["4"]
    assert "photo & <0>" not in text
    assert "harbour/photo &amp; &lt;0&gt;" in text
    assert "cat &amp; &lt;dog&gt;" in text
    assert "demo &lt;run&gt;" in text
    at(fake_run, classifier=True, seeds=False)
    page.write()
    assert columns(read(fake_run)[1]) == ["image", "seed"]
    at(fake_run, classifier=True, seeds=True, pseudo_masks=False)
    page.write()
    found, text = read(fake_run)
    assert columns(text) == ["image", "seed", "pseudo-mask"]
    assert "2 of 4 stages done" in found.text
    assert len(found.all("article")) == len(fake_run.train)


def test_pictures_are_drawn_once(fake_run):
    page = _Preview(Context(fake_run.folder, fake_run.train), stages())
    at(fake_run, classifier=True, seeds=False)
    page.write()
    rows = page._rows(["classifier", "seeds"])
    assert all(one is other for one, other in zip(rows, page._rows(["classifier", "seeds"]), strict=True))
    assert all("pseudo-mask" in row.cells for row in page._rows(["seeds", "pseudo_masks"]))


def test_a_dozen_that_have_maps_take_the_place_of_others(fake_run):
    from tests.report.conftest import make_run

    run = make_run(fake_run.folder.parent / "many", count=30)
    at(run, classifier=True, seeds=False)
    maps = run.folder / "seeds" / "maps"
    for index, name in enumerate(run.train.names):
        if not 5 <= index < 16:
            (maps / f"{name}.npz").unlink()
    page = _Preview(Context(run.folder, run.train), stages())
    page.write()
    assert (page.chosen[0], page.chosen[-1], len(page.chosen)) == (0, 29, 12)
    np.savez(maps / f"{run.train.names[16]}.npz", keys=np.zeros(0, np.int64), high_res=np.zeros((0, 4, 4)))
    page.write()
    assert page.chosen == list(range(5, 17))


def test_it_is_written_again_while_work_goes_on_and_leads_to_the_report(fake_run, monkeypatch):
    from maskwright.pipeline import preview as module

    monkeypatch.setattr(module, "SECONDS", 0.0)
    monkeypatch.setattr(module, "WORK", 0)
    at(fake_run, classifier=True, seeds=False)
    said, seen = [], []
    with previewed(Context(fake_run.folder, fake_run.train), stages(), said.append) as tell:
        for _ in track(range(3), title="seeds <now>"):
            seen.append(read(fake_run)[1])
        seen.append(read(fake_run)[1])
        tell("a line")
    assert said == [f"preview: {(fake_run.folder / 'preview.html').resolve().as_uri()}", "a line"]
    assert "seeds &lt;now&gt;: 2/3 (66 %)" in seen[2]
    assert "seeds &lt;now&gt;: 3/3 (100 %)" in seen[3]
    page, _ = read(fake_run)
    assert [attrs["href"] for attrs in page.all("a")] == ["report.html"]
    assert "0; url=report.html" in [attrs.get("content") for attrs in page.all("meta")]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (DataError("photo <7> is broken"), "photo &lt;7&gt; is broken"),
        (KeyboardInterrupt(), "The same command goes on"),
    ],
)
def test_a_run_that_stops_says_so_and_the_page_rests(fake_run, error, words):
    at(fake_run, classifier=False)
    with pytest.raises(type(error)), previewed(Context(fake_run.folder, fake_run.train), stages(), lambda line: None):
        raise error
    page, text = read(fake_run)
    assert words in text
    assert not any(attrs.get("http-equiv") == "refresh" for attrs in page.all("meta"))


def test_report_and_next_steps_of_a_run_that_ends_with_masks(fake_run):
    from tests.report.test_verdict import judged

    from maskwright.report import build_report
    from maskwright.report.content import cautions, trained_on

    at(fake_run, classifier=True, seeds=True, pseudo_masks=True)
    for name in ("segmenter", "evaluation", "oracle", "oracle_evaluation"):
        for path in sorted((fake_run.folder / name).rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
    (fake_run.folder / "metrics.json").unlink()
    write_json(fake_run.folder / "seed_evaluation.json", judged(0.03, 0.2))
    run = read_run(fake_run.folder)
    steps = [command.split()[1] for command, _ in read_verdict(run).steps]
    assert (set(steps), steps[-1]) == ({"label", "run"}, "run")  # nothing that needs a model
    assert not {"Model", "Evaluated on"} & {term for term, _ in trained_on(run)}
    assert all("model:" not in note["text"] for note in cautions(run))
    (fake_run.folder / "seed_evaluation.json").unlink()  # the section on seeds is tested with complete ones
    page = Page(build_report(fake_run.folder, dataset_train=fake_run.train).read_text(encoding="utf-8"))
    assert (page.wrong, page.open) == ([], [])
    assert {"training"} <= {attrs.get("id") for attrs in page.all("section")}
