"""What people bring: every kind of table, layout, image and mask gives the right value, or is refused with the fix."""

from __future__ import annotations

import csv
import io
import json
import re
import struct
import unicodedata
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskwright.data import Dataset, open_dataset
from maskwright.data.check import check
from maskwright.data.decode import heic_is_read, turn
from maskwright.data.finding import Finding
from maskwright.errors import DataError
from maskwright.settings import DataSettings

SIZE = (40, 48)


@dataclass(frozen=True)
class Variant:
    """One way to bring a set.

    Args:
        draw: writes it into an empty folder.
        gives: what reading it must give, by a key of `SHOWN`.
        refused: pattern of the error that `data check` lists and that stops a reader; empty where the set is fit.
        said: patterns that a warning or a note of `data check` must have.
        settings: of the data, besides the folder.
        only_checked: refused for what the set as a whole holds, which a reader of single examples cannot know.
    """

    draw: Callable[[Path], object]
    gives: dict[str, Any] = field(default_factory=dict)
    refused: str = ""
    said: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    only_checked: bool = False


def _tags(data: Dataset) -> dict[str, str | None]:
    tags = {name: data.tags(index) for index, name in enumerate(data.names)}
    return {
        name: None if row is None else " ".join(data.labels.names[value] for value in row) for name, row in tags.items()
    }


def _masks(data: Dataset) -> dict[str, list[int] | None]:
    masks = {name: data.mask(index) for index, name in enumerate(data.names)}
    return {name: None if mask is None else np.unique(mask).tolist() for name, mask in masks.items()}


def _levels(values: np.ndarray) -> tuple[int, int, int]:
    return int(values.min()), int(values.max()), len(np.unique(values))


# What a variant can state, and how it is read from the set.
SHOWN: dict[str, Callable[[Dataset], Any]] = {
    "names": lambda data: list(data.names),
    "classes": lambda data: " ".join(data.labels.names),
    "tags": _tags,
    "masks": _masks,
    "levels": lambda data: _levels(np.stack([data[index].image for index in range(len(data))])),
    "channels": lambda data: {data[index].image.shape[2] for index in range(len(data))},
    "dark": lambda data: int(((data[0].image[..., 0] < 99) & (data[0].mask == 1)).sum()),
}


def picture(path: Path, seed: int = 0) -> Path:
    """A photograph of noise, other for every seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)).save(path)
    return path


def mask(path: Path, values: tuple[int, ...] = (0, 1)) -> Path:
    """An 8-bit mask that holds each of the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.resize(np.array(values, np.uint8), SIZE)).save(path)
    return path


def pictures(*places: str) -> Callable[[Path], Any]:
    return lambda root: [picture(root / place, seed) for seed, place in enumerate(places)]


def masks(*places: str, values: tuple[int, ...] = (0, 1)) -> Callable[[Path], Any]:
    return lambda root: [mask(root / place, values) for place in places]


def text(place: str, content: str | bytes) -> Callable[[Path], Any]:
    data = content.encode() if isinstance(content, str) else content

    def draw(root: Path) -> None:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(data)

    return draw


