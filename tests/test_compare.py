"""Methods side by side: what is typed, what is shared, what fails, what the page and the file say."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from maskwright.cli import app
from maskwright.cli.words import read
from maskwright.errors import RecipeError
from maskwright.files import read_json
from maskwright.pipeline.compare import Method, compare, read_method
from maskwright.report.compare import agreement
from maskwright.report.gallery import read_maps
from maskwright.runs.results import differences, mean_interval
from maskwright.runs.stages import Stage, run_stages
from maskwright.runs.taking_over import share_stages

TINY = [
    "data.options={count: 6, size: [32, 32]}",
    "fully_supervised=false",
    "classifier.train.steps=1",
    "classifier.train.batch_size=4",
    "classifier.train.augment={crop: [32, 32]}",
    "seeds.scales=[1.0]",
    "seeds.flip=false",
    "pseudo_masks.threshold=0.3",
    "train.steps=1",
    "train.batch_size=4",
    "train.augment={crop: [32, 32]}",
]
STRICT = "strict τ: demo pseudo_masks.threshold=0.6"
BROKEN = "nowhere: demo data=no/such/folder"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    out = tmp_path_factory.mktemp("compare") / "out"
    said: list[str] = []
    result = compare(["demo", STRICT, BROKEN, *TINY], out=out, images=2, say=said.append)
    return out, result, said


class Page(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data.strip())

    @property
    def text(self):
        return " ".join(filter(None, self.words))


# What is typed.


def test_methods_as_they_are_typed(tmp_path):
    assert read_method("cam") == Method("cam", "cam")
    assert read_method("L2G, 8 views: l2g l2g.views=8") == Method("L2G, 8 views", "l2g", ("l2g.views=8",))
    found = read_method("recam seeds.options={weight: w1} seeds.flip=false")
    assert found.label == "recam seeds.options={weight: w1} seeds.flip=false"
    assert found.settings == ("seeds.options={weight: w1}", "seeds.flip=false")
    for name in ("cam-0", "cam-1", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text("name: cam\n")
    assert read_method(f"{tmp_path}/other").label == "other"
    assert read_method(f"CAM: {tmp_path}/cam-*").folders == (tmp_path / "cam-0", tmp_path / "cam-1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["recm"], "Did you mean 'recam'"),
        (["Mine: recm seeds.flip=false"], "Did you mean 'recam'"),
        (["cam", "cam epoch=3"], "Did you mean 'epochs'"),
        (["cam", "cam"], "two methods are called 'cam'"),
        (["a b: cam", "a-b: recam"], "the folder a-b"),
        (["ground truth: cam"], "column of the page"),
        (["cam out=here"], "for all methods together"),
        (["cam", "epoch=3"], "Did you mean 'epochs'"),
        (["data=scenes"], "no method is given"),
    ],
)
def test_mistakes_are_said_before_anything_is_run(arguments, words, tmp_path):
    with pytest.raises(RecipeError, match=words):
        compare(arguments, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("setting", ["random_seed=1", "seed=1", "out=elsewhere"])
def test_what_is_for_all_methods_is_no_setting_of_one(setting):
    with pytest.raises(RecipeError, match="give out= and random_seeds= for all methods together"):
        read_method(f"cam {setting}")


def test_the_old_name_of_random_seeds_works(capsys):
    assert read("compare", ["cam", "seeds=0,1"]).options["random_seeds"] == "0,1"
    assert "seeds is now called random_seeds" in capsys.readouterr().err


def test_seeds_are_numbers(tmp_path):
    with pytest.raises(RecipeError, match="random_seeds=0,1,2"):
        compare(["cam"], out=tmp_path / "out", random_seeds="0;1")


# What is made.


def test_every_method_has_its_run_and_its_scores(compared):
    out, result, _ = compared
    demo, strict, _ = result["methods"]
    for method, folder in ((demo, "demo"), (strict, "strict-τ")):
        scores = read_json(out / folder / "metrics.json")
        assert method["scores"]["model"]["mean"] == scores["segmenter"]["miou"]
        assert method["scores"]["pseudo_masks"]["mean"] == pytest.approx(scores["pseudo_masks"]["miou"])
        spent = [read_json(path)["processor_seconds"] for path in (out / folder).glob("*/stage.json")]
        assert method["cost"]["all"]["processor_seconds"] == pytest.approx(sum(spent))
    assert strict["scores"]["seeds_best"]["gain"] == 0
    gain = strict["scores"]["pseudo_masks"]["mean"] - demo["scores"]["pseudo_masks"]["mean"]
    assert strict["scores"]["pseudo_masks"]["gain"] == pytest.approx(gain)
    assert read_json(out / "compare.json") == result


def test_equal_stages_are_made_once(compared):
    out, _, said = compared
    first, second = (out / name / "classifier" / "model.safetensors" for name in ("demo", "strict-τ"))
    assert first.samefile(second)
    assert (out / "demo/seeds/stage.json").read_text() == (out / "strict-τ/seeds/stage.json").read_text()
    assert sum("taken from there" in line for line in said) == 2
    assert not list(out.rglob("*.stale-*"))


def test_a_method_that_fails_loses_nothing(compared):
    out, result, _ = compared
    failed = result["methods"][2]
    assert "no/such/folder is not a folder" in failed["failed"][0]
    assert failed["scores"] == {}
    assert failed["cost"]["all"]["processor_seconds"] is None
    page = Page(out / "compare.html")
    assert "no/such/folder is not a folder" in page.text
    assert "Predictions: val" in page.text


def test_page_is_complete_and_shows_the_same_images(compared):
    out, result, _ = compared
    page = Page(out / "compare.html")
    for tag, attrs in page.tags:
        assert "src" not in attrs or attrs["src"].startswith("data:image/"), tag
        if attrs.get("href", "#").startswith("#"):
            continue
        assert (out / attrs["href"]).is_file()
    text = (out / "compare.html").read_text(encoding="utf-8")
    for key in ("training", "validation"):
        section = text[text.index(f'<section id="{key}"') :]
        section = section[: section.index("</section>")]
        names = re.findall(r'<p class="name">(.*?)</p>', section)
        assert sorted(names) == sorted(item["name"] for item in result["pictures"][key])
        assert len(names) == 2
        columns = re.search(r'<div class="columns".*?</div>', section, re.S)
        assert re.findall(r"<span>([^<]+)</span>", columns[0]) == ["image", "ground truth", "demo", "strict τ"]
        assert section.count('class="mask"') == 2 * 3
    assert "Only in" not in page.text
    shown = re.findall(r'<tr><th scope="row">pseudo_masks.threshold</th><td>(.*?)</td><td>(.*?)</td>', text)
    assert shown == [("0.3", "0.6")]


def test_again_nothing_is_made_and_finished_runs_are_read(compared):
    out, before, _ = compared
    records = {path: path.stat().st_mtime_ns for path in out.rglob("stage.json")}
    said: list[str] = []
    result = compare(["demo", STRICT, BROKEN, *TINY], out=out, images=2, say=said.append)
    assert records == {path: path.stat().st_mtime_ns for path in out.rglob("stage.json")}
    assert result["methods"] == before["methods"]
    assert said.count("done already") == 2
    read = compare([f"{out}/demo", f"harder: {out}/strict-τ"], out=out.parent / "read", images=0, say=said.append)
    assert [row["scores"] for row in read["methods"]] == [row["scores"] for row in before["methods"][:2]]
    assert sorted(path.name for path in (out.parent / "read").iterdir() if path.is_dir()) == ["judged"]
    assert records == {path: path.stat().st_mtime_ns for path in out.rglob("stage.json")}


def test_seeds_masks_alone_and_no_truth(tmp_path):
    """Several seeds give paired intervals; without true masks there are signs and pictures, but no scores."""
    rng = np.random.default_rng(0)
    photos = tmp_path / "photos"
    photos.mkdir()
    rows = ["image,tags"]
    for number in range(4):
        Image.fromarray(rng.integers(0, 255, (32, 40, 3), dtype=np.uint8)).save(photos / f"{number}.png")
        rows.append(f"{number}.png,{'cat' if number % 2 else 'dog'}")
    (tmp_path / "tags.csv").write_text("\n".join(rows) + "\n")
    data = [f"data={photos}", f"tags={tmp_path / 'tags.csv'}", "data.train=all", "split=all", "data.options={}"]
    settings = [setting for setting in TINY if not setting.startswith("data.")]
    result = compare(
        ["demo", "strict: demo pseudo_masks.threshold=0.6", *settings, *data],
        out=tmp_path / "out",
        random_seeds="0,1",
        until="pseudo_masks",
        say=str,
    )
    assert not any(row["failed"] for row in result["methods"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == [
        "demo-0", "demo-1", "judged", "strict-0", "strict-1",
    ]  # fmt: skip
    demo = result["methods"][0]
    assert [run["seed"] for run in demo["runs"]] == [0, 1]
    values = [run["tag_map"] for run in demo["runs"]]
    assert demo["scores"]["tag_map"]["interval"] == pytest.approx(12.706 * abs(values[0] - values[1]) / 2)
    assert set(demo["scores"]) == {"tag_map"}
    assert result["methods"][1]["scores"]["tag_map"]["gain_interval"] == 0
    page = Page(tmp_path / "out" / "compare.html")
    assert "Signs that need no ground truth" in page.text
    assert "Of each method the first run is shown." in page.text
    assert "ground truth" not in [word for word in page.words if word in ("ground truth", "image")]
    assert len(result["pictures"]["training"]) == 4


def test_attention_of_the_local_and_the_global_network_side_by_side(tmp_path):
    l2g = "demo networks=[classifier,l2g] seeds.method=l2g"
    said: list[str] = []
    train = "{steps: 1, batch_size: 2, workers: 0, lr: 0.1, augment: {short_side: [32, 32], crop: [32, 32]}}"
    result = compare(
        [f"local: {l2g} l2g.keep=local", f"global: {l2g}", *TINY, "l2g.view_size=[16, 16]", f"l2g.train={train}"],
        out=tmp_path / "out", images=2, until="seeds", say=said.append,
    )  # fmt: skip
    assert not any(row["failed"] for row in result["methods"])
    assert [line for line in said if "taken from there" in line] == [
        f"[1/3] train the tag classifier: the same as in {tmp_path / 'out' / 'local'}, taken from there"
    ]
    text = Page(tmp_path / "out" / "compare.html").text
    assert "Seed maps: train" in text
    name = result["pictures"]["training"][0]["name"]
    local, whole = (read_maps(tmp_path / "out" / label / "seeds" / "maps", name) for label in ("local", "global"))
    assert local[0].tolist() == whole[0].tolist()
    assert np.abs(local[1] - whole[1]).max() > 0.01


def test_exit_code_and_message_of_the_command(tmp_path):
    done = CliRunner().invoke(app, ["compare", BROKEN, f"out={tmp_path / 'out'}", *TINY])
    assert done.exit_code == 1, done.output
    assert "failed: data no/such/folder" in done.output
    assert (tmp_path / "out" / "compare.html").is_file()


# Parts.


def _stages(made: list[str], setting: int = 0) -> list[Stage]:
    def work(name):
        def write(folder: Path) -> None:
            made.append(name)
            (folder / "made").write_text(f"{name} {len(made)}")

        return write

    return [
        Stage("a", "a", work("a"), {"x": 0}),
        Stage("b", "b", work("b"), {"x": setting}, ("a",)),
        Stage("c", "c", work("c"), {}, ("b",)),
    ]


def test_stages_are_shared_up_to_where_they_differ(tmp_path):
    made: list[str] = []
    run_stages(_stages(made), tmp_path / "one", str)
    taken = share_stages(_stages(made, 1), tmp_path / "two", [tmp_path / "two", tmp_path / "one"], str)
    assert taken == ["a"]
    run_stages(_stages(made, 1), tmp_path / "two", str)
    assert made == ["a", "b", "c", "b", "c"]
    assert (tmp_path / "two/a/made").samefile(tmp_path / "one/a/made")
    assert share_stages(_stages(made, 0), tmp_path / "two", [tmp_path / "one"], str) == ["b", "c"]
    assert (tmp_path / "two/c/made").read_text() == "c 3"
    assert (tmp_path / "two/c.stale-1/made").read_text() == "c 5"


def test_a_stage_is_not_taken_from_beside_another_making_of_its_input(tmp_path):
    made: list[str] = []
    for name in ("one", "two"):
        run_stages(_stages(made)[: 3 if name == "one" else 1], tmp_path / name, str)
    record = read_json(tmp_path / "two/a/stage.json")
    assert record["making"] != read_json(tmp_path / "one/a/stage.json")["making"]
    assert share_stages(_stages(made), tmp_path / "two", [tmp_path / "one"], str) == []


def test_mean_and_interval():
    assert mean_interval([0.5]) == (0.5, None)
    mean, half = mean_interval([1.0, 2.0, 3.0])
    assert (mean, half) == (2.0, pytest.approx(4.303 / math.sqrt(3)))
    _, half = mean_interval([0.0, 1.0] * 20)  # 39 degrees of freedom: t = 2.0227
    assert half == pytest.approx(2.0227 * np.std([0, 1] * 20, ddof=1) / math.sqrt(40), rel=1e-2)


def test_agreement_is_over_pairs():
    one = np.zeros((2, 4), np.uint8)
    other = one.copy()
    other[0] = 1
    assert agreement([one, one]) == 1
    assert agreement([one, other]) == 0.5
    assert agreement([one, one, other]) == pytest.approx(2 / 3)
    assert agreement([one]) is None
    assert agreement([one, one[:1]]) is None


def test_settings_that_differ():
    found = differences(
        {
            "a": {"name": "a", "seeds": {"method": "cam", "flip": True}, "irn": {"radius": 4}},
            "b": {"name": "b", "seeds": {"method": "recam", "flip": True}},
        }
    )
    assert found == {"seeds.method": {"a": '"cam"', "b": '"recam"'}}
