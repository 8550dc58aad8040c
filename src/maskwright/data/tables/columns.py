"""What the columns of a table are: which names the images, which the tags, and which are left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

from maskwright.data.finding import number_of
from maskwright.data.images import image_suffixes
from maskwright.data.names import plain
from maskwright.data.tables.cells import NO, STRONG, WEAK, cell_tags, flag, is_nothing, is_number, separators, tag_name
from maskwright.data.tables.grid import Grid
from maskwright.data.tags import TagTable, image_key
from maskwright.errors import DataError

# Headings by their letters and digits alone, the surest first.
IMAGE_HEADINGS = (
    *("image", "filename", "file", "imagename", "imagefile", "imagefilename", "imagepath", "filepath", "path"),
    *("img", "imgname", "imgpath", "imgfile", "images", "files", "photo", "picture", "photos", "pictures", "fname"),
    *("imageurl", "url", "source", "frame", "imageid", "imgid", "fileid", "name", "id"),
)
TAG_HEADINGS = (
    *("tags", "labels", "classes", "categories", "keywords", "tag", "labelname", "classname", "categoryname"),
    *("label", "class", "category", "labelnames", "classnames", "tagname", "choice", "choices", "keyword", "objects"),
    *("object", "species", "concept", "concepts", "annotation", "annotations", "name", "target", "targets"),
)
SURE_HEADINGS = ("confidence", "score", "probability", "present", "presence", "exists", "value")
# What tables hold besides, and what is no tag whatever its values are.
OTHER_HEADINGS = frozenset(
    (
        *("", "unnamed0", "index", "id", "no", "nr", "row", "imageid", "labelid", "md5", "sha1", "width", "height"),
        *("size", "filesize", "depth", "x", "y", "w", "h", "xmin", "ymin", "xmax", "ymax", "fold", "split", "set"),
        *("subset", "usage", "partition", "date", "time", "author", "annotator", "reviewed", "comment", "comments"),
        *("note", "notes"),
    )
)
TITLES = 6  # lines among which the headings are looked for
SPLIT_WORDS = frozenset(("train", "training", "val", "valid", "validation", "dev", "test", "testing", "unassigned"))
NO_TWO = (
    "the columns of tags hold 0 and -1, of which one means that nobody knows. Expected 1 (the tag applies) or 0. Fix: "
    "leave out the rows of images whose tags are not known"
)
FORM = "a header image,tags (';' between tags) or image and one column per tag (1 or 0), with commas between columns"


def is_image(cell: Any, images: Collection[str] = ()) -> bool:
    """Whether a cell names an image: one that exists, or by its suffix."""
    if not isinstance(cell, str) or not cell:
        return False
    key = image_key(cell)
    last = key.rpartition("/")[2]
    suffix = cell.strip().rpartition(".")[2].lower()
    return key in images or last in images or ("." in cell.strip()[1:] and f".{suffix}" in image_suffixes())


def _is_heading(cell: Any) -> bool:
    return isinstance(cell, str) and plain(cell) in IMAGE_HEADINGS


def read_columns(grid: Grid, images: Collection[str] = (), between: str | None = None) -> TagTable:
    """The tags in a table, whichever way its columns say them.

    Args:
        grid: its cells.
        images: names of the images that there are, where they are known.
        between: characters between tags, where they are given; found out by default.

    Raises:
        DataError: no column names images or none names tags, or a cell that says neither yes nor no where it has to.
    """
    return _Columns(grid, images).read(between)


class _Columns:
    """The columns of one table."""

    def __init__(self, grid: Grid, images: Collection[str]) -> None:
        self.grid, self.images = grid, images
        self.said = list(grid.said)
        if not grid.rows:
            raise DataError(f"{grid.source} is empty. Expected {FORM}, and one row per image")
        before = 0 if grid.keyed else self._lines_before(grid)
        if before:
            self.said.append(f"left out: {number_of(before, 'line')} before the headings")
        grid = self.grid = replace(grid, rows=grid.rows[before:])
        first = grid.rows[0][1]
        known = any(map(_is_heading, first))
        self.headed = grid.keyed or known or not any(is_image(cell, images) for cell in first)
        self.rows = grid.rows[1:] if self.headed else grid.rows
        self.width = len(first)
        if self.headed:
            self.headings = [str(cell).strip() for cell in first]
        else:
            self.said.append("no headings: the first line names an image that exists, or a file of an image")
            self.width = max(len(cells) for _, cells in self.rows)
            self.headings = [f"column {number}" for number in range(1, self.width + 1)]

    @staticmethod
    def _lines_before(grid: Grid) -> int:
        """How many titles and remarks stand before the headings."""
        for number, (_, cells) in enumerate(grid.rows[:TITLES]):
            if str(cells[0]).startswith("#") and not any(map(_is_heading, cells)):
                continue
            if sum(cell not in ("", None) for cell in cells) > 1:
                return number if any(map(_is_heading, cells)) else 0
        return 0

    def read(self, between: str | None) -> TagTable:
        image = self._image_column()
        tags, flags = self._tag_columns(image)
        self._same_width(image, tags)
        used = [image, *tags, *flags]
        plain_form = (
            self.headed and plain(self.headings[image]) == "image" and (flags or self._heading(tags) == ["tags"])
        )
        if not plain_form:
            what = ", ".join(f"{self.headings[column]!r}" for column in tags) or "one column per tag"
            self.said.append(f"images in {self.headings[image]!r}, tags in {what}")
        table = TagTable(self.grid.source)
        if flags:
            self._read_flags(table, image, flags)
        else:
            used += self._read_lists(table, image, tags, between)
        left = [name for column, name in enumerate(self.headings) if column not in used and self._filled(column)]
        if left:
            self.said.append(f"left out: {', '.join(name or 'a column without a heading' for name in left)}")
        table.said = self.said
        return table

    def _heading(self, columns: list[int]) -> list[str]:
        return [plain(self.headings[column]) for column in columns]

    def _column(self, column: int) -> list[Any]:
        return [cells[column] if column < len(cells) else "" for _, cells in self.rows]

    def _filled(self, column: int) -> list[Any]:
        return [cell for cell in self._column(column) if not is_nothing(cell)]

    def _begins(self) -> str:
        return f"{self.grid.source} begins with {','.join(map(str, self.grid.rows[0][1]))!r}"

    def _images_in(self, column: int) -> float:
        filled = self._filled(column)
        return sum(is_image(cell, self.images) for cell in filled) / max(1, len(filled))

    def _image_column(self) -> int:
        rank = {name: place for place, name in enumerate(IMAGE_HEADINGS)}
        places = [rank.get(name, len(rank)) if self.headed else len(rank) for name in map(plain, self.headings)]
        shares = [self._images_in(column) for column in range(self.width)]
        column = min(range(self.width), key=lambda one: (shares[one] < 0.5, places[one], one))
        if shares[column] < 0.5 and places[column] == len(rank):
            raise DataError(
                f"{self._begins()}, and no column names images. Expected {FORM}. Fix: call the column "
                "of file names image"
            )
        return column

    def _tag_columns(self, image: int) -> tuple[list[int], list[int]]:
        """Columns that hold names of tags, or else those that stand for one tag each."""
        others = [column for column in range(self.width) if column != image]
        files = [column for column in others if self._images_in(column) > 0.5]
        others = [column for column in others if column not in files]
        flags = [column for column in others if self._is_flags(column)]
        rank = {name: place for place, name in enumerate(TAG_HEADINGS)}
        named = sorted(
            (rank[name], column) for column in others if self.headed and (name := plain(self.headings[column])) in rank
        )
        # Names before numbers: `category_id,category`.
        named.sort(key=lambda pair: all(is_number(cell) for cell in self._filled(pair[1])))
        numbered = [
            column
            for column in others
            if self.headed and re.sub(r"\d+$", "", name := plain(self.headings[column])) in rank and name[-1:].isdigit()
        ]
        if named and (named[0][1] not in flags or len(flags) == 1 or not self._filled(named[0][1])):
            same = plain(self.headings[named[0][1]])
            return [column for _, column in named if plain(self.headings[column]) == same], []
        if numbered and not set(numbered) & set(flags):
            return numbered, []
        if self.headed and flags:
            return [], flags
        rest = [column for column in others if self._may_be_tags(column)]
        if not self.headed and rest:
            return rest, []
        if len(rest) == 1:
            return rest, []
        numbers = [column for column in rest if self._filled(column) and all(map(is_number, self._filled(column)))]
        if len(numbers) > 1:
            first = numbers[0]
            raise DataError(
                f"{self.grid.source}: column {self.headings[first]!r} holds {self._filled(first)[0]}. Expected 1 (the "
                "tag applies) or 0 in one column per tag. Fix: write 1 or 0 in place of counts and scores"
            )
        if files and not rest:
            raise DataError(
                f"{self.grid.source}: {self.headings[files[0]]!r} names files, not tags. If they are masks, give "
                "masks=FOLDER, in which a mask has the name of its image"
            )
        raise DataError(
            f"{self._begins()}, and {'no column' if not rest else 'more than one column'} may hold the tags. Expected "
            f"{FORM}. Fix: call the column of tags 'tags'"
        )

    def _is_flags(self, column: int) -> bool:
        heading = plain(self.headings[column])
        filled = self._filled(column)
        sure = sum(flag(cell) is not None for cell in filled)
        return heading not in OTHER_HEADINGS and sure > 0 and 2 * sure >= len(filled)

    def _may_be_tags(self, column: int) -> bool:
        words = {str(cell).casefold() for cell in self._filled(column)}
        if self.headed and plain(self.headings[column]) in OTHER_HEADINGS:
            return False
        return self.headed or not words or not words <= SPLIT_WORDS

    def _same_width(self, image: int, tags: list[int]) -> None:
        """Refuse rows of another length; cells behind a last column of tags are more tags."""
        last = bool(tags) and tags[-1] == self.width - 1 and self.headed
        longer = 0
        for where, cells in self.rows:
            while len(cells) > self.width and not cells[-1]:
                cells.pop()
            if len(cells) > self.width and last:
                longer += 1
                cells[self.width - 1 :] = [";".join(cell for cell in cells[self.width - 1 :] if cell)]
            elif len(cells) < self.width and self.headed:
                raise DataError(
                    f"{self.grid.source} {where}: {len(cells)} columns {','.join(map(str, cells))!r}. "
                    f"Expected {self.width} ({','.join(self.headings[:4])}). Fix: write all cells, as in photo.jpg, "
                    "with a comma where no tag applies"
                )
            elif len(cells) != self.width and self.headed:
                raise DataError(
                    f"{self.grid.source} {where}: {len(cells)} columns {','.join(map(str, cells))!r}. Expected "
                    f"{self.width} ({','.join(self.headings[:4])}). Fix: write ';' between tags, as in "
                    "photo.jpg,cat;dog"
                )
        if longer:
            self.said.append(f"cells behind the last heading are more tags ({number_of(longer, 'row')})")

    def _named_rows(self, image: int) -> Iterator[tuple[str, str, list[Any]]]:
        for where, cells in self.rows:
            name = cells[image] if image < len(cells) else ""
            if not str(name or "").strip():
                raise DataError(f"{self.grid.source} {where}: no image is named. Expected its file name")
            yield where, str(name), cells

    def _read_flags(self, table: TagTable, image: int, flags: list[int]) -> None:
        names = [tag_name(self.headings[column]) for column in flags]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise DataError(f"{self.grid.source}: two columns are called {twice[0]!r}. Expected {FORM}")
        words = {str(cell).casefold() for column in flags for cell in self._column(column)}
        if words & {"0", "0.0"} and words & {"-1", "-1.0"}:
            raise DataError(f"{self.grid.source}: {NO_TWO}")
        empty = 0
        for where, name, cells in self._named_rows(image):
            given = []
            for tag, column in zip(names, flags):
                said = flag(cells[column])
                if said is None:
                    raise DataError(
                        f"{self.grid.source} {where}: column {tag!r} holds {cells[column]!r}. Expected 1 (the tag "
                        "applies) or 0, or words such as yes and no"
                    )
                empty += is_nothing(cells[column])
                given += [tag] if said else []
            table.add(name, given, where)
        if empty:
            self.said.append(f"empty cells mean no ({number_of(empty, 'cell')})")

    def _read_lists(self, table: TagTable, image: int, tags: list[int], between: str | None) -> list[int]:
        """Add the tags; returns further columns that were used."""
        sure = [column for column in range(self.width) if self.headed and plain(self.headings[column]) in SURE_HEADINGS]
        sure = [column for column in sure if column not in tags and self._is_flags(column)][:1]
        cells_of_tags = [cell for column in tags for cell in self._column(column)]
        marks = between or separators(cells_of_tags)
        if between is None and marks == STRONG + WEAK:
            self.said.append("commas between tags")
        if between is None and any(isinstance(cell, str) and "|" in cell for cell in cells_of_tags):
            self.said.append("bars between tags")
        nothing = sum(isinstance(cell, str) and cell != "" and is_nothing(cell) for cell in cells_of_tags)
        if nothing:
            words = sorted({cell for cell in cells_of_tags if isinstance(cell, str) and cell and is_nothing(cell)})
            self.said.append(f"{', '.join(map(repr, words))}: no tag applies ({number_of(nothing, 'cell')})")
        for where, name, cells in self._named_rows(image):
            given: list[str] = []
            for column in tags:
                held = cell_tags(cells[column] if column < len(cells) else "", marks)
                if held is None:
                    raise DataError(
                        f"{self.grid.source} {where}: tags are {cells[column]!r}. Expected a list of tag names"
                    )
                given += held
            if sure and str(cells[sure[0]]).strip().casefold() in NO:
                given = []
            table.add(name, given, where)
        if sure:
            self.said.append(f"only rows with yes in {self.headings[sure[0]]!r} count")
        if table.long_form():
            self.said.append("one row per tag")
        return sure
