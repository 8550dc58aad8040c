"""Exports of CVAT: masks in the colours of a label map, and annotations.xml; damage is named."""

import shutil

import numpy as np
import pytest
from PIL import Image

from maskwright.data import open_dataset, reader_name
from maskwright.data.check import check
from maskwright.data.readers import cvat_images
from maskwright.errors import DataError
from maskwright.settings import DataSettings

LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:255,106,77::\ndog:51,221,255::\n"
CAT, DOG, BLACK = (255, 106, 77), (51, 221, 255), (0, 0, 0)


def opened(root, split="all", **settings):
    return open_dataset(DataSettings(root=str(root), **settings), split)


def found(root, kind, **settings):
    """Findings of one kind that the data check has for every image of a folder."""
    findings = check(DataSettings(root=str(root), **settings), ["all"])
    return [finding for finding in findings if finding.kind == kind]


@pytest.fixture
def masks(files):
    """Segmentation mask 1.1 with images; a, b and d have both classes, c is background."""
    for name in "abcd":
        files.image(f"JPEGImages/{name}.jpg")
        files.mask(f"SegmentationClass/{name}.png", [BLACK] if name == "c" else [BLACK, CAT, DOG])
        files.mask(f"SegmentationObject/{name}.png", [(128, 0, 0), (0, 128, 0)])
    files.text("labelmap.txt", LABELMAP)
    files.text("ImageSets/Segmentation/default.txt", "a\nb\nc\nd\n")
    return files.root


def test_colours_are_classes_of_the_label_map(masks, contract, columns):
    dataset = opened(masks)
    contract(dataset)
    assert reader_name(DataSettings(root=str(masks))) == "cvat_masks"
    assert dataset.labels.names == ("background", "cat", "dog")
    assert dataset.labels.palette == (BLACK, CAT, DOG)
    assert columns(dataset[0].mask) == [0, 1, 2]
    assert columns(dataset[2].mask) == [0]
    assert opened(masks, tags="masks").tags(1) == (1, 2)
    assert sorted(opened(masks, "train").names + opened(masks, "val").names) == list("abcd")


@pytest.mark.parametrize("mode", ["P", "L"])
def test_files_of_one_channel(masks, mode, columns):
    values = np.zeros((24, 32), np.uint8)
    values[:, 16:] = 2
    picture = Image.fromarray(values)
    if mode == "P":  # its own numbers: colours count, not what the palette puts them at
        picture = Image.fromarray(values * 100)
        picture.putpalette([*BLACK, *[9] * 597, *DOG])
    picture.save(masks / "SegmentationClass/a.png")
    assert columns(opened(masks)[0].mask) == [0, 2]


def test_background_in_front_and_ignored_ignored(masks, files, columns):
    files.text("labelmap.txt", "cat:255,106,77::\nignored:224,224,192::\ndog:51,221,255::\nbackground:0,0,0::\n")
    files.mask("SegmentationClass/a.png", [DOG, BLACK, (224, 224, 192), CAT])
    dataset = opened(masks)
    assert dataset.labels.names == ("background", "cat", "dog")
    assert columns(dataset[0].mask) == [2, 0, 255, 1]


def test_black_that_no_label_has_is_background(masks, files, columns):
    files.text("labelmap.txt", "cat:255,106,77::\ndog:51,221,255::\n")
    assert columns(opened(masks)[0].mask) == [0, 1, 2]
    assert opened(masks).labels.names[0] == "background"
    assert columns(opened(masks, background="none")[0].mask) == [255, 0, 1]


def test_images_that_cvat_did_not_save(masks):
    (masks / "JPEGImages").rename(masks / "photographs")
    with pytest.raises(DataError, match=r"CVAT leaves the images out .* data.options.images=FOLDER"):
        opened(masks)
    assert len(opened(masks, options={"images": str(masks / "photographs")})) == 4
    (masks / "photographs/b.jpg").unlink()
    with pytest.raises(DataError, match=r"b \(.*b.png\): 1 mask without an image"):
        opened(masks, options={"images": str(masks / "photographs")})


def test_subsets_of_a_project_are_splits(masks, files):
    (masks / "ImageSets/Segmentation/default.txt").unlink()
    files.text("ImageSets/Segmentation/Train.txt", "a\nc\n")
    files.text("ImageSets/Segmentation/Validation.txt", "b\n")
    assert opened(masks, "train").names == ["a", "c"]
    assert opened(masks, "val").names == ["b"]