def both(*draws: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda root: [draw(root) for draw in draws]


PHOTOS = ("images/a.jpg", "images/b.jpg", "images/c.jpg", "images/d.jpg")
TAGGED = {"classes": "background cup lid", "tags": {"a": "cup", "b": "lid", "c": "cup lid", "d": ""}}


def table(content: str | bytes, name: str = "tags.csv") -> Callable[[Path], Any]:
    """Four photographs, and a table of their tags."""
    return both(pictures(*PHOTOS), text(name, content))


def tagged(
    content: str | bytes, *said: str, name: str = "tags.csv", gives: dict[str, Any] = TAGGED, **settings: Any
) -> Variant:
    """A table that is named and read."""
    return Variant(table(content, name), gives, said=said, settings={"tags": name, **settings})


def refused(content: str | bytes, pattern: str, name: str = "tags.csv", **settings: Any) -> Variant:
    """A table that is named and refused."""
    return Variant(table(content, name), refused=pattern, settings={"tags": name, **settings})


PLAIN = "image,tags\na.jpg,cup\nb.jpg,lid\nc.jpg,cup;lid\nd.jpg,\n"
ONE_HOT = "image,cup,lid\na.jpg,1,0\nb.jpg,0,1\nc.jpg,1,1\nd.jpg,0,0\n"
UMLAUTS = {"classes": "background Tür lid", "tags": {"a": "Tür", "b": "lid", "c": "Tür lid", "d": ""}}


def umlauts(content: str) -> str:
    return content.replace("cup", "Tür")


TABLES = {
    "semicolons in a cell": tagged(PLAIN),
    "byte mark of UTF-8": tagged(b"\xef\xbb\xbf" + PLAIN.encode()),
    "semicolons between columns": tagged(
        "Dateiname;Labels\na.jpg;cup\nb.jpg;lid\nc.jpg;cup,lid\nd.jpg;\n",
        "semicolons between columns",
        "commas between tags",
    ),
    "the first line of Excel": tagged("sep=;\nimage;tags\na.jpg;cup\nb.jpg;lid\nc.jpg;cup|lid\nd.jpg;\n", "semicolons"),
    "tabs": tagged(PLAIN.replace(",", "\t"), "tabs between columns", name="tags.tsv"),
    "UTF-16 of Excel": tagged(
        umlauts(PLAIN).replace(",", "\t").encode("utf-16"), "text in UTF-16", name="tags.txt", gives=UMLAUTS
    ),
    "Windows-1252": tagged(
        umlauts(PLAIN).encode("cp1252"),
        "text in Windows-1252, since it is not UTF-8: look whether 'Tür'",
        gives=UMLAUTS,
    ),
    "lines of Windows and an old Mac": tagged(PLAIN.replace("\n", "\r").replace("\r", "\r\n", 2)),
    "other headings and columns": tagged(
        "ID,Split,Labels,Width,File Name\n7,val,cup,9,a.jpg\n8,val,lid,9,b.jpg\n9,val,cup;lid,9,c.jpg\n1,,,9,d.jpg\n",
        "info: .*images in 'File Name', tags in 'Labels'; left out: ID, Split, Width",
    ),
    "index of pandas": tagged(
        ",file,category\n0,a.jpg,cup\n1,b.jpg,lid\n2,c.jpg,cup;lid\n3,d.jpg,nan\n", "'nan': no tag applies"
    ),
    "no headings": tagged("a.jpg,cup\nb.jpg,lid\nc.jpg,cup;lid\nd.jpg,\n", "no headings"),
    "no headings, no suffix, the image last": tagged(
        "cup;a\nlid;b\ncup,lid;c\n-;d\n", "no headings", "'-': no tag applies"
    ),
    "no headings and a cell per tag": tagged("a.jpg,cup\nb.jpg,lid\nc.jpg,cup,lid\nd.jpg,\n", "no headings"),
    "a cell per tag": tagged("image,tags\na.jpg,cup\nb.jpg,lid\nc.jpg,cup,lid\nd.jpg,\n", "more tags \\(1 row\\)"),
    "a column per tag": tagged(ONE_HOT),
    "floats of pandas and holes": tagged(
        "image,cup,lid\na.jpg,1.0,0.0\nb.jpg,,1.0\nc.jpg,1.0,1.0\nd.jpg,0.0,\n", "empty cells mean no"
    ),
    "words for yes and no": tagged("filename,cup,lid\na.jpg,True,False\nb.jpg,no,yes\nc.jpg,x,x\nd.jpg,FALSE,n\n"),
    "crosses": tagged("name,cup,lid,comment\na.jpg,x,,blurred\nb.jpg,,X,\nc.jpg,x,x,\nd.jpg,,,\n", "left out: comment"),
    "minus one": tagged("image,cup,lid\na.jpg,1,-1\nb.jpg,-1,1\nc.jpg,1,1\nd.jpg,-1,-1\n"),
    "a row per tag": tagged("image,tag\na.jpg,cup\nb.jpg,lid\nc.jpg,cup\nc.jpg,lid\nd.jpg,\n", "one row per tag"),
    "a row per box": tagged(
        "filename,width,class,xmin\na.jpg,9,cup,1\na.jpg,9,cup,5\nb.jpg,9,lid,2\nc.jpg,9,cup,3\nc.jpg,9,lid,4\nd.jpg,9,,\n",
        "left out: width, xmin",
        "one row per tag",
    ),
    "a row per tag that was verified": tagged(
        "ImageID,LabelName,Confidence\na,cup,1\na,lid,0\nb,lid,1\nc,cup,1\nc,lid,1\nd,cup,0\n",
        "only rows with yes in 'Confidence'",
    ),
    "bars in a cell": tagged(PLAIN.replace(";", "|"), "bars between tags"),
    "commas in a cell": tagged(PLAIN.replace("cup;lid", '"cup, lid"'), "commas between tags"),
    "blanks in a cell": refused(
        PLAIN.replace("cup;lid", "cup lid"),
        r"'cup lid'.*';'.*data.rename='\{cup lid: cup;lid\}', or data.options.tag_separator=blank",
    ),
    "blanks in a cell, told": tagged(PLAIN.replace(";", " "), options={"tag_separator": "blank"}),
    "joins, renamed": tagged(PLAIN.replace(";", "/"), rename={"cup/lid": "cup;lid"}),
    "lists of Python": tagged(
        "image,tags\na.jpg,['cup']\nb.jpg,['lid']\nc.jpg,\"['cup', 'lid']\"\nd.jpg,[]\n", "'\\[\\]': no tag applies"
    ),
    "lists of NumPy and JSON": tagged("image;tags\na.jpg;[\"cup\"]\nb.jpg;{'lid'}\nc.jpg;['cup' 'lid']\nd.jpg;None\n"),
    "numbers": tagged(
        "image,label\na.jpg,0\nb.jpg,1\nc.jpg,0;1\nd.jpg,\n",
        r"warning: .*numbers: 0, 1.*data.rename='\{\"0\": name0",
        gives={"classes": "background 0 1"},
    ),
    "numbers, renamed": tagged("image,label\na.jpg,0\nb.jpg,1\nc.jpg,0;1\nd.jpg,\n", rename={0: "cup", 1: "lid"}),
    "JSON by image": tagged(
        '{"a.jpg": ["cup"], "b.jpg": "lid", "c.jpg": {"cup": true, "lid": 1}, "d.jpg": null}', name="t.json"
    ),
    "JSON by tag": tagged(
        '{"cup": ["a.jpg", "c.jpg"], "lid": ["b.jpg", "c.jpg"]}',
        "each key is a tag",
        name="t.json",
        gives={"classes": "background cup lid"},
    ),
    "JSON objects": tagged(
        '[{"filename": "a.jpg", "labels": ["cup"], "id": 3}, {"filename": "b.jpg", "labels": [{"name": "lid"}]}, '
        '{"filename": "c.jpg", "labels": "cup;lid"}, {"filename": "d.jpg"}]',
        "left out: id",
        name="t.json",
    ),
    "lines of JSON": tagged(
        "\n".join(
            f'{{"file_name": "{n}.jpg", "label": {t}}}'
            for n, t in zip("abcd", ('"cup"', '"lid"', '["cup", "lid"]', "[]"))
        ),
        name="t.jsonl",
    ),
    "other capitals and paths": tagged(
        "image,tags\nC:\\photos\\A.JPG,cup\n/x/y/B.jpg,lid\nimages/c,cup;lid\n./d.jpeg,\n"
    ),
    "a letter too many": Variant(
        both(
            pictures(*(f"{n}.jpg" for n in "abcdefg")),
            text(
                "tags.csv",
                "image,tags\na.jpg,ild\n" + "".join(f"{n}.jpg,cup;lid\n" for n in "bcd") + "e,cup\nf,lid\ng,\n",
            ),
        ),
        said=(r"one letter apart: 'ild' \(1 image\) and 'lid' \(4 images\).*data.rename='\{ild: lid\}'",),
        settings={"tags": "tags.csv"},
    ),
    "few images": tagged(PLAIN, r"tags on fewer than 3 images: cup \(2\), lid \(2\).*data.rename="),
    "capitals": tagged(
        PLAIN.replace("a.jpg,cup", "a.jpg,Cup"),
        r"differ only in case.*data.rename='\{\w+: \w+\}'",
        gives={"classes": "background Cup cup lid"},
    ),
    "a title before the headings": tagged("Photos of May,\n" + PLAIN, "left out: 1 line before the headings"),
    "a tag called by a float": tagged(
        "image,label\na.jpg,0.0\nb.jpg,1.0\nc.jpg,0;1\nd.jpg,\n", rename={"0": "cup", "1": "lid"}
    ),
    "scores": refused(
        "image,cup,lid\na.jpg,0.9,0.1\nb.jpg,0.2,0.7\n", "column 'cup' holds 0.9.*in place of counts and"
    ),
    "a few words again and again": tagged(
        "image,tags\na.jpg,haze primary\nb.jpg,clear primary\nc.jpg,clear haze\nd.jpg,haze primary clear\n",
        "4 tags of .* are made of 3 words.*data.options.tag_separator=blank",
        gives={},
    ),
    "no tag at all": Variant(
        table("image,tags\na.jpg,\nb.jpg,nan\nc.jpg,\nd.jpg,\n"),
        refused="no image of all has a tag",
        settings={"tags": "tags.csv"},
        only_checked=True,
    ),
    "quotes of a word processor": tagged(
        "image,tags\na.jpg,“cup”\nb.jpg,„lid“\nc.jpg,“cup”;“lid”\nd.jpg,\n", gives=TAGGED
    ),
    "single quotes": tagged("'image','tags'\n'a.jpg','cup'\n'b.jpg','lid'\n'c.jpg','cup;lid'\n'd.jpg',''\n"),
    "remarks before the headings": tagged("# of May, 2026\n# by me\n" + PLAIN, "left out: 2 lines before the headings"),
    "two columns of one heading": tagged("image,tags,tags\na.jpg,cup,\nb.jpg,,lid\nc.jpg,cup,lid\nd.jpg,,\n"),
    "zeros and ones with a comma": tagged(
        "image;cup;lid\na.jpg;1,0;0,0\nb.jpg;0,0;1,0\nc.jpg;1,0;1,0\nd.jpg;0,0;0,0\n", "semicolons between columns"
    ),
    "addresses": tagged(
        "url,tags\nhttps://x.org/p/a.jpg?size=9,cup\nhttps://x.org/b.jpg,lid\nfile:///p/c%2Ejpg,cup;lid\nd.jpg,\n"
    ),
    "a number that is none, in JSON": tagged(
        '{"a.jpg": ["cup"], "b.jpg": "lid", "c.jpg": ["cup", "lid", NaN], "d.jpg": NaN}', name="t.json"
    ),
    "a cell of many boxes": tagged(PLAIN.replace("a.jpg,cup", "a.jpg," + "cup;" * 40_000)),
    "yes and no under one heading": tagged(
        "image,label\na.jpg,yes\nb.jpg,no\nc.jpg,yes\nd.jpg,no\n",
        r"warning: .*words for yes and no: no, yes.*data.rename='\{\"no\": \"\", \"yes\": NAME\}'",
        gives={"classes": "background no yes"},
    ),
    "a row without a cell of tags": refused("image,tags\na.jpg,cup\nb.jpg\n", r"line 3: 1 columns 'b.jpg'.*all cells"),
    "CSV of Label Studio": tagged(
        'image,id,label\n/data/upload/1/0a1b2c3d-a.jpg,1,cup\n/data/upload/1/0a1b2c3d-b.jpg,2,"[{""points"": [[0, 0]], '
        '""closed"": true, ""polygonlabels"": [""lid""]}]"\n/data/upload/1/0a1b2c3d-c.jpg,3,"{""choices"": [""cup"", '
        '""lid""]}"\nd.jpg,4,\n',
        "left out: id",
    ),
    "masks in place of tags": refused(
        "image,label\na.jpg,a.png\nb.jpg,b.png\n", "'label' names files, not tags.*masks=FOLDER"
    ),
    "no column of images": refused("what,else\none,two\n", "begins with 'what,else', and no column names images"),
}

AB = ("a.jpg", "b.jpg")
TWO_TAGS = "image,tags\na.jpg,cup\nb.jpg,lid\n"
BOTH_MASKED = {"names": ["a", "b"], "masks": {"a": [0, 1], "b": [0, 1]}}
BOTH_TAGGED = {"names": ["a", "b"], "classes": "background cup lid", "tags": {"a": "cup", "b": "lid"}}


def inside(folder: str, *files: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{file}" for file in files)


def masked(images: str, masks_in: str, *said: str, **settings: Any) -> Variant:
    """Two folders, one of images and one of masks of the same names."""
    drawn = both(pictures(*inside(images, *AB)), masks(*inside(masks_in, "a.png", "b.png")))
    return Variant(drawn, BOTH_MASKED, said=said, settings=settings)


def others(place: str, *names: str) -> Callable[[Path], Any]:
    """Files that are no images."""

    def draw(root: Path) -> None:
        (root / place).mkdir(parents=True, exist_ok=True)
        for name in names:
            (root / place / name).write_bytes(b"0 0.5 0.5")

    return draw


def composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def decomposed(name: str) -> str:
    return unicodedata.normalize("NFD", name)


LAYOUTS = {
    "images and masks": masked("images", "masks"),
    "folders in capitals": masked("Images", "Masks"),
    "img and gt": masked("img", "gt", "gt: taken as the masks of .*img"),
    "imgs and ann": masked("imgs", "ann", "ann: taken as the masks"),
    "image and Labels": masked("image", "Labels", "Labels: taken as the masks"),
    "JPEGImages and SegmentationClassPNG": masked("JPEGImages", "SegmentationClassPNG"),
    "other capitals than were typed": masked("Pictures", "Truth", masks="truth", options={"images": "pictures"}),
    "images in the folder itself": Variant(both(pictures(*AB), masks(*inside("mask", "a.png", "b.png"))), BOTH_MASKED),
    "folders of splits in capitals": Variant(
        both(pictures("Train/Images/a.jpg", "Val/Images/b.jpg"), masks("Train/Masks/a.png", "Val/Masks/b.png")),
        {"names": ["Train/a", "Val/b"], "masks": {"Train/a": [0, 1], "Val/b": [0, 1]}},
    ),
    "train and train_masks": Variant(
        both(pictures("train/a.jpg", "val/b.jpg"), masks("train_masks/a.png", "val_masks/b.png")),
        {"names": ["train/a", "val/b"], "masks": {"train/a": [0, 1], "val/b": [0, 1]}},
    ),
    "labels that are no images, and a table": Variant(
        both(pictures(*inside("images", *AB)), others("labels", "a.txt", "b.txt"), text("tags.csv", TWO_TAGS)),
        BOTH_TAGGED,
        said=("tags.csv: found in the folder",),
    ),
    "masks that nobody reads": Variant(
        both(
            pictures(*inside("JPEGImages", *AB)),
            others("SegmentationClass", "a.npy", "b.npy"),
            masks(*inside("SegmentationClassPNG", "a.png", "b.png")),
            pictures(*inside("SegmentationClassVisualization", *AB)),
        ),
        refused=r"SegmentationClass: .* holds no image \(2 \.npy files\).*masks=SegmentationClassPNG, which",
    ),
    "no masks but arrays": Variant(
        both(pictures(*inside("images", *AB)), others("masks", "a.npy", "b.npy", "README.md")),
        refused=r"masks: the folder of masks holds no image \(2 \.npy files, 1 \.md file\).*save the masks as PNG",
    ),
    "an empty folder of masks": Variant(
        both(pictures(*inside("images", *AB)), others("masks", ".gitkeep", "Thumbs.db"), text("tags.csv", TWO_TAGS)),
        BOTH_TAGGED,
        settings={"tags": "tags.csv"},
    ),
    "masks that nobody reads, and tags": Variant(
        both(pictures(*inside("images", *AB)), others("masks", "a.npy"), text("tags.csv", TWO_TAGS)),
        BOTH_TAGGED,
        said=(r"warning: .*masks holds no image \(1 \.npy file\): passed over",),
        settings={"tags": "tags.csv"},
    ),
    "masks beside images": Variant(
        both(pictures(*AB), masks("a_mask.png", "b_mask.png")),
        BOTH_MASKED,
        said=("2 masks beside their images: the name of a mask ends in '_mask'",),
    ),
    "masks beside images, typed": Variant(
        both(pictures("train/a.jpg", "valid/b.jpg"), masks("train/a_mask.png", "valid/b_mask.png")),
        {"names": ["train/a", "valid/b"]},
        settings={"masks": ".", "options": {"mask_suffix": "_mask"}},
    ),
    "masks beside some images, by names that begin alike": Variant(
        both(pictures("1.jpg", "10.jpg", "11.jpg"), masks("1-gt.png", "11-gt.png")),
        {"names": ["1", "10", "11"], "masks": {"1": [0, 1], "10": None, "11": [0, 1]}},
        said=("ends in '-gt'",),
    ),
    "masks beside images, by an end of their own": Variant(
        both(pictures(*AB), masks("a_drawn.png", "b_drawn.png")), BOTH_MASKED, said=("ends in '_drawn'",)
    ),
    "masks of the same name but for the suffix": Variant(
        both(pictures(*inside("images", *AB)), masks(*inside("images", "a.png", "b.png"))),
        BOTH_MASKED,
        said=(r"the name of a mask is the \.png file",),
    ),
    "two photographs of one name": Variant(
        pictures("images/a.jpg", "images/a.png"),
        refused="same name but for the suffix",
        settings={"classes": ["x", "y"]},
    ),
    "masks beside images, and tags": Variant(
        both(pictures(*AB), masks("a_mask.png", "b_mask.png"), text("tags.csv", TWO_TAGS)),
        BOTH_TAGGED,
        said=("left out, since there are tags; masks=. reads them",),
        settings={"tags": "tags.csv"},
    ),
    "masks named after the file of the image": Variant(
        both(pictures(*inside("images", "1.jpg", "10.jpg")), masks(*inside("masks", "1.jpg.png", "10.jpg.png"))),
        {"names": ["1", "10"], "masks": {"1": [0, 1], "10": [0, 1]}},
        said=("the names of masks end in '.jpg'",),
    ),
    "img_1 and mask_1": Variant(
        both(pictures("images/img_1.jpg", "images/img_12.jpg"), masks("masks/mask_1.png", "masks/mask_12.png")),
        {"names": ["img_1", "img_12"], "masks": {"img_1": [0, 1], "img_12": [0, 1]}},
        said=("the names of masks are as 'mask_1' is for 'img_1'",),
    ),
    "img_1 and mask_1 in one folder": Variant(
        both(pictures("img_1.jpg", "img_12.jpg"), masks("mask_1.png", "mask_12.png")),
        {"names": ["img_1", "img_12"], "masks": {"img_1": [0, 1], "img_12": [0, 1]}},
        said=("the name of a mask is as 'mask_1' is for 'img_1'",),
    ),
    "1_image and 1_mask in each split": Variant(
        both(pictures("train/1_image.jpg", "val/1_image.jpg"), masks("train/1_mask.png", "val/1_mask.png")),
        {"names": ["train/1_image", "val/1_image"]},
    ),
    "one image, one mask": Variant(
        both(pictures("images/a.jpg"), masks("masks/a_label.png")), {"masks": {"a": [0, 1]}}, said=("end in '_label'",)
    ),
    "arrays in other capitals": Variant(
        both(pictures(*inside("Images", *AB)), others("Masks", "a.npy"), masks(*inside("drawn", "a.png", "b.png"))),
        refused=r"Masks: .* holds no image \(1 \.npy file\).*masks=drawn, which holds 2 masks",
    ),
    "masks named as nothing": Variant(
        both(pictures(*inside("images", *AB)), masks(*inside("masks", "x.png", "y.png"))),
        refused="none of the 2 masks is named as an image",
    ),
    "masks in a folder of any name": Variant(
        both(pictures(*inside("stones", *AB)), masks(*inside("drawn", "a.png", "b.png"))),
        refused="drawn holds files of the same names as stones.*data.options.images=stones masks=drawn",
    ),
    "a folder per tag": Variant(
        pictures("cup/1.jpg", "lid/1.jpg", "lid/2.jpg"),
        {"classes": "background cup lid", "tags": {"cup/1": "cup", "lid/1": "lid", "lid/2": "lid"}},
    ),
    "a folder per tag in each split": Variant(
        pictures("train/cup/1.jpg", "train/lid/1.jpg", "test/cup/2.jpg", "validation/lid/2.jpg"),
        {"classes": "background cup lid"},
    ),
    "a table in the folder, under another name": Variant(
        both(pictures(*AB), text("export-2026.csv", TWO_TAGS), text("prices.csv", "what,price\nx,3\n")),
        BOTH_TAGGED,
        said=("export-2026.csv: found in the folder",),
    ),
    "two tables in the folder": Variant(
        both(pictures(*AB), text("one.csv", TWO_TAGS), text("two.csv", TWO_TAGS)),
        refused="several tables name the im",
    ),
    "a table of other images": Variant(
        both(pictures("x.jpg", "y.jpg"), text("tags.csv", TWO_TAGS)),
        refused="no row of .*tags.csv names an image that",
    ),
    "a table beside masks": Variant(
        both(pictures(*inside("images", *AB)), masks(*inside("masks", "a.png", "b.png")), text("tags.csv", TWO_TAGS)),
        {**BOTH_MASKED, "tags": {"a": None, "b": None}},
        said=("tags.csv is not read, since there are masks; tags=tags.csv reads it",),
    ),
    "imagefolder of Hugging Face": Variant(
        both(
            pictures("train/1.jpg", "validation/1.jpg"),
            text("train/metadata.jsonl", '{"file_name": "1.jpg", "label": "cup"}\n'),
            text("validation/metadata.jsonl", '{"file_name": "1.jpg", "label": "lid"}\n'),
        ),
        {"classes": "background cup lid", "tags": {"train/1": "cup", "validation/1": "lid"}},
    ),
    "several labels of Roboflow": Variant(
        both(
            pictures("train/a.jpg", "valid/b.jpg"),
            text("train/_classes.csv", "filename, cup, lid\na.jpg, 1, 0\n"),
            text("valid/_classes.csv", "filename, cup, lid\nb.jpg, 1, 1\n"),
        ),
        {"classes": "background cup lid", "tags": {"train/a": "cup", "valid/b": "cup lid"}},
    ),
    "masks of Roboflow": Variant(
        both(
            pictures("train/a_jpg.rf.0f.jpg", "valid/b_jpg.rf.1e.jpg"),
            masks("train/a_jpg.rf.0f_mask.png", "valid/b_jpg.rf.1e_mask.png"),
            text("train/_classes.csv", "Pixel Value, Class\n0, background\n1, dent\n"),
        ),
        {"classes": "background dent", "masks": {"train/a_jpg.rf.0f": [0, 1], "valid/b_jpg.rf.1e": [0, 1]}},
    ),
    "flags of X-AnyLabeling": Variant(
        both(
            pictures(*AB),
            text("a.json", '{"flags": {"cup": true, "lid": false}, "shapes": [], "imagePath": "a.jpg"}'),
            text("b.json", '{"flags": {"cup": false, "lid": true}, "shapes": [], "imagePath": "b.jpg"}'),
        ),
        BOTH_TAGGED,
    ),
    "letters of a Mac": Variant(
        both(
            pictures(decomposed("images/Übung é.jpg")),
            masks(f"masks/{composed('Übung é')}.png"),
            text("all.txt", composed("Übung é\n")),
        ),
        {
            "names": [unicodedata.normalize("NFC", "Übung é")],
            "masks": {unicodedata.normalize("NFC", "Übung é"): [0, 1]},
        },
    ),
    "letters of a Mac in a table": Variant(
        both(
            pictures(decomposed("ä.jpg"), "b.jpg"),
            text("tags.csv", f"image,tags\n{composed('ä')}.jpg,{decomposed('Tür')}\nb.jpg,Tür\n"),
        ),
        {"classes": "background Tür", "tags": {composed("ä"): "Tür", "b": "Tür"}},
    ),
    "folders of MMSegmentation": Variant(
        both(pictures("img_dir/train/a.jpg", "img_dir/val/b.jpg"), masks("ann_dir/train/a.png", "ann_dir/val/b.png")),
        {"names": ["train/a", "val/b"], "masks": {"train/a": [0, 1], "val/b": [0, 1]}},
    ),
    "folders of nnU-Net": Variant(
        both(
            pictures("imagesTr/a_0000.png", "imagesTr/b_0000.png", "imagesTs/c_0000.png"),
            masks("labelsTr/a.png", "labelsTr/b.png"),
        ),
        {"names": ["a_0000", "b_0000"], "masks": {"a_0000": [0, 1], "b_0000": [0, 1]}},
        said=("lack the end '_0000' of those of images",),
    ),
    "masks of other names in a folder of any name": Variant(
        both(pictures(*inside("stones", "a_0000.jpg", "b_0000.jpg")), masks(*inside("drawn", "a.png", "b.png"))),
        refused="drawn holds files of the same names as stones.*data.options.images=stones masks=drawn",
    ),
    "a set within the folder": Variant(
        both(pictures("set/a.jpg", "set/b.jpg"), text("set/tags.csv", TWO_TAGS)),
        refused="give data=.*/set, the only folder there",
    ),
    "splits that are no tags": Variant(
        pictures("set/train/a.jpg", "set/val/b.jpg"), refused="give data=.*/set, the only folder there"
    ),
    "masks in other capitals for some": Variant(
        both(pictures("images/A.JPG", "images/b.jpg"), masks("masks/a.PNG", "masks/b.png", "masks/x.png")),
        {"names": ["A", "b"], "masks": {"A": [0, 1], "b": [0, 1]}},
        said=("info: .*1 mask of .* whose name is no image",),
    ),
    "nothing to learn from": Variant(
        both(pictures(*inside("images", *AB)), others("annotations", "a.xml")),
        refused=r"neither masks nor tags.*annotations holds no image \(1 \.xml file\), images holds 2 images",
    ),
}

RAMP = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) / (SIZE[0] * SIZE[1] - 1)  # 0 to 1, no two pixels alike
COLOURED = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=2)


