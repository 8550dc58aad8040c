"""Sets of shards give what the set gives that they were packed from, whoever reads them; damaged ones are refused."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import signal
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwright.data import open_dataset, shard_list
from maskwright.data.augment import Augment
from maskwright.data.check import check, examine
from maskwright.data.content import content_hash, facts
from maskwright.data.loading import TrainingSet, make_loader
from maskwright.data.shards.files import Parts
from maskwright.data.shards.index import write_shard_index
from maskwright.data.shards.pack import Packing
from maskwright.data.shards.tally import tally
from maskwright.data.shards.tars import header, key_of, name_of, write_tar
from maskwright.errors import DataError
from maskwright.settings import AugmentSettings, DataSettings

NAMES = ("a", "b.c", "deep/d%2E", "deep/ä", "deep/er/" + "long" * 40, "z.mask")


def turned(image: Image.Image, side: int) -> bytes:
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = side
    image.save(stream, "JPEG", exif=exif, quality=95)
    return stream.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Photographs of all kinds, masks of which some are as stored and some as displayed, tags for all but one."""
    root, noise = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        for kind in ("images", "masks"):
            (root / kind / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = Image.fromarray(noise.integers(0, 256, (40, 56, 3), dtype=np.uint8))
        mask = noise.integers(0, 3, (40, 56)).astype(np.uint8)
        if number == 1:  # displayed upright; its mask is of the pixels as stored
            (root / "images" / f"{name}.jpg").write_bytes(turned(pixels, 6))
        elif number == 2:
            grey = noise.integers(0, 65536, (40, 56)).astype(np.uint16)
            Image.fromarray(grey).save(root / "images" / f"{name}.PNG")
        elif number == 3:
            pixels.save(root / "images" / f"{name}.tif")
        else:
            pixels.save(root / "images" / f"{name}.png")
        if number != 4:
            Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    (root / "classes.txt").write_text("background\ncat\ndog\n")
    rows = [f"{name},{'cat' if number % 2 else 'cat;dog'}" for number, name in enumerate(NAMES[:-1])]
    (root / "tags.csv").write_text("image,tags\n" + "\n".join(rows) + "\n")
    (root / "train.txt").write_text("\n".join(NAMES[:4]) + "\n")
    (root / "val.txt").write_text("\n".join(NAMES[4:]) + "\n")
    return root


def pack(root: Path | str, out: Path | str, size: int = 3, splits=("train", "val"), **settings) -> Packing:
    packing = Packing(DataSettings(root=str(root), **settings), splits, str(out), size)
    for _ in packing.shards():
        pass
    packing.finish()
    return packing


@pytest.fixture(scope="module")
def shards(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "shards"
    pack(folder, out, tags="tags.csv", masks="masks")
    return out


def copied(shards: Path, to: Path) -> Path:
    return Path(shutil.copytree(shards, to / "copy"))


def same(found, expected) -> None:
    """Whether two examples are equal, bit for bit."""
    assert found.name == expected.name
    assert found.tags == expected.tags
    for kind in ("image", "mask", "saliency"):
        mine, theirs = getattr(found, kind), getattr(expected, kind)
        assert (mine is None) == (theirs is None)
        assert mine is None or (mine.dtype == theirs.dtype and np.array_equal(mine, theirs))


@pytest.mark.parametrize("name", [*NAMES, "100%", "%25", "a%2Eb.c", ".hidden", "dir.d/x", "%2E%"])
def test_keys_turn_back_into_names(name):
    key = key_of(name)
    assert name_of(key) == name
    assert "." not in key.rpartition("/")[2]
    assert key.rpartition("/")[0] == name.rpartition("/")[0]


def test_a_tar_depends_on_its_members_alone_and_says_where_they_are(tmp_path):
    members = [(f"{name}.bin", bytes([number]) * (500 * number)) for number, name in enumerate(NAMES)]
    stream = io.BytesIO()
    places = write_tar(stream, iter(members))
    assert write_tar(tmp_path / "a.tar", members) == places
    assert (tmp_path / "a.tar").read_bytes() == stream.getvalue()
    for (_, content), (offset, length) in zip(members, places, strict=True):
        assert stream.getvalue()[offset : offset + length] == content
    with tarfile.open(tmp_path / "a.tar") as read:
        assert [(info.name, read.extractfile(info).read()) for info in read] == members
        assert {(info.mtime, info.uid, info.uname, info.mode) for info in read} == {(0, 0, "", 0o644)}


def test_a_tar_that_fails_half_way_is_not_there(tmp_path):
    def members():
        yield "a.bin", b"a"
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_tar(tmp_path / "a.tar", members())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("split", ["train", "val", "all"])
def test_examples_are_those_of_the_folder(folder, shards, split):
    packed = open_dataset(DataSettings(root=str(shards)), split)
    plain = open_dataset(DataSettings(root=str(folder), tags="tags.csv", masks="masks"), split)
    order = [list(packed.names).index(name) for name in plain.names]
    assert sorted(order) == list(range(len(packed)))
    assert packed.labels == plain.labels
    for index, place in enumerate(order):
        same(packed[place], plain[index])
        same(packed.get(place, with_mask=False), plain.get(index, with_mask=False))
        assert packed.size(place) == plain.size(index)
        assert packed.has_mask(place) == plain.has_mask(index)
        assert packed.tags(place) == plain.tags(index)


def test_it_is_a_data_set_like_any_other(shards, contract):
    contract(open_dataset(DataSettings(root=str(shards)), "train"))


def test_image_files_are_packed_as_they_are(folder, shards):
    packed = open_dataset(DataSettings(root=str(shards)), "train")
    assert packed.member("image", packed.names.index("b.c")) == (folder / "images" / "b.c.jpg").read_bytes()
    assert packed.member("mask", packed.names.index("a")) == (folder / "masks" / "a.png").read_bytes()


def test_names_are_a_sequence(shards):
    names = open_dataset(DataSettings(root=str(shards)), "all").names
    listed = list(names)
    assert [names[index] for index in range(len(names))] == listed
    assert names[-1] == listed[-1]
    assert names[1:4] == listed[1:4]
    assert [names.index(name) for name in listed] == list(range(len(names)))
    assert "a" in names
    assert "nobody" not in names
    with pytest.raises(ValueError, match="nobody"):
        names.index("nobody")
    with pytest.raises(IndexError):
        names[len(names)]


def test_names_of_two_sets_are_compared(folder, tmp_path):
    pack(folder, tmp_path / "out", 2, splits=("all", "val"), tags="tags.csv", masks="masks")
    whole, part = (open_dataset(DataSettings(root=str(tmp_path / "out")), split).names for split in ("all", "val"))
    assert whole.shared(part) == part.shared(whole) == sorted(part)
    assert part.repeated() == []
    said = [finding for finding in check(DataSettings(root=str(tmp_path / "out"), train="all", val="val"))]
    assert "2 images in both all and val" in [finding.what for finding in said]
    (tmp_path / "out" / "index.json").write_text(
        (tmp_path / "out" / "index.json").read_text().replace('"all": {', '"whole": {').replace('"all"', '"whole"')
    )
    with pytest.raises(DataError, match="2 images are in more than one split"):
        open_dataset(DataSettings(root=str(tmp_path / "out")), "all")


def test_sums_over_indices_are_those_over_examples(shards):
    dataset = open_dataset(DataSettings(root=str(shards)), "all")
    found = tally(dataset)
    expected = np.zeros((2, 2), np.int64)
    for index in range(len(dataset)):
        vector = dataset.labels.tag_vector(dataset.tags(index) or ()).astype(np.int64)
        expected += np.outer(vector, vector)
    assert np.array_equal(found.together, expected)
    assert (found.tagged, found.untagged.first, found.untagged.count) == (5, ["z.mask"], 1)
    assert (found.unmasked.first, found.unmasked.count) == ([NAMES[4]], 1)
    assert len(found.unlabelled) == 0


def test_a_quick_look_says_what_the_whole_check_says(folder, shards):
    """Of few images all are looked at in the time there is; then nothing but the words on duplicates may differ."""
    whole, quick = (examine(DataSettings(root=str(shards)), seconds=seconds)[0] for seconds in (None, 60.0))
    assert [(finding.level, finding.what, finding.count) for finding in quick] == [
        (finding.level, finding.what, finding.count) for finding in whole
    ]
    nothing, (train, _) = examine(DataSettings(root=str(shards)), seconds=0.0)
    assert (train.images, train.tagged, len(train.unmasked), train.read) == (4, 4, 0, 1)
    assert not [finding for finding in nothing if finding.level == "error"]


def test_one_shard_is_opened_without_the_others(shards, tmp_path):
    settings = DataSettings(root=str(copied(shards, tmp_path)))
    assert shard_list(settings, "train") == [("train-000000", 3), ("train-000001", 1)]
    whole = open_dataset(settings, "train")
    assert [tuple(shard) for shard in whole.shards] == [("train-000000", 0, 3), ("train-000001", 3, 4)]
    for file in Path(settings.root).glob("train-000000.*"):
        file.unlink()
    part = open_dataset(settings, "train", shard="train-000001")
    assert list(part.names) == list(whole.names)[3:]
    same(part[0], whole[3])
    with pytest.raises(DataError, match="has no shard 'train-000007'"):
        open_dataset(settings, "train", shard="train-000007")


def test_what_it_holds_is_known_without_reading_it(folder, shards, tmp_path):
    """Another mask is another content, for the record of a run as for folders."""
    before = open_dataset(DataSettings(root=str(shards)), "train")
    changed = Path(shutil.copytree(folder, tmp_path / "photos"))
    Image.fromarray(np.ones((40, 56), np.uint8)).save(changed / "masks" / "a.png")
    pack(changed, tmp_path / "shards", tags="tags.csv", masks="masks")
    after = open_dataset(DataSettings(root=str(tmp_path / "shards")), "train")
    moved = open_dataset(DataSettings(root=str(copied(shards, tmp_path))), "train")
    touched = Path(shutil.copytree(folder, tmp_path / "touched", copy_function=shutil.copyfile))
    pack(touched, tmp_path / "elsewhere", tags="tags.csv", masks="masks")
    elsewhere = open_dataset(DataSettings(root=str(tmp_path / "elsewhere")), "train")
    assert facts(before) != facts(after)
    assert facts(before) == facts(elsewhere)
    assert (facts(before), content_hash(before)) == (facts(moved), content_hash(moved))


def test_nothing_of_this_machine_is_written(folder, shards):
    for file in shards.glob("*.json"):
        assert str(folder.parent) not in file.read_text()


def test_the_set_is_the_same_bytes_again(folder, shards, tmp_path):
    pack(folder, tmp_path / "again", tags="tags.csv", masks="masks")
    for file in sorted(shards.iterdir()):
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def loaded(dataset, workers: int, position=(0, 0)) -> list[np.ndarray]:
    augment = Augment(AugmentSettings(crop=(24, 24), scale=(0.5, 2.0), color_jitter=0.3), dataset.labels)
    loader = make_loader(TrainingSet(dataset, augment, seed=3), 1, workers=workers, position=position)
    return [np.concatenate([batch["image"].ravel(), batch["mask"].ravel()]) for batch in loader]


@pytest.mark.bit_equal
def test_batches_are_those_of_the_folder_with_any_workers_and_after_any_stop(folder, shards):
    plain = loaded(open_dataset(DataSettings(root=str(folder), tags="tags.csv", masks="masks"), "train"), 0)
    packed = open_dataset(DataSettings(root=str(shards)), "train")
    packed[0]  # a file is open in this process before others begin
    for workers in (0, 1, 4):
        for found, expected in zip(loaded(packed, workers), plain, strict=True):
            assert np.array_equal(found, expected)
    for found, expected in zip(loaded(packed, 1, (0, 2)), plain[2:], strict=True):
        assert np.array_equal(found, expected)


def test_threads_and_copies_read_the_same(shards):
    dataset = open_dataset(DataSettings(root=str(shards)), "all")
    dataset._parts.most = 1  # every other read opens a file anew
    expected = [dataset[index].image for index in range(len(dataset))]
    order = np.random.default_rng(0).integers(0, len(dataset), 200).tolist()
    copy = pickle.loads(pickle.dumps(dataset))
    with ThreadPoolExecutor(8) as pool:
        for one in (dataset, copy):
            for index, sample in zip(order, pool.map(one.__getitem__, order), strict=True):
                assert np.array_equal(sample.image, expected[index])


def test_few_files_are_open(tmp_path):
    parts = Parts(most=3)
    for number in range(20):
        (tmp_path / f"{number}").write_bytes(b"%d" % number * 4)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(20):
        assert parts.read(str(tmp_path / f"{number}"), 0, 2) == (b"%d" % number * 4)[:2]
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_process_does_not_wait_for_a_lock_that_nobody_lets_go(tmp_path):
    parts = Parts()
    (tmp_path / "a").write_bytes(b"abc")
    with parts._lock:  # as a thread that reads has it, which the forked process is without
        child = os.fork()
        if not child:
            signal.alarm(20)
            os._exit(0 if parts.read(str(tmp_path / "a"), 1, 1) == b"b" else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_what_is_there_is_kept_and_what_changed_is_written_anew(folder, tmp_path):
    root = Path(shutil.copytree(folder, tmp_path / "photos"))
    settings = {"tags": "tags.csv", "masks": "masks"}
    first = Packing(DataSettings(root=str(root), **settings), ("train", "val"), str(tmp_path / "out"), 2)
    next(first.shards())  # killed after one shard
    with pytest.raises(DataError, match=r"index.json does not exist"):
        open_dataset(DataSettings(root=str(tmp_path / "out"), layout="shards"), "train")
    again = Packing(DataSettings(root=str(root), **settings), ("train", "val"), str(tmp_path / "out"), 2)
    assert [done.kept for done in again.shards()] == [True, False, False]
    again.finish()
    Image.fromarray(np.ones((40, 56), np.uint8)).save(root / "masks" / "z.mask.png")
    (tmp_path / "out" / "train-000000.tar").write_bytes(b"torn")
    third = Packing(DataSettings(root=str(root), **settings), ("train", "val"), str(tmp_path / "out"), 2)
    assert [done.kept for done in third.shards()] == [False, True, False]
    third.finish()
    fresh = pack(root, tmp_path / "fresh", 2, **settings)
    for file in sorted((tmp_path / "fresh").iterdir()):
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()
    assert len(fresh) == 3


def test_splits_may_be_written_one_by_one(folder, tmp_path):
    settings = {"tags": "tags.csv", "masks": "masks"}
    pack(folder, tmp_path / "out", splits=("val",), **settings)
    pack(folder, tmp_path / "out", splits=("train",), **settings)
    for split in ("train", "val"):
        packed = open_dataset(DataSettings(root=str(tmp_path / "out")), split)
        assert list(packed.names) == list(open_dataset(DataSettings(root=str(folder), **settings), split).names)
    with pytest.raises(DataError, match="packed with the settings"):
        pack(folder, tmp_path / "out", splits=("train",), background="background", **settings)


def test_broken_examples_are_named_and_left_out(folder, tmp_path):
    root = Path(shutil.copytree(folder, tmp_path / "photos"))
    (root / "images" / "a.png").write_bytes((root / "images" / "a.png").read_bytes()[:900])
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(root / "masks" / "deep" / "ä.png")
    packing = Packing(
        DataSettings(root=str(root), tags="tags.csv", masks="masks"), ("train",), str(tmp_path / "out"), 9
    )
    (done,) = packing.shards()
    packing.finish()
    assert [name for name, _ in done.left_out] == ["a", "deep/ä"]
    assert "truncated" in done.left_out[0][1]
    assert "mask is 9x9 pixels" in done.left_out[1][1]
    assert list(open_dataset(DataSettings(root=str(tmp_path / "out")), "train").names) == ["b.c", "deep/d%2E"]
    assert all(str(root.parent) not in file.read_text() for file in (tmp_path / "out").glob("*.json"))


def test_what_is_wrong_with_the_settings_is_refused(folder, tmp_path):
    root = Path(shutil.copytree(folder, tmp_path / "photos"))
    (root / "classes.txt").write_text("background\ncat\n")
    (root / "tags.csv").unlink()
    with pytest.raises(DataError, match="mask values outside the classes: 2"):
        pack(root, tmp_path / "out", masks="masks")
    assert not (tmp_path / "out" / "index.json").exists()


def test_colours_are_packed_as_label_values(files, tmp_path):
    colours = {0x000000: 0, 0x0000FF: 1}
    for name in ("a", "b"):
        files.image(f"images/{name}.png")
        files.mask(f"masks/{name}.png", [(0, 0, 0), (0, 0, 255)])
    settings = DataSettings(root=str(files.root), label_map=colours, classes=["no", "yes"])
    pack(files.root, tmp_path / "out", splits=("all",), label_map=colours, classes=["no", "yes"])
    packed, plain = open_dataset(DataSettings(root=str(tmp_path / "out")), "all"), open_dataset(settings, "all")
    for index in range(2):
        same(packed[index], plain[index])
    assert Image.open(io.BytesIO(packed.member("mask", 0))).mode == "P"
    same(open_dataset(settings.model_copy(update={"root": str(tmp_path / "out")}), "all")[0], plain[0])


def test_drawn_sets_are_packed_too(tmp_path):
    settings = {"layout": "scenes", "options": {"count": 3, "size": [48, 48]}}
    pack("scenes", tmp_path / "out", 2, **settings)
    packed = open_dataset(DataSettings(root=str(tmp_path / "out")), "val")
    plain = open_dataset(DataSettings(root="scenes", **settings), "val")
    for index in range(3):
        same(packed[index], plain[index])


@pytest.mark.parametrize("maps", ["barrier", "maps"])
def test_saliency_maps_are_packed(folder, tmp_path, maps):
    root = Path(shutil.copytree(folder, tmp_path / "photos"))
    for name in NAMES:
        size = Image.open(next((root / "images").rglob(f"{name.rpartition('/')[2]}.[jJpPtT]*"))).size[::-1]
        (root / "maps" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full(size, 7, np.uint8)).save(root / "maps" / f"{name}.png")
    settings = {"tags": "tags.csv", "masks": "masks"}
    pack(root, tmp_path / "out", saliency=maps, **settings)
    plain = open_dataset(DataSettings(root=str(root), saliency=maps, **settings), "train")
    for given in ({}, {"saliency": maps}):
        packed = open_dataset(DataSettings(root=str(tmp_path / "out"), **given), "train")
        for index in range(4):
            assert plain[index].saliency is not None
            same(packed[index], plain[index])
    with pytest.raises(DataError, match="nowhere is not a folder"):
        open_dataset(DataSettings(root=str(tmp_path / "out"), saliency="nowhere"), "train")


def test_options_that_images_are_read_with_go_with_the_set(files, tmp_path):
    grey = np.random.default_rng(0).integers(0, 4096, (40, 40)).astype(np.uint16)
    (files.root / "images").mkdir()
    for name in ("a", "b"):
        Image.fromarray(grey).save(files.root / "images" / f"{name}.png")
        files.mask(f"masks/{name}.png", [0, 1], (40, 40))
    options = {"range": [0, 4095]}
    pack(files.root, tmp_path / "out", splits=("all",), options=options)
    plain = open_dataset(DataSettings(root=str(files.root), options=options), "all")
    packed = open_dataset(DataSettings(root=str(tmp_path / "out")), "all")
    same(packed[0], plain[0])
    assert packed.source["range"] == plain.source["range"]
    other = open_dataset(DataSettings(root=str(tmp_path / "out"), options={"range": [0, 65535]}), "all")
    assert other[0].image.max() < packed[0].image.max()


def damage_format(root: Path) -> None:
    (root / "index.json").write_text(json.dumps({"format": "maskwright shards 9"}))


def damage_json(root: Path) -> None:
    content = (root / "index.json").read_bytes()
    (root / "index.json").write_bytes(content[: len(content) // 2])


def damage_shard_json(root: Path) -> None:
    path = root / "train-000000.json"
    path.write_text(path.read_text().replace('"tags":[[1,2]', '"tags":[[1]'))


def damage_tar_length(root: Path) -> None:
    content = (root / "train-000000.tar").read_bytes()
    (root / "train-000000.tar").write_bytes(content[:-600])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_format, "index.json has the format 'maskwright shards 9', expected 'maskwright shards 1'"),
        (damage_json, "index.json is damaged"),
        (damage_shard_json, r"train-000000.json is not as index.json says"),
        (damage_tar_length, r"train-000000.tar: tar file has \d+ bytes. Expected \d+ bytes"),
        (lambda root: (root / "train-000000.tar").unlink(), r"train-000000.tar: tar file does not exist"),
        (lambda root: (root / "train-000000.json").unlink(), r"train-000000.json does not exist"),
        (lambda root: (root / "index.json").unlink(), r"index.json does not exist"),
    ],
)
def test_damaged_files_are_refused_in_words(shards, tmp_path, damage, words):
    root = copied(shards, tmp_path)
    damage(root)
    with pytest.raises(DataError, match=words) as error:
        open_dataset(DataSettings(root=str(root), layout="shards"), "train")
    assert "Fix: " in str(error.value)


def rewritten(root: Path, change) -> None:
    """The index of a shard as somebody else would write it, with the SHA-256 that belongs to it."""
    record = json.loads((root / "train-000000.json").read_text())
    change(record)
    index = json.loads((root / "index.json").read_text())
    for number, shard in enumerate(index["shards"]):
        if shard["name"] == "train-000000":
            index["shards"][number] = vars(write_shard_index(str(root), "train-000000", record))
    (root / "index.json").write_text(json.dumps(index, indent=1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record["names"].__setitem__(0, "../a"), "image name '../a' leads out of its folder"),
        (lambda record: record["names"].pop(), "columns of 2, 3 rows, where 3 are expected"),
        (
            lambda record: record["members"]["image"]["offset"].__setitem__(0, 513),
            "begins where no file of a tar begins",
        ),
        (lambda record: record["members"]["image"]["offset"].__setitem__(0, -512), "is not within the tar file"),
        (lambda record: record["members"]["mask"]["length"].__setitem__(0, 2**31), "is not within the tar file"),
        (lambda record: record.pop("tags"), "'tags' is missing"),
        (lambda record: record["members"]["image"]["suffix"].pop(), "columns of 2, 3 rows"),
    ],
)
def test_an_index_that_cannot_be_is_refused(shards, tmp_path, change, words):
    root = copied(shards, tmp_path)
    rewritten(root, lambda record: None)
    open_dataset(DataSettings(root=str(root)), "train")
    rewritten(root, change)
    with pytest.raises(DataError, match=words):
        open_dataset(DataSettings(root=str(root)), "train")


def test_shards_lie_in_the_folder_of_the_set(shards, tmp_path):
    root = copied(shards, tmp_path)
    (root / "index.json").write_text((root / "index.json").read_text().replace("train-000000", "../train-000000"))
    with pytest.raises(DataError, match=r"'../train-000000' is no name of a shard"):
        open_dataset(DataSettings(root=str(root)), "train")


def test_another_tar_of_the_same_length_is_noticed(shards, tmp_path):
    root = copied(shards, tmp_path)
    dataset = open_dataset(DataSettings(root=str(root)), "train")
    assert dataset[0].name == "a"
    place = root / "train-000000.tar"
    content = place.read_bytes()
    with tarfile.open(place) as read:
        members = [(info.name.replace("a.", "x."), read.extractfile(info).read()) for info in read]
    place.unlink()
    write_tar(place, members)
    assert place.stat().st_size == len(content)
    again = open_dataset(DataSettings(root=str(root)), "train")
    with pytest.raises(DataError, match=r"expected a.png at byte 512, found that x.png of \d+ bytes begins there"):
        again[0]
    place.write_bytes(b"\1" * len(content))
    with pytest.raises(DataError, match="no file begins there"):
        open_dataset(DataSettings(root=str(root)), "train")[0]


def test_settings_that_the_set_does_not_have_are_refused(shards):
    with pytest.raises(DataError, match=r"tags=other.csv: .* packed with tags=tags.csv"):
        open_dataset(DataSettings(root=str(shards), tags="other.csv"), "train")
    with pytest.raises(DataError, match=r"ignore_index=254: .* packed with no ignore_index="):
        open_dataset(DataSettings(root=str(shards), ignore_index=254), "train")
    with pytest.raises(DataError, match="unknown split 'test'"):
        open_dataset(DataSettings(root=str(shards)), "test")
    with pytest.raises(DataError, match="unknown option of shards 'mask_suffix'"):
        open_dataset(DataSettings(root=str(shards), options={"mask_suffix": "_m"}), "train")


def test_a_folder_with_the_index_of_something_else_is_a_folder(folder, tmp_path):
    root = Path(shutil.copytree(folder, tmp_path / "photos"))
    (root / "index.json").write_text('{"format": "of a web page"}')
    assert len(open_dataset(DataSettings(root=str(root)), "train")) == 4


def test_nothing_is_written_beside_other_files(folder, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds notes.txt. Expected a folder that is new"):
        pack(folder, tmp_path, tags="tags.csv", masks="masks")


def test_webdataset_reads_the_tars(shards):
    webdataset = pytest.importorskip("webdataset")
    found = {}
    for file in sorted(shards.glob("train-*.tar")):
        for sample in webdataset.WebDataset(str(file), shardshuffle=False, empty_check=False):
            found[name_of(sample["__key__"])] = sample
    packed = open_dataset(DataSettings(root=str(shards)), "train")
    assert list(found) == list(packed.names)
    for index, name in enumerate(packed.names):
        (image,) = (found[name][kind] for kind in ("jpg", "png", "tif") if kind in found[name])
        assert image == packed.member("image", index)
        assert found[name].get("mask.png") == packed.member("mask", index)


def test_headers_hold_names_of_any_length():
    assert len(header("a" * 100, 5)) == 512
    assert len(header("a" * 101, 5)) == 1536
