"""Tasks of Label Studio, as it exports them in JSON, JSON-MIN and CSV: images, regions, and choices as tags."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from maskwright.data.names import normal
from maskwright.data.tables.task_table import BEHIND, DRAWN, IMAGES, PICTURE, is_task_table, table_entries
from maskwright.data.tags import UPLOAD, TagTable, image_key
from maskwright.errors import DataError
from maskwright.files import read_json

HEAD = 4096  # characters in which an export shows what it is
_TASKS = re.compile(r'"(was_cancelled|completed_by|annotation_id)"\s*:|"data"\s*:\s*\{|"result"\s*:\s*\[')


@dataclass
class Task:
    """One image with the annotation that counts.

    Args:
        where: in which file and task, for messages.
        image: as the task names it.
        results: regions and choices, each with `value`; None where nobody has finished the task.
    """

    where: str
    image: str
    results: list[dict[str, Any]] | None = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """What the image's file may be called, the most exact first: paths with `/`."""
        return image_names(self.image)


def is_tasks(path: Path) -> bool:
    """Whether a file, JSON or a text table, begins as an export of tasks does."""
    if path.suffix.lower() != ".json":
        return is_task_table(path)
    try:
        with open(path, encoding="utf-8-sig") as stream:
            head = stream.read(HEAD)
    except (OSError, UnicodeDecodeError):
        return False
    return re.match(r"\s*\[\s*\{", head) is not None and _TASKS.search(head) is not None


def read_tasks(path: Path) -> tuple[list[Task], list[str], list[str]]:
    """Tasks of an export, JSON, JSON-MIN, CSV or TSV, what is wrong with entries that were passed over, and which
    columns of a table were left out.

    Of several annotations of a task the last one counts that is not cancelled; predictions do not. In JSON-MIN and
    tables, which have an entry for each annotation, it is the last entry of the task.

    Raises:
        DataError: missing, not JSON, not a list of tasks, or as `task_table.table_entries`.
    """
    wrong: list[str] = []
    left: list[str] = []
    content = None
    if path.suffix.lower() == ".json":
        content = read_json(path)
    elif is_task_table(path):
        content, wrong, left = table_entries(path)
    if not isinstance(content, list):
        raise DataError(f"{path} is not a list of tasks. Expected Label Studio's export as JSON, JSON-MIN or CSV")
    tasks: list[Task] = []
    last: dict[str, int] = {}
    for index, entry in enumerate(content):
        where = f"{path}: task {entry.get('id', index + 1) if isinstance(entry, dict) else index + 1}"
        if not isinstance(entry, dict):
            wrong.append(f"{where} is {str(entry)[:60]!r}, expected an object")
            continue
        try:
            short = not isinstance(entry.get("data"), dict)
            task = _short_task(entry, where) if short else _task(entry, where)
        except DataError as error:
            wrong.append(str(error))
            continue
        if short and where in last and tasks[last[where]].image == task.image:
            tasks[last[where]] = task
            continue
        last[where] = len(tasks)
        tasks.append(task)
    return tasks, wrong, left


def _task(entry: Mapping[str, Any], where: str) -> Task:
    annotations = entry.get("annotations", entry.get("completions")) or []
    if not isinstance(annotations, list) or not all(isinstance(one, dict) for one in annotations):
        raise DataError(f"{where} has annotations that are no list of objects")
    finished = [one for one in annotations if not (one.get("was_cancelled") or one.get("skipped"))]
    finished.sort(key=lambda one: str(one.get("created_at", "")))
    results = None
    if finished:
        results = finished[-1].get("result") or []
        if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
            raise DataError(f"{where}: the result of its annotation is no list of objects")
    return Task(where, _image(entry["data"], results or [], where), results)


def _short_task(entry: Mapping[str, Any], where: str) -> Task:
    """A task of JSON-MIN: its data, then `id`, the results by the names of their controls, then who made them."""
    keys = list(entry)
    if "annotation_id" not in entry:
        raise DataError(f"{where} has neither data nor annotation_id, as tasks of JSON and JSON-MIN do")
    start = keys.index("id") + 1 if "id" in keys else 0
    data = {key: value for key, value in entry.items() if key not in BEHIND}
    results: list[dict[str, Any]] = []
    for key in keys[start:]:
        if key in BEHIND:
            break
        values = entry[key] if isinstance(entry[key], list) else [entry[key]]
        for value in values:
            value = {"choices": [value]} if isinstance(value, str) else value
            if isinstance(value, dict):
                sizes = {name: value[name] for name in ("original_width", "original_height") if name in value}
                results.append({"from_name": key, "value": value, **sizes})
    finished = entry["annotation_id"] is not None
    return Task(where, _image(data, [], where), results if finished else None)


def _image(data: Mapping[str, Any], results: Iterable[Mapping[str, Any]], where: str) -> str:
    """The image of a task: the one value of its data that names one, else the value under a usual key."""
    texts = {key: value for key, value in data.items() if isinstance(value, str) and value}
    usual = [key for key in IMAGES if key in texts]
    pictures = [key for key, value in texts.items() if PICTURE.search(image_names(value)[0])]
    for key in (*(key for key in usual if key in pictures), *pictures, *usual):
        return texts[key]
    raise DataError(f"{where} names no image in its data: {', '.join(data) or 'nothing'}")