def files(*names: str, values: np.ndarray, **options: Any) -> Callable[[Path], Any]:
    """Images with these numbers, beside a mask for each."""

    def draw(root: Path) -> None:
        (root / "images").mkdir()
        for name in names:
            Image.fromarray(values).save(root / "images" / name, **options)
            mask(root / "masks" / f"{Path(name).stem}.png")

    return draw


def deep_png(name: str, values: np.ndarray, bits: int = 16, colour: int = 2) -> Callable[[Path], Any]:
    """A PNG of a depth that Pillow does not write, as a camera's program or OpenCV does; with a mask."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def draw(root: Path) -> None:
        height, width = values.shape[:2]
        if bits < 8:
            digits = np.unpackbits(values.astype(np.uint8)[..., None], axis=2)[..., 8 - bits :]
            rows = [np.packbits(row.ravel()).tobytes() for row in digits]
        else:
            rows = [row.astype(">u2").tobytes() for row in values]
        header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
        data = zlib.compress(b"".join(b"\0" + row for row in rows))
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        parts = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b"")]
        (root / name).write_bytes(b"".join(parts))

    return draw


def tiff(name: str, values: np.ndarray, **options: Any) -> Callable[[Path], Any]:
    """A TIFF as programs of microscopes and satellites write it."""

    def draw(root: Path) -> None:
        tifffile = pytest.importorskip("tifffile")
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(root / name, values, **options)

    return draw


def turned(side: int, as_displayed: bool) -> Callable[[Path], Any]:
    """A photograph that a camera turned, and its mask: the left part of what is displayed is dark, class 1."""

    def draw(root: Path) -> None:
        (root / "images").mkdir()
        (root / "masks").mkdir()
        shown = np.where(np.arange(48) < 12, 20, 230) * np.ones((40, 1), int)
        stored = turn(shown.astype(np.uint8), {6: 8, 8: 6}.get(side, side))
        exif = Image.Exif()
        exif[0x0112] = side
        Image.fromarray(stored).save(root / "images/a.png", exif=exif)
        drawn_on = shown if as_displayed else stored
        Image.fromarray((drawn_on < 99).astype(np.uint8)).save(root / "masks/a.png")

    return draw


def beside(draw: Callable[[Path], Any], name: str = "a") -> Callable[[Path], Any]:
    return both(draw, masks(f"masks/{name}.png"))


def whole(bits: int, kind: type = np.uint16) -> np.ndarray:
    return np.rint(RAMP * (2**bits - 1)).astype(kind)


ALL_LEVELS = {"levels": (0, 255, 256)}
RANGE_12 = {"options": {"range": [0, 4095]}}

IMAGES = {
    "8 bits of grey": Variant(files("a.png", "b.png", values=whole(8, np.uint8)), ALL_LEVELS),
    "16 bits": Variant(files("a.png", values=whole(16)), ALL_LEVELS, said=("info: .*0 to 65535",)),
    "16 bits in TIFF": Variant(files("a.tif", "b.TIFF", values=whole(16)), ALL_LEVELS),
    "16 bits in TIFF, packed": Variant(files("a.tif", values=whole(16), compression="tiff_lzw"), ALL_LEVELS),
    "12 bits in 16": Variant(
        files("a.tif", "b.png", values=whole(12)),
        refused=r"hold 0 to 4095 of 0 to 65535: 16 of 256 grey levels.*data\.options='\{range: \[0, 4095\]\}'",
        only_checked=True,
    ),
    "12 bits in 16 with a range": Variant(files("a.tif", "b.png", values=whole(12)), ALL_LEVELS, settings=RANGE_12),
    "10 bits in 16": Variant(
        files("a.png", values=whole(10)), refused=r"3 of 256|4 of 256.*\[0, 1023\]", only_checked=True
    ),
    "10 bits in 16 with a range": Variant(
        files("a.png", values=whole(10)), ALL_LEVELS, settings={"options": {"range": [0, 1023]}}
    ),
    "dark, and said to be": Variant(
        files("a.png", values=whole(12)), {"levels": (0, 16, 17)}, settings={"options": {"range": [0, 65535]}}
    ),
    "beyond the range": Variant(
        files("a.png", values=whole(13)), ALL_LEVELS, said=(r"beyond the range.*\[0, 8191\]",), settings=RANGE_12
    ),
    "colours of 16 bits": Variant(
        beside(deep_png("images/a.png", np.rint(COLOURED * 65535))), ALL_LEVELS | {"channels": {3}}
    ),
    "colours of 12 bits in 16": Variant(
        beside(deep_png("images/a.png", np.rint(COLOURED * 4095))), ALL_LEVELS, settings=RANGE_12
    ),
    "colours of 12 bits, not said": Variant(
        beside(deep_png("images/a.png", np.rint(COLOURED * 4095))),
        refused=r"16 of 256 grey levels.*\[0, 4095\]",
        only_checked=True,
    ),
    "32 bits of integers": Variant(
        files("a.tif", values=whole(24, np.int32)),
        refused=r"integer pixels of 32 bits, 0 to 1\.67772e\+07.*\{range: \[0, 16777215\]\}",
    ),
    "32 bits of integers with a range": Variant(
        files("a.tif", values=whole(24, np.int32)), ALL_LEVELS, settings={"options": {"range": [0, 2**24 - 1]}}
    ),
    "floating point": Variant(
        files("a.tif", values=RAMP.astype(np.float32)), refused=r"floating-point pixels of 32 bits.*\[0, 1\]"
    ),
    "floating point with a range": Variant(
        files("a.tif", values=RAMP.astype(np.float32)), ALL_LEVELS, settings={"options": {"range": [0, 1]}}
    ),
    "below zero": Variant(
        beside(tiff("images/a.tif", np.rint(RAMP * 2000 - 1000).astype(np.int16))),
        refused=r"integer pixels of 16 bits, -1000 to 1000.*\{range: \[-1000, 1000\]\}",
    ),
    "below zero with a range": Variant(
        beside(tiff("images/a.tif", np.rint(RAMP * 2000 - 1000).astype(np.int16))),
        ALL_LEVELS,
        settings={"options": {"range": [-1000, 1000]}},
    ),
    "a range the wrong way round": Variant(
        files("a.png", values=whole(12)),
        refused=r"range must be \[low, high\]",
        settings={"options": {"range": [9, 3]}},
    ),
    "two pages": Variant(
        both(files("a.tif", values=whole(8, np.uint8), save_all=True, append_images=[Image.new("L", (9, 9))])),
        ALL_LEVELS,
        said=("warning: .*TIFF has 2 pages, of which the first is read",),
    ),
    "transparent": Variant(
        files("a.png", values=np.dstack([np.rint(COLOURED * 255), RAMP * 255]).astype(np.uint8)),
        ALL_LEVELS | {"channels": {3}},
        said=("info: .*1 image of all .*transparent",),
    ),
    "colours of a printer": Variant(
        both(
            lambda root: picture(root / "images/a.png"),
            lambda root: Image.open(root / "images/a.png").convert("CMYK").save(root / "images/b.jpg"),
            masks("masks/a.png", "masks/b.png"),
        ),
        {"channels": {3}, "names": ["a", "b"]},
    ),
    "a value that is transparent": Variant(
        files("a.png", values=whole(8, np.uint8), transparency=7), ALL_LEVELS | {"channels": {3}}
    ),
    "HEIC that is none": Variant(
        both(pictures("images/a.jpg"), masks("masks/a.png"), text("images/b.HEIC", b"x")),
        refused=r"image cannot be read \(cannot identify image file\).*replace the file" if heic_is_read() else "",
        said=() if heic_is_read() else ("1 .heic file is left out",),
        only_checked=True,
    ),
    "HEIC alone": Variant(
        text("images/a.heic", b"x") if not heic_is_read() else text("images/a.cr2", b"x"),
        refused=r"no images; 1 \.(heic|cr2) file is left out",
    ),
    "raw files beside": Variant(
        both(pictures("images/a.jpg"), masks("masks/a.png"), text("images/b.nef", b"x"), text("images/c.NEF", b"x")),
        {"names": ["a"]},
        said=(r"warning: .*2 \.nef files are left out: raw of a camera: convert them",),
    ),
    **{
        f"turned by EXIF {side}, mask of what is {'displayed' if shown else 'stored'}": Variant(
            turned(side, shown), {"dark": 40 * 12}
        )
        for side in (6, 8, 5, 7)
        for shown in (True, False)
    },
    "turned by EXIF 3": Variant(turned(3, True), {"dark": 40 * 12}, said=("warning: .*EXIF orientation 3",)),
}


def drawn(*masks_of: np.ndarray | Image.Image, suffix: str = ".png", **options: Any) -> Callable[[Path], Any]:
    """A photograph for each mask, which is written as it is given."""

    def draw(root: Path) -> None:
        (root / "masks").mkdir()
        for number, pixels in enumerate(masks_of):
            picture(root / f"images/{number}.png", number)
            found = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
            found.save(root / f"masks/{number}{suffix}", **options)

    return draw


def areas(*values: int, kind: type = np.uint8) -> np.ndarray:
    """A mask of blocks: the values from left to right, 12 pixels each, and again in the lower half from the second."""
    upper = np.repeat(np.resize(np.array(values, kind), 4), 12)
    lower = np.repeat(np.resize(np.array(values[1:] + values[:1], kind), 4), 12)
    return np.concatenate([np.tile(upper, (20, 1)), np.tile(lower, (20, 1))])


def smooth(mask: np.ndarray) -> np.ndarray:
    """A mask as an image viewer resizes it."""
    small = Image.fromarray(mask).resize((24, 20), Image.Resampling.BILINEAR)
    return np.asarray(small.resize((48, 40), Image.Resampling.BILINEAR))


def palette(mask: np.ndarray, colours: int) -> Image.Image:
    found = Image.fromarray(mask)
    found.putpalette([channel for value in range(colours) for channel in (value, 255 - value, 7 * value % 256)])
    return found


def speck(mask: np.ndarray, value: int) -> np.ndarray:
    """The mask with one pixel of another value."""
    found = mask.copy()
    found[5, 7] = value
    return found


def as_jpeg(mask: np.ndarray) -> np.ndarray:
    packed = io.BytesIO()
    Image.fromarray(mask).save(packed, "JPEG", quality=75)
    return np.asarray(Image.open(packed))


ZERO_ONE = {"classes": "class_0 class_1", "masks": {"0": [0, 1], "1": [0, 1]}}
THREE = {"classes": "class_0 class_1 class_2", "masks": {"0": [0, 1, 2]}}

MASKS = {
    "0 and 255": Variant(
        drawn(areas(0, 255), areas(0)),
        refused=r"no value but 0 .* and 255 .*ignored.*data\.label_map='\{0: 0, 255: 1\}'",
    ),
    "0 and 255 with a map": Variant(
        drawn(areas(0, 255), areas(255, 0)), ZERO_ONE, settings={"label_map": {0: 0, 255: 1}}
    ),
    "0 and 255 with names": Variant(
        drawn(areas(0, 255), areas(0, 255)),
        refused=r"only the values 0 and 255.*data\.label_map='\{0: 0, 255: 1\}'",
        settings={"classes": ["ground", "coin"]},
        only_checked=True,
    ),
    "0 and 128": Variant(drawn(areas(0, 128), areas(0, 128)), refused=r"data\.label_map='\{0: 0, 128: 1\}'"),
    "0, 206 and 210": Variant(drawn(areas(0, 206, 210)), refused=r"data\.label_map='\{0: 0, 206: 1, 210: 2\}'"),
    "1 and 2": Variant(drawn(areas(1, 2), areas(2, 1)), refused=r"data\.label_map='\{1: 0, 2: 1\}'"),
    "0, 100 and the ignored value": Variant(
        drawn(areas(0, 100, 255)), refused=r"data\.label_map='\{0: 0, 100: 1, 255: 255\}'"
    ),
    "a value of one pixel": Variant(
        drawn(speck(areas(0, 255), 7), areas(0, 255)),
        refused=r"data\.label_map='\{0: 0, 7: 255, 255: 1\}' \(7 of few pixels become ignored\)",
    ),
    "one value alone": Variant(drawn(areas(3), areas(3)), refused="nothing but one class would be learned"),
    "smoothed edges": Variant(drawn(smooth(areas(0, 255)), smooth(areas(255, 0))), refused="interpolated.*nearest"),
    "smoothed edges of three classes": Variant(drawn(smooth(areas(0, 9, 60))), refused="interpolated.*nearest"),
    "through JPEG": Variant(drawn(as_jpeg(areas(0, 255)), as_jpeg(areas(0, 255))), refused="interpolated.*nearest"),
    "a class drawn as lines": Variant(drawn(np.where(np.arange(48) % 12 == 5, 2, areas(0, 1)).astype(np.uint8)), THREE),
    "palette": Variant(drawn(palette(areas(0, 1, 2), 3)), THREE),
    "palette of 1 bit": Variant(drawn(palette(areas(0, 1), 2), palette(areas(1, 0), 2), bits=1), ZERO_ONE),
    "palette of 2 bits": Variant(drawn(palette(areas(0, 1, 2), 4), bits=2), THREE),
    "palette of 4 bits": Variant(drawn(palette(areas(0, 1, 2), 16), bits=4), THREE),
    "1 bit": Variant(
        drawn(*[Image.fromarray(areas(*values)).point([0, 255] * 128).convert("1") for values in ((0, 1), (1, 0))]),
        ZERO_ONE,
    ),
    "1 bit in TIFF": Variant(
        drawn(*[Image.fromarray(areas(0, 255)).convert("1") for _ in range(2)], suffix=".tif"), ZERO_ONE
    ),
    "masks of 32 bits in TIFF": Variant(drawn(areas(0, 1, 2, kind=np.int32), suffix=".tif"), THREE),
    "masks of floating point": Variant(
        drawn(areas(0, 1, kind=np.float32), suffix=".tif"), refused=r"kind 'F'.*save label values as integers"
    ),
    "masks of two pages": Variant(
        drawn(areas(0, 1), suffix=".tif", save_all=True, append_images=[Image.new("L", (48, 40))]),
        refused="mask has 2 pages",
    ),
    "masks of 16 bits": Variant(drawn(areas(0, 1, 2, kind=np.uint16)), THREE),
    "masks of 16 bits in TIFF": Variant(drawn(areas(0, 1, 2, kind=np.uint16), suffix=".tif"), THREE),
    "16 bits beyond 255": Variant(
        drawn(areas(0, 1000, kind=np.uint16)), refused=r"values 0.*data\.label_map='\{0: 0, 1000: 1\}'"
    ),
    "grey of 2 bits": Variant(both(deep_png("masks/0.png", areas(0, 1, 2), 2, 0), pictures("images/0.jpg")), THREE),
    "grey of 4 bits": Variant(both(deep_png("masks/0.png", areas(0, 1, 2), 4, 0), pictures("images/0.jpg")), THREE),
    "colours": Variant(
        drawn(np.where(areas(0, 1)[..., None] > 0, (128, 0, 0), 0).astype(np.uint8)),
        refused=r"0x800000.*data\.label_map",
    ),
    "colours of one class, with a map": Variant(
        drawn(np.where(areas(0, 1)[..., None] > 0, 255, 0).astype(np.uint8).repeat(3, 2)),
        {"masks": {"0": [0, 1]}},
        settings={"label_map": {0: 0, 0xFFFFFF: 1}},
    ),
    "colours of which the error has a map": Variant(
        drawn(np.where(areas(0, 1)[..., None] > 0, (250, 50, 83), 0).astype(np.uint8)),
        refused=r"data\.label_map='\{0x000000: 0, 0xFA3253: 1\}'",
    ),
    "grey in three channels": Variant(drawn(areas(0, 1, 2)[..., None].repeat(3, 2)), THREE),
    "grey in four channels": Variant(drawn(np.dstack([areas(0, 1, 2)[..., None].repeat(3, 2), areas(255, 9)])), THREE),
    "white in three channels": Variant(
        drawn(areas(0, 255)[..., None].repeat(3, 2)), refused=r"data\.label_map='\{0: 0, 255: 1\}'"
    ),
    "colours of 16 bits in masks": Variant(
        both(deep_png("masks/0.png", areas(0, 1)[..., None].repeat(3, 2)), pictures("images/0.jpg")),
        refused="mask has colours of 16 bits",
    ),
    "JPEG": Variant(drawn(areas(0, 255), suffix=".jpg"), refused="mask is a JPEG"),
}

BOX = [[0, 0], [24, 0], [24, 40], [0, 40]]  # the left half
LEFT_HALF = {"a": [0, 1], "b": [0]}


def coco(segmentation: Any, *, names: tuple[str, ...] = AB, **annotation: Any) -> str:
    """COCO's JSON with one annotation, of the first image."""
    height, width = SIZE
    images = [{"id": index, "file_name": name, "height": height, "width": width} for index, name in enumerate(names, 1)]
    drawn = {"id": 5, "image_id": 1, "category_id": 7, "segmentation": segmentation, "iscrowd": 0, **annotation}
    return json.dumps({"images": images, "categories": [{"id": 7, "name": "cup"}], "annotations": [drawn]})


