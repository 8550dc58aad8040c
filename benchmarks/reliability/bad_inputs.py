"""Files that are damaged, hostile or not what their name says, each beside sound ones: what is said of it, and whether
the sound ones are still used."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks.reliability.victims import CLASSES, photographs
from maskwright.data.check import check
from maskwright.data.sample import LabelSpace
from maskwright.engine.checkpoint import HEADER_KEY, describe, save_model
from maskwright.errors import MaskwrightError
from maskwright.inference.files import predict_files
from maskwright.inference.load import load
from maskwright.models import create_backbone, create_model
from maskwright.recipe.load import load_recipe
from maskwright.settings import DataSettings, Recipe

LABELS = LabelSpace(CLASSES)
BUILT = {"name": "fcn", "backbone": "test_resnet", "output_stride": None, "options": {}, "num_classes": len(CLASSES)}
SIDE = 48


@dataclass(frozen=True)
class Bad:
    """One file that cannot be used.

    Args:
        kind: what it pretends to be, a key of `USES`.
        name: what is wrong with it.
        file: its name.
        content: its bytes, or a function that makes it at a path.
    """

    kind: str
    name: str
    file: str
    content: bytes | Callable[[Path], object]

    def write(self, folder: Path) -> Path:
        path = folder / self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(self.content):
            self.content(path)
        else:
            path.write_bytes(self.content)
        return path


class Payload:
    """What would make a folder where a file is unpickled."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.target,)


RAN = "code-ran"  # the folder that hostile files would make, in the working folder


def picture(form: str, mode: str = "RGB", **options: Any) -> bytes:
    """A sound image of noise."""
    shape = (SIDE, SIDE, 3) if mode == "RGB" else (SIDE, SIDE)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form, **options)
    return stream.getvalue()