def test_what_is_wrong_with_a_label_map(masks, files):
    files.text("labelmap.txt", LABELMAP + "cow:1,2\ncat:1,2,3::\nfox:51,221,255::\n")
    with pytest.raises(DataError, match=r"line 5: cow:1,2, line 6: cat:1,2,3::, line 7: fox.* 3 lines that no label"):
        opened(masks)
    assert len(found(masks, "labelmap-line")) == 1
    files.text("labelmap.txt", "background:0,0,0::\ncat:255,106,77::\n")
    with pytest.raises(DataError, match=r"a.png: mask has colours that labelmap.txt does not list: 0x33DDFF"):
        opened(masks)[0]
    files.text("labelmap.txt", "# nothing\n")
    with pytest.raises(DataError, match="has no labels"):
        opened(masks)
    with pytest.raises(DataError, match="has its own classes"):
        opened(masks, classes=["cat"])


def xml(images, labels=("cat", "dog"), head='<?xml version="1.0" encoding="utf-8"?>'):
    described = "".join(f"<label><name>{name}</name><color>#33ddff</color></label>" for name in labels)
    return (
        f"{head}\n<annotations><version>1.1</version><meta><task><name>Thursday</name>"
        f"<labels>{described}</labels></task></meta>{images}</annotations>"
    )


def image(name, *shapes, width=32, height=24, more=""):
    return f'<image id="0" name="{name}" width="{width}" height="{height}"{more}>{"".join(shapes)}</image>'


def polygon(label, points, order=0):
    return f'<polygon label="{label}" occluded="0" points="{points}" z_order="{order}"></polygon>'


def box(label, left, top, right, bottom, more=""):
    return f'<box label="{label}" xtl="{left}" ytl="{top}" xbr="{right}" ybr="{bottom}" z_order="0"{more}/>'


LEFT, ALL = "0,0;16,0;16,24;0,24", "0,0;32,0;32,24;0,24"
# Three rows of four pixels, (12, 10) to (15, 12): one outside, then all inside but the last.
MASK = '<mask label="dog" source="manual" occluded="0" rle="1, 10, 1" left="12" top="10" width="4" height="3"/>'


@pytest.fixture
def images(files):
    for name in "abcd":
        files.image(f"images/{name}.jpg")
    text = xml(
        image(
            "a.jpg",
            polygon("cat", LEFT, 1),
            polygon("dog", ALL),
            '<tag label="night"><attribute name="x">1</attribute></tag>',
        )
        + image("b.jpg", MASK)
        + image("c.jpg")
        + image("d.jpg", box("cat", 4, 4, 12, 20))
    )
    files.text("annotations.xml", text)
    return files.root


def test_shapes_in_the_order_of_z(images, contract, columns):
    dataset = opened(images)
    contract(dataset)
    assert reader_name(DataSettings(root=str(images))) == "cvat_images"
    assert dataset.labels.names == ("background", "cat", "dog", "night")
    assert columns(dataset[0].mask) == [1, 2]
    assert (dataset[0].mask[:, :16] == 1).all()
    assert dataset.tags(0) == (1, 2, 3)


def test_a_mask_is_where_its_window_says(images):
    mask = opened(images)[1].mask
    expected = np.zeros((24, 32), np.uint8)
    expected[10:13, 12:16] = 2
    expected[10, 12] = expected[12, 15] = 0
    assert np.array_equal(mask, expected)


def test_no_annotation_may_mean_no_work_yet(images):
    dataset = opened(images)
    assert [dataset.has_mask(index) for index in range(4)] == [True, True, False, False]
    assert [dataset.tags(index) for index in range(4)] == [(1, 2, 3), (2,), None, (1,)]
    dataset = opened(images, options={"empty": "background"})
    assert not dataset[2].mask.any()
    assert dataset.tags(2) == ()


def test_boxes_are_painted_when_asked_for_and_else_ignored_within(images, files):
    assert (opened(images, options={"boxes": True})[3].mask[4:20, 4:12] == 1).all()
    files.text("annotations.xml", xml(image("a.jpg", box("cat", 0, 0, 16, 24), polygon("dog", "0,0;8,0;8,24;0,24"))))
    mask = opened(images)[0].mask
    assert (mask[:, :8] == 2).all()
    assert (mask[:, 8:16] == 255).all()
    assert (mask[:, 16:] == 0).all()


def test_partial_masks_are_ignored_elsewhere(images, files):
    line = '<polyline label="cat" points="2.5,12.5;28.5,12.5" z_order="0"/>'
    points = '<points label="background" points="3.5,3.5;20.5,20.5" z_order="0"/>'
    files.text(
        "annotations.xml", xml(image("a.jpg", line, points, box("dog", 10, 0, 14, 4)), ["background", "cat", "dog"])
    )
    assert not opened(images).has_mask(0)
    mask = opened(images, options={"partial": True})[0].mask
    assert (mask[12, 3:28] == 1).all()
    assert (mask[:4, 10:14] == 2).all()
    assert mask[3, 3] == mask[20, 20] == 0
    assert (mask == 255).mean() > 0.8