def coco_of(*, images: tuple[dict[str, Any], ...] = (), **parts: Any) -> str:
    """COCO's JSON, some of its parts others than those of `coco`."""
    content = json.loads(coco([FLAT]))
    content["images"] = [{**one, **other} for one, other in zip(content["images"], images)] or content["images"]
    return json.dumps({**content, **parts})


def tasks(*values: dict[str, Any], image: str = "/data/upload/1/0a1b2c3d-a.jpg", **region: Any) -> str:
    """Label Studio's JSON of one image."""
    results = [{"id": f"r{place}", "value": value, **region} for place, value in enumerate(values)]
    made = {"id": 1, "was_cancelled": False, "completed_by": 1, "result": results}
    return json.dumps([{"id": 1, "data": {"image": image}, "annotations": [made]}])


def task_table(headings: tuple[str, ...], *rows: tuple[Any, ...], mark: str = ",") -> str:
    """Label Studio's table, a row for each annotation, columns in the order of the alphabet; None where nobody was."""
    made = {"annotation_id": 7, "annotator": "me", "lead_time": 1.5, "updated_at": "2026"}
    stream = io.StringIO()
    writer = csv.DictWriter(
        stream, sorted((*made, "id", *headings)), delimiter=mark, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n"
    )
    writer.writeheader()
    for number, row in enumerate(rows, start=1):
        cells = {name: cell if isinstance(cell, str) else json.dumps(cell) for name, cell in zip(headings, row)}
        empty = {name: "" for name, cell in zip(headings, row) if cell is None}
        writer.writerow({"id": number, **cells, **(dict.fromkeys(made, "") if empty else made), **empty})
    return stream.getvalue()


