"""From what a tool's file says of its images to a data set: which files they are, classes, splits, what is damaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from maskwright.data.classes import read_classes, resolve
from maskwright.data.finding import Complain, Finding, number_of
from maskwright.data.images import image_size, list_images, orientation
from maskwright.data.names import normal
from maskwright.data.provenance import as_exported, export_of, refuse_made, unchanged_finding
from maskwright.data.readers.folder import saliency_paths
from maskwright.data.readers.listing import complain_twice
from maskwright.data.readers.official import tag_source
from maskwright.data.readers.shapes import AREAS, IGNORED, Annotated, Kind, Painting, ShapeSet, problem_of
from maskwright.data.readers.splits import Listing, split_names
from maskwright.data.sample import LabelSpace
from maskwright.data.tables.cells import tag_name
from maskwright.data.tags import TagTable, image_key, match_tags
from maskwright.errors import DataError, unknown_name
from maskwright.settings import DataSettings

OPTIONS = ("images", "partial", "boxes", "empty", "tolerant")
IMAGE_FOLDERS = ("images", "JPEGImages")
# What tools call a split, by what it is called here.
PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


@dataclass
class Export:
    """What a tool's files say.

    Args:
        layout: name of the reader.
        files: that were read.
        annotated: image by image.
        classes: names in the tool's own order; what only occurs in the annotations is put behind.
        colours: class name -> RGB, where the tool has them.
        damaged: entries that could not be read, each with the file, the annotation and what is wrong.
        notes: findings about what was left out.
    """

    layout: str
    files: list[Path]
    annotated: list[Annotated] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    colours: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)


def as_they_are(files: Sequence[Path]) -> tuple[tuple[str, int, int], ...]:
    """Paths with times of change and sizes, by which what was read of them is remembered."""
    return tuple((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files)


def anew(export: Export) -> Export:
    """A copy of what is remembered, since names may be changed in what a set is made from."""
    return replace(export, annotated=[replace(row) for row in export.annotated])


def annotated_set(settings: DataSettings, split: str, export: Export, complain: Complain) -> ShapeSet:
    """One split of what a tool exported.

    Polygons and masks are painted, later over earlier; pixels outside are background. Boxes are not: within one, what
    nothing else covers is ignored. An image's tags are those that it was given and the labels of what is drawn in it.
    An image with nothing at all may not have been worked on yet, so it has neither mask nor tags, unless the tool says
    that somebody finished it. What is labelled `__ignore__` is ignored.

    Args:
        settings: `root`, `classes` (names or a file, in the order of their values), `rename`, `background`,
            `ignore_index`, `tags`, `saliency`. `options`: `images` (their folder; by default `images`, `JPEGImages`,
            else the folder itself), `partial` (lines, points and boxes are painted too, and what nothing covers is
            ignored), `boxes` (boxes are painted), `empty` (`background`: an image with nothing shows none of the
            classes), `tolerant` (an image with a damaged annotation has no mask, instead of an error).
        split: which images: a list as in `data.readers.folder.open_folder`, a split of the tool, `all`.
        export: what the files say.
        complain: what to do with findings.

    Raises:
        DataError: settings that do not fit, images that are missing, damaged annotations, or nothing to learn from.
    """
    _check_settings(settings, export.layout)
    _rename(export, settings.rename or {}, complain)
    options = settings.options
    folder, images = _images(settings, complain)
    _without_ours(export, folder, complain)
    rows = _matched(export, images, folder, complain)
    for note in export.notes:
        complain(note)
    labels, source = _labels(settings, export, complain)
    partial = bool(options.get("partial"))
    kinds: tuple[Kind, ...] = AREAS
    if partial:
        kinds = (*AREAS, "box", "line", "points")
    elif options.get("boxes"):
        kinds = (*AREAS, "box")
    outside = labels.ignore_index if partial or labels.background is None else labels.background
    painting = Painting({name: value for value, name in enumerate(labels.names)}, kinds, outside, labels.ignore_index)
    parts = {name: split_of(row.part) for name, row in rows.items() if row.part}
    listing = Listing({name: images[name] for name in rows}, None, {"images": str(folder)}, sorted(set(parts.values())))
    listing.others = {name: path for name, path in images.items() if name not in rows}
    if split in parts.values():
        names, split_source = [name for name in rows if parts.get(name) == split], f"{export.layout}'s own"
    else:
        names, split_source = split_names(Path(settings.root), split, listing, complain)
    painted = any(painting.paints(row) for row in rows.values())
    sound = _sound(export, {name: rows[name] for name in names}, images, bool(options.get("tolerant")), complain)
    file = str(export.files[0])
    masks: list[str | None] = []
    tags: list[tuple[int, ...] | None] = []
    for name in names:
        row = rows[name]
        finished = row.looked_at or options.get("empty") == "background"
        known = finished or any(True for _ in row.names())
        painted_here = painting.paints(row) or (painted and finished and not row.shapes and not row.tags)
        masks.append((row.file or file) if painted_here and name in sound else None)
        present = {labels.names.index(tag) for tag in row.names() if tag in labels.names}
        tags.append(tuple(sorted(present - {labels.background})) if known else None)
    given, facts = tag_source(settings, labels, names, list(images), complain)
    if settings.tags is None:
        given, facts = tags, {"tag_source": f"annotations in {file}", "tag_count": sum(row is not None for row in tags)}
    return ShapeSet(
        labels,
        [rows[name] for name in names],
        [sound.get(name) for name in names],
        painting,
        names=names,
        images=[images[name] for name in names],
        masks=masks,
        tags=given,
        saliency=saliency_paths(settings, names, complain),
        source={
            "root": settings.root,
            "layout": export.layout,
            "split": split,
            "split_source": split_source,
            "count": len(names),
            "classes": source,
            "masks": f"painted from {file}" if painted else None,
            "mask_count": sum(path is not None for path in masks),
            **facts,
        },
        tolerant=bool(options.get("tolerant")),
    )


def _check_settings(settings: DataSettings, layout: str) -> None:
    if not Path(settings.root).is_dir():
        raise DataError(f"data {settings.root} is not a folder")
    for key in sorted(set(settings.options) - set(OPTIONS)):
        raise DataError(unknown_name(f"option of {layout}", key, OPTIONS))
    if settings.options.get("empty") not in (None, "background"):
        raise DataError(f"data.options.empty must be background, found {settings.options['empty']}")
    for key in ("masks", "masks_are", "label_map"):
        if getattr(settings, key) is not None:
            raise DataError(
                f"layout {layout} paints its own masks, found data.{key}={getattr(settings, key)}. Fix: leave it out"
            )


def _without_ours(export: Export, images: Path, complain: Complain) -> None:
    """Leave out what maskwright wrote as annotations of its own, unless somebody has changed it since.

    Photographs that it put beside them are photographs.

    Raises:
        DataError: nothing is left.
    """
    ours = as_exported([*export.files, *(row.file for row in export.annotated if row.file)])
    mine = [row for row in export.annotated if (row.file or str(export.files[0])) in ours]
    if mine and len(mine) == len(export.annotated):
        refuse_made(export.files[0].parent, "annotations that somebody has corrected since")
    if mine:
        export.annotated = [row for row in export.annotated if (row.file or str(export.files[0])) not in ours]
        complain(unchanged_finding([row.where for row in mine], len(export.annotated)))
    beside = any(images == file.parent or file.parent in images.parents for file in export.files)
    if not beside and export_of(images) not in {export_of(file) for file in export.files} - {None}:
        refuse_made(images, "images")


def _rename(export: Export, rename: Mapping[str, str], complain: Complain) -> None:
    """Give classes their other names, as tags are compared; a shape has the first of several, or is ignored."""
    new = {tag_name(old): [tag_name(one) for one in name.split(";")] for old, name in rename.items()}

    def names(old: str) -> list[str]:
        old = tag_name(old)
        return [name for name in new.get(old, [old]) if name]

    there = {tag_name(name) for row in export.annotated for name in (*row.names(), *export.classes)}
    absent = sorted(set(new) - there)
    if absent:
        complain(
            Finding(
                "warning",
                f"data.rename names classes that {export.files[0]} does not have: {', '.join(absent)}",
                count=len(absent),
                fix="leave them out, or correct them",
                kind="rename-unknown",
            )
        )
    for row in export.annotated:
        row.tags = [name for tag in row.tags for name in names(tag)]
        row.shapes = [replace(shape, label=(names(shape.label) or [IGNORED])[0]) for shape in row.shapes]
    export.colours = {name: colour for old, colour in export.colours.items() for name in names(old)}
    export.classes = [name for old in export.classes for name in names(old)]


def _images(settings: DataSettings, complain: Complain) -> tuple[Path, dict[str, str]]:
    """The folder of images, and name -> path of each."""
    root = Path(settings.root)
    typed = settings.options.get("images")
    if typed is not None and not resolve(root, typed).is_dir():
        raise DataError(f"images {typed}: no such folder in {root}")
    folder = image_folder(settings)
    images, twice = list_images(folder)
    if not images:
        raise DataError(
            f"{folder}: no images beside the annotations. Expected the files that were annotated. "
            "Fix: put them into images/, or give data.options.images=FOLDER"
        )
    complain_twice(complain, folder, twice)
    return folder, images


def image_folder(settings: DataSettings) -> Path:
    """Where the images of an export lie, by `data.options.images` or by the names that tools give it."""
    root, typed = Path(settings.root), settings.options.get("images")
    if typed is not None:
        return resolve(root, typed)
    return next((root / name for name in IMAGE_FOLDERS if (root / name).is_dir()), root)


def _matched(export: Export, images: Mapping[str, str], folder: Path, complain: Complain) -> dict[str, Annotated]:
    """Image name -> what the export says of it, in the order of the images."""
    table = TagTable(str(export.files[0]))
    by_key: dict[str, Annotated] = {}
    outside = []
    files = {normal(name.rpartition("/")[2]) for name in images}
    for row in export.annotated:
        keys = [image_key(name) for name in (row.image, *row.also)]
        key = next((key for key in keys if key.rpartition("/")[2] in files), keys[0])
        if ".." in key.split("/"):
            # Where annotations lie in a folder of their own, labelme names the image from there.
            place = (Path(row.file or export.files[0]).parent / row.image.replace("\\", "/")).resolve()
            inside = place.is_relative_to(folder.resolve())
            key = image_key(place.relative_to(folder.resolve()).as_posix()) if inside else key
        if ".." in key.split("/"):
            outside.append(f"{row.where}: {row.image!r}")
            continue
        table.add(key, (), row.where)
        by_key[key] = row
    if outside:
        complain(
            Finding(
                "error",
                f"{number_of(len(outside), 'image name')} with ..: such a name leads out of the folder",
                outside,
                len(outside),
                expected="names of images in the folder",
                fix="write the image's name alone",
                kind="name-outside",
            )
        )
    spelled = {normal(name): name for name in images}
    found = match_tags(table, spelled, lambda finding: complain(_of_images(finding, table.source, folder)))
    matched = {spelled[name]: key for name, key in found.items()}
    if not matched:
        raise DataError(f"{table.source} describes no image that is in {folder}")
    left = [name for name in images if name not in matched]
    if left:
        complain(
            Finding(
                "info",
                f"{number_of(len(left), 'image')} of {folder} left out, since {table.source} does not describe them",
                left,
                len(left),
                kind="image-undescribed",
            )
        )
    return {name: by_key[matched[name]] for name in images if name in matched}


def _of_images(finding: Finding, file: str, folder: Path) -> Finding:
    """What is a warning about rows of tags is an error about masks, as in a split list."""
    if finding.kind == "tag-no-image":
        fix = f"add the images to {folder}, or give data.options.images=FOLDER"
        return replace(finding, level="error", fix=fix, kind="image-missing")
    if finding.kind == "tag-repeated":
        return replace(
            finding,
            level="error",
            what=f"{file} describes {number_of(finding.count, 'image')} more than once",
            expected="one entry for each image",
            fix="keep one of these entries, or one of the exports",
            kind="image-repeated",
        )
    return finding


def _labels(settings: DataSettings, export: Export, complain: Complain) -> tuple[LabelSpace, str]:
    """Classes with the background in front where the tool has none, and where their names come from."""
    file = str(export.files[0])
    used = dict.fromkeys(name for row in export.annotated for name in row.names())
    used.pop(IGNORED, None)
    names, source = [name for name in dict.fromkeys([*export.classes, *used]) if name != IGNORED], file
    if isinstance(settings.classes, list):
        names, source = [str(name) for name in settings.classes], "settings"
    elif settings.classes is not None:
        path = resolve(Path(settings.root), settings.classes)
        names, source = read_classes(path), str(path)
    if not names:
        damaged = "; ".join(export.damaged[:3])
        raise DataError(damaged or f"{file} has no class and no annotation, so there is nothing to learn")
    unknown = [name for name in used if name not in names]
    drawn = {shape.label for row in export.annotated for shape in row.shapes}
    if unknown:
        shapes = [name for name in unknown if name in drawn]
        complain(
            Finding(
                "error" if shapes else "info",
                f"labels of {file} that are not in the classes: {', '.join(shapes or unknown)}",
                [file],
                len(shapes or unknown),
                expected=f"one of {', '.join(names)}",
                fix="add them to data.classes, or leave data.classes out",
                kind="class-unknown",
            )
        )
    known = [name for name in names if name.strip("_ ").lower() == "background"]
    wanted = settings.background
    if wanted is None or (isinstance(wanted, str) and wanted.lower() == "none"):
        return _space(names, None, settings, export), source
    if isinstance(wanted, int):
        return _space(names, wanted, settings, export), source
    background = (known[0] if known else "background") if wanted == "auto" else wanted
    if settings.classes is None:
        names = [background, *(name for name in names if name != background)]
    elif background not in names:
        names = [background, *names]
    return _space(names, names.index(background), settings, export), source


def _space(names: Sequence[str], background: int | None, settings: DataSettings, export: Export) -> LabelSpace:
    colours = [export.colours.get(name, (0, 0, 0) if value == background else None) for value, name in enumerate(names)]
    known = [colour for colour in colours if colour is not None]
    palette = tuple(known) if len(set(known)) == len(names) else ()
    return LabelSpace(tuple(names), background, settings.ignore_index, palette)


def split_of(part: str) -> str:
    """What a tool's split is called here."""
    return next((name for name, words in PARTS.items() if part.lower() in words), part)