def png(width: int, height: int, data: bytes | None = None, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG by its parts, whatever its header says."""

    def part(kind: bytes, held: bytes) -> bytes:
        return struct.pack(">I", len(held)) + kind + held + struct.pack(">I", zlib.crc32(kind + held))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    held = zlib.compress(bytes(SIDE * (1 + 3 * SIDE))) if data is None else data
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", held) + part(b"IEND", b"")


def flipped(data: bytes, place: float, length: int = 8) -> bytes:
    """Bytes with some of them inverted."""
    start = int(place * (len(data) - length))
    return data[:start] + bytes(255 - value for value in data[start : start + length]) + data[start + length :]


def link(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def images() -> list[tuple[str, str, bytes | Callable[[Path], object]]]:
    """What is wrong, the suffix, and the content."""
    found: list[tuple[str, str, bytes | Callable[[Path], object]]] = []
    for form, suffix in (("PNG", "png"), ("JPEG", "jpg"), ("TIFF", "tif"), ("WEBP", "webp"), ("BMP", "bmp")):
        sound = picture(form)
        found += [
            (f"empty {form}", suffix, b""),
            (f"{form} of 10 bytes", suffix, sound[:10]),
            (f"half of a {form}", suffix, sound[: len(sound) // 2]),
            (f"{form} without its signature", suffix, flipped(sound, 0.0)),
        ]
    sound = picture("PNG")
    found += [
        ("text", "png", b"this is no image"),
        ("a page of an error 404", "jpg", b"<!DOCTYPE html><html><title>404 Not Found</title></html>"),
        ("a pointer of Git LFS", "png", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"),
        ("zeros", "png", bytes(5000)),
        ("noise", "jpg", np.random.default_rng(1).bytes(5000)),
        ("flipped bytes in the data", "png", flipped(sound, 0.5)),
        ("0 x 0 pixels", "png", png(0, 0)),
        ("10^10 pixels in the header", "png", png(100_000, 100_000)),
        ("2^31 wide", "png", png(2**31 - 1, 1)),
        ("data that is no zlib", "png", png(SIDE, SIDE, b"not compressed")),
        ("a kind of colour that there is not", "png", png(SIDE, SIDE, colour=5)),
        ("a gif cut off", "gif", picture("GIF", "L")[:40]),
        ("an archive", "png", b"PK\x03\x04" + bytes(200)),
        ("a pickle", "png", b"\x80\x04\x95" + bytes(50)),
        ("a link to nowhere", "png", link("nowhere.png")),
        ("a link to itself", "png", link("bad.png")),
        ("a link to a device", "png", link("/dev/zero")),
        ("a pipe", "png", os.mkfifo),
    ]
    return found


def masks() -> list[tuple[str, bytes | Callable[[Path], object]]]:
    sound = picture("PNG", "L")

    def values(value: int, dtype: Any = np.uint8) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(np.full((SIDE, SIDE), value, dtype)).save(stream, "PNG")
        return stream.getvalue()

    def sized(height: int, width: int) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(np.zeros((height, width), np.uint8)).save(stream, "PNG")
        return stream.getvalue()

    return [
        ("empty", b""),
        ("cut off", sound[: len(sound) // 2]),
        ("10 bytes", sound[:10]),
        ("text", b"no mask"),
        ("zeros", bytes(3000)),
        ("flipped bytes", flipped(sound, 0.5)),
        ("a photograph", picture("PNG")),
        ("a JPEG", picture("JPEG")),
        ("a class that there is not", values(9)),
        ("16 bit values above 255", values(3000, np.uint16)),
        ("another size", sized(SIDE // 2, SIDE)),
        ("one pixel", sized(1, 1)),
        ("turned", sized(SIDE, SIDE // 2)),
        ("10^10 pixels in the header", png(100_000, 100_000, colour=0)),
        ("0 x 0 pixels", png(0, 0, colour=0)),
        ("a link to nowhere", link("nowhere.png")),
        ("a link to itself", link("05.png")),
    ]


def tables() -> list[tuple[str, str, bytes]]:
    return [
        ("empty", "tags.csv", b""),
        ("headings alone", "tags.csv", b"image,tags\n"),
        ("no headings that are known", "tags.csv", b"a,b\nx,y\n"),
        ("images that do not exist", "tags.csv", b"image,tags\nnone.png,red\n"),
        ("an unknown class", "tags.csv", b"image,tags\n00.png,purple\n"),
        ("an image", "tags.csv", picture("PNG")),
        ("zeros", "tags.csv", bytes(500)),
        ("UTF-16 cut off in a letter", "tags.csv", "image,tags\n00.png,red\n".encode("utf-16")[:-1]),
        ("an open quote", "tags.csv", b'image,tags\n"00.png,red\n01.png,red\n'),
        ("a cell of 200 kB", "tags.csv", b"image,tags\n00.png," + b"x" * 200_000 + b"\n"),
        ("no JSON", "tags.json", b"{"),
        ("a number as JSON", "tags.json", b"3"),
        ("null as JSON", "tags.json", b"null"),
        ("nested too deeply", "tags.json", b"[" * 100_000),
        ("tags that are numbers of no class", "tags.json", b'{"00.png": 77}'),
        ("tags within tags", "tags.json", b'{"00.png": [["red"]]}'),
        ("no archive", "tags.xlsx", b"not a workbook"),
        ("an empty archive", "tags.xlsx", b"PK\x05\x06" + bytes(18)),
        ("half an archive", "tags.xlsx", b"PK\x03\x04" + bytes(300)),
        ("another kind of file", "tags.docx", b"image,tags\n00.png,red\n"),
    ]


def recipes() -> list[tuple[str, bytes]]:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 6))
    return [
        ("no YAML", b"a: [1"),
        ("a tab", b"name:\n\t- x"),
        ("a list", b"- a\n- b"),
        ("a word", b"demo"),
        ("a number", b"3"),
        ("other bytes", b"\xff\xfe\x00"),
        ("zeros", bytes(100)),
        ("an unknown key", b"extends: demo\nepoch: 3"),
        ("an unknown key inside", b"extends: demo\ntrain: {epoch: 3}"),
        ("text for a number", b"extends: demo\ntrain: {epochs: many}"),
        ("a negative number", b"extends: demo\ntrain: {batch_size: -4}"),
        ("not a number", b"extends: demo\ntrain: {lr: .nan}"),
        ("infinity", b"extends: demo\ntrain: {lr: .inf}"),
        ("a huge number", b"extends: demo\ntrain: {batch_size: 1e400}"),
        ("a block for a word", b"extends: demo\nsupervision: {a: 1}"),
        ("a word for a block", b"extends: demo\ntrain: fast"),
        ("an unknown base", b"extends: nothing"),
        ("its own base", b"extends: bad.yaml"),
        ("code", b"!!python/object/apply:os.mkdir [code-ran]"),
        ("code in a value", b"extends: demo\nname: !!python/object/apply:os.mkdir [code-ran]"),
        ("aliases that grow", bomb.encode()),
        ("itself", b"&a {extends: demo, data: *a}"),
        ("nested too deeply", b"[" * 5000),
    ]


def models() -> list[tuple[str, Callable[[Path], object]]]:
    """Damaged and hostile model files; each field of a header has its test in `tests/engine/test_model_files.py`."""
    network = create_model("fcn", backbone="test_resnet", num_classes=len(CLASSES))
    header = describe("segmenter", BUILT, network, LABELS, Recipe())

    def sound(path: Path) -> bytes:
        save_model(path, network, header)
        return path.read_bytes()

    def changed(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
        return lambda path: path.write_bytes(change(sound(path)))

    def headed(value: Any) -> Callable[[Path], object]:
        text = value if isinstance(value, str) else json.dumps(value)
        return lambda path: save_file(network.state_dict(), path, metadata={HEADER_KEY: text})

    def weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], object]:
        held = {name: value.clone() for name, value in network.state_dict().items()}
        return lambda path: save_file(change(held), path, metadata={HEADER_KEY: json.dumps(header)})

    first = next(iter(network.state_dict()))
    options = {**BUILT, "options": {"backbone_options": {"checkpoint_path": "other.pth"}}}
    return [
        ("empty", lambda path: path.write_bytes(b"")),
        ("text", lambda path: path.write_bytes(b"no model")),
        ("cut off in its header", changed(lambda held: held[:200])),
        ("cut off in its weights", changed(lambda held: held[:-100])),
        ("longer than it says", changed(lambda held: held + bytes(64))),
        ("a length of 2^63", changed(lambda held: b"\xff" * 8 + held[8:])),
        ("a length of 0", changed(lambda held: bytes(8) + held[8:])),
        ("flipped bytes in its header", changed(lambda held: flipped(held, 40 / len(held)))),
        ("without a header of ours", lambda path: save_file(network.state_dict(), path)),
        ("a header that is no JSON", headed("{")),
        ("null as its header", headed("null")),
        ("a header that names another file", headed({**header, "model": options})),
        ("2^40 classes", headed({**header, "model": {**BUILT, "num_classes": 2**40}})),
        ("an unknown network", headed({**header, "model": {**BUILT, "name": "os.system"}})),
        ("a classifier", headed({**header, "kind": "classifier"})),
        ("a weight that is not finite", weights(lambda held: {**held, first: held[first] * float("nan")})),
        ("a weight that is missing", weights(lambda held: {name: held[name] for name in held if name != first})),
        ("a weight of another shape", weights(lambda held: {**held, first: held[first][:1]})),
        ("a pickle that runs code", lambda path: torch.save({"model": Payload(RAN)}, path)),
    ]


def checkpoints() -> list[tuple[str, Callable[[Path], object]]]:
    """Pre-trained weights in torch's own formats."""
    payload = {"state_dict": {"conv1.weight": torch.zeros(1)}, "extra": Payload(RAN)}

    def half(path: Path) -> None:
        torch.save({"conv1.weight": torch.zeros(1000)}, path)
        path.write_bytes(path.read_bytes()[:2000])

    return [
        ("empty", lambda path: path.write_bytes(b"")),
        ("text", lambda path: path.write_bytes(b"no weights")),
        ("half", half),
        ("of another network", lambda path: torch.save({"fc.weight": torch.zeros(3)}, path)),
        ("a number", lambda path: torch.save(3, path)),
        ("code", lambda path: torch.save(payload, path)),
        ("code in the oldest format", lambda path: torch.save(payload, path, _use_new_zipfile_serialization=False)),
    ]


def cases() -> list[Bad]:
    """All of them."""
    found = [Bad("image", name, f"bad.{suffix}", held) for name, suffix, held in images()]
    found += [Bad("training image", name, f"images/bad.{suffix}", held) for name, suffix, held in images()]
    found += [Bad("mask", name, "masks/05.png", held) for name, held in masks()]
    found += [Bad("table of tags", f"{name} ({file})", file, held) for name, file, held in tables()]
    found += [Bad("recipe", name, "bad.yaml", held) for name, held in recipes()]
    found += [Bad("model", name, "bad.safetensors", held) for name, held in models()]
    return found + [Bad("weights", name, "bad.pth", held) for name, held in checkpoints()]


def in_words(work: Callable[[], object]) -> str:
    """The message that some work is refused with.

    Raises:
        AssertionError: it is not refused.
    """
    try:
        work()
    except MaskwrightError as error:
        return str(error)
    raise AssertionError("it was taken")


def among_images(bad: Bad, folder: Path, predictor: Any) -> str:
    """Predicted with three others."""
    for name in "aez":
        (folder / f"{name}.png").write_bytes(picture("PNG"))
    bad.write(folder)
    done, failures = predict_files(predictor, folder, folder / "out")
    assert sorted(Path(path).name for path in done) == ["a.png", "e.png", "z.png"], (done, failures)
    assert len(failures) == 1, failures
    return failures[0]


def in_a_set(bad: Bad, folder: Path, predictor: Any) -> str:
    """An image or a mask of a set that is to be trained on: named, and counted beside the sound ones."""
    photographs(folder)
    replaced = folder / bad.file
    replaced.unlink(missing_ok=True)
    bad.write(folder)
    said = [str(finding) for finding in check(DataSettings(root=str(folder))) if finding.level != "info"]
    named = [line for line in said if replaced.name in line or "pipe" in line]
    assert named, said
    return named[0]


def as_tags(bad: Bad, folder: Path, predictor: Any) -> str:
    """A table of the tags of sound images: an error of the data check, which is what stops a run."""
    photographs(folder)
    (folder / "tags.csv").unlink()
    shutil.rmtree(folder / "masks")
    bad.write(folder)
    found = check(DataSettings(root=str(folder), tags=bad.file, classes="classes.txt"))
    said = [str(finding) for finding in found if finding.level == "error"]
    assert said, found
    return next((line for line in said if bad.file in line), said[0])


def as_recipe(bad: Bad, folder: Path, predictor: Any) -> str:
    path = bad.write(folder)
    return in_words(lambda: load_recipe(str(path), []))


def as_model(bad: Bad, folder: Path, predictor: Any) -> str:
    path = bad.write(folder)
    return in_words(lambda: load(path, device="cpu"))


def as_weights(bad: Bad, folder: Path, predictor: Any) -> str:
    path = bad.write(folder)
    return in_words(lambda: create_backbone("test_resnet", pretrained=str(path)))


USES: dict[str, Callable[[Bad, Path, Any], str]] = {
    "image": among_images,
    "training image": in_a_set,
    "mask": in_a_set,
    "table of tags": as_tags,
    "recipe": as_recipe,
    "model": as_model,
    "weights": as_weights,
}


def predictor_of(folder: Path) -> Any:
    """A model that predicts anything."""
    torch.manual_seed(0)
    network = create_model("fcn", backbone="test_resnet", num_classes=len(CLASSES))
    save_model(folder / "model.safetensors", network, describe("segmenter", BUILT, network, LABELS, Recipe()))
    return load(folder / "model.safetensors", device="cpu")


def said_of(bad: Bad, folder: Path, predictor: Any) -> str:
    """What is said of a bad file, which must name it, be short, and have run nothing.

    Args:
        bad: the file.
        folder: an empty one, which becomes the working folder.
        predictor: as `predictor_of` gives it.

    Raises:
        AssertionError: it is used, not named, or the sound files beside it are not used.
    """
    before = os.getcwd()
    os.chdir(folder)
    try:
        text = USES[bad.kind](bad, folder, predictor)
    finally:
        os.chdir(before)
    assert not (folder / RAN).exists(), "its code was run"
    name = Path(bad.file).stem
    assert name in text or "pipe" in text, f"it is not named: {text}"
    assert len(text) < 3000, f"the message has {len(text)} characters"
    assert "Traceback" not in text
    assert "weights_only" not in text
    return text
