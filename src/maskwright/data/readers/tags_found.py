"""Where the tags of a plain folder come from: what the settings name, a table that lies in it, a folder per tag."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from maskwright.data.classes import resolve
from maskwright.data.finding import Complain, Finding, FindingError
from maskwright.data.folders import looks_like_mask, subfolders
from maskwright.data.names import normal, plain
from maskwright.data.readers.beside import paired
from maskwright.data.readers.splits import SPLITS, Listing
from maskwright.data.tables import SUFFIXES, read_flags, read_tags
from maskwright.data.tags import TagTable, match_tags
from maskwright.errors import DataError
from maskwright.settings import DataSettings

# Tables that are looked for, the surest first, by the letters of their names; and others, if they name the images.
TABLE_NAMES = ("tags", "labels", "metadata", "classes", "annotations", "categories", "tag", "label")
LARGEST = 2**26  # bytes of a file that is tried
LOOKED_AT = 3
MOST_FOLDERS = 12  # that images, masks and what else belongs to one set would be in


def tag_table(settings: DataSettings, layout: str, listing: Listing, complain: Complain) -> TagTable | None:
    """Tags from where the settings say; where there is nothing else, from a table in the folder or one folder per tag.

    Raises:
        DataError: a tag file that is missing or not as described, several tables of which none is surer, or folders
            of images and masks that would be taken as tags.
    """
    root = Path(settings.root)
    between = settings.options.get("tag_separator")
    if settings.tags is None and listing.masks is None:
        return _found(settings, layout, listing, between)
    if settings.tags is None:
        unread = [path for path in _tables(root) if plain(path.stem) in TABLE_NAMES[:2]]
        for path in unread:
            what = f"{path} is not read, since there are masks; tags={path.name} reads it"
            complain(Finding("info", what, kind="tags-unread"))
    if settings.tags in (None, "masks"):
        return None
    path = resolve(root, settings.tags)
    if path.is_dir() and path.resolve() == Path(listing.folders["images"]).resolve():
        return _folder_tags(settings, listing)
    return read_tags(path, listing.images, between)


def _found(settings: DataSettings, layout: str, listing: Listing, between: str | None) -> TagTable | None:
    folders = _folder_tags(settings, listing) if layout == "folder" else None
    if folders is not None and (
        # A folder that all images lie in is the set itself, or one of its splits.
        not all(folders.rows.values()) or len(folders.names) < 2 or {tag.casefold() for tag in folders.names} <= SPLITS
    ):
        folders = None
    table = _table_inside(settings, listing, between, others=folders is not None or settings.classes is not None)
    if table is not None:
        return table
    if folders is not None:
        _refuse_masks_as_tags(listing, folders)
        return folders
    flags = read_flags(Path(listing.folders["images"]), listing.images)
    return flags if any(flags.rows.values()) else None


def _tables(folder: Path) -> list[Path]:
    """Tables that lie in a folder itself."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES
        and path.suffix.lower() != ".txt"
        and not path.name.startswith((".", "~$"))
        and path.is_file()
        and path.stat().st_size <= LARGEST
    )


def _table_inside(settings: DataSettings, listing: Listing, between: str | None, others: bool) -> TagTable | None:
    """The table that names the images, in the folder, in that of the images, or one of the same name in each split.

    Args:
        settings: of the data.
        listing: of its files.
        between: characters between tags.
        others: whether there is another source, so that a table that cannot be read is none.
    """
    root = Path(settings.root)
    images = Path(listing.folders["images"])
    groups: dict[str, list[tuple[str, Path]]] = {}
    for path in dict.fromkeys([*_tables(root), *(_tables(images) if images != root else [])]):
        groups.setdefault(str(path), []).append(("", path))
    for part in subfolders(root):
        if part.name.casefold() in SPLITS or part.name in listing.prefixes:
            for path in _tables(part):
                groups.setdefault(path.name, []).append((f"{part.name}/", path))
    found: dict[str, TagTable] = {}
    broken: DataError | None = None
    for key, paths in groups.items():
        sure = plain(paths[0][1].stem) in TABLE_NAMES
        try:
            table = _together([(prefix, read_tags(path, listing.images, between)) for prefix, path in paths])
            matched = match_tags(table, listing.images, lambda finding: None)
        except DataError as error:
            broken = broken or (error if sure else None)
            continue
        if len(matched) >= (1 if sure else 0.5 * len(table.rows)) and matched:
            found[key] = table
        elif sure and not others:
            broken = broken or FindingError(_names_nothing(table, listing.images))
    if not found:
        if broken is not None and not others:
            raise broken
        return None
    rank = {key: _rank(groups[key][0][1]) for key in found}
    best = min(rank.values())
    chosen = [key for key in found if rank[key] == best]
    if len(chosen) > 1:
        raise DataError(
            f"{root}: several tables name the images: {', '.join(chosen)}. Fix: say which one holds the tags, tags=FILE"
        )
    table = found[chosen[0]]
    rest = ", ".join(Path(key).name for key in found if key != chosen[0])
    table.said.insert(0, "found in the folder" + (f"; not read: {rest}" if rest else ""))
    return table