def cvat(shape: str, name: str = "a.jpg") -> str:
    """CVAT's XML of one image."""
    image = f'<image id="0" name="{name}" width="48" height="40">{shape}</image>'
    return f"<annotations><version>1.1</version><meta/>{image}</annotations>"


def labelme_xml(*objects: dict[str, str], image: str, size: tuple[int, int] = SIZE) -> str:
    """The XML of one image, as LabelMe's web tool writes it."""
    drawn = "".join(
        "<object>" + "".join(f"<{key}>{value}</{key}>" for key, value in {**LEFT_POLYGON, **one}.items()) + "</object>"
        for one in objects
    )
    sides = f"<imagesize><nrows>{size[0]}</nrows><ncols>{size[1]}</ncols></imagesize>"
    return f"<annotation><filename>{image}</filename><folder>shop</folder>{drawn}{sides}</annotation>"


def voc_xml(*names: str, size: tuple[int, int] = SIZE, difficult: int = 0) -> str:
    """The XML of one image with a box for each name, the left half, as Pascal VOC's."""
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>24</xmax><ymax>40</ymax></bndbox>"
    drawn = "".join(f"<object><name>{name}</name><difficult>{difficult}</difficult>{box}</object>" for name in names)
    sides = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
    return f"<annotation><filename>x.jpg</filename>{sides}<segmented>0</segmented>{drawn}</annotation>"


