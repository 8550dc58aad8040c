"""Image-level tags as a table of them says, matched to images and to classes; `maskwright.data.tables` reads them."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from urllib.parse import unquote, urlsplit

from maskwright.data.finding import ASSUMED, Complain, Finding, refuse
from maskwright.data.images import image_suffixes
from maskwright.data.names import normal
from maskwright.data.sample import LabelSpace
from maskwright.data.spelling import joined, rename_words
from maskwright.errors import unknown_name

UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of a file
# What `tag_source` says where tags are derived from masks; anything else is a file, a folder or the set's own list.
TAGS_FROM_MASKS = ("masks", "derived from the masks")


@dataclass
class TagTable:
    """Tags as a file gives them.

    Args:
        source: the file or folder.
        rows: image, as the file names it without suffix -> tag names, ascending; empty where no tag applies.
        where: image -> "line 3", for messages.
        repeated: images that more than one row names; their tags are merged.
        said: what was assumed to read the file, in words.
    """

    source: str
    rows: dict[str, tuple[str, ...]] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)
    repeated: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    _alike: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict, repr=False)  # a million rows have few
    _spelled: dict[str, str] = field(default_factory=dict, repr=False)
    _uneven: bool = field(default=False, repr=False)

    def add(self, image: str, tags: Iterable[str], where: str) -> None:
        key = image_key(image)
        named = {sys.intern(normal(tag.strip())) for tag in tags} - {""}
        if key in self.rows:
            self._uneven |= len(named) != 1 or len(self.rows[key]) < 1 or self._spelled[key] != image
            self._uneven |= len(self.rows[key]) > 1 and key not in self.repeated
            self.repeated.append(key)
            named.update(self.rows[key])
        held = tuple(sorted(named))
        self.rows[key] = self._alike.setdefault(held, held)
        self.where.setdefault(key, where)
        self._spelled.setdefault(key, image)

    def long_form(self) -> bool:
        """Whether it has one row per tag: images named repeatedly, alike, with one tag each, which is no mistake."""
        if not self.repeated or self._uneven:
            return False
        self.repeated.clear()
        return True

    def rename(self, names: Mapping[str, str]) -> list[str]:
        """Give tags other names, in every row; returns those of `names` that no row has.

        A name with `;` stands for several tags, an empty one for none.
        """
        new = {normal(old): [normal(one.strip()) for one in name.split(";")] for old, name in names.items()}
        absent = sorted(set(new) - set(self.names))
        if len(absent) < len(new):
            for key, tags in self.rows.items():
                renamed = {one for tag in tags for one in new.get(tag, [tag])} - {""}
                self.rows[key] = tuple(sorted(renamed))
        return absent

    @property
    def names(self) -> list[str]:
        """Every tag name, ascending."""
        return sorted({tag for tags in self.rows.values() for tag in tags})


def told(table: TagTable, rename: Mapping[str, str] | None, complain: Complain) -> None:
    """Give the tags of a table their other names, and say how it was read."""
    absent = table.rename(rename) if rename else []
    if absent:
        complain(
            Finding(
                "warning",
                f"data.rename names tags that {table.source} does not have: {', '.join(absent)}",
                count=len(absent),
                fix=f"leave them out, or correct them: {unknown_name('tag', absent[0], table.names)}",
                kind="rename-unknown",
            )
        )
    if table.said:
        complain(Finding("info", f"{table.source}: {'; '.join(table.said)}", kind=ASSUMED))


def image_key(image: str) -> str:
    """An image as a tag file names it, with `/` between folders and without `./` and suffix; of an address its path."""
    image = normal(image.strip()).replace("\\", "/")
    if "://" in image:  # an address, of which the path counts
        image = normal(unquote(urlsplit(image).path)).lstrip("/")
    while image.startswith("./"):
        image = image[2:]
    stem, dot, suffix = image.rpartition(".")
    return stem if stem and dot and f".{suffix.lower()}" in image_suffixes() else image


def match_tags(table: TagTable, names: Collection[str], complain: Complain = refuse) -> dict[str, str]:
    """Which row of a tag table belongs to which image.

    A row names an image by its whole name, by a longer path that ends in it, or by its file name alone where only one
    image has that; where none does, in other capitals, without the zeros that a number began with, or without the
    eight digits that Label Studio puts before the names of uploads.

    Args:
        table: tags as read.
        names: every image there is; of a mapping its keys.
        complain: told about rows without an image, rows that fit several, and repeated rows.

    Returns:
        Image name -> key in `table.rows`.

    Raises:
        DataError: no row fits any image, or one fits several.
    """
    whole = names if isinstance(names, Mapping) else set(names)
    by_file: dict[str, list[str]] = {}  # made where a row is no name
    matched: dict[str, str] = {}
    missing: list[str] = []
    several: list[str] = []
    for key in list(table.rows):
        parts = key.split("/")
        ends = ("/".join(parts[start:]) for start in range(1, len(parts)))
        name = key if key in whole else next((end for end in ends if end in whole), None)
        if name is None:
            if not by_file:
                by_file = _by_file(names)
            forms = (*_forms(parts[-1]), *_forms(UPLOAD.sub("", parts[-1])))
            candidates = next((found for form in forms if (found := by_file.get(form))), [])
            if len(candidates) != 1:
                (several if candidates else missing).append(key)
                continue
            name = candidates[0]
        if name in matched:
            table.repeated.append(key)
            both = {*table.rows[matched[name]], *table.rows[key]}
            table.rows[matched[name]] = tuple(sorted(both))
        else:
            matched[name] = key

    def places(keys: list[str]) -> list[str]:
        return [f"{key} ({table.where[key]})" for key in keys]

    if several:
        complain(
            Finding(
                "error",
                f"rows of {table.source} name a file that lies in several folders",
                places(several),
                len(several),
                expected="one image per row",
                fix="write the folder too, as in folder/image.jpg",
                kind="tag-ambiguous",
            )
        )
    if missing:
        none = len(missing) == len(table.rows)
        complain(
            Finding(
                "error" if none else "warning",
                f"{'no row' if none else f'{len(missing)} of {len(table.rows)} rows'} of {table.source} "
                f"{'names an image that exists' if none else 'name images that do not exist'}",
                places(missing),
                len(missing),
                expected=f"names such as {next(iter(names))}" if names else "at least one image",
                fix="correct the names, or the folder given as data",
                kind="tag-no-image",
            )
        )
    if table.repeated:
        complain(
            Finding(
                "warning",
                f"images named by more than one row of {table.source}; their tags are merged",
                places(table.repeated),
                len(table.repeated),
                fix="keep one row per image",
                kind="tag-repeated",
            )
        )
    return matched


def _forms(file: str) -> tuple[str, ...]:
    """A file name in the forms that it is looked for by, the surest first."""
    folded = file.casefold()
    return (file, f"any case {folded}", f"number {folded.lstrip('0')}" if folded.isdigit() else f"any case {folded}")


def _by_file(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for image in names:
        for form in dict.fromkeys(_forms(image.rpartition("/")[2])):
            found.setdefault(form, []).append(image)
    return found


def tag_values(table: TagTable, labels: LabelSpace, complain: Complain = refuse) -> dict[str, tuple[int, ...]]:
    """Label values of every row of a tag table; the background's name is no tag and is left out.

    Raises:
        DataError: a tag that is no class; the message names the nearest.
    """
    values = {name: value for value, name in enumerate(labels.names)}
    unknown: dict[str, list[str]] = {}
    rows, of_tags = {}, {}
    for key, tags in table.rows.items():
        for tag in tags:
            if tag not in values:
                unknown.setdefault(tag, []).append(key)
        if tags not in of_tags:
            known = {values[tag] for tag in tags if tag in values} - {labels.background}
            of_tags[tags] = tuple(sorted(value for value in known if value is not None))
        rows[key] = of_tags[tags]
    for tag, keys in unknown.items():
        parts = joined(tag, labels.tag_names)
        near = get_close_matches(tag, labels.tag_names, n=1)
        typed = f", as in {rename_words({tag: ';'.join(parts) if parts else near[0]})}" if parts or near else ""
        complain(
            Finding(
                "error",
                f"tag {tag!r} is several in one: {', '.join(parts)}"
                if parts
                else unknown_name("tag", tag, labels.tag_names).rstrip("."),
                [f"{table.source} {table.where[key]} ({key})" for key in keys],
                len(keys),
                expected=f"one of the {len(labels.tag_names)} class names",
                fix=f"correct the tag{typed}, or add it to the classes",
                kind="tag-unknown",
            )
        )
    return rows