def test_turned_boxes_and_ellipses(images, files):
    ellipse = '<ellipse label="dog" cx="16.00" cy="12.00" rx="10.00" ry="4.00" rotation="90.00" z_order="0"/>'
    files.text(
        "annotations.xml", xml(image("a.jpg", ellipse) + image("b.jpg", box("cat", 6, 10, 26, 14, ' rotation="90.0"')))
    )
    y, x = np.ogrid[:24, :32]
    inside = ((x + 0.5 - 16) / 4) ** 2 + ((y + 0.5 - 12) / 10) ** 2 <= 1
    dataset = opened(images, options={"boxes": True})
    assert ((dataset[0].mask == 2) != inside).sum() <= 8
    assert (dataset[1].mask[2:22, 14:18] == 1).all()
    assert (dataset[1].mask == 1).sum() == 80


def test_several_tasks_side_by_side(files):
    for task in ("task_1", "task_2"):
        files.image(f"{task}/images/a.jpg")
        files.text(f"{task}/annotations.xml", xml(image("a.jpg", polygon("cat", LEFT))))
    dataset = opened(files.root, layout="cvat_images")
    assert dataset.names == ["task_1/images/a", "task_2/images/a"]
    assert reader_name(DataSettings(root=str(files.root))) == "cvat_images"


def test_subsets_of_a_project(files):
    rows = []
    for subset, names in (("Train", "ab"), ("Validation", "a")):
        for name in names:
            files.image(f"images/{subset}/{name}.jpg")
            rows.append(image(f"{subset}/{name}.jpg", polygon("cat", LEFT), more=f' subset="{subset}" task_id="1"'))
    files.text("annotations.xml", xml("".join(rows)))
    assert opened(files.root, "train").names == ["Train/a", "Train/b"]
    assert opened(files.root, "val").names == ["Validation/a"]


DAMAGED = {
    "a number too many": (polygon("cat", "0,0;16,0,3;16,24"), r"polygon 2 \(cat\): '16,0,3' is not a point x,y"),
    "odd": (polygon("cat", "0,0;16,0;16"), r"polygon 2 \(cat\): '16' is not a point"),
    "two corners": (polygon("cat", "0,0;16,0"), r"polygon 2 \(cat\) has 2 points, 3 are needed"),
    "nan": (polygon("cat", "0,0;nan,0;16,24"), r"polygon 2 \(cat\) has a coordinate that is no number"),
    "no number": (polygon("cat", "0,0;a,0;16,24"), r"polygon 2 \(cat\): could not convert"),
    "far away": (polygon("cat", "0,0;1e9,0;16,24"), r"polygon 2 \(cat\) has a point at \(1e\+09, 0\), far outside"),
    "no points": ('<polygon label="cat"/>', r"polygon 2 \(cat\) has no points"),
    "no label": (polygon("cat", LEFT).replace('label="cat"', ""), "polygon 2 .no label. has no label"),
    "runs": (MASK.replace("1, 10, 1", "1, 10"), r"mask 2 \(dog\) has runs of 11 pixels together, 4x3 are 12"),
    "negative": (MASK.replace("1, 10, 1", "-1, 12, 1"), r"mask 2 \(dog\) has a run of negative length"),
    "outside": (MASK.replace('left="12"', 'left="30"'), r"mask 2 \(dog\) covers 4x3 pixels from \(30, 10\)"),
    "wrapped": (
        MASK.replace("1, 10, 1", f"{2**62}, {2**62}, {2**62}, {2**62}, 12"),
        r".*has runs of 18446744",
    ),
    "overflow": (MASK.replace("1, 10, 1", str(10**30)), r"mask 2 \(dog\): .*too large"),
    "order": (polygon("cat", LEFT, "top"), r"polygon 2 \(cat\): could not convert"),
    "no runs": (MASK.replace('rle="1, 10, 1"', 'rle=""'), r"mask 2 \(dog\): invalid literal"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_annotation_is_named_and_the_rest_goes_on(images, files, name):
    shape, message = DAMAGED[name]
    good = polygon("dog", LEFT)
    files.text("annotations.xml", xml(image("a.jpg", good, shape) + image("b.jpg", good)))
    with pytest.raises(DataError, match=f"annotations.xml: image a.jpg, {message}"):
        opened(images)
    (finding,) = found(images, "annotation-damaged")
    assert (finding.level, finding.count) == ("error", 1)
    dataset = opened(images, options={"tolerant": True})
    assert [dataset.has_mask(index) for index in range(2)] == [False, True]
    assert (dataset[1].mask[:, :16] == 2).all()


def test_sizes_and_names_that_do_not_fit(images, files):
    good = polygon("dog", LEFT)
    files.text("annotations.xml", xml(image("a.jpg", good, width=24, height=32) + image("b.jpg", good)))
    with pytest.raises(DataError, match=r"image a.jpg: 24x32, .*a.jpg is 32x24: 1 image of another size"):
        opened(images)
    files.text("annotations.xml", xml(image("../../a.jpg", good) + image("b.jpg", good)))
    with pytest.raises(DataError, match=r"image ../../a.jpg: '../../a.jpg': 1 image name with .."):
        opened(images)
    assert [finding.level for finding in found(images, "name-outside")] == ["error"]
    files.text("annotations.xml", xml(image("a.jpg", good) + image("e.jpg", good)))
    with pytest.raises(DataError, match=r"e \(.*image e.jpg\): 1 of 2 rows .* name images that do not exist"):
        opened(images)
    files.text("annotations.xml", xml(image("a.jpg", good) + image("a.jpg")))
    with pytest.raises(DataError, match="describes 1 image more than once"):
        opened(images)


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10 if n else "ha"}">' for n in range(10))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (xml("", head=f"<!DOCTYPE annotations [{LAUGHS}]>").replace("Thursday", "&l9;"), "declares a document type"),
        (xml("", head='<!DOCTYPE annotations [<!ENTITY x SYSTEM "file:///etc/passwd">]>'), "declares a document type"),
        ("<html></html>", "begins with <html>, expected <annotations>"),
        ("", "not valid XML"),
        (xml(""), "has no image"),
        (xml("<track id='0' label='cat'><polygon frame='0' points='0,0;1,1;2,2'/></track>"), "1 track of a video"),
    ],
)
def test_a_file_that_is_not_read(images, files, text, message):
    files.text("annotations.xml", text)
    with pytest.raises(DataError, match=message):
        opened(images)