def labelme(*shapes: dict[str, Any], image: str) -> str:
    """labelme's JSON of one image."""
    return json.dumps({"version": "5.5.0", "flags": {}, "shapes": list(shapes), "imagePath": image, "imageData": None})


LEFT_POLYGON = {
    "name": "cup\n",
    "deleted": "0",
    "polygon": "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in BOX),
}
ROBOFLOW_POLYGON = "".join(f"<x{place}>{x}</x{place}><y{place}>{y}</y{place}>" for place, (x, y) in enumerate(BOX, 1))
ROBOFLOW_POLYGON = f"<polygon>{ROBOFLOW_POLYGON}</polygon>"
FLAT = [side for point in BOX for side in point]
YOLO_ROW = "0 0 0 0.5 0 0.5 1 0 1\n"
YOLO_PHOTOS = ("images/train/a.jpg", "images/val/b.jpg")
YOLO_MASKED = {"names": ["train/a", "val/b"], "masks": {"train/a": [0, 1], "val/b": [0]}}
CUP = {"label": "cup", "shape_type": "polygon", "points": BOX}
HALF = {"points": [[0, 0], [50, 0], [50, 100], [0, 100]], "closed": True, "polygonlabels": ["cup"]}
POLYGON = '<polygon label="cup" points="0,0;24,0;24,40;0,40" z_order="0"/>'
LEFT_HALF_TAGGED = {"masks": LEFT_HALF, "classes": "background cup", "tags": {"a": "cup", "b": ""}}
ONE_MASKED = {"classes": "background cup", "names": ["a"], "masks": {"a": [0, 1]}}


def yolo(
    yaml: str = "train: images/train\nval: images/val\nnames: [cup]\n",
    row: str = YOLO_ROW,
    label: str = "labels/train/a.txt",
    file: str = "data.yaml",
    images: tuple[str, ...] = YOLO_PHOTOS,
) -> Callable[[Path], Any]:
    """A folder of Ultralytics with one label file."""
    return both(pictures(*images), text(file, yaml), text(label, row))


