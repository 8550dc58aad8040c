"""XML of LabelMe's web tool and of Pascal VOC: what is drawn, masks in files, and damage that is named."""

import numpy as np
import pytest
from PIL import Image

from maskwright.data import open_dataset, reader_name
from maskwright.data.check import check
from maskwright.errors import DataError
from maskwright.settings import DataSettings

SIZES = {
    "labelme_xml": "<imagesize><nrows>24</nrows><ncols>32</ncols></imagesize>",
    "voc_xml": "<size><width>32</width><height>24</height></size>",
}


def points(*pairs):
    return "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in pairs)


def polygon(name, *pairs, deleted=0):
    drawn = f"<polygon><username>me</username>{points(*pairs)}</polygon>"
    return f"<object><name>{name}</name><deleted>{deleted}</deleted>{drawn}</object>"


def box(name, *sides):
    drawn = "".join(f"<{key}>{side}</{key}>" for key, side in zip(("xmin", "ymin", "xmax", "ymax"), sides))
    return f"<object><name>{name}</name><bndbox>{drawn}</bndbox></object>"


def xml(*objects, layout="labelme_xml", image="a.jpg", sizes=None):
    return (
        f"<annotation><filename>{image}</filename>{SIZES[layout] if sizes is None else sizes}{''.join(objects)}"
        "</annotation>"
    )


def opened(files, layout, **settings):
    settings = DataSettings(root=str(files.root), **settings)
    assert reader_name(settings) == layout
    return open_dataset(settings, "all")


LEFT = [(0, 0), (16, 0), (16, 24), (0, 24)]


@pytest.fixture
def photos(files):
    for name in "abc":
        files.image(f"Images/shop/{name}.jpg")
    return files


def test_later_objects_lie_over_earlier_ones_and_deleted_ones_are_gone(photos, contract, columns):
    photos.text("Annotations/shop/a.xml", xml(polygon("\n cup\n", *LEFT), polygon("lid", *LEFT[:3]), image="\na.jpg\n"))
    photos.text("Annotations/shop/b.xml", xml(polygon("lid", *LEFT, deleted=1), image="b.jpg"))
    dataset = opened(photos, "labelme_xml")
    contract(dataset)
    assert list(dataset.names) == ["shop/a", "shop/b"]  # nobody has looked at c
    assert dataset.labels.names == ("background", "cup", "lid")
    assert (dataset.mask(0)[[0, -1], [15, 0]] == [2, 1]).all()
    assert columns(dataset.mask(1)) == [0]
    assert dataset.tags(1) == ()


def test_a_mask_of_labelme_is_a_file(photos):
    inside = np.zeros((24, 32, 4), np.uint8)
    inside[3:9, 5:20] = (255, 203, 0, 153)
    (photos.root / "Masks/shop").mkdir(parents=True)
    Image.fromarray(inside).save(photos.root / "Masks/shop/a_mask_0.png")
    drawn = "<object><name>cup</name><segm><mask>{}</mask></segm></object>"
    photos.text("Annotations/shop/a.xml", xml(drawn.format("a_mask_0.png")))
    assert np.array_equal(opened(photos, "labelme_xml").mask(0), inside[..., 3] > 0)
    for name, message in (("b.png", "names 'b.png', which is not there"), ("../shop/a_mask_0.png", "leads out of")):
        photos.text("Annotations/shop/a.xml", xml(drawn.format(name)))
        with pytest.raises(DataError, match=rf"a\.xml, object 1 \(cup\) .*{message}"):
            opened(photos, "labelme_xml")
    Image.fromarray(inside[:, :30]).save(photos.root / "Masks/shop/small.png")
    photos.text("Annotations/shop/a.xml", xml(drawn.format("small.png")))
    with pytest.raises(DataError, match=r"a\.xml, object 1 \(cup\) has runs of the size \[24, 30\]"):
        opened(photos, "labelme_xml")


def test_what_a_box_of_voc_is_good_for(files, columns):
    files.image("JPEGImages/a.jpg")
    files.image("JPEGImages/b.jpg")
    half = box("cup", 1, 1, 16, 24).replace("</name>", "</name><difficult>1</difficult><truncated>1</truncated>")
    part = f"<part><name>ear</name>{box('', 1, 1, 2, 2)[21:]}".replace("</object>", "</part>")
    files.text("Annotations/a.xml", xml(half.replace("</object>", f"{part}</object>"), layout="voc_xml"))
    files.text("Annotations/b.xml", xml(layout="voc_xml", image="a.jpg"))  # a wrong name: its own counts
    dataset = opened(files, "voc_xml")
    assert dataset.labels.names == ("background", "cup")
    assert [dataset.tags(index) for index in range(2)] == [(1,), ()]
    assert not dataset.has_mask(0)
    assert columns(opened(files, "voc_xml", options={"boxes": True}).mask(0)) == [1, 0]
    assert columns(opened(files, "voc_xml", options={"partial": True}).mask(0)) == [1, 255]


