"""Readers of sets of images by the name of their layout, and which of them opens a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from maskwright.data.classes import resolve
from maskwright.data.dataset import Dataset
from maskwright.data.decode import OPTIONS as READING_OPTIONS
from maskwright.data.decode import Reading
from maskwright.data.finding import Complain, refuse
from maskwright.data.folders import find_masks, has_image
from maskwright.data.images import ImageSet
from maskwright.data.names import spelled
from maskwright.data.readers.ade20k import open_ade20k
from maskwright.data.readers.camvid import open_camvid
from maskwright.data.readers.cityscapes import open_cityscapes
from maskwright.data.readers.coco import open_coco
from maskwright.data.readers.coco_json import coco_files, open_coco_json
from maskwright.data.readers.corrections import open_corrected
from maskwright.data.readers.cvat_images import annotation_files, open_cvat_images
from maskwright.data.readers.cvat_masks import LABELMAP, MASKS, open_cvat_masks
from maskwright.data.readers.folder import open_folder, open_voc
from maskwright.data.readers.huggingface import metadata_files, open_huggingface
from maskwright.data.readers.label_studio import open_label_studio, task_files
from maskwright.data.readers.labelme import has_labelme, open_labelme
from maskwright.data.readers.labelme_xml import open_labelme_xml
from maskwright.data.readers.nyu_depth import open_nyu_depth
from maskwright.data.readers.objects_xml import has_objects
from maskwright.data.readers.pascal_context import open_pascal_context
from maskwright.data.readers.voc_xml import open_voc_xml
from maskwright.data.readers.yolo import open_yolo, yolo_file
from maskwright.data.shards.reader import ShardSet, is_shards, open_shards
from maskwright.data.shards.stores import is_remote
from maskwright.errors import DataError, unknown_name
from maskwright.settings import DataSettings


def _open_scenes(settings: DataSettings, split: str, complain: Complain = refuse) -> Dataset:
    from maskwright.data.scenes import scenes

    for name in set(settings.options) - set(SCENES_OPTIONS):
        raise DataError(unknown_name("option of scenes", name, SCENES_OPTIONS))
    return scenes(split, **settings.options)


def _open_folder(settings: DataSettings, split: str, complain: Complain = refuse) -> Dataset:
    """A plain folder; its masks may be what people drew in a tool, its tags a Label Studio project in it."""
    tasks = task_files(Path(settings.root)) if settings.masks and settings.tags is None else []
    if len(tasks) == 1:
        settings = settings.model_copy(update={"tags": tasks[0].name})
    return _with_corrections(settings, split, complain, open_folder)


def _open_voc(settings: DataSettings, split: str, complain: Complain = refuse) -> Dataset:
    return _with_corrections(settings, split, complain, open_voc)


def _with_corrections(
    settings: DataSettings, split: str, complain: Complain, reader: Callable[..., ImageSet]
) -> Dataset:
    """A folder of images, whose masks may be what a tool exported."""
    place = resolve(Path(settings.root), settings.masks) if settings.masks else None
    layout = _exported(place) if place is not None and place.is_dir() else None
    if place is None or layout is None or settings.masks_are or settings.label_map:
        return reader(settings, split, complain)
    return open_corrected(settings, split, complain, reader, layout, READERS[layout])


# A built-in set or a layout, by the name that `data=` or `layout=` gives.
READERS: dict[str, Callable[..., Dataset]] = {
    "voc": _open_voc,
    "folder": _open_folder,
    "scenes": _open_scenes,
    "cityscapes": open_cityscapes,
    "ade20k": open_ade20k,
    "camvid": open_camvid,
    "pascal_context": open_pascal_context,
    "nyu_depth": open_nyu_depth,
    "coco": open_coco,
    "cvat_masks": open_cvat_masks,
    "cvat_images": open_cvat_images,
    "label_studio": open_label_studio,
    "coco_json": open_coco_json,
    "yolo": open_yolo,
    "labelme": open_labelme,
    "labelme_xml": open_labelme_xml,
    "voc_xml": open_voc_xml,
    "huggingface": open_huggingface,
    "shards": open_shards,
}
BUILT_IN = ("scenes",)
# Whose annotations may lie beside any images.
BESIDE_IMAGES = ("labelme", "labelme_xml", "voc_xml", "coco_json", "yolo", "huggingface")


def open_split(settings: DataSettings, split: str, complain: Complain = refuse, *, shard: str | None = None) -> Dataset:
    """One split of a set as its reader gives it; the folder is found whatever Unicode form and capitals were typed.

    Of its options `range` (the numbers in image files that become 0 and 255, such as `[0, 4095]`) and `channels` (which
    are read, counted from 0; all but transparency by default) go for every set that has image files.

    Args:
        settings: where the images, masks and tags are.
        split: which images.
        complain: what to do with findings; by default errors are raised.
        shard: of a set of shards only this one, see `maskwright.data.shards.reader.shard_list`.

    Raises:
        DataError: what is on disk is not as expected; an ignore value that masks cannot hold, or a range or channels
            that cannot be.
    """
    if not 0 <= settings.ignore_index <= 255:
        raise DataError(
            f"ignore_index must be 0 to 255, since masks on disk have 8 bits, found {settings.ignore_index}"
        )
    reading = Reading.of(settings.options)
    others = {key: value for key, value in settings.options.items() if key not in READING_OPTIONS}
    settings = settings.model_copy(update={"options": others})
    if settings.root and settings.root not in BUILT_IN and not is_remote(settings.root):
        settings = settings.model_copy(update={"root": str(spelled(Path(settings.root)))})
    name = reader_name(settings)
    if shard is not None and name != "shards":
        raise DataError(f"data {settings.root} is no set of shards, so it has no shard {shard!r}")
    dataset = READERS[name](settings, split, complain, **({} if shard is None else {"shard": shard}))
    if isinstance(dataset, ImageSet | ShardSet):
        dataset.read_as(reading)
    elif reading != Reading():
        raise DataError(f"data.options={reading.to_dict()}: {settings.root} is drawn, and has no files to read so")
    return dataset


# What lies in the folder of a published set and in no other: its layout is then known without being given.
MARKS = {
    "leftImg8bit": "cityscapes",
    "annotations/training": "ade20k",
    "701_StillsRaw_full": "camvid",
    "trainannot": "camvid",
    "SegmentationClassContext": "pascal_context",
    "label40": "nyu_depth",
    "nyu_depth_v2_labeled.mat": "nyu_depth",
    "annotations/instances_train2014.json": "coco",
    "annotations/instances_val2014.json": "coco",
}
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
SCENES_OPTIONS = ("count", "size", "seed")


def reader_name(settings: DataSettings) -> str:
    """Which reader opens a set: the layout that is given, a built-in set, or what the folder looks like.

    Raises:
        DataError: no data are given, no such layout, or a root that is neither a folder nor a built-in set.
    """
    if not settings.root and settings.layout not in BUILT_IN:
        raise DataError(
            "no data: give data=FOLDER, a folder of images and their tags or masks, or data=scenes for drawn ones"
        )
    if settings.layout != "auto":
        if settings.layout not in READERS:
            raise DataError(unknown_name("layout", settings.layout, ["auto", *READERS]))
        return settings.layout
    if is_shards(settings.root):
        return "shards"
    root = Path(settings.root)
    if not root.is_dir():
        if settings.root in BUILT_IN:
            return settings.root
        if root.exists():
            fix = (
                "unpack it, and give the folder"
                if root.suffix in ARCHIVES
                else f"give the folder it is in, {root.parent}"
            )
            raise DataError(f"data {settings.root} is a file. Expected a folder of images. Fix: {fix}")
        raise DataError(
            f"data {settings.root} is not a folder: {unknown_name('built-in set', settings.root, BUILT_IN)}"
        )
    mark = next((mark for mark in MARKS if (root / mark).exists()), None)
    if mark is not None:
        return MARKS[mark]
    exported = _exported(root)
    # Settings that say what the masks mean are for other readers, as before these exports were known.
    # With a table of tags all images count, not those alone that lie beside annotations.
    tagged = exported in BESIDE_IMAGES and settings.tags not in (None, "masks")
    if exported is not None and not (tagged or settings.masks or settings.masks_are or settings.label_map):
        return exported
    lists, plain = root / "ImageSets" / "Segmentation", root / "images"
    voc = (root / "JPEGImages").is_dir() or (lists.is_dir() and not plain.is_dir())
    return "voc" if voc else "folder"


def _exported(root: Path) -> str | None:
    """The layout of what an annotation tool exported into a folder; None where it is no such export."""
    if (root / LABELMAP).is_file() and (root / MASKS).is_dir():
        # Beside boxes alone, the folder of masks is empty.
        return "cvat_masks" if has_image(root / MASKS) or not has_objects(root, "voc_xml") else "voc_xml"
    if yolo_file(root) is not None:
        return "yolo"
    if metadata_files(root):
        return "huggingface"
    if (root / "masks").is_dir():
        return None  # the masks count, whatever they were made from
    if annotation_files(root):
        return "cvat_images"
    if task_files(root):
        return "label_studio"
    if has_labelme(root):
        return "labelme"
    if has_objects(root, "labelme_xml"):
        return "labelme_xml"
    if coco_files(root):
        return "coco_json"
    # Boxes often lie beside masks of the same images, which say more.
    boxes = find_masks(root, root / "masks", any_name=True) is None and has_objects(root, "voc_xml")
    return "voc_xml" if boxes else None