TOOLS = {
    "COCO, polygons": Variant(
        both(pictures(*inside("images", *AB)), text("annotations.json", coco([FLAT]))),
        {"names": ["a", "b"], "classes": "background cup", "masks": LEFT_HALF, "tags": {"a": "cup", "b": ""}},
    ),
    "COCO, runs as CVAT writes them": Variant(
        both(
            pictures(*AB), text("instances_default.json", coco({"size": [40, 48], "counts": [0, 960, 960]}, iscrowd=1))
        ),
        {"classes": "background cup", "masks": LEFT_HALF},
    ),
    "COCO, runs that do not add up": Variant(
        both(pictures(*AB), text("coco.json", coco({"size": [40, 48], "counts": [0, 960]}))),
        refused=r"coco\.json: annotation 5 has runs of 960 pixels together, 48x40 are 1920",
    ),
    "COCO, an outline of half a point": Variant(
        both(pictures(*AB), text("coco.json", coco([FLAT[:-1]]))),
        refused=r"coco\.json: annotation 5 has a polygon of 7 numbers, expected pairs",
    ),
    "Roboflow": Variant(
        both(
            pictures("train/a.jpg", "valid/a.jpg"),
            text("train/_annotations.coco.json", coco([FLAT], names=("a.jpg",))),
            text("valid/_annotations.coco.json", coco([FLAT], names=("a.jpg",))),
        ),
        {"names": ["train/a", "valid/a"], "masks": {"train/a": [0, 1], "valid/a": [0, 1]}},
    ),
    "YOLO, polygons": Variant(
        both(
            pictures("images/train/a.jpg", "images/val/b.jpg"),
            text("data.yaml", "train: images/train\nval: images/val\nnames: [cup]\n"),
            text("labels/train/a.txt", YOLO_ROW),
        ),
        {"classes": "background cup", "masks": {"train/a": [0, 1], "val/b": [0]}},
    ),
    "YOLO, masks": Variant(
        both(
            pictures("images/train/a.jpg", "images/val/b.jpg"),
            masks("masks/train/a.png", "masks/val/b.png"),
            text("data.yaml", "train: images/train\nval: images/val\nnames: {0: ground, 1: cup}\nmasks_dir: masks\n"),
        ),
        {"classes": "ground cup", "masks": {"train/a": [0, 1], "val/b": [0, 1]}},
    ),
    "labelme": Variant(
        both(
            pictures(*AB),
            text("a.json", labelme({"label": "cup", "shape_type": "rectangle", "points": BOX[::2]}, image="a.jpg")),
            text("b.json", labelme(image="b.jpg")),
        ),
        {"classes": "background cup", "masks": LEFT_HALF},
    ),
    "COCO, dummy class of Roboflow": Variant(
        both(
            pictures(*AB),
            text(
                "_annotations.coco.json",
                coco_of(
                    categories=[
                        {"id": 0, "name": "cups", "supercategory": "none"},
                        {"id": 7, "name": "cup", "supercategory": "cups"},
                    ]
                ),
            ),
        ),
        {"classes": "background cup", "masks": LEFT_HALF},
    ),
    "COCO, gaps in the ids and one of 0": Variant(
        both(
            pictures(*AB),
            text(
                "coco.json",
                coco_of(
                    categories=[{"id": 90, "name": "lid"}, {"id": 0, "name": "cup"}],
                    annotations=[
                        {"id": 1, "image_id": 1, "category_id": 0, "segmentation": [FLAT]},
                        {"id": 2, "image_id": 2, "category_id": 90, "segmentation": [FLAT]},
                    ],
                ),
            ),
        ),
        {"classes": "background cup lid", "masks": {"a": [0, 1], "b": [0, 2]}},
    ),
    "COCO, no sizes": Variant(
        both(pictures(*AB), text("coco.json", coco_of(images=({"height": None, "width": None},) * 2))),
        {"masks": LEFT_HALF},
    ),
    "COCO, no sizes, and runs of another": Variant(
        both(
            pictures(*AB),
            text(
                "coco.json",
                coco_of(
                    images=({"height": None, "width": None},) * 2,
                    annotations=[
                        {
                            "id": 5,
                            "image_id": 1,
                            "category_id": 7,
                            "segmentation": {"size": [20, 48], "counts": [0, 480, 480]},
                        }
                    ],
                ),
            ),
        ),
        refused=r"annotation 5 has runs of the size \[20, 48\], its image is \[40, 48\]",
    ),
    "COCO, one id for two images": Variant(
        both(pictures(*AB), text("coco.json", coco_of(images=({"id": 1}, {"id": 1})))),
        refused=r"coco\.json: image 1 has the id of a\.jpg",
    ),
    "COCO, capitals": Variant(both(pictures(*AB), text("COCO.JSON", coco([FLAT]))), {"masks": LEFT_HALF}),
    "COCO, names of Label Studio's storage": Variant(
        both(
            pictures(*inside("images", *AB)),
            text("result.json", coco([FLAT], names=("/data/local-files/?d=a.jpg", "images/0a1b2c3d-b.jpg"))),
        ),
        {"masks": LEFT_HALF},
    ),
    "COCO, key points beside instances": Variant(
        both(
            pictures("images/a.jpg", "images/b.jpg"),
            text("annotations/instances_default.json", coco([FLAT])),
            text("annotations/person_keypoints_default.json", coco([], bbox=[0, 0, 9, 9], keypoints=[1, 2, 2])),
        ),
        {"masks": LEFT_HALF},
    ),
    "COCO, UTF-16": Variant(
        both(pictures(*AB), text("coco.json", coco([FLAT]).encode("utf-16"))), refused="coco.json is not UTF-8"
    ),
    "COCO, outside by a little": Variant(
        both(pictures(*AB), text("coco.json", coco([[-5, -5, 24, -5, 24, 45, -5, 45]]))), {"masks": LEFT_HALF}
    ),
    "COCO, paths of Windows": Variant(
        both(pictures(*AB), text("coco.json", coco([FLAT], names=("C:\\x\\a.JPG", "x\\b.jpg")))), {"masks": LEFT_HALF}
    ),
    "YOLO, numbers as text": Variant(
        yolo('train: images/train\nval: images/val\nnames: {"0": cup, "1": lid}\n'),
        {**YOLO_MASKED, "classes": "background cup lid"},
    ),
    "YOLO, a number left out": Variant(
        yolo("train: images/train\nval: images/val\nnames: {0: cup, 2: lid}\n"), refused="a name for each number from 0"
    ),
    "YOLO, capitals": Variant(
        yolo(
            "train: Images/train\nval: Images/val\nnames: [cup]\n",
            label="Labels/train/A.TXT",
            file="DATA.YAML",
            images=("Images/train/a.jpg", "Images/val/b.JPG"),
        ),
        {"masks": {"Images/train/a": [0, 1], "Images/val/b": [0]}},
    ),
    "YOLO, letters of a Mac": Variant(
        yolo(label=f"labels/train/{decomposed('ä')}.txt", images=("images/train/ä.jpg", "images/val/b.jpg")),
        {"masks": {"train/ä": [0, 1], "val/b": [0]}},
    ),
    "YOLO, broken YAML": Variant(yolo("train: [images\nnames: x:\n"), refused=r"data\.yaml is not YAML"),
    "YOLO, classes.txt of Label Studio": Variant(
        yolo("cup\nlid\n", label="labels/a.txt", file="classes.txt", images=inside("images", *AB)),
        {"classes": "background cup lid", "masks": {"a": [0, 1], "b": [0]}},
    ),
    "YOLO, names of Label Studio's storage": Variant(
        yolo("cup\n", label="labels/?d=a.txt", file="classes.txt", images=inside("images", *AB)),
        {"masks": {"a": [0, 1], "b": [0]}},
    ),
    "YOLO, no label of any image": Variant(
        yolo(label="labels/train/x.txt"), refused=r"x\.txt: 1 label file without an image"
    ),
    "YOLO 1.1 of CVAT": Variant(
        both(
            pictures("obj_train_data/a.jpg", "obj_train_data/b.jpg"),
            text("obj.names", "cup\nlid\n"),
            text("obj_train_data/a.txt", "1 0.5 0.5 0.2 0.2\n"),
            text("train.txt", "data/obj_train_data/a.jpg\ndata/obj_train_data/b.jpg\n"),
        ),
        {"classes": "background cup lid", "tags": {"obj_train_data/a": "lid", "obj_train_data/b": ""}},
    ),
    "YOLO, boxes among outlines": Variant(
        yolo(row=YOLO_ROW + "0 0.75 0.5 0.2 0.5\n"), {"masks": {"train/a": [0, 1, 255], "val/b": [0]}}
    ),
    "YOLO, a label too many": Variant(
        both(yolo(), text("labels/train/x.txt", YOLO_ROW)),
        YOLO_MASKED,
        said=(r"warning: .*x\.txt: 1 label file without an image",),
    ),
    "YOLO within the folder": Variant(
        yolo(label="set/labels/train/a.txt", file="set/data.yaml", images=inside("set", *YOLO_PHOTOS)),
        refused="give data=.*/set, the only folder there",
    ),
    "labelme, capitals and blanks": Variant(
        both(pictures("a.JPG"), text("a.JSON", labelme(CUP, {**CUP, "label": " cup "}, image="a.JPG"))), ONE_MASKED
    ),
    "labelme, from a folder of its own": Variant(
        both(pictures("images/a.jpg"), text("drawn/a.json", labelme(CUP, image="..\\images\\a.jpg"))),
        ONE_MASKED,
        settings={"masks": "drawn", "classes": ["background", "cup"]},
    ),
    "labelme, a way out": Variant(
        both(pictures(*AB), text("a.json", labelme(CUP, image="../../a.jpg"))), refused=r"a\.json: '\.\./\.\./a\.jpg'"
    ),
    "labelme, an empty file": Variant(
        both(pictures(*AB), text("a.json", ""), text("b.json", labelme(CUP, image="b.jpg"))),
        refused=r"a\.json cannot be read",
    ),
    "labelme, nothing but what is damaged": Variant(
        both(pictures(*AB), text("a.json", labelme({**CUP, "label": None}, image="a.jpg"))),
        refused=r"a\.json, shape 1 \(None\) has no label",
    ),
    "labelme, the image's data first": Variant(
        both(
            pictures("a.jpg"),
            text("a.json", json.dumps({"imageData": "x" * 20_000, **json.loads(labelme(CUP, image="a.jpg"))})),
        ),
        ONE_MASKED,
    ),
    "Label Studio, no sizes": Variant(
        both(pictures("a.jpg"), text("tasks.json", tasks(HALF))), {**ONE_MASKED, "tags": {"a": "cup"}}
    ),
    "Label Studio, no sizes, and a brush": Variant(
        both(pictures("a.jpg"), text("tasks.json", tasks({"rle": [0] * 9, "brushlabels": ["cup"]}))),
        refused=r"tasks\.json: task 1, region r0 \(cup\): has no original_height",
    ),
    "Label Studio, a byte mark and capitals": Variant(
        both(
            pictures("a.jpg"),
            text("TASKS.JSON", b"\xef\xbb\xbf" + tasks(HALF, original_width=48, original_height=40).encode()),
        ),
        ONE_MASKED,
    ),
    "Label Studio, swapped sizes": Variant(
        both(pictures("a.jpg"), text("tasks.json", tasks(HALF, original_width=40, original_height=48))),
        refused="tasks.json: task 1: 40x48, .*a.jpg is 48x40",
    ),
    "Label Studio's CSV": Variant(
        both(
            pictures(*inside("images", *AB, "c.jpg", "d.jpg")),
            text(
                "project-1.csv",
                task_table(
                    ("choice", "image", "title"),
                    ("cup", "/data/upload/1/0a1b2c3d-a.jpg", "x"),
                    ({"choices": ["cup", "lid"]}, "b.jpg", "y"),
                    ("", "c.jpg", "z"),
                    (None, "d.jpg", "z"),
                ),
            ),
        ),
        {"classes": "background cup lid", "tags": {"a": "cup", "b": "cup lid", "c": "", "d": None}},
        said=(r"info: .*project-1\.csv: columns left out: title\.",),
    ),
    "Label Studio's TSV, outlines": Variant(
        both(pictures(*AB), text("x.tsv", task_table(("image", "label"), ("a.jpg", [HALF]), ("b.jpg", ""), mark="\t"))),
        LEFT_HALF_TAGGED,
    ),
    "Label Studio's CSV, semicolons in UTF-16": Variant(
        both(
            pictures(*AB),
            text("x.csv", task_table(("image", "label"), ("a.jpg", [HALF]), ("b.jpg", ""), mark=";").encode("utf-16")),
        ),
        LEFT_HALF_TAGGED,
    ),
    "Label Studio's CSV, one column of words": Variant(
        both(pictures(*AB), text("x.csv", task_table(("animal", "image"), ("cup", "a.jpg"), ("lid", "b.jpg")))),
        BOTH_TAGGED,
    ),
    "Label Studio's CSV, data before the number": Variant(
        both(
            pictures(*AB),
            text(
                "x.csv",
                "image,title,id,animal,annotator,annotation_id,created_at\na.jpg,one,1,cup,me,7,2026\n"
                "b.jpg,two,2,lid,me,8,2026\n",
            ),
        ),
        BOTH_TAGGED,
        said=(r"info: .*x\.csv: columns left out: title\.",),
    ),
    "Label Studio's CSV, which column": Variant(
        both(
            pictures(*AB),
            text("x.csv", task_table(("animal", "image", "title"), ("cup", "a.jpg", "x"), ("lid", "b.jpg", "y"))),
        ),
        refused=r"x\.csv: any of the columns animal, title may hold the choices.*call the column of choices choice",
    ),
    "Label Studio's CSV, a cell that a spreadsheet cut off": Variant(
        both(
            pictures(*AB),
            text(
                "x.csv",
                task_table(("image", "label"), ("a.jpg", [HALF]), ("b.jpg", json.dumps([HALF])[:-9])),
            ),
        ),
        refused=r"x\.csv: task 2: column label begins as JSON and is none",
    ),
    "Label Studio's CSV, the last row of a task": Variant(
        both(
            pictures("a.jpg", "b.jpg"),
            text(
                "x.csv",
                "annotation_id,choice,created_at,id,image\n7,cup,2026,1,a.jpg\n9,lid,2026,1,a.jpg\n8,cup,2026,2,b.jpg\n",
            ),
        ),
        {"classes": "background cup lid", "tags": {"a": "lid", "b": "cup"}},
    ),
    "Label Studio's CSV of a folder's tags": Variant(
        both(
            pictures(*inside("images", *AB)),
            masks("masks/a.png"),
            text("t.csv", task_table(("choice", "image", "title"), ("cup", "a.jpg", "x"), ("lid", "b.jpg", "y"))),
        ),
        {"classes": "background cup lid", "tags": {"a": "cup", "b": "lid"}, "masks": {"a": [0, 1], "b": None}},
        said=(r"t\.csv: choices and labels of Label Studio as tags; left out: title",),
        settings={"tags": "t.csv", "classes": ["background", "cup", "lid"]},
    ),
    "LabelMe's XML": Variant(
        both(
            pictures(*inside("Images/shop", *AB)),
            text("Annotations/shop/a.xml", labelme_xml(LEFT_POLYGON, {"deleted": "1"}, image="a.jpg")),
            text("Annotations/shop/b.xml", labelme_xml(image="b.jpg")),
        ),
        {"names": ["shop/a", "shop/b"], "classes": "background cup", "masks": {"shop/a": [0, 1], "shop/b": [0]}},
    ),
    "LabelMe's XML, a box beside the image": Variant(
        both(
            pictures(*AB),
            text("a.xml", labelme_xml(LEFT_POLYGON, image="a.jpg")),
            text("b.xml", labelme_xml({**LEFT_POLYGON, "type": "bounding_box"}, image="b.jpg")),
        ),
        {"masks": {"a": [0, 1], "b": None}, "tags": {"a": "cup", "b": "cup"}},
    ),
    "LabelMe's XML of a folder's masks": Variant(
        both(pictures("images/a.jpg"), text("drawn/a.xml", labelme_xml(LEFT_POLYGON, image="a.jpg"))),
        ONE_MASKED,
        settings={"masks": "drawn", "classes": ["background", "cup"]},
    ),
    "LabelMe's XML, swapped sizes": Variant(
        both(pictures("a.jpg"), text("a.xml", labelme_xml(LEFT_POLYGON, image="a.jpg", size=(48, 40)))),
        refused=r"a\.xml: 40x48, .*a\.jpg is 48x40: 1 image of another size",
    ),
    "LabelMe's XML, a bomb": Variant(
        both(
            pictures(*AB),
            text("a.xml", labelme_xml(LEFT_POLYGON, image="a.jpg")),
            text("b.xml", '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>' + labelme_xml(image="&b;.jpg")),
        ),
        refused=r"b\.xml cannot be read \(declares a document type",
    ),
    "Pascal VOC's boxes": Variant(
        both(
            pictures(*inside("JPEGImages", *AB, "c.jpg")),
            text("Annotations/a.xml", voc_xml("cup", "lid", difficult=1)),
            text("Annotations/b.xml", voc_xml()),
            text("Annotations/c.xml", voc_xml("cup")),
            text("ImageSets/Main/all.txt", "a\nb\n"),
        ),
        {"classes": "background cup lid", "tags": {"a": "cup lid", "b": ""}, "masks": {"a": None, "b": None}},
    ),
    "Pascal VOC's boxes, painted": Variant(
        both(pictures(*AB), text("a.xml", voc_xml("cup")), text("b.xml", voc_xml())),
        {"masks": LEFT_HALF, "tags": {"a": "cup", "b": ""}},
        settings={"options": {"boxes": True}},
    ),
    "Pascal VOC's XML, polygons of Roboflow": Variant(
        both(
            pictures("train/a.jpg", "valid/b.jpg"),
            text("train/a.xml", voc_xml("cup").replace("</bndbox>", f"</bndbox>{ROBOFLOW_POLYGON}")),
            text("valid/b.xml", voc_xml()),
        ),
        {"names": ["train/a", "valid/b"], "masks": {"train/a": [0, 1], "valid/b": [0]}},
    ),
    "Pascal VOC's XML beside masks": Variant(
        both(pictures("images/a.jpg"), masks("annotations/a.png"), text("xmls/a.xml", voc_xml("x"))),
        {"masks": {"a": [0, 1]}, "classes": "class_0 class_1"},
    ),
    "Pascal VOC's XML beside a table of tags": Variant(
        both(pictures(*inside("JPEGImages", *AB)), text("Annotations/a.xml", voc_xml("x")), text("tags.csv", TWO_TAGS)),
        BOTH_TAGGED,
        settings={"tags": "tags.csv"},
    ),
    "Pascal VOC's XML, swapped sizes": Variant(
        both(pictures("a.jpg"), text("a.xml", voc_xml("cup", size=(48, 40)))),
        refused=r"a\.xml: 40x48, .*a\.jpg is 48x40: 1 image of another size",
    ),
    "CVAT, capitals": Variant(both(pictures("a.JPG"), text("Annotations.XML", cvat(POLYGON))), ONE_MASKED),
    "CVAT, a file for each split": Variant(
        both(
            pictures("images/a.jpg", "images/b.jpg"),
            text("train.xml", cvat(POLYGON)),
            text("val.xml", cvat(POLYGON, "b.jpg")),
        ),
        {"masks": {"a": [0, 1], "b": [0, 1]}},
    ),
    "CVAT, tracks": Variant(
        both(
            pictures("a.jpg"),
            text("annotations.xml", cvat(POLYGON).replace("<meta/>", '<track id="0" label="cup"/>')),
        ),
        refused=r"annotations\.xml: 1 track of a video.*export the task as CVAT for images",
    ),
    "CVAT, runs of another size": Variant(
        both(
            pictures("a.jpg"),
            text(
                "annotations.xml",
                cvat('<mask label="cup" rle="0, 9" left="0" top="0" width="5" height="2" z_order="0"/>'),
            ),
        ),
        refused=r"annotations\.xml: image a\.jpg, mask 1 \(cup\) has runs of 9 pixels together, 5x2 are 10",
    ),
    "CVAT, masks with names in Windows-1252": Variant(
        both(
            pictures("JPEGImages/a.jpg"),
            text("labelmap.txt", "background:0,0,0::\nTür:128,0,0::\n".encode("cp1252")),
            lambda root: (root / "SegmentationClass").mkdir(),
            lambda root: Image.fromarray(np.where(areas(0, 1)[..., None] > 0, (128, 0, 0), 0).astype(np.uint8)).save(
                root / "SegmentationClass/a.png"
            ),
        ),
        {"classes": "background Tür", "masks": {"a": [0, 1]}},
    ),
    "Hugging Face, no mask in the first row": Variant(
        both(
            pictures("train/a.jpg", "train/b.jpg"),
            masks("train/m.png"),
            text(
                "train/metadata.jsonl",
                '{"image_file_name": "b.jpg"}\n{"image_file_name": "a.jpg", "mask_file_name": "m.png"}\n',
            ),
        ),
        {"masks": {"train/b": None, "train/a": [0, 1]}},
    ),
    "Hugging Face": Variant(
        both(
            pictures("train/a.jpg", "test/b.jpg"),
            masks("train/a.png.png", "test/m.png"),
            text("train/metadata.jsonl", '{"file_name": "a.jpg", "mask_file_name": "a.png.png"}\n'),
            text("test/metadata.jsonl", '{"file_name": "b.jpg", "mask_file_name": "m.png"}\n'),
        ),
        {"names": ["test/b", "train/a"], "masks": {"test/b": [0, 1], "train/a": [0, 1]}},
    ),
}