DAMAGED = {
    "half a point": ("labelme_xml", xml(polygon("cup", *LEFT).replace("<y>24</y></pt></p", "</pt></p")), "has no y"),
    "two corners": ("labelme_xml", xml(polygon("cup", *LEFT[:2])), "has 2 points, 3 are needed"),
    "nan": ("labelme_xml", xml(polygon("cup", ("nan", 0), *LEFT)), "has a coordinate that is no number"),
    "word": ("labelme_xml", xml(polygon("cup", ("left", 0), *LEFT)), "has 'left' as its x"),
    "far away": ("labelme_xml", xml(polygon("cup", (1e9, 0), *LEFT)), r"has a point at \(1e\+09, 0\), far outside"),
    "nothing drawn": ("labelme_xml", xml(box("cup", 1, 1, 2, 2)), "has neither a polygon nor a mask"),
    "no name": ("labelme_xml", xml(polygon("", *LEFT)), r"object 1 \(\) has no name"),
    "box that is swapped": ("voc_xml", xml(box("cup", 9, 1, 2, 5), layout="voc_xml"), r"from \(9, 1\) to \(2, 5\)"),
    "box of nan": ("voc_xml", xml(box("cup", "nan", 1, 2, 5), layout="voc_xml"), "has a coordinate that is no number"),
    "box without a side": ("voc_xml", xml(box("cup", 1, 1, 2), layout="voc_xml"), "has no ymax"),
    "no box": ("voc_xml", xml("<object><name>cup</name></object>", layout="voc_xml"), "has neither a bndbox"),
    "no size": (
        "voc_xml",
        xml(box("cup", 1, 1, 2, 2), sizes="<size><width>x</width></size>"),
        "has an image without a size",
    ),
    "a name that leads out": (
        "labelme_xml",
        xml(polygon("cup", *LEFT), image="../../../a.jpg"),
        r"names the image '../../../a.jpg', which leads out of the folder",
    ),
    "cut off": ("labelme_xml", xml(polygon("cup", *LEFT))[:-20], r"cannot be read \(not valid XML"),
    "empty": ("labelme_xml", "", r"cannot be read \(not valid XML"),
    "another file": (
        "labelme_xml",
        '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + xml(polygon("&a;", *LEFT)),
        r"cannot be read \(declares a document type",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_named_and_the_rest_goes_on(files, name):
    layout, content, message = DAMAGED[name]
    files.image("a.jpg")
    files.image("b.jpg")
    files.text("a.xml", content)
    files.text(
        "b.xml",
        xml(
            {"labelme_xml": polygon("cup", *LEFT), "voc_xml": box("cup", 1, 1, 16, 24)}[layout],
            layout=layout,
            image="b.jpg",
        ),
    )
    with pytest.raises(DataError, match=rf"a\.xml,? .*{message}"):
        opened(files, layout, options={"boxes": True})
    findings = check(DataSettings(root=str(files.root)), ["all"])
    (finding,) = (finding for finding in findings if finding.kind == "annotation-damaged")
    assert (finding.level, finding.count) == ("error", 1)
    dataset = opened(files, layout, options={"boxes": True, "tolerant": True})
    assert [dataset.has_mask(index) for index in range(2)] == [False, True]
    assert (dataset.mask(1) == np.repeat([1, 0], 16)).all()


def test_sizes_that_do_not_match_are_named(files):
    files.image("a.jpg")
    for layout, sizes in (
        ("labelme_xml", "<imagesize><nrows>32</nrows><ncols>24</ncols></imagesize>"),
        ("voc_xml", "<size><width>24</width><height>32</height></size>"),
    ):
        drawn = {"labelme_xml": polygon("cup", *LEFT), "voc_xml": box("cup", 1, 1, 16, 24)}[layout]
        files.text("a.xml", xml(drawn, sizes=sizes))
        with pytest.raises(DataError, match=r"a\.xml: 24x32, .*a\.jpg is 32x24: 1 image of another size"):
            opened(files, layout)
        files.text("a.xml", xml(drawn, sizes=sizes.replace("32", "0").replace("24", "0")))  # as some tools write none
        assert opened(files, layout).tags(0) == (1,)
