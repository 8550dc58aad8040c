"""The data check: sound sets pass without a word, and each fault is named with its files, counts and fix."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwright.data.check import check, examine, report
from maskwright.data.finding import Finding
from maskwright.settings import DataSettings

CLASSES = "background\ncat\ndog\n"
RNG = np.random.default_rng(0)


def image_file(path: Path, height: int = 40, width: int = 48) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (height, width, 3), np.uint8)).save(path)
    return path


def mask_file(path: Path, values=(0, 1, 2, 255), height: int = 40, width: int = 48) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.resize(np.array(values, np.uint8), (height, width))).save(path)
    return path


@pytest.fixture
def root(tmp_path):
    """A sound set: 8 images to train on and 2 to score, all three classes in each mask."""
    names = [f"n{i}" for i in range(10)]
    for name in names:
        image_file(tmp_path / "images" / f"{name}.jpg")
        mask_file(tmp_path / "masks" / f"{name}.png")
    (tmp_path / "classes.txt").write_text(CLASSES)
    (tmp_path / "train.txt").write_text("\n".join(names[:8]))
    (tmp_path / "val.txt").write_text("\n".join(names[8:]))
    return tmp_path


def found(root, **settings) -> list[Finding]:
    return check(DataSettings(root=str(root), **settings))


def only(findings: list[Finding], kind: str) -> Finding:
    matching = [finding for finding in findings if finding.kind == kind]
    assert len(matching) == 1, [(finding.kind, finding.what) for finding in findings]
    return matching[0]


def levels(findings: list[Finding]) -> list[str]:
    return [finding.level for finding in findings]


def tags(root: Path, rows: dict[str, str]) -> str:
    (root / "tags.csv").write_text("image,tags\n" + "".join(f"{name}.jpg,{row}\n" for name, row in rows.items()))
    return "tags.csv"


def test_a_sound_set_passes(root):
    findings = found(root)
    assert levels(findings) == ["info", "info"]
    assert report(findings).endswith("0 errors, 0 warnings: fit to train on\n")


def test_the_table_counts_pixels_images_and_tags(root):
    rows = {f"n{i}": "cat;dog" if i % 2 else "cat" for i in range(10)}
    findings = found(root, tags=tags(root, rows))
    train = next(finding.what for finding in findings if finding.kind == "table" and finding.what.startswith("train"))
    lines = {line.split()[0]: line.split()[1:] for line in train.splitlines()}
    assert train.startswith("train: 8 images, 8 readable masks, tags for 8")
    assert lines["background"] == ["33.333", "8", "-"]
    assert lines["cat"] == ["33.333", "8", "8"]
    assert lines["dog"] == ["33.333", "8", "4"]
    assert lines["(ignored)"] == ["25.000", "8", "-"]


class TestMasks:
    def test_values_outside_the_classes(self, root):
        mask_file(root / "masks" / "n1.png", (0, 1, 9))
        mask_file(root / "masks" / "n3.png", (0, 1, 9, 12))
        finding = only(found(root), "mask-range")
        assert finding.level == "error"
        assert finding.count == 2
        assert [Path(file).name for file in finding.files] == ["n1.png", "n3.png"]
        assert "9 (1120 pixels), 12 (480 pixels)" in finding.what
        assert finding.expected == "0 to 2 (background to dog) or 255 (ignored)"
        assert "label_map" in finding.fix

    def test_0_255_masks(self, root):
        for i in range(10):
            mask_file(root / "masks" / f"n{i}.png", (0, 255))
        findings = found(root)
        finding = next(finding for finding in findings if finding.kind == "mask-binary")
        assert finding.level == "error"
        assert finding.what.startswith("every mask of train holds only the values 0 and 255")
        assert finding.count == 8
        assert "{0: 0, 255: 1}" in finding.fix
        assert "error" not in levels(found(root, label_map={0: 0, 255: 1}))

    def test_one_class_beside_ignored_pixels(self, root):
        """Also where the object is not in every mask, and with other values."""
        for i in range(10):
            mask_file(root / "masks" / f"n{i}.png", (0, 255) if i else (0,))
        finding = next(finding for finding in found(root) if finding.kind == "mask-binary")
        assert (finding.level, finding.fix) == ("error", "give data.label_map='{0: 0, 255: 1}'")
        for i in range(10):
            mask_file(root / "masks" / f"n{i}.png", (1, 9))
        findings = [finding for finding in found(root, ignore_index=9) if finding.kind == "mask-binary"]
        assert levels(findings) == ["error", "warning"]
        assert findings[0].fix == "give data.label_map='{1: 0, 9: 1}'"

    def test_a_single_named_class(self, root):
        (root / "classes.txt").write_text("coin\n")
        for i in range(10):
            mask_file(root / "masks" / f"n{i}.png", (0, 255))
        finding = next(finding for finding in found(root) if finding.kind == "mask-binary")
        assert finding.level == "error"
        assert "name both classes" in finding.fix

    def test_smoothed_edges_of_named_classes(self, root):
        for i in range(10):
            mask_file(root / "masks" / f"n{i}.png", (*[0] * 40, *[1] * 40, 9, 30, 41, 77, 90, 120))
        finding = next(finding for finding in found(root) if finding.kind == "mask-range")
        assert "interpolated; save the masks again" in finding.fix

    def test_names_of_many_classes_are_cut(self, root):
        (root / "classes.txt").write_text("".join(f"thing {number}\n" for number in range(99)))
        for finding in found(root):
            if finding.kind == "class-empty":
                assert "96 of 99 classes" in finding.what
                assert "and 88 more" in finding.what
                assert len(finding.what) < 250
        table = next(finding.what for finding in found(root) if finding.kind == "table")
        assert "and 96 classes in no mask and no tag" in table
        assert len(table.splitlines()) < 12

    def test_masks_are_read_to_the_last_one_where_they_are_trained_on(self, root):
        mask_file(root / "masks" / "n6.png", (0, 1, 9))
        settings = DataSettings(root=str(root))
        assert "mask-range" not in {finding.kind for finding in examine(settings, seconds=0.0)[0]}
        findings, (train, _) = examine(settings, seconds=0.0, all_masks=True)
        assert only(findings, "mask-range").text() == only(found(root), "mask-range").text()
        assert (train.read, train.images, train.all_masks, train.whole) == (1, 8, True, False)
        mask_file(root / "masks" / "n6.png", height=20)
        assert only(examine(settings, seconds=0.0, all_masks=True)[0], "mask-size").level == "error"

    def test_colours_instead_of_indices(self, root):
        colours = np.zeros((40, 48, 3), np.uint8)
        colours[:20] = 0, 128, 0
        for name in ("n0", "n2"):
            Image.fromarray(colours).save(root / "masks" / f"{name}.png")
        finding = only(found(root), "mask-colours")
        assert (finding.level, finding.count) == ("error", 2)
        assert "0x008000 (960 pixels)" in finding.what
        assert "label_map" in finding.fix

    def test_sizes(self, root):
        mask_file(root / "masks" / "n0.png", height=20, width=24)
        finding = only(found(root), "mask-size")
        assert (finding.level, finding.count) == ("error", 1)
        assert "mask is 24x20 pixels" in finding.what
        assert "is 48x40" in finding.what

    def test_one_value_everywhere(self, root):
        for i in range(10):
            mask_file(root / "masks" / f"n{i}.png", (0,))
        findings = [finding for finding in found(root) if finding.kind == "mask-constant"]
        assert levels(findings) == ["error", "warning"]
        assert "hold only background" in findings[0].what

    def test_masks_that_are_all_ignored(self, root):
        mask_file(root / "masks" / "n0.png", (255,))
        finding = only(found(root), "mask-ignored")
        assert (finding.level, Path(finding.files[0]).name) == ("warning", "n0.png")

    def test_missing_masks(self, root):
        (root / "masks" / "n0.png").unlink()
        finding = only(found(root), "no-mask")
        assert (finding.level, finding.files) == ("warning", ["n0"])
        assert only(found(root), "unlabelled").count == 1

    def test_unreadable_masks_do_not_stop_the_check(self, root):
        (root / "masks" / "n0.png").write_bytes(b"no image")
        mask_file(root / "masks" / "n1.png", (0, 1, 9))
        findings = found(root)
        assert only(findings, "mask-unreadable").level == "error"
        assert only(findings, "mask-range").count == 1

    def test_values_that_label_map_does_not_list(self, root):
        finding = next(f for f in found(root, label_map={0: 0, 1: 1, 2: 2}) if f.kind == "mask-unlisted")
        assert finding.level == "error"
        assert "values 255 (480 pixels)" in finding.what

    def test_masks_of_other_names(self, root):
        for i in range(10):
            (root / "masks" / f"n{i}.png").rename(root / "masks" / f"n{i}_L.png")
        assert "the names of masks end in '_L'" in only(found(root), "assumed").what
        assert "error" not in levels(found(root, options={"mask_suffix": "_L"}))
        (root / "masks" / "n3_L.png").rename(root / "masks" / "other.png")
        finding = only(found(root), "mask-names")
        assert finding.level == "error"
        assert "none of the 10 masks is named as an image" in finding.what

    def test_empty_classes(self, root):
        (root / "classes.txt").write_text(CLASSES + "cow\n")
        mask_file(root / "masks" / "n0.png", (3,))
        finding = only(found(root), "class-empty")
        assert finding.level == "warning"
        assert finding.what == "1 of 4 classes are in no mask of val: cow; their IoU cannot be measured"


class TestImages:
    def test_unreadable_truncated_and_missing(self, root):
        (root / "images" / "n0.jpg").write_bytes(b"no image")
        path = root / "images" / "n1.jpg"
        path.write_bytes(path.read_bytes()[:1500])
        (root / "images" / "n2.jpg").unlink()
        findings = found(root)
        assert only(findings, "image-unreadable").level == "error"
        truncated = only(findings, "image-truncated")
        assert (truncated.level, Path(truncated.files[0]).name) == ("error", "n1.jpg")
        assert "tolerant" in truncated.fix
        missing = next(finding for finding in findings if "do not exist" in finding.what)
        assert (missing.level, missing.files) == ("error", ["n2"])
        tolerant = only(found(root, options={"tolerant": True}), "image-truncated")
        assert tolerant.level == "warning"

    def test_small_images(self, root):
        image_file(root / "images" / "n0.jpg", 16, 48)
        mask_file(root / "masks" / "n0.png", height=16)
        assert only(found(root), "image-small").level == "warning"

    def test_orientation_that_the_size_cannot_tell(self, root):
        exif = Image.Exif()
        exif[0x0112] = 3
        with Image.open(root / "images" / "n0.jpg") as picture:
            picture.save(root / "images" / "n0.jpg", exif=exif.tobytes())
        assert only(found(root), "orientation").level == "warning"

    def test_duplicates_and_overlap(self, root):
        same = (root / "images" / "n0.jpg").read_bytes()
        (root / "images" / "n1.jpg").write_bytes(same)
        (root / "images" / "n9.jpg").write_bytes(same)
        (root / "val.txt").write_text("n2\nn9\n")
        findings = found(root)
        assert only(findings, "duplicate").files == ["n0 = n1"]
        assert only(findings, "split-duplicate").files == ["n0 = n9"]
        overlap = only(findings, "split-overlap")
        assert (overlap.level, overlap.files) == ("error", ["n2"])

    def test_the_same_split_twice_is_no_overlap(self, root):
        assert levels(found(root, train="val", val="val")) == ["info"]

    def test_an_empty_split_and_an_unknown_one(self, root):
        (root / "train.txt").write_text("\n")
        assert "error" in levels(found(root))
        findings = found(root, val="vall")
        assert any(finding.level == "error" and "Did you mean 'val'" in finding.what for finding in findings)

    def test_saliency_of_another_size(self, root):
        for i in range(10):
            mask_file(root / "sal" / f"n{i}.png", (0, 200))
        assert levels(found(root, saliency="sal")) == ["info", "info"]
        mask_file(root / "sal" / "n0.png", (0, 200), 10, 10)
        assert only(found(root, saliency="sal"), "saliency-size").level == "error"

    def test_saliency_that_is_no_saliency(self, root):
        assert only(found(root, saliency="sal"), "").what.startswith("saliency sal is not a folder")
        assert levels(found(root, saliency="barrier")) == ["info", "info"]
        for i in range(10):
            mask_file(root / "sal" / f"n{i}.png", (0, 200))
        mask_file(root / "sal" / "n0.png", (7,))
        assert only(found(root, saliency="sal"), "saliency-constant").level == "warning"
        mask_file(root / "sal" / "n0.png", (0, 1))
        assert only(found(root, saliency="sal"), "saliency-range").level == "error"
        image_file(root / "sal" / "n0.png")
        finding = only(found(root, saliency="sal"), "saliency-mode")
        assert (finding.level, finding.files) == ("warning", [str(root / "sal" / "n0.png")])
        Image.fromarray(np.full((40, 48), 1000, np.uint16)).save(root / "sal" / "n0.png")
        assert only(found(root, saliency="sal"), "saliency-mode").level == "error"
        (root / "sal" / "n0.png").write_bytes(b"not a picture")
        assert "error" in levels(found(root, saliency="sal"))

    def test_saliency_of_no_image_or_of_some(self, root):
        (root / "sal").mkdir()
        first, second = (f for f in found(root, saliency="sal") if f.kind == "saliency-none")
        assert (first.level, second.level) == ("error", "info")
        assert f"maskwright saliency {root} out=sal" in first.fix
        mask_file(root / "sal" / "n0.png", (0, 200))
        assert only(found(root, saliency="sal"), "saliency-missing").level == "error"


class TestTags:
    def test_rows_without_images_and_images_without_rows(self, root):
        rows = {f"n{i}": "cat;dog" for i in range(7)} | {"n8": "cat", "n9": "cat", "z": "dog"}
        findings = found(root, tags=tags(root, rows))
        rows_finding = next(finding for finding in findings if "do not exist" in finding.what)
        assert (rows_finding.level, rows_finding.files) == ("warning", ["z (line 11)"])
        images = only(findings, "no-tags")
        assert (images.level, images.files) == ("warning", ["n7"])

    def test_unknown_tags(self, root):
        finding = next(f for f in found(root, tags=tags(root, {"n0": "cta", "n1": "cat"})) if f.level == "error")
        assert "unknown tag 'cta'. Did you mean 'cat'" in finding.what
        assert finding.files[0].endswith("tags.csv line 2 (n0)")

    def test_tags_and_masks_that_disagree(self, root):
        mask_file(root / "masks" / "n1.png", (0, 1))
        rows = {f"n{i}": "cat;dog" for i in range(10)} | {"n0": "cat"}
        findings = found(root, tags=tags(root, rows))
        assert only(findings, "tag-without-pixels").files == ["n1"]
        assert "dog (1 image)" in only(findings, "pixels-without-tag").what
        assert only(findings, "pixels-without-tag").files == ["n0"]
        assert "tag-without-pixels" not in {finding.kind for finding in found(root, tags="masks")}

    def test_tags_that_are_always_on_or_together(self, tmp_path):
        sets = [
            "train;rail",
            "train;rail",
            "train;rail",
            "rail;person",
            "sky",
            "cup;saucer",
            "cup;saucer",
            "cup;saucer",
        ]
        for i in range(8):
            image_file(tmp_path / f"n{i}.jpg")
        (tmp_path / "train.txt").write_text("\n".join(f"n{i}" for i in range(8)))
        rows = {f"n{i}": f"{row};photo" for i, row in enumerate(sets)}
        findings = check(DataSettings(root=str(tmp_path), tags=tags(tmp_path, rows)), ["train"])
        assert "error" not in levels(findings)
        assert "photo" in only(findings, "tag-always").what
        together = only(findings, "tag-together")
        assert together.count == 1
        assert "`cup` always with `saucer` (3 images, never one without the other)" in together.what
        assert "photo" not in together.what

    def test_a_tag_inside_another_is_reported_where_chance_does_not_explain_it(self, tmp_path):
        for i in range(12):
            image_file(tmp_path / f"n{i}.jpg")
        (tmp_path / "train.txt").write_text("\n".join(f"n{i}" for i in range(12)))
        rows = {f"n{i}": "train;rail" if i < 4 else "rail" if i < 5 else "sky" for i in range(12)}
        findings = check(DataSettings(root=str(tmp_path), tags=tags(tmp_path, rows)), ["train"])
        assert "`train` always with `rail` (4 images, rail also without)" in only(findings, "tag-together").what

    def test_two_spellings(self, tmp_path):
        for i in range(3):
            image_file(tmp_path / f"n{i}.jpg")
        rows = {"n0": "Traffic Light", "n1": "traffic-light", "n2": "cat"}
        findings = check(DataSettings(root=str(tmp_path), tags=tags(tmp_path, rows)), ["all"])
        assert "'traffic-light' and 'Traffic Light'" in only(findings, "tag-spelling").what

    def test_photos_with_tags_alone(self, tmp_path):
        names = [f"n{i}" for i in range(10)]
        for name in names:
            image_file(tmp_path / f"{name}.jpg")
        file = tags(tmp_path, {name: "cat" if i % 2 else "dog" for i, name in enumerate(names)})
        findings = found(tmp_path, tags=file)
        assert "error" not in levels(findings)
        assert only(findings, "no-masks").level == "info"

    def test_no_labels_at_all(self, root):
        for i in range(10):
            (root / "masks" / f"n{i}.png").unlink()
        (root / "masks").rmdir()
        assert only(found(root), "no-labels").level == "error"


def test_findings_are_reported_once_and_errors_first(root):
    (root / "images" / "n0.jpg").write_bytes(b"no image")
    findings = found(root, tags=tags(root, {f"n{i}": "cat;dog" for i in range(10)} | {"z": "cat"}))
    assert levels(findings) == sorted(levels(findings), key=["error", "warning", "info"].index)
    assert sum("do not exist" in finding.what for finding in findings) == 1


def test_report_shows_files_expectation_and_fix():
    finding = Finding("error", "masks are blue", ["a.png", "b.png"], 7, expected="grey", fix="paint them")
    text = report([finding, Finding("info", "a table")])
    assert text == (
        "ERROR: masks are blue\n  in: a.png, b.png and 5 more\n  expected: grey\n  fix: paint them\n\n"
        "INFO: a table\n\n1 error, 0 warnings: training would be wrong\n"
    )
    assert finding.text() == "a.png, b.png and 5 more: masks are blue. Expected grey. Fix: paint them."


def test_scenes_pass():
    findings = check(DataSettings(root="scenes", options={"count": 40, "size": [64, 64]}))
    assert "error" not in levels(findings)
    assert sum(finding.kind == "table" for finding in findings) == 2


@pytest.mark.data
@pytest.mark.parametrize(
    "settings",
    [
        {"root": "camvid"},
        {"root": "msrc21", "tags": "tags.csv"},
        {
            "root": "msrc21",
            "masks": "SegmentationClassObjects",
            "classes": "classes_objects.txt",
            "tags": "tags_objects.csv",
        },
    ],
)
def test_real_sets_pass(settings):
    folder = os.environ.get("MASKWRIGHT_DATA")
    if not folder:
        pytest.skip("MASKWRIGHT_DATA is not set")
    findings = check(DataSettings(**{**settings, "root": str(Path(folder) / settings["root"])}))
    assert "error" not in levels(findings)
    kinds = {finding.kind for finding in findings if finding.level == "warning"}
    assert kinds <= {"tag-together", "split-duplicate"}
    if settings["root"] == "msrc21":
        assert only(findings, "split-duplicate").files == ["9_15_s = 1_27_s"]
