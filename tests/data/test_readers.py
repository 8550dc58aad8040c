"""Readers: equal examples from the VOC layout, plain folders and the built-in set; refusals name the file."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from maskwright.data import open_dataset, subset, with_masks, without_masks
from maskwright.data.classes import VOC_CLASSES
from maskwright.data.images import image_suffixes, list_images, read_image, turn
from maskwright.data.masks import write_mask
from maskwright.data.readers.splits import hash_split
from maskwright.data.sample import LabelSpace
from maskwright.data.scenes import scenes
from maskwright.errors import DataError
from maskwright.settings import DataSettings

pytestmark = pytest.mark.versions

LABELS = LabelSpace(("background", "cat", "dog"))
RNG = np.random.default_rng(0)


def image_file(path: Path, height: int = 40, width: int = 48, exif: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(RNG.integers(0, 256, (height, width, 3), np.uint8))
    if exif == 1:
        picture.save(path)
    else:
        picture.save(path, exif=exif_bytes(exif))
    return path


def exif_bytes(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def mask_file(path: Path, values=(0, 1), height: int = 40, width: int = 48) -> Path:
    mask = np.resize(np.array(values, np.uint8), (height, width))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)
    return path


def text_file(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def voc(root: Path, names=("2007_000001", "2007_000002", "2007_000003")) -> Path:
    for name in names:
        image_file(root / "JPEGImages" / f"{name}.jpg")
        mask_file(root / "SegmentationClass" / f"{name}.png", (0, 20, 255))
    text_file(root / "ImageSets/Segmentation/train.txt", f"{names[0]}\n{names[1]} \n")
    text_file(root / "ImageSets/Segmentation/val.txt", f"{names[2]}\n")
    return root


def photos(root: Path, names=("a", "b", "c"), masks=True) -> Path:
    for name in names:
        image_file(root / "images" / f"{name}.jpg")
        if masks:
            mask_file(root / "masks" / f"{name}.png", (0, 1, 2, 255))
    return root


def opened(root, split="all", **settings):
    return open_dataset(DataSettings(root=str(root), **settings), split)


class TestContract:
    """What every data set keeps, whichever reader made it."""

    @pytest.fixture(params=["voc", "folder", "tags", "scenes", "subset", "pseudo"])
    def dataset(self, request, tmp_path):
        if request.param == "voc":
            return opened(voc(tmp_path), "train")
        if request.param == "scenes":
            return open_dataset(DataSettings(root="scenes", options={"count": 3, "size": [32, 48]}), "train")
        if request.param == "tags":
            text_file(tmp_path / "tags.csv", "image,tags\na,cat\nb,\n")
            return opened(photos(tmp_path, masks=False), tags="tags.csv")
        text_file(tmp_path / "classes.txt", "background\ncat\ndog\n")
        plain = opened(photos(tmp_path), tags="masks")
        if request.param == "subset":
            return subset(plain, [2, 0])
        if request.param == "pseudo":
            write_mask(tmp_path / "made" / "b.png", np.ones((40, 48), np.uint8), LABELS)
            return with_masks(plain, tmp_path / "made")
        return plain

    def test_examples_agree_with_what_is_known_without_them(self, dataset):
        assert len(dataset) == len(dataset.names) == len(set(dataset.names)) > 0
        for index in range(len(dataset)):
            size, tags, has_mask = dataset.size(index), dataset.tags(index), dataset.has_mask(index)
            sample = dataset[index]
            assert sample.name == dataset.names[index]
            assert sample.image.dtype == np.uint8
            assert sample.image.shape == (*size, 3)
            assert sample.tags == tags
            assert (sample.mask is not None) == has_mask
            assert np.array_equal(dataset.mask(index), sample.mask)
            if sample.mask is not None:
                assert sample.mask.shape == size
                assert sample.mask.dtype == np.uint8
                assert set(np.unique(sample.mask)) <= {*range(dataset.labels.num_classes), 255}
            assert tags is None or (list(tags) == sorted(tags) and set(tags) <= set(dataset.labels.foreground))

    def test_the_source_says_what_it_is(self, dataset):
        assert dataset.source["count"] == len(dataset)
        assert {"root", "split", "tag_source"} <= set(dataset.source)


def test_voc_names_and_masks(tmp_path):
    train, val = opened(voc(tmp_path), "train"), opened(tmp_path, "val")
    assert train.labels == val.labels
    assert train.labels.names == VOC_CLASSES
    assert train.labels.background == 0
    assert (train.names, val.names) == (["2007_000001", "2007_000002"], ["2007_000003"])
    assert set(np.unique(train[0].mask)) == {0, 20, 255}
    assert train[0].tags is None


def test_a_voc_folder_is_known_by_its_name(tmp_path):
    assert opened(voc(tmp_path / "VOC2012", ("x", "y", "z"))).labels.names == VOC_CLASSES
    with pytest.raises(DataError, match=r"data\.label_map='\{0: 0, 20: 1, 255: 255\}'; or classes=FILE"):
        opened(voc(tmp_path / "other", ("x", "y", "z")))


def test_augmented_voc_lists_of_pairs(tmp_path):
    voc(tmp_path)
    lines = [f"/JPEGImages/2007_00000{i}.jpg /SegmentationClassAug/2007_00000{i}.png" for i in (1, 2)]
    text_file(tmp_path / "ImageSets/Segmentation/train_aug.txt", "\n".join(lines))
    mask_file(tmp_path / "SegmentationClassAug/2007_000001.png", (7,))
    for masks in (None, "SegmentationClassAug"):
        dataset = opened(tmp_path, "train_aug", masks=masks)
        assert dataset.names == ["2007_000001", "2007_000002"]
        assert np.unique(dataset[0].mask) == [7]
        assert not dataset.has_mask(1)
        assert dataset[1].mask is None
    assert np.unique(opened(tmp_path, "train_aug", masks="SegmentationClass")[0].mask).tolist() == [0, 20, 255]


def test_classes_of_settings_win_over_files(tmp_path):
    voc(tmp_path, ("x", "y", "z"))
    text_file(tmp_path / "classes.txt", "\n".join(f"file {i}" for i in range(21)))
    text_file(tmp_path / "other.txt", "\n".join(f"other {i}" for i in range(21)) + "\n\n")
    assert opened(tmp_path).labels.names[3] == "file 3"
    assert opened(tmp_path, classes="other.txt").labels.names[3] == "other 3"
    assert opened(tmp_path, classes=[f"given {i}" for i in range(21)]).labels.names[3] == "given 3"
    text_file(tmp_path / "gap.txt", "a\n\nb\n")
    with pytest.raises(DataError, match=r"gap\.txt: line 2 is empty"):
        opened(tmp_path, classes="gap.txt")
    with pytest.raises(DataError, match=r"none\.txt does not exist"):
        opened(tmp_path, classes="none.txt")


@pytest.mark.parametrize(
    ("background", "expected"), [("auto", None), (None, None), ("none", None), (2, 2), ("sky", 0), ("cow", 1)]
)
def test_background_by_name_or_value(tmp_path, background, expected):
    classes = ["sky", "cow", "grass"]
    assert opened(photos(tmp_path), classes=classes, background=background).labels.background == expected


def test_background_auto_is_the_class_called_so(tmp_path):
    assert opened(photos(tmp_path), classes=["cow", "__Background__", "dog"]).labels.background == 1
    with pytest.raises(DataError, match=r"unknown class 'could'.*'cloud'"):
        opened(tmp_path, classes=["cloud", "cow", "dog"], background="could")


def test_tags_alone_get_a_background_before_them(tmp_path):
    text_file(tmp_path / "tags.csv", "image,tags\na,dog;cat\nb,\n")
    dataset = opened(photos(tmp_path, masks=False), tags="tags.csv")
    assert dataset.labels.names == ("background", "cat", "dog")
    assert [dataset[i].tags for i in range(3)] == [(1, 2), (), None]
    assert opened(tmp_path, tags="tags.csv", classes=["dog", "cat"]).labels.names == ("background", "dog", "cat")
    assert opened(tmp_path, tags="tags.csv", background="none").labels == LabelSpace(("cat", "dog"), background=None)
    assert opened(tmp_path, tags="tags.csv", background="stuff").labels.names == ("stuff", "cat", "dog")
    mask_file(tmp_path / "masks" / "a.png")
    assert opened(tmp_path, tags="tags.csv", classes=["dog", "cat"]).labels.background is None


def test_classes_from_the_values_are_the_same_in_every_split(tmp_path):
    for name, value in (("a", 1), ("b", 2)):
        image_file(tmp_path / "images" / f"{name}.png")
        mask_file(tmp_path / "masks" / f"{name}.png", (0, value, 255))
    text_file(tmp_path / "train.txt", "a\n")
    text_file(tmp_path / "val.txt", "b\n")
    train, val = opened(tmp_path, "train"), opened(tmp_path, "val")
    assert train.labels == val.labels
    assert train.labels.names == tuple(f"class_{i}" for i in range(3))
    assert train.labels.background is None
    mask_file(tmp_path / "masks" / "b.png", (0, 2, 3))
    os.utime(tmp_path / "masks" / "b.png", ns=(1, 2**62))
    assert opened(tmp_path, "train").labels.num_classes == 4


def test_masks_of_0_and_255_do_not_pass_for_one_class(tmp_path):
    image_file(tmp_path / "images" / "a.png")
    mask_file(tmp_path / "masks" / "a.png", (0, 255))
    with pytest.raises(DataError, match=r"label_map='\{0: 0, 255: 1\}'"):
        opened(tmp_path)
    dataset = opened(tmp_path, label_map={0: 0, 255: 1})
    assert dataset.labels.num_classes == 2
    assert set(np.unique(dataset[0].mask)) == {0, 1}


def test_colours_of_the_mask_files_are_kept(tmp_path):
    image_file(tmp_path / "images" / "a.png")
    labels = LabelSpace(("sky", "cow"), None, palette=((1, 2, 3), (4, 5, 6)))
    write_mask(tmp_path / "masks" / "a.png", np.ones((40, 48), np.uint8), labels)
    assert opened(tmp_path, classes=["sky", "cow"]).labels == labels


class TestSplits:
    def test_without_a_list_by_hash(self, tmp_path):
        names = [f"n{i}" for i in range(40)]
        for name in names:
            image_file(tmp_path / f"{name}.png", 4, 4)
        train = opened(tmp_path, "train", classes=["x", "y"])
        val = opened(tmp_path, "val", classes=["x", "y"])
        assert sorted(train.names + val.names) == sorted(names)
        assert 24 <= len(train) <= 38
        assert "hash" in train.source["split_source"]
        assert len(opened(tmp_path, "all", classes=["x", "y"])) == 40
        with pytest.raises(
            DataError, match=r"unknown split 'vall'\. Did you mean 'val'\? Splits here: train, val, and all"
        ):
            opened(tmp_path, "vall", classes=["x", "y"])

    def test_the_hash_is_stable_and_never_leaves_a_part_empty(self):
        names = [f"n{i}" for i in range(2000)]
        train, val = hash_split(names)
        assert 0.77 < len(train) / 2000 < 0.83
        assert set(hash_split(names[:1000])[1]) == set(val) & set(names[:1000])
        for seed in range(50):
            few = [f"{seed}", f"other {seed}"]
            train, val = hash_split(few)
            assert len(train) == len(val) == 1
        assert hash_split(["one"]) in ((["one"], []), ([], ["one"]))

    @pytest.mark.parametrize("folder", [".", "splits", "ImageSets", "ImageSets/Segmentation"])
    def test_lists(self, tmp_path, folder):
        text_file(photos(tmp_path) / folder / "train.txt", "b.jpg\n\nimages/a.jpg\n")
        assert opened(tmp_path, "train").names == ["b", "a"]
        with pytest.raises(DataError, match=r"unknown split 'val'.*Splits here: train, and all.*val\.txt"):
            opened(tmp_path, "val")

    def test_a_list_by_its_path(self, tmp_path):
        text_file(photos(tmp_path / "set") / "lists" / "mine.txt", "c\n")
        assert opened(tmp_path / "set", "lists/mine.txt").names == ["c"]
        assert opened(tmp_path / "set", str(tmp_path / "set/lists/mine.txt")).names == ["c"]
        with pytest.raises(DataError, match=r"lists/none\.txt does not exist"):
            opened(tmp_path / "set", "lists/none.txt")

    def test_names_with_blanks(self, tmp_path):
        photos(tmp_path, ("my cat 1", "my"))
        text_file(tmp_path / "train.txt", "my cat 1\n")
        assert opened(tmp_path, "train").names == ["my cat 1"]

    @pytest.mark.parametrize("name", ["new\nline", "ends\n", "two\r\nfold/a", "line\u2028separator"])
    def test_names_that_no_list_can_hold(self, tmp_path, name):
        image_file(tmp_path / "images" / "a.png")
        image_file(tmp_path / "images" / f"{name}.png")
        with pytest.raises(DataError, match=r"1 name of images with a line break.* Fix: rename the files") as error:
            open_dataset(DataSettings(root=str(tmp_path), classes=["a", "b"]), "all")
        assert str(error.value).splitlines() == [str(error.value)]
        assert repr(name)[1:-1] in str(error.value)

    def test_listed_images_that_do_not_exist(self, tmp_path):
        text_file(photos(tmp_path) / "train.txt", "a\nz\n")
        with pytest.raises(DataError, match=r"^z: 1 of 2 images in .*train\.txt do not exist.*images.*Fix"):
            opened(tmp_path, "train")

    def test_folders_of_splits(self, tmp_path):
        for split, name in (("train", "a"), ("val", "a"), ("val", "b")):
            image_file(tmp_path / split / "images" / f"{name}.jpg")
            mask_file(tmp_path / split / "masks" / f"{name}.png")
        assert opened(tmp_path, "train").names == ["train/a"]
        val = opened(tmp_path, "val")
        assert val.names == ["val/a", "val/b"]
        assert val.has_mask(1)
        assert len(opened(tmp_path, "all")) == 3
        with pytest.raises(DataError, match=r"unknown split 'test'.*train.*val"):
            opened(tmp_path, "test")

    def test_splits_below_the_folder_of_images(self, tmp_path):
        image_file(tmp_path / "left" / "train" / "ulm" / "1_left.png")
        image_file(tmp_path / "left" / "val" / "bonn" / "2_left.png")
        mask_file(tmp_path / "fine" / "train" / "ulm" / "1_ids.png")
        mask_file(tmp_path / "fine" / "train" / "ulm" / "1_colour.png", (77,))
        options = {"images": "left", "image_suffix": "_left", "mask_suffix": "_ids"}
        train = opened(tmp_path, "train", masks="fine", options=options)
        assert train.names == ["train/ulm/1"]
        assert set(np.unique(train[0].mask)) == {0, 1}


class TestFolderPerTag:
    def test_found_by_itself(self, tmp_path):
        image_file(tmp_path / "cat" / "1.jpg")
        image_file(tmp_path / "dog" / "1.jpg")
        dataset = opened(tmp_path)
        assert dataset.names == ["cat/1", "dog/1"]
        assert dataset.labels.names == ("background", "cat", "dog")
        assert [dataset.tags(0), dataset.tags(1)] == [(1,), (2,)]
        assert "folder per tag" in dataset.source["tag_source"]

    def test_below_splits(self, tmp_path):
        image_file(tmp_path / "train" / "cat" / "1.jpg")
        image_file(tmp_path / "val" / "dog" / "1.jpg")
        val = opened(tmp_path, "val")
        assert (val.names, val.tags(0), val.labels.tag_names) == (["val/dog/1"], (2,), ("cat", "dog"))

    def test_beside_the_images(self, tmp_path):
        photos(tmp_path, masks=False)
        image_file(tmp_path / "sorted" / "cat" / "a.jpg")
        image_file(tmp_path / "sorted" / "dog" / "a.jpg")
        dataset = opened(tmp_path, tags="sorted")
        assert [dataset.tags(i) for i in range(3)] == [(1, 2), None, None]


def test_tags_from_masks(tmp_path):
    dataset = opened(photos(tmp_path), classes=list(LABELS.names), tags="masks")
    assert dataset.tags(0) == dataset[0].tags == (1, 2)
    assert dataset.source["tag_source"] == "derived from the masks"
    with pytest.raises(DataError, match="tags=masks"):
        opened(photos(tmp_path / "bare", masks=False), classes=["a", "b"], tags="masks")


def test_tag_files_count_from_root_then_from_the_working_folder(tmp_path, monkeypatch):
    photos(tmp_path / "set", masks=False)
    text_file(tmp_path / "tags.csv", "image,tags\na,here\n")
    monkeypatch.chdir(tmp_path)
    assert opened("set", tags="tags.csv").labels.tag_names == ("here",)
    text_file(tmp_path / "set" / "tags.csv", "image,tags\na,there\n")
    assert opened("set", tags="tags.csv").labels.tag_names == ("there",)


def test_saliency(tmp_path):
    photos(tmp_path)
    for name in "ab":
        mask_file(tmp_path / "sal" / f"{name}.png", (0, 200))
    text_file(tmp_path / "train.txt", "a\nb\n")
    text_file(tmp_path / "val.txt", "c\n")
    saliency = opened(tmp_path, "train", saliency="sal")[0].saliency
    assert saliency.shape == (40, 48)
    assert set(np.unique(saliency)) == {0, 200}
    assert opened(tmp_path, "val", saliency="sal")[0].saliency is None
    with pytest.raises(DataError, match="1 of 3 images have no saliency map"):
        opened(tmp_path, "all", saliency="sal")
    mask_file(tmp_path / "sal" / "a.png", (0,), 10, 10)
    with pytest.raises(DataError, match=r"a\.png: mask is 10x10"):
        opened(tmp_path, "train", saliency="sal")[0]


class TestImages:
    @pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "tif", "webp", "jp2", "ppm", "tga"])
    def test_formats(self, tmp_path, suffix):
        image_file(tmp_path / f"a.{suffix}")
        assert opened(tmp_path, classes=["x", "y"])[0].image.shape == (40, 48, 3)

    def test_no_stub_formats(self):
        assert {".jpg", ".jpeg", ".png", ".webp", ".tiff"} <= image_suffixes()
        assert not {".h5", ".pdf", ".mpg", ".txt"} & image_suffixes()

    def test_modes_become_rgb(self, tmp_path):
        pixels = RNG.integers(0, 256, (4, 6, 3), np.uint8)
        for mode in ("L", "LA", "P", "RGBA", "CMYK", "1"):
            path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
            Image.fromarray(pixels).convert(mode).save(path)
            assert read_image(path).shape == (4, 6, 3)
        deep = np.array([[0, 257, 65535]], np.uint16)
        Image.fromarray(deep).save(tmp_path / "deep.png")
        assert read_image(tmp_path / "deep.png")[0, :, 1].tolist() == [0, 1, 255]
        Image.fromarray(deep.astype(np.float32)).save(tmp_path / "float.tif")
        with pytest.raises(DataError, match=r"float\.tif: image has floating-point pixels"):
            read_image(tmp_path / "float.tif")

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_orientation_turns_image_and_size(self, tmp_path, orientation):
        path = image_file(tmp_path / "images" / "a.png", 20, 30, exif=orientation)
        with Image.open(path) as picture:
            expected = np.array(ImageOps.exif_transpose(picture))
        dataset = opened(tmp_path, classes=["x", "y"])
        assert np.array_equal(dataset[0].image, expected)
        assert dataset.size(0) == expected.shape[:2]

    @pytest.mark.parametrize("said", ["nothing", "before", "behind", "xmp"])
    def test_orientation_of_png_is_read_without_pixels_where_it_can_be(self, tmp_path, monkeypatch, said):
        path = image_file(tmp_path / "images" / "a.png", 20, 30, exif=6 if said in ("before", "behind") else 1)
        if said == "xmp":
            text = PngImagePlugin.PngInfo()
            text.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
            Image.open(path).save(path, pnginfo=text)
        if said == "behind":
            content = path.read_bytes()
            begin = content.index(b"eXIf") - 4
            end = begin + 12 + int.from_bytes(content[begin : begin + 4], "big")
            last = content.index(b"IEND") - 4
            path.write_bytes(content[:begin] + content[end:last] + content[begin:end] + content[last:])
        with Image.open(path) as picture:
            expected = np.array(ImageOps.exif_transpose(picture)).shape[:2]
        assert expected == ((20, 30) if said == "nothing" else (30, 20))
        decoded = []
        load = PngImagePlugin.PngImageFile.load
        monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: decoded.append(1) or load(self))
        assert opened(tmp_path, classes=["x", "y"]).size(0) == expected
        assert bool(decoded) == (said == "behind")

    def test_without_masks(self, tmp_path):
        image_file(tmp_path / "images" / "a.png")
        mask = image_file(tmp_path / "masks" / "a.png")
        mask.write_bytes(b"not a mask, and never opened")
        (tmp_path / "tags.csv").write_text("image,tags\na,y\n")
        for dataset in (opened(tmp_path, classes=["x", "y"], tags="tags.csv"), scenes("train", count=1, size=(64, 64))):
            view = without_masks(dataset)
            assert view[0].mask is None
            assert view.mask(0) is None
            assert not view.has_mask(0)
            assert view[0].tags == view.tags(0) == dataset.tags(0)
            assert view[0].image.shape[:2] == view.size(0)

    def test_masks_of_the_displayed_or_the_stored_pixels(self, tmp_path):
        path = image_file(tmp_path / "images" / "a.png", 20, 30, exif=6)
        stored = RNG.integers(0, 2, (20, 30), np.uint8)
        (tmp_path / "masks").mkdir()
        for mask in (stored, turn(stored, 6)):
            Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
            sample = opened(tmp_path, classes=["x", "y"])[0]
            assert np.array_equal(sample.mask, turn(stored, 6))
        image_file(path, 20, 30)
        with pytest.raises(DataError, match=r"a\.png: mask is 20x30 pixels, its image .*a\.png is 30x20"):
            opened(tmp_path, classes=["x", "y"])[0]

    def test_truncated_images(self, tmp_path):
        path = image_file(tmp_path / "a.jpg", 64, 64)
        path.write_bytes(path.read_bytes()[:2500])
        with pytest.raises(DataError, match=r"a\.jpg: image cannot be read \(image file is truncated.*tolerant=true"):
            opened(tmp_path, classes=["x", "y"])[0]
        tolerant = opened(tmp_path, classes=["x", "y"], options={"tolerant": True})
        with pytest.warns(UserWarning, match=r"a\.jpg: truncated"):
            image = tolerant[0].image
        assert image.shape == (64, 64, 3)
        assert image[:8].std() > 10
        assert np.array_equal(tolerant[0].image, image)
        with pytest.raises(DataError, match="truncated"):
            opened(tmp_path, classes=["x", "y"])[0]

    def test_files_that_are_no_images(self, tmp_path):
        text_file(tmp_path / "a.jpg", "hello")
        for options in ({}, {"tolerant": True}):
            dataset = opened(tmp_path, classes=["x", "y"], options=options)
            with pytest.raises(DataError, match=r"a\.jpg: image cannot be read"):
                dataset[0]
            with pytest.raises(DataError, match=r"a\.jpg: image cannot be read"):
                dataset.size(0)
        (tmp_path / "a.jpg").unlink()
        with pytest.raises(DataError, match=r"a\.jpg: image does not exist"):
            dataset[0]

    def test_listing_never_asks_about_single_files(self, tmp_path, monkeypatch):
        photos(tmp_path, [f"n{i}" for i in range(30)])
        calls = []
        real = os.stat
        monkeypatch.setattr(os, "stat", lambda *args, **named: calls.append(args) or real(*args, **named))
        found, twice = list_images(tmp_path)
        assert (len(found), twice) == (60, [])
        assert list(found) == sorted(found)
        assert len(calls) < 30

    def test_hidden_files_are_passed_over(self, tmp_path):
        image_file(tmp_path / ".thumbs" / "x.png")
        image_file(tmp_path / "a.png")
        image_file(tmp_path / "._a.png")
        assert list_images(tmp_path) == ({"a": str(tmp_path / "a.png")}, [])


class TestRefusals:
    def test_unknown_places(self, tmp_path):
        with pytest.raises(DataError, match=r"secnes is not a folder.*'scenes'"):
            opened("secnes")
        with pytest.raises(DataError, match=r"unknown layout 'vocc'.*'voc'"):
            opened(tmp_path, layout="vocc")
        with pytest.raises(DataError, match="no folder JPEGImages"):
            opened(tmp_path, layout="voc")
        with pytest.raises(DataError, match="no images"):
            opened(tmp_path)

    def test_unknown_options(self, tmp_path):
        with pytest.raises(DataError, match=r"unknown data option 'tolerent'.*'tolerant'"):
            opened(photos(tmp_path), options={"tolerent": True})
        with pytest.raises(DataError, match=r"unknown option of scenes 'counts'.*'count'"):
            open_dataset(DataSettings(root="scenes", options={"counts": 3}), "train")

    def test_missing_mask_folder(self, tmp_path):
        with pytest.raises(DataError, match=r"masks labels: no such folder.*images, masks"):
            opened(photos(tmp_path), masks="labels")
        with pytest.raises(DataError, match=r"masks Other: no such folder.*SegmentationClass"):
            opened(voc(tmp_path / "voc"), masks="Other")

    def test_masks_of_other_names(self, tmp_path):
        image_file(tmp_path / "images" / "a.jpg")
        mask_file(tmp_path / "masks" / "a_L.png")
        with pytest.raises(DataError, match=r"a_L\.png: none of the 1 masks is named as an image.*mask_suffix"):
            opened(tmp_path)
        assert opened(tmp_path, options={"mask_suffix": "_L"}).has_mask(0)

    def test_one_name_twice(self, tmp_path):
        image_file(photos(tmp_path) / "images" / "a.png")
        with pytest.raises(DataError, match="same name but for the suffix"):
            opened(tmp_path)

    def test_nothing_to_learn_from(self, tmp_path):
        with pytest.raises(DataError, match="neither masks nor tags"):
            opened(photos(tmp_path, masks=False))

    def test_values_outside_the_classes(self, tmp_path):
        mask_file(photos(tmp_path) / "masks" / "b.png", (0, 1, 7))
        dataset = opened(tmp_path, classes=["background", "cat", "dog"])
        assert dataset[0].mask.max() == 255
        message = r"b\.png: mask values outside the classes: 7 \(640 pixels\)\. Expected 0 to 2 .*255 \(ignored\)\. Fix"
        with pytest.raises(DataError, match=message):
            dataset[1]

    def test_values_that_start_at_one(self, tmp_path):
        image_file(tmp_path / "images" / "a.png")
        mask_file(tmp_path / "masks" / "a.png", (1, 2))
        with pytest.raises(DataError, match=r"start at 1: give data\.label_map='\{1: 0, 2: 1\}'"):
            opened(tmp_path, classes=["x", "y"])[0]

    def test_binary_masks_where_255_is_not_ignored(self, tmp_path):
        image_file(tmp_path / "images" / "a.png")
        mask_file(tmp_path / "masks" / "a.png", (0, 255))
        with pytest.raises(DataError, match=r"0/255 mask: give data\.label_map='\{0: 0, 255: 1\}'"):
            opened(tmp_path, classes=["x", "y"], ignore_index=254)[0]
        with pytest.raises(DataError, match="ignore_index must be 0 to 255"):
            opened(tmp_path, classes=["x", "y"], ignore_index=-1)


class TestPseudoMasks:
    @pytest.fixture
    def plain(self, tmp_path):
        return opened(photos(tmp_path), classes=list(LABELS.names), tags="masks")

    def test_real_masks_stay_hidden_but_where_allowed(self, tmp_path, plain):
        for name in ("a", "b"):
            write_mask(tmp_path / "made" / f"{name}.png", np.ones((40, 48), np.uint8), LABELS)
        made = with_masks(plain, tmp_path / "made")
        assert [made.has_mask(i) for i in range(3)] == [True, True, False]
        assert made[2].mask is None
        assert np.unique(made[0].mask) == [1]
        assert made[0].tags == (1, 2)
        mixed = with_masks(plain, tmp_path / "made", real={"a", "c"})
        assert [mixed[i].mask.max() for i in range(3)] == [255, 1, 255]
        assert (mixed.source["pseudo_mask_count"], mixed.source["real_mask_count"]) == (1, 2)
        everywhere = with_masks(plain, tmp_path / "made", real_everywhere=True)
        assert all(np.array_equal(everywhere[i].mask, plain[i].mask) for i in range(3))

    def test_hidden_masks_are_not_even_opened(self, tmp_path):
        dataset = opened(photos(tmp_path), classes=list(LABELS.names))
        write_mask(tmp_path / "made" / "a.png", np.ones((40, 48), np.uint8), LABELS)
        (tmp_path / "masks" / "a.png").unlink()
        made = with_masks(subset(dataset, [0]), tmp_path / "made")
        assert np.unique(made[0].mask) == [1]
        with pytest.raises(DataError, match=r"a\.png: mask does not exist"):
            dataset[0]

    def test_refusals(self, tmp_path, plain):
        with pytest.raises(DataError, match="no such folder"):
            with_masks(plain, tmp_path / "none")
        (tmp_path / "made").mkdir()
        with pytest.raises(DataError, match="1 names whose ground-truth masks"):
            with_masks(plain, tmp_path / "made", real=["aa"])
        write_mask(tmp_path / "made" / "a.png", np.ones((4, 4), np.uint8), LABELS)
        with pytest.raises(DataError, match=r"a\.png: pseudo-mask is \(4, 4\)"):
            with_masks(plain, tmp_path / "made")[0]


@pytest.fixture
def real_data():
    folder = os.environ.get("MASKWRIGHT_DATA")
    if not folder:
        pytest.skip("MASKWRIGHT_DATA is not set")
    return Path(folder)


@pytest.mark.data
def test_camvid(real_data):
    train, val = opened(real_data / "camvid", "train"), opened(real_data / "camvid", "val")
    assert (len(train), len(val)) == (367, 101)
    assert train.labels == val.labels
    assert (train.labels.num_classes, train.labels.background) == (11, None)
    assert train[0].image.shape == (360, 480, 3)
    assert all(train.has_mask(i) for i in range(len(train)))


@pytest.mark.data
def test_msrc_objects(real_data):
    names = {"masks": "SegmentationClassObjects", "classes": "classes_objects.txt", "tags": "tags_objects.csv"}
    train = opened(real_data / "msrc21", "train", **names)
    assert len(train) == 354
    assert (train.labels.num_classes, train.labels.background) == (16, 0)
    tags = [train.tags(i) for i in range(len(train))]
    assert None not in tags
    assert 0 < sum(row == () for row in tags) < 200
    for index in range(0, len(train), 10):
        assert train[index].tags == train.labels.tags_in(train[index].mask)


def test_streams_are_closed(tmp_path, recwarn):
    path = image_file(tmp_path / "a.png")
    for _ in range(3):
        read_image(path)
    assert not [warning for warning in recwarn if issubclass(warning.category, ResourceWarning)]
    assert Image.open(io.BytesIO(path.read_bytes())).size == (48, 40)
