"""Image files of any depth and any channels become bytes as they are meant."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwright.data.decode import Reading, as_rgb, channels_in, decode, heic_is_read
from maskwright.data.images import image_size, list_images, orientation, read_image
from maskwright.data.tiff import read_header, read_numbers
from maskwright.errors import DataError

pytestmark = pytest.mark.versions

RNG = np.random.default_rng(0)


def plain_tiff(path: Path, values: np.ndarray, order: str = "<", side: int = 1, extra: tuple[int, ...] = ()) -> Path:
    """A TIFF without compression, channels `(H, W, C)` beside each other."""
    height, width, channels = values.shape
    kind = values.dtype.newbyteorder(order)
    data = values.astype(kind).tobytes()
    entries = {
        256: [width], 257: [height], 258: [8 * kind.itemsize] * channels, 259: [1], 262: [1], 273: [8], 274: [side],
        277: [channels], 278: [height], 279: [len(data)], 339: [{"u": 1, "i": 2, "f": 3}[kind.kind]] * channels,
    }  # fmt: skip
    if extra:
        entries[338] = list(extra)
    start = 8 + len(data)
    behind, rows, lists = start + 2 + 12 * len(entries) + 4, b"", b""
    for tag, numbers in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        rows += struct.pack(f"{order}HHI", tag, 4, len(numbers))
        rows += packed if len(packed) == 4 else struct.pack(f"{order}I", behind + len(lists))
        lists += packed if len(packed) > 4 else b""
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(f"{order}HI", 42, start)
    path.write_bytes(head + data + struct.pack(f"{order}H", len(entries)) + rows + b"\0\0\0\0" + lists)
    return path


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["u1", "u2", "i2", "u4", "i4", "f4", "f8"])
@pytest.mark.parametrize("channels", [2, 4, 7])
def test_channels_of_every_type(tmp_path, kind, channels, order):
    low, high = (0, 250) if kind[0] == "u" else (-100, 100)
    values = RNG.integers(low, high, (9, 13, channels)).astype(kind)
    path = plain_tiff(tmp_path / "a.tif", values, order)
    header = read_header(path)
    assert (header.size, header.channels, header.alpha, header.pages) == ((9, 13), channels, False, 1)
    found = read_numbers(path, header)
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)
    read = decode(path, Reading((low, high)))
    expected = np.rint((values.astype(float) - low) * 255 / (high - low))
    np.testing.assert_array_equal(read, expected)
    assert channels_in(path, Reading()) == channels
    assert image_size(path) == (9, 13)


@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize(
    "options", [{}, {"tile": (16, 32)}, {"compression": "zlib"}, {"compression": "zlib", "predictor": 2}]
)
def test_as_other_programs_pack_them(tmp_path, planes, options):
    tifffile = pytest.importorskip("tifffile")
    for kind in ("u1", "u2", "i4", "f4"):
        if kind == "f4" and "predictor" in options:
            continue
        values = RNG.integers(0, 200, (37, 53, 5)).astype(kind)
        for order in "<>":
            saved = values if planes == "contig" else values.transpose(2, 0, 1)
            path = tmp_path / f"{kind}{ord(order)}.tif"
            tifffile.imwrite(path, saved, photometric="minisblack", planarconfig=planes, byteorder=order, **options)
            np.testing.assert_array_equal(read_numbers(path, read_header(path)), values)


def test_transparency_is_no_channel_and_cameras_turn_these_too(tmp_path):
    values = RNG.integers(0, 255, (5, 8, 5)).astype(np.uint8)
    path = plain_tiff(tmp_path / "a.tif", values, side=6, extra=(0, 0, 0, 2))
    assert image_size(path) == (8, 5)
    assert orientation(path) == 6
    np.testing.assert_array_equal(read_image(path), np.rot90(values[..., :4], -1))
    grey = plain_tiff(tmp_path / "b.tif", values[..., :2], extra=(2,))  # Pillow reads grey with transparency itself
    assert read_image(grey).shape == (5, 8, 3)


def test_channels_are_chosen(tmp_path):
    values = RNG.integers(0, 255, (5, 8, 4)).astype(np.uint8)
    path = plain_tiff(tmp_path / "a.tif", values)
    np.testing.assert_array_equal(read_image(path, reading=Reading(channels=(3, 0))), values[..., [3, 0]])
    np.testing.assert_array_equal(read_image(path, reading=Reading(channels=(1,))), np.repeat(values[..., 1:2], 3, 2))
    colours = tmp_path / "b.png"
    Image.fromarray(values[..., :3]).save(colours)
    np.testing.assert_array_equal(read_image(colours, reading=Reading(channels=(2, 1, 0))), values[..., [2, 1, 0]])
    with pytest.raises(DataError, match=r"b\.png: image has 3 channels\. Expected a channel 3, counted from 0"):
        read_image(colours, reading=Reading(channels=(0, 3)))
    assert as_rgb(values).shape == (5, 8, 3)
    np.testing.assert_array_equal(as_rgb(values[..., :2])[..., 2], values[..., 0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"range": 4095}, r"range must be \[low, high\].*found 4095"),
        ({"range": [1, 1]}, "range must be"),
        ({"range": ["0", "9"]}, "range must be"),
        ({"channels": [-1]}, r"channels must list.*found \[-1\]"),
        ({"channels": []}, "channels must list"),
    ],
)
def test_options_that_cannot_be(options, words):
    with pytest.raises(DataError, match=words):
        Reading.of(options)


def test_what_is_not_a_number_is_black(tmp_path):
    values = np.array([[0.5, np.nan, 1.0]], np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif", reading=Reading((0, 1)))[0, :, 0].tolist() == [128, 0, 255]


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_tiff_is_an_error_of_the_file(tmp_path):
    whole = plain_tiff(tmp_path / "a.tif", RNG.integers(0, 255, (5, 8, 4)).astype(np.uint8)).read_bytes()
    for length in (6, 40, len(whole) - 60):
        (tmp_path / "b.tif").write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"b\.tif: image cannot be read"):
            read_image(tmp_path / "b.tif")


def test_heic_is_read_where_pillow_heif_is(tmp_path):
    pytest.importorskip("pillow_heif")
    assert heic_is_read()
    image = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 3, axis=2).repeat(48, axis=0)
    Image.fromarray(image).save(tmp_path / "a.HEIC", format="HEIF", quality=95)
    names, _ = list_images(tmp_path)
    assert list(names) == ["a"]
    assert image_size(names["a"]) == (48, 64)
    assert np.abs(read_image(names["a"]).astype(int) - image).mean() < 4