VARIANTS = {**TABLES, **LAYOUTS, **IMAGES, **MASKS, **TOOLS}


@pytest.mark.parametrize("name", VARIANTS)
def test_what_people_bring(tmp_path, name):
    variant = VARIANTS[name]
    variant.draw(tmp_path)
    settings = DataSettings(root=str(tmp_path), **variant.settings)
    findings = check(settings, ["all"])
    errors = [finding.text() for finding in findings if finding.level == "error"]
    if variant.refused:
        assert any(re.search(variant.refused, error) for error in errors), errors
        if not variant.only_checked:
            with pytest.raises(DataError, match=variant.refused):
                _read(settings)
        return
    assert not errors, errors
    data = _read(settings)
    assert {key: SHOWN[key](data) for key in variant.gives} == variant.gives
    said = [_plain(finding) for finding in findings if finding.level != "error"]
    for pattern in variant.said:
        assert any(re.search(pattern, line) for line in said), said


def _read(settings: DataSettings) -> Dataset:
    """The set, every example of which was read."""
    data = open_dataset(settings, "all")
    for index in range(len(data)):
        _ = data[index]
    return data


def _plain(finding: Finding) -> str:
    return f"{finding.level}: {finding.text()}"


def test_the_variants_have_names_of_their_own():
    assert len(VARIANTS) == sum(map(len, (TABLES, LAYOUTS, IMAGES, MASKS, TOOLS)))