def _sound(
    export: Export, rows: Mapping[str, Annotated], images: Mapping[str, str], tolerant: bool, complain: Complain
) -> dict[str, tuple[int, int]]:
    """Sizes of the images whose annotations can be painted; the others are reported."""
    sizes: dict[str, tuple[int, int]] = {}
    damaged: list[str] = list(export.damaged)
    swapped: list[str] = []
    for name, row in rows.items():
        try:
            found = image_size(images[name])
        except DataError:
            continue  # whoever reads the image says so
        size = row.size or found
        if row.relative:
            row.shapes = [replace(shape, points=shape.points * found[::-1]) for shape in row.shapes]
            row.relative = False
        turned = size == found[::-1] and size != found and orientation(images[name]) >= 5
        if size != found and not turned:
            swapped.append(f"{row.where}: {size[1]}x{size[0]}, {images[name]} is {found[1]}x{found[0]}")
            continue
        problems = [f"{row.where}, {shape.where} {why}" for shape in row.shapes if (why := problem_of(shape, size))]
        damaged += problems
        if not problems and not row.damaged:
            sizes[name] = size
    for entries, what, expected, kind in (
        (damaged, "damaged annotation", "annotations as the tool writes them", "annotation-damaged"),
        (swapped, "image of another size than its file", "the size of the image that was annotated", "mask-size"),
    ):
        if entries:
            complain(
                Finding(
                    "warning" if tolerant else "error",
                    number_of(len(entries), what) if len(entries) == 1 else f"{len(entries)} of: {what}",
                    entries,
                    len(entries),
                    expected=expected,
                    fix="correct them and export again"
                    + ("" if tolerant else ", or give data.options.tolerant=true to do without these masks"),
                    kind=kind,
                )
            )
    return sizes
