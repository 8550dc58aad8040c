"""Shards from the command line: written, checked, trained on, labelled and scored as the folder they came from."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from maskwright.cli import app
from maskwright.data import open_dataset
from maskwright.data.check import check
from maskwright.data.shards import files, stores
from maskwright.errors import DataError, MaskwrightError
from maskwright.files import read_json
from maskwright.pipeline.shard import shard
from maskwright.pipeline.stages import recipe_stages
from maskwright.recipe.load import load_recipe
from maskwright.runs.context import RunContext
from maskwright.runs.stages import states
from maskwright.settings import DataSettings

TINY = (
    *("classifier.backbone=resnet10t", "classifier.train.epochs=1", "classifier.train.batch_size=4"),
    *("classifier.train.augment.crop=[64, 64]", "seeds.scales=[1.0]", "pseudo_masks.threshold=0.05"),
    *("backbone=resnet10t", "train.epochs=1", "train.batch_size=4", "train.augment.crop=[64, 64]"),
    *("classifier.train.workers=1", "train.workers=1"),
)


def call(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, done.output + repr(done.exception)
    return done.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twelve images of two colours, told apart by tags and masks; the last four are for validation."""
    root, noise = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    (root / "images").mkdir()
    (root / "masks").mkdir()
    rows = ["image,tags"]
    for number in range(12):
        image, mask = noise.integers(0, 60, (64, 64, 3), dtype=np.uint8), np.zeros((64, 64), np.uint8)
        image[16:48, 8:40, number % 2] += 180
        mask[16:48, 8:40] = 1 + number % 2
        Image.fromarray(image).save(root / "images" / f"{number:02d}.jpg", quality=95)
        Image.fromarray(mask).save(root / "masks" / f"{number:02d}.png")
        rows.append(f"{number:02d},{('red', 'green')[number % 2]}")
    (root / "tags.csv").write_text("\n".join(rows))
    (root / "classes.txt").write_text("background\nred\ngreen\n")
    (root / "train.txt").write_text("\n".join(f"{number:02d}" for number in range(8)))
    (root / "val.txt").write_text("\n".join(f"{number:02d}" for number in range(8, 12)))
    return root


