"""Whatever is wrong in an annotation file, it is said as an error of the data, never as a failure of the program."""

import copy
import json
import random
import warnings

import pytest

from maskwright.data import open_dataset
from maskwright.errors import DataError
from maskwright.formats import write
from maskwright.settings import DataSettings

HOSTILE = [
    *(None, True, -1, 0, 1.5, float("nan"), float("inf"), 1e308, 2**31, 2**63, -(2**63), 10**30, "", "x", "../../a"),
    *("/etc/passwd", "\x00", "~" * 10, "9" * 50, [], {}, [[]], [None], ["x"], [[1, 2, 3]], {"a": 1}),
]
FILES = {
    "coco": "annotations/instances_train.json",
    "coco-polygons": "annotations/instances_train.json",
    "labelme": "one.json",
    "huggingface": "train/metadata.jsonl",
    "yolo": "labels/train/one.txt",
    "yolo-semantic": "data.yaml",
}
LAYOUTS = {"coco": "coco_json", "coco-polygons": "coco_json", "yolo-semantic": "yolo"}


def places(value, path=()):
    yield path
    keys = value if isinstance(value, dict) else range(min(len(value), 5)) if isinstance(value, list) else ()
    for key in keys:
        yield from places(value[key], (*path, key))


def damaged_json(text, chance):
    value = copy.deepcopy(json.loads(text))
    *above, last = chance.choice([path for path in places(value) if path])
    inner = value
    for key in above:
        inner = inner[key]
    if chance.random() < 0.8:
        inner[last] = chance.choice(HOSTILE)
    else:
        del inner[last]
    return json.dumps(value).encode()


def damaged_bytes(data, chance):
    data = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(data))
        new = bytes(chance.choice(b'0123456789-.eE"[]{},: \x00\xff/nan') for _ in range(chance.randint(0, 3)))
        data[place : place + chance.randint(0, 3)] = new
    return bytes(data)


@pytest.mark.parametrize("name", FILES)
def test_damage_is_an_error_of_the_data(name, hard_whole, tmp_path):
    chance = random.Random(name)
    write(hard_whole.export, name, tmp_path / "out")
    file = tmp_path / "out" / FILES[name]
    sound = file.read_bytes()
    refused = 0
    for _ in range(15):
        by_value = file.suffix == ".json" and chance.random() < 0.8
        file.write_bytes(damaged_json(sound, chance) if by_value else damaged_bytes(sound, chance))
        settings = DataSettings(root=str(tmp_path / "out"), layout=LAYOUTS.get(name, name))
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            try:
                dataset = open_dataset(settings, "all")
                for index in range(len(dataset)):
                    dataset.mask(index)
            except DataError:
                refused += 1
    assert refused > 0