def _rank(path: Path) -> int:
    name = plain(path.stem)
    return TABLE_NAMES.index(name) if name in TABLE_NAMES else len(TABLE_NAMES)


def _names_nothing(table: TagTable, images: Collection[str]) -> Finding:
    return Finding(
        "error",
        f"no row of {table.source} names an image that exists",
        list(table.rows),
        len(table.rows),
        expected=f"names such as {next(iter(images))}",
        fix="correct the names, or the folder given as data",
        kind="tag-no-image",
    )


def _together(tables: list[tuple[str, TagTable]]) -> TagTable:
    """The tables of several splits as one, each image below its split."""
    if tables[0][0] == "" and len(tables) == 1:
        return tables[0][1]
    whole = TagTable(", ".join(table.source for _, table in tables))
    for prefix, table in tables:
        for key, tags in table.rows.items():
            whole.rows[prefix + key] = tags
            whole.where[prefix + key] = f"{table.source} {table.where[key]}"
        whole.repeated += [prefix + key for key in table.repeated]
        whole.said += [said for said in table.said if said not in whole.said]
    return whole


def _folder_tags(settings: DataSettings, listing: Listing) -> TagTable:
    """Each image's tag is the name of the folder it lies in, below the split's."""
    table = TagTable(f"one folder per tag in {listing.folders['images']}")
    splits = {normal(settings.train), normal(settings.val), *map(normal, listing.prefixes)}
    deep = any(name.count("/") > 1 for name in listing.images)
    for name in listing.images:
        *folders, _ = name.split("/")
        if folders and (folders[0] in splits or (deep and len(folders) > 1 and folders[0].casefold() in SPLITS)):
            folders = folders[1:]
        table.rows[name] = tuple(folders[:1])
        table.where[name] = "its folder"
    return table


def _refuse_masks_as_tags(listing: Listing, table: TagTable) -> None:
    """Refuse to take a folder of images and that of their masks as two tags.

    Raises:
        DataError: one folder holds files of the same names as another, and they look like masks.
    """
    names: dict[str, dict[str, str]] = {}
    for name, path in listing.images.items():
        for tag in table.rows[name]:
            names.setdefault(tag, {})[name.rpartition("/")[2]] = path
    if len(names) > MOST_FOLDERS:
        return
    for masks, images in _twins(names):
        if all(looks_like_mask(names[masks][name]) for name in list(names[masks])[:LOOKED_AT]) and not any(
            looks_like_mask(names[images][name]) for name in list(names[images])[:LOOKED_AT]
        ):
            raise FindingError(
                Finding(
                    "error",
                    f"the folder {masks} holds files of the same names as {images}, which look like masks of them, not "
                    "like images with another tag",
                    [listing.folders["images"]],
                    expected="masks in a folder called masks",
                    fix=f"give data.options.images={images} masks={masks}",
                    kind="masks-as-tags",
                )
            )


def _twins(names: dict[str, dict[str, str]]) -> Iterator[tuple[str, str]]:
    for first in names:
        for second in names:
            alike = names[first].keys() & names[second].keys()
            if first != second and (2 * len(alike) > len(names[first]) or paired(names[second], names[first])[0]):
                yield first, second