def image_names(text: str) -> list[str]:
    """What the file of an image may be called that a task names by a path, an upload, local storage or an address.

    `/data/upload/1/0a1b2c3d-cat.jpg` was uploaded as `cat.jpg`, `/data/local-files/?d=pets/cat.jpg` lies below the
    document root, and of an address the path counts.
    """
    parts = urlsplit(text.strip().replace("\\", "/"))
    inside = parse_qs(parts.query).get("d")
    path = inside[0] if inside and ("local-files" in parts.path or not parts.path) else unquote(parts.path)
    path = path.replace("\\", "/").lstrip("/")
    folder, slash, name = path.rpartition("/")
    short = UPLOAD.sub("", name)
    return [path] if short == name else [path, f"{folder}{slash}{short}"]


def choices_of(results: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Choices and taxonomy entries of the whole image: the control and the path; those of single regions are left out.

    Raises:
        DataError: choices that are no lists of names.
    """
    found: list[tuple[str, list[str]]] = []
    for result in results:
        value = result.get("value")
        if not isinstance(value, dict) or DRAWN & set(value):
            continue
        choices = value.get("choices", [])
        choices = [choices] if isinstance(choices, str) else choices
        paths = value.get("taxonomy", [])
        if not (isinstance(choices, list) and isinstance(paths, list)):
            raise DataError(f"{str(value)[:80]} is no list of choices")
        # A choice may itself be a path, of nested choices.
        for path in (*choices, *paths):
            path = [path] if isinstance(path, str) else path
            if not (isinstance(path, list) and path and all(isinstance(name, str) for name in path)):
                raise DataError(f"{str(path)[:80]!r} is no choice")
            found.append((str(result.get("from_name", "")), path))
    return found


def image_tags(tasks: Sequence[Task], all_controls: bool = False) -> tuple[list[list[str]], list[str], list[str]]:
    """Choices and taxonomy entries as tags: the last name of the path, or all of it where two paths end in one name.

    Where regions have labels, a control is about the same classes only if one of its choices is such a label; the
    others tell how good a picture is, or how sure somebody was, and are left out.

    Args:
        tasks: of an export.
        all_controls: nothing is left out.

    Returns:
        Tags of each task; what is wrong with choices, where a task's are damaged; controls with their choices that were
        left out, in words.
    """
    choices: list[list[tuple[str, list[str]]]] = []
    wrong = []
    drawn: set[str] = set()
    for task in tasks:
        drawn.update(label for result in task.results or [] for label in region_labels(result))
        try:
            choices.append(choices_of(task.results or []))
        except DataError as error:
            choices.append([])
            wrong.append(f"{task.where}: {error}")
    whole = {tuple(path) for found in choices for _, path in found}
    ends = Counter(path[-1] for path in whole)
    names = {path: path[-1] if ends[path[-1]] == 1 else " / ".join(path) for path in whole}
    controls: dict[str, set[str]] = {}
    for control, path in (pair for found in choices for pair in found):
        controls.setdefault(control, set()).add(names[tuple(path)])
    left = {control: used for control, used in controls.items() if drawn and not used & drawn and not all_controls}
    tags = [[names[tuple(path)] for control, path in found if control not in left] for found in choices]
    return tags, wrong, [f"{control or 'choices'} ({', '.join(sorted(used))})" for control, used in left.items()]


def region_labels(result: Mapping[str, Any]) -> list[str]:
    """Labels of a region: what is under `brushlabels`, `polygonlabels`, `labels`, ..."""
    value = result.get("value")
    if not isinstance(value, dict):
        return []
    for key, found in value.items():
        if key.endswith("labels") and isinstance(found, list):
            return [name for name in found if isinstance(name, str)]
    return []


def task_tags(path: Path, images: Collection[str]) -> TagTable:
    """Choices, taxonomy entries and labels of regions as tags of the images; tasks that nobody finished are left out.

    Args:
        path: an export of tasks.
        images: names of the images that there are, which tell uploads with and without their prefix apart.

    Raises:
        DataError: not an export of tasks, or a task that is damaged.
    """
    tasks, wrong, unused = read_tasks(path)
    finished = [task for task in tasks if task.results is not None]
    tags, damaged, left = image_tags(finished)
    if wrong or damaged:
        entries = [*wrong, *damaged]
        raise DataError(
            f"{entries[0]}; {len(entries)} such entries. Expected Label Studio's export as JSON, JSON-MIN or CSV"
        )
    said = ["choices and labels of Label Studio as tags"]
    said += [f"but not those of {', '.join(left)}"] if left else []
    said += [f"left out: {', '.join(unused)}"] if unused else []
    table = TagTable(str(path), said=said)
    files = {normal(image.rpartition("/")[2]) for image in images}
    for task, chosen in zip(finished, tags):
        image = next((name for name in task.names if image_key(name).rpartition("/")[2] in files), task.names[-1])
        labels = [label for result in task.results or [] for label in region_labels(result)]
        table.add(image, [*chosen, *labels], task.where.rpartition(": ")[2])
    return table
