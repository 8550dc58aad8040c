"""`scenes`, the built-in set: photograph-like pictures drawn from a seed, with the problems the methods are about.

Sample `i` depends on `(seed, split, i, size)` and nothing else: not on the order of access, the process, or the count.
What is in it and why: `docs/scenes.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskwright.data.sample import LabelSpace, Sample
from maskwright.data.scenes.drawing import Drawing, Thing
from maskwright.data.scenes.objects import SHAPES
from maskwright.data.scenes.places import PLACES, Place, choose_place
from maskwright.data.scenes.render import render
from maskwright.errors import DataError, unknown_name

SPLITS = {"train": 600, "val": 150, "test": 150}  # default counts; the position is the split's random stream
MIN_VISIBLE = 12  # pixels: less of a thing than this is void, so that no tag stands for something invisible


@dataclass(frozen=True)
class _Kind:
    """How one class occurs.

    Args:
        share: of the pictures, how many have it as the main thing.
        heights: least and greatest height of a main thing, in fractions of the short side.
        real: height beside the other classes, compressed; sets the sizes of two things in one picture.
        places: where it stands, with weights.
        shadow: half-width of its shadow in its own heights.
    """

    share: float
    heights: tuple[float, float]
    real: float
    places: dict[str, float]
    shadow: float = 0.4  # half-width of the shadow in heights


KINDS = {
    "person": _Kind(
        0.214, (0.36, 0.92), 1.0, {"street": 4, "meadow": 2.5, "beach": 2.0, "rails": 0.8, "room": 0.7}, 0.2
    ),
    "car": _Kind(0.17, (0.2, 0.46), 0.85, {"street": 8, "meadow": 1.2, "beach": 0.8}, 1.3),
    "cat": _Kind(0.13, (0.34, 0.78), 0.5, {"room": 4, "meadow": 3.5, "street": 1.5, "beach": 1}, 0.55),
    "dog": _Kind(0.13, (0.34, 0.78), 0.55, {"room": 4, "meadow": 3.5, "street": 1.5, "beach": 1}, 0.55),
    "boat": _Kind(0.105, (0.26, 0.7), 1.1, {"water": 9, "beach": 1}, 0.8),
    "bird": _Kind(0.085, (0.07, 0.16), 0.2, {"water": 3, "meadow": 3, "beach": 3, "street": 0.5}, 0.5),
    "train": _Kind(0.065, (0.24, 0.42), 1.5, {"rails": 1}, 2.0),
    "lamp": _Kind(0.06, (0.5, 0.9), 1.5, {"street": 6, "rails": 1.5, "meadow": 1, "beach": 1}, 0.08),
    "sign": _Kind(0.027, (0.4, 0.8), 1.1, {"street": 6, "rails": 1.5, "meadow": 2.5}, 0.08),
    "ball": _Kind(0.014, (0.17, 0.32), 0.28, {"beach": 4, "meadow": 4, "room": 3}, 0.45),
}
LABELS = LabelSpace(("background", *KINDS))
_NAMES = tuple(KINDS)
_ENDS = np.cumsum([kind.share for kind in KINDS.values()])
KEPT = 2**26  # bytes of pictures and masks that a set keeps, since drawing one takes milliseconds
_EMPTY = 0.04  # share of pictures in which nothing is placed
_COUNTS = (0.36, 0.36, 0.2, 0.08)  # of one, two, three, four things


def scenes(
    split: str = "train", *, count: int | None = None, size: int | Sequence[int] = (128, 128), seed: int = 0
) -> Scenes:
    """The built-in set of synthetic scenes.

    Args:
        split: `train`, `val` or `test`; their random streams differ, so no picture is in two of them.
        count: number of pictures; 600, 150 and 150 by default. A smaller count gives the first ones of a larger.
        size: `(height, width)` in pixels, or one number for both; at least 32.
        seed: another number gives another set.

    Raises:
        DataError: unknown split, a count below 1, a size below 32, a negative seed.
    """
    return Scenes(split, count=count, size=size, seed=seed)


class Scenes:
    """See `scenes`. Pictures are drawn when asked for and not kept; tags are kept once known."""

    labels = LABELS
    images = masks = saliency = label_map = None
    tags_from_masks = True

    def __init__(self, split: str, *, count: int | None, size: int | Sequence[int], seed: int) -> None:
        if split not in SPLITS:
            raise DataError(unknown_name("split of scenes", split, SPLITS))
        if isinstance(size, int):
            size = (size, size)
        if len(size) != 2 or min(size) < 32:
            raise DataError(f"size of scenes must be (height, width), each at least 32 pixels; found {tuple(size)}")
        count = SPLITS[split] if count is None else count
        if count < 1:
            raise DataError(f"count of scenes must be at least 1, found {count}")
        if seed < 0:
            raise DataError(f"seed of scenes must not be negative, found {seed}")
        self.split, self.count, self.seed = split, int(count), int(seed)
        self.shape = (int(size[0]), int(size[1]))
        self.names = [f"{split}_{i:05d}" for i in range(self.count)]
        self._tags: dict[int, tuple[int, ...]] = {}
        self._drawn: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._room = KEPT // (4 * self.shape[0] * self.shape[1])

    @property
    def source(self) -> dict[str, Any]:
        """Facts for the record of a run."""
        return {
            "root": "scenes", "split": self.split, "tag_source": "masks", "count": self.count,
            "size": list(self.shape), "seed": self.seed,
        }  # fmt: skip

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Sample:
        return self.get(i)

    def get(self, i: int, with_mask: bool = True) -> Sample:
        """Picture i, its mask if asked for, and its tags."""
        drawn = self._drawn.get(i)
        if drawn is None:
            place, things, mask, rng = self._compose(i)
            self._tags[i] = LABELS.tags_in(mask)
            drawn = render(place, things, self.shape, rng), mask
            if len(self._drawn) < self._room:
                self._drawn[i] = drawn
        image, mask = (array.copy() for array in drawn)
        return Sample(self.names[i], image, mask if with_mask else None, self._tags[i])

    def tags(self, i: int) -> tuple[int, ...]:
        """Label values in picture i; only its outlines are drawn for this."""
        if i not in self._tags:
            self._tags[i] = LABELS.tags_in(self._compose(i)[2])
        return self._tags[i]

    def mask(self, i: int) -> np.ndarray:
        """The mask `(H, W)` uint8 of picture i, which is not rendered for this."""
        return self._drawn[i][1].copy() if i in self._drawn else self._compose(i)[2]

    def has_mask(self, i: int) -> bool:
        return True

    def size(self, i: int) -> tuple[int, int]:
        return self.shape

    def _compose(self, i: int) -> tuple[Place, list[Thing], np.ndarray, np.random.Generator]:
        if not 0 <= i < self.count:
            raise IndexError(f"scenes {self.split} has {self.count} pictures, asked for {i}")
        stream = list(SPLITS).index(self.split)
        layout, rendering = np.random.SeedSequence((self.seed, stream, i)).spawn(2)
        # Golden-ratio steps spread the main classes evenly over any run of pictures, so that every split of ordinary
        # size has its share of the rare ones.
        start = np.random.default_rng((self.seed, stream)).random()
        position = (start + i * 0.6180339887498949) % 1.0
        place, things = _arrange(position, self.shape, np.random.default_rng(layout))
        things, mask = _settle(things, self.shape)
        return place, things, mask, np.random.default_rng(rendering)


def _arrange(position: float, shape: tuple[int, int], rng: np.random.Generator) -> tuple[Place, list[Thing]]:
    """Chooses place and things; the main thing first."""
    if position >= 1 - _EMPTY:
        return choose_place(PLACES[rng.integers(len(PLACES))], rng), []
    main = _NAMES[min(int(np.searchsorted(_ENDS, position / (1 - _EMPTY) * _ENDS[-1], side="right")), len(_NAMES) - 1)]
    kind = KINDS[main]
    odds = np.asarray(list(kind.places.values()), float)
    place = choose_place(list(kind.places)[_choose(odds, rng)], rng)
    low, high = kind.heights
    size = low + (high - low) * rng.random()
    things = [_place_thing(main, place, size, None, shape, rng)]
    others = [name for name in _NAMES if place.kind in KINDS[name].places]
    odds = np.asarray([KINDS[n].share * KINDS[n].places[place.kind] / sum(KINDS[n].places.values()) for n in others])
    for _ in range(_choose(_COUNTS, rng)):
        name = others[_choose(odds, rng)]
        if name == "train" and main == "train":
            continue
        size_here = size / kind.real * KINDS[name].real
        things.append(_place_thing(name, place, size_here, things[0], shape, rng))
    return place, things


def _choose(odds: Sequence[float] | np.ndarray, rng: np.random.Generator) -> int:
    ends = np.cumsum(odds)
    return min(int(np.searchsorted(ends, rng.random() * ends[-1], side="right")), len(ends) - 1)


def _place_thing(
    name: str, place: Place, size: float, beside: Thing | None, shape: tuple[int, int], rng: np.random.Generator
) -> Thing:
    """Puts a thing somewhere fitting; `size` is its height at the depth of `beside`, the main thing."""
    h, w = shape
    unit = min(h, w)
    kind = KINDS[name]
    horizon = place.horizon
    afloat = name == "boat" and (place.kind == "water" or rng.random() < 0.8)
    low, high = horizon + 0.12, 0.98
    if name == "train":
        low = high = place.track
    elif afloat and place.kind == "beach":
        low, high = horizon + 0.03, place.shore - 0.02
    elif place.kind == "water":
        low = horizon + 0.06
    elif place.kind == "beach":
        low = place.shore + 0.03
    y = rng.uniform(low, high) if high > low else low
    flying = name == "bird" and rng.random() < 0.75
    if name == "bird" and place.kind == "water":
        flying = True
    if beside is None:
        if not flying and name != "train":  # large things stand near the viewer
            y = min(high, max(y, low + (high - low) * (size - kind.heights[0]) / (kind.heights[1] - kind.heights[0])))
    elif not flying:
        near = (y - horizon + 0.05) / max(beside.y / h - horizon + 0.05, 0.08)
        size = size * min(max(near, 0.35), 1.6)
    size = min(max(size, kind.heights[0] * 0.55), kind.heights[1])
    if flying:
        y = rng.uniform(0.14, 0.3 if place.kind == "street" else max(0.2, horizon))
        size = min(size, rng.uniform(*kind.heights))
    size = min(size, y * h / unit)  # the top stays in the picture
    x = rng.uniform(0.12, 0.88) * w
    crowded = beside is not None and not flying and rng.random() < 0.45  # so that one hides part of the other
    if beside is not None and crowded:
        reach = 0.5 * max(beside.box[2] - beside.box[0], size * unit)
        x = min(max(beside.x + rng.uniform(-1, 1) * reach, 0.05 * w), 0.95 * w)
    drawing = Drawing(height=size, flying=flying, shadow=kind.shadow)
    SHAPES[name](drawing, rng)
    turn = 0.0 if name == "train" else rng.normal(0, 0.25 if flying else 0.01 if kind.shadow < 0.1 else 0.03)
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    turned = np.array([[mirror * np.cos(turn), mirror * np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) * size * unit
    face = None
    if drawing.face is not None:  # within the picture, or nobody could tell what it is
        dx, dy = (np.asarray(drawing.face) - (0, 1)) @ turned
        margin = min(0.16 * size * unit, 0.25 * w)
        x = min(max(x + dx, margin), w - margin) - dx
        face = (int(x + dx), int(min(max(y * h + dy, 0), h - 1)))
    outline = (np.concatenate(drawing.polygons) - (0, 1)) @ turned + (x, y * h)
    (left, top), (right, bottom) = np.floor(outline.min(0)) - 3, np.ceil(outline.max(0)) + 3
    box = (max(0, int(left)), max(0, int(top)), min(w, int(right)), min(h, int(bottom)))
    return Thing(name, drawing, x, y * h, size * unit, 0.0 if flying else y, afloat, face, outline, box)


def _grow(inside: np.ndarray, by: int) -> np.ndarray:
    for _ in range(by):
        wide = inside.copy()
        wide[1:] |= inside[:-1]
        wide[:-1] |= inside[1:]
        inside = wide.copy()
        inside[:, 1:] |= wide[:, :-1]
        inside[:, :-1] |= wide[:, 1:]
    return inside


def _settle(things: list[Thing], shape: tuple[int, int]) -> tuple[list[Thing], np.ndarray]:
    """Orders things from far to near, drops the hidden ones, and writes the mask with void borders.

    Returns:
        The things that stay, far to near, and the mask (H, W) uint8.
    """
    main = things[0] if things else None
    things = sorted(things, key=lambda thing: thing.depth)
    owners, shown = _paint_owners(things, shape)
    if main is not None and shown[things.index(main)] < 0.4:
        things = things[: things.index(main) + 1]
        owners, shown = _paint_owners(things, shape)
    if any(share < 0.25 for share in shown):
        things = [t for t, share in zip(things, shown) if share >= 0.25]
        owners, shown = _paint_owners(things, shape)
    visible = np.bincount(owners.ravel(), minlength=256)
    table = np.full(256, LABELS.ignore_index, np.uint8)
    table[0] = 0
    for k, thing in enumerate(things):
        if visible[k + 1] >= MIN_VISIBLE:
            table[k + 1] = LABELS.value(thing.name)
    return things, table[owners]


def _paint_owners(things: list[Thing], shape: tuple[int, int]) -> tuple[np.ndarray, list[float]]:
    """What is seen: the thing at each pixel (position + 1; 255 on borders), and the share of each thing.

    The share of a thing whose face is hidden is 0: without it cats and dogs are the same, as are lamps and signs.
    """
    border = max(1, round(min(shape) / 128))
    owners = np.zeros(shape, np.uint8)
    sizes = []
    for k, thing in enumerate(things):
        left, top, right, bottom = thing.box
        inside = thing.cover >= 128
        window = owners[top:bottom, left:right]
        window[_grow(inside, border)] = 255
        window[inside] = k + 1
        sizes.append(max(1, int(np.count_nonzero(inside))))
    visible = np.bincount(owners.ravel(), minlength=256)[1:]
    shown = [int(seen) / size for seen, size in zip(visible, sizes)]
    for k, thing in enumerate(things):
        if thing.face is not None and owners[thing.face[1], thing.face[0]] != k + 1:
            shown[k] = 0.0
    return owners, shown