@pytest.fixture(scope="module")
def shards(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "shards"
    printed = call("shard", folder, "tags.csv", "masks=masks", f"out={out}", "size=3")
    assert "train: 8 images in 3 shards" in printed
    assert "val: 4 images in 2 shards" in printed
    return out


@pytest.fixture(scope="module")
def runs(folder, shards, tmp_path_factory) -> tuple[Path, Path]:
    """The whole path on the folder and on its shards."""
    out = tmp_path_factory.mktemp("runs")
    for name, words in (("plain", [f"data={folder}", "tags=tags.csv", "masks=masks"]), ("packed", [f"data={shards}"])):
        call("run", "cam-scratch", *words, f"out={out / name}", *TINY)
    return out / "plain", out / "packed"


def test_a_run_on_shards_is_the_run_on_the_folder_bit_for_bit(runs):
    plain, packed = runs
    for kind, count in (("pseudo_masks/SegmentationClass", 8), ("evaluation/predictions", 4)):
        files = sorted((plain / kind).glob("*.png"))
        assert len(files) == count
        for file in files:
            assert (packed / kind / file.name).read_bytes() == file.read_bytes()
    for stage in ("classifier", "segmenter"):
        model = f"{stage}/model.safetensors"
        assert read_json(packed / stage / "stage.json")["finished"]
        assert weights(packed / model) == weights(plain / model)
    assert (
        read_json(packed / "metrics.json")["segmenter"]["miou"]
        == read_json(plain / "metrics.json")["segmenter"]["miou"]
    )
    assert (packed / "report.html").is_file()


def weights(path: Path) -> dict[str, bytes]:
    from safetensors.numpy import load_file

    return {name: array.tobytes() for name, array in load_file(path).items()}


def test_the_same_command_again_does_nothing(runs, shards):
    printed = call("run", "cam-scratch", f"data={shards}", f"out={runs[1]}", *TINY)
    assert printed.count("done already") >= 4


def test_other_shards_make_stages_anew(runs, folder, shards, tmp_path):
    root = Path(shutil.copytree(folder, tmp_path / "photos"))
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(root / "masks" / "00.png")
    call("shard", root, "tags.csv", "masks=masks", f"out={tmp_path / 'shards'}", "size=3")
    for place, word in ((shards, "finished"), (tmp_path / "shards", "stale")):
        context = RunContext(load_recipe("cam-scratch", [f"data={place}", *TINY]), runs[1], print)
        assert {state.word for state in states(recipe_stages(context), context.out).values()} == {word}


def test_scores_and_the_report_read_shards(runs, shards, tmp_path):
    printed = call("evaluate", runs[1], f"data={shards}", "split=train", f"out={tmp_path / 'scores'}")
    assert "mIoU" in printed
    call("report", runs[1])
    assert re.search(
        r"pseudo_masks +finished", call("label", shards, "recipe=cam-scratch", f"out={runs[1]}", *TINY, "plan=true")
    )


def test_the_check_reads_every_byte(shards, tmp_path):
    assert "fit to train on" in call("data", "check", shards)
    copy = Path(shutil.copytree(shards, tmp_path / "copy"))
    tar = copy / "val-000000.tar"
    content = bytearray(tar.read_bytes())
    content[-1] ^= 1  # behind the last member, where no example is
    tar.write_bytes(content)
    printed = call("data", "check", copy, code=1)
    assert "val-000000.tar" in printed
    assert "SHA-256 differs" in printed


def test_the_check_names_broken_examples(shards, tmp_path):
    copy = Path(shutil.copytree(shards, tmp_path / "copy"))
    tar = copy / "train-000000.tar"
    content = bytearray(tar.read_bytes())
    content[512:700] = bytes(188)  # the beginning of the first image
    tar.write_bytes(content)
    said = [finding.text() for finding in check(DataSettings(root=str(copy)))]
    assert any("train-000000.tar:00.jpg: image cannot be read" in text for text in said)


def test_broken_images_are_left_out_with_exit_code_one(folder, tmp_path):
    root = Path(shutil.copytree(folder, tmp_path / "photos"))
    (root / "images" / "03.jpg").write_bytes(b"no image")
    printed = call("shard", root, "tags.csv", "masks=masks", f"out={tmp_path / 'out'}", code=1)
    assert "left out: train-000000: " in printed
    assert "03.jpg: image cannot be read" in printed
    assert "train: 7 images in 1 shard" in printed
    again = call("shard", root, "tags.csv", "masks=masks", f"out={tmp_path / 'out'}", code=1)
    assert "2 shards there already" in again
    assert "03.jpg" in again


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_shards_in_an_object_store(folder, shards, tmp_path, kind):
    pytest.importorskip("fsspec")
    place = f"memory://{tmp_path.name}/shards" if kind == "memory" else f"file://{tmp_path}/shards"
    settings = DataSettings(root=str(folder), tags="tags.csv", masks="masks")
    shard(settings, place, 3)
    for file in sorted(shards.iterdir()):
        assert stores.read(stores.join(place, file.name)) == file.read_bytes()
    for split in ("train", "val"):
        far, near = (open_dataset(DataSettings(root=str(root)), split) for root in (place, shards))
        assert list(far.names) == list(near.names)
        for index in range(len(near)):
            assert np.array_equal(far[index].image, near[index].image)
            assert np.array_equal(far[index].mask, near[index].mask)
    lines, _ = shard(settings, place, 3)
    assert "5 shards there already" in lines[-1]
    assert "fit to train on" in call("data", "check", place)


def test_one_shard_of_an_object_store_is_one_request(folder, monkeypatch):
    pytest.importorskip("fsspec")
    place, asked = "memory://whole/shards", []
    shard(DataSettings(root=str(folder), tags="tags.csv", masks="masks"), place, 4)
    read = stores.read
    monkeypatch.setattr(files, "read", lambda *given: asked.append(given) or read(*given))
    part, whole = (open_dataset(DataSettings(root=place), "train", shard=name) for name in ("train-000001", None))
    for index in range(4):
        sample = part[index]
        assert sample.name == whole.names[4 + index]
        assert np.array_equal(sample.image, open_dataset(DataSettings(root=place), "train")[4 + index].image)
        assert sample.mask is not None
    assert asked[0] == (f"{place}/train-000001.tar",)
    assert [given for given in asked if given[0].endswith("1.tar") and len(given) == 1] == asked[:1]


def test_torn_files_in_an_object_store_are_refused(folder):
    fsspec = pytest.importorskip("fsspec")
    shard(DataSettings(root=str(folder), tags="tags.csv", masks="masks"), "memory://torn/shards", 12)
    store = fsspec.filesystem("memory")
    store.pipe_file("/torn/shards/train-000000.tar", store.cat_file("/torn/shards/train-000000.tar")[:3000])
    dataset = open_dataset(DataSettings(root="memory://torn/shards"), "train")
    with pytest.raises(DataError, match=r"is not the file that its index is of: .* it ends after \d+ of \d+ bytes"):
        [dataset[index] for index in range(len(dataset))]
    store.rm_file("/torn/shards/train-000000.tar")
    with pytest.raises(DataError, match=r"train-000000.tar cannot be read"):
        dataset[0]
    with pytest.raises(DataError, match=r"memory://nowhere/index.json does not exist"):
        open_dataset(DataSettings(root="memory://nowhere"), "train")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(MaskwrightError, match=r"needs the package fsspec. Fix: pip install 'maskwright\[stores\]'"):
        stores.read("s3://bucket/photos/index.json")


def test_addresses_that_nothing_reads_are_named():
    pytest.importorskip("fsspec")
    with pytest.raises(DataError, match=r"nothing://bucket/index.json is no address that can be read"):
        stores.read("nothing://bucket/index.json")


def test_what_fails_half_way_is_not_in_the_store():
    fsspec = pytest.importorskip("fsspec")

    def write() -> None:
        with stores.written("memory://half/a.tar") as stream:
            stream.write(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write()
    assert not fsspec.filesystem("memory").exists("/half/a.tar")