def test_a_file_that_ends_too_early_is_an_error_and_its_first_images_are_read(images, files):
    files.text("annotations.xml", xml(image("a.jpg", polygon("cat", LEFT)) + image("b.jpg", MASK))[:-40])
    with pytest.raises(DataError, match="not valid XML"):
        opened(images)
    assert opened(images, options={"tolerant": True}).names == ["a"]


def test_classes_that_are_given(images):
    assert opened(images, classes=["dog", "cat"]).labels.names == ("background", "dog", "cat")
    assert opened(images, classes=["dog", "cat"]).tags(0) == (1, 2)
    with pytest.raises(DataError, match=r"labels of .* that are not in the classes: dog"):
        opened(images, classes=["cat"])
    with pytest.raises(DataError, match="paints its own masks"):
        opened(images, layout="cvat_images", label_map={0: 0})
    with pytest.raises(DataError, match="unknown option of cvat_images 'box'"):
        opened(images, options={"box": True})


def test_other_names_of_labels(masks, columns):
    dataset = opened(masks, rename={"dog": "cat"})
    assert dataset.labels.names == ("background", "cat")
    assert columns(dataset[0].mask) == [0, 1]
    dataset = opened(masks, rename={"dog": "wolf", "cat": ""})
    assert dataset.labels.names == ("background", "wolf")
    assert columns(dataset[0].mask) == [0, 255, 1]


@pytest.mark.parametrize("place", ["images", "."])
@pytest.mark.parametrize("with_images", [True, False])
def test_masks_that_came_back_without_images_belong_to_those_of_the_folder(place, with_images, masks, files, columns):
    (masks / "photos").mkdir()
    for name in "abcdef":
        files.image(f"photos/{place}/{name}.jpg")
    files.text("photos/tags.csv", "image,tags\n" + "".join(f"{name}.jpg,cat;dog\n" for name in "abcdef"))
    if not with_images:
        shutil.rmtree(masks / "JPEGImages")
    back = masks / "back"
    back.mkdir()
    for path in (*masks.glob("SegmentationClass"), *masks.glob("JPEGImages"), masks / "labelmap.txt"):
        shutil.move(path, back / path.name)
    dataset = opened(masks / "photos", tags="tags.csv", masks=str(back))
    assert dataset.names == list("abcdef")
    assert [dataset.has_mask(index) for index in range(6)] == [True] * 4 + [False] * 2
    assert columns(dataset[0].mask) == [0, 1, 2]
    assert dataset.tags(5) == (1, 2)


def test_annotations_are_read_once_and_anew_when_replaced(images, files, monkeypatch):
    assert opened(images, rename={"cat": "wolf"}).labels.names == ("background", "wolf", "dog", "night")
    with monkeypatch.context() as patch:
        patch.setattr(cvat_images, "parse_xml", lambda *_: pytest.fail("read again"))
        assert opened(images).labels.names == ("background", "cat", "dog", "night")
        assert opened(images).tags(0) == (1, 2, 3)
    files.text("annotations.xml", xml(image("a.jpg", polygon("fox", LEFT)), ["fox"]))
    assert opened(images).labels.names == ("background", "fox")
