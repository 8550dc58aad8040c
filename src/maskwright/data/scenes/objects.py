"""The things in `scenes`: one function per class, drawn with `Drawing` in the thing's own units.

A thing stands with its foot at (0, 1) and its top near y = 0, so one unit is its height; x grows to the right, y down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from maskwright.data.scenes.drawing import Colour, Drawing


def _shade(colour: Sequence[float], factor: float) -> Colour:
    return (min(colour[0] * factor, 255), min(colour[1] * factor, 255), min(colour[2] * factor, 255))


def _pick(rng: np.random.Generator, colours: Sequence[Colour], spread: float = 12) -> Colour:
    base = np.asarray(colours[int(rng.integers(len(colours)))])
    r, g, b = np.clip(base * (1 + rng.normal(0, spread / 90)) + rng.normal(0, spread / 3, 3), 4, 250)
    return (float(r), float(g), float(b))


_COATS: list[Colour] = [
    (45, 42, 42), (118, 112, 106), (222, 216, 205), (205, 168, 118), (196, 118, 58), (116, 76, 48), (72, 54, 44),
]  # fmt: skip
_SKINS: list[Colour] = [(241, 201, 172), (224, 172, 130), (198, 140, 98), (141, 92, 62), (92, 60, 42)]
_HAIR: list[Colour] = [(38, 30, 28), (86, 58, 38), (150, 108, 62), (205, 175, 120), (150, 150, 150)]
_CLOTHES: list[Colour] = [
    (40, 52, 84), (168, 44, 48), (46, 96, 70), (222, 218, 210), (60, 60, 64), (208, 164, 70), (92, 132, 178),
    (120, 78, 118),
]  # fmt: skip
_CAR_PAINTS: list[Colour] = [
    (188, 30, 36), (36, 66, 132), (206, 208, 210), (52, 54, 58), (140, 144, 148), (44, 96, 72), (226, 186, 60),
    (120, 170, 200),
]  # fmt: skip


def _pet(d: Drawing, rng: np.random.Generator, head: Callable[..., None]) -> None:
    """Body, legs and tail, the same for cats and dogs: only `head` tells them apart."""
    coat = _pick(rng, _COATS)
    d.fur = True
    d.second = _pick(rng, _COATS) if rng.random() < 0.55 else None
    far, near = d.paint(_shade(coat, 0.62), 0.8, 0.3), d.paint(coat, 1.0, 0.6)
    paw = d.paint(_shade(coat, 1.12), 0.4, 0.6)
    pose = rng.random()
    lift = rng.uniform(-0.04, 0.04)
    curl = rng.uniform(-0.35, 0.35)
    if pose < 0.5:  # standing, seen from the side
        long = rng.uniform(0.42, 0.54)
        step = rng.uniform(-0.09, 0.09, 4)
        for x, s in ((-long + 0.16, step[0]), (long - 0.02, step[1])):
            d.stroke(far, [(x, 0.62), (x + s / 2, 0.8), (x + s, 0.97)], [0.17, 0.1, 0.09])
        d.stroke(near, [(-long, 0.5), (-long - 0.2, 0.38 - curl / 2), (-long - 0.3, 0.2 + curl)], [0.13, 0.09, 0.06])
        d.blob(near, [(-long - 0.04, 0.5), (-long + 0.1, 0.4), (0, 0.41), (long - 0.1, 0.36), (long + 0.06, 0.46),
                      (long, 0.66), (0.05, 0.72), (-long + 0.12, 0.7)])  # fmt: skip
        for x, s in ((-long + 0.06, step[2]), (long - 0.1, step[3])):
            d.stroke(near, [(x, 0.6), (x + s / 2, 0.8), (x + s, 0.965)], [0.2, 0.11, 0.1])
            d.ellipse(paw, x + s + 0.03, 0.975, 0.07, 0.035)
        d.stroke(near, [(long - 0.05, 0.5), (long + 0.1, 0.34 + lift)], [0.3, 0.22])
        d.face = (long + 0.16, 0.27 + lift)
        head(d, rng, coat, long + 0.16, 0.27 + lift, 0.215)
    elif pose < 0.8:  # sitting, seen from the front
        d.stroke(far, [(-0.2, 0.9), (-0.42, 0.93), (-0.5, 0.8 - abs(curl) / 2)], [0.12, 0.09, 0.06])
        d.blob(
            near,
            [(0, 0.36), (0.2, 0.5), (0.32, 0.82), (0.3, 0.97), (0, 0.99), (-0.3, 0.97), (-0.32, 0.82), (-0.2, 0.5)],
        )
        d.ellipse(paw, -0.26, 0.965, 0.11, 0.04)
        d.ellipse(paw, 0.26, 0.965, 0.11, 0.04)
        chest = d.paint(_shade(coat, 1.15), 0.7, 0.75)
        d.ellipse(chest, 0, 0.6, 0.13, 0.2)
        for x in (-0.085, 0.085):
            d.stroke(near, [(x, 0.62), (x * 1.05, 0.95)], [0.14, 0.1])
            d.ellipse(paw, x * 1.1, 0.97, 0.065, 0.035)
        d.face = (lift, 0.27)
        head(d, rng, coat, lift, 0.27, 0.235)
    else:  # lying
        d.stroke(near, [(-0.62, 0.86), (-0.85, 0.9), (-1.0, 0.8 - abs(curl) / 2)], [0.14, 0.1, 0.07])
        d.blob(
            near,
            [
                (-0.7, 0.92),
                (-0.66, 0.66),
                (-0.3, 0.54),
                (0.2, 0.56),
                (0.5, 0.6),
                (0.58, 0.9),
                (0.1, 0.99),
                (-0.5, 0.99),
            ],
        )
        d.ellipse(near, -0.42, 0.82, 0.24, 0.17)
        d.stroke(near, [(0.35, 0.9), (0.8, 0.94)], [0.15, 0.11])
        d.ellipse(paw, 0.82, 0.945, 0.075, 0.05)
        d.face = (0.52 + lift, 0.48)
        head(d, rng, coat, 0.52 + lift, 0.48, 0.26)


def _eyes(d: Drawing, paint: int, x: float, y: float, gap: float, rx: float, ry: float) -> None:
    d.ellipse(paint, x - gap, y, rx, ry)
    d.ellipse(paint, x + gap, y, rx, ry)


def _cat_head(d: Drawing, rng: np.random.Generator, coat: Colour, x: float, y: float, r: float) -> None:
    fur, pink = d.paint(coat, 0.8, 0.85), d.paint((214, 140, 132), 0.1, 0.7)
    pale = d.paint(tuple(0.45 * c + 0.55 * 235 for c in coat), 0.2, 0.95)
    for s in (-1, 1):
        d.polygon(
            fur, [(x + s * 0.98 * r, y - 0.2 * r), (x + s * 0.9 * r, y - 1.45 * r), (x + s * 0.15 * r, y - 0.8 * r)]
        )
        d.polygon(
            pink, [(x + s * 0.82 * r, y - 0.5 * r), (x + s * 0.8 * r, y - 1.15 * r), (x + s * 0.4 * r, y - 0.75 * r)]
        )
    d.ellipse(fur, x, y, 1.04 * r, 0.9 * r)
    d.ellipse(pale, x, y + 0.42 * r, 0.5 * r, 0.33 * r)
    iris = d.paint(_pick(rng, [(150, 190, 70), (220, 180, 60), (110, 170, 180)]), 0, 0.9)
    _eyes(d, iris, x, y - 0.12 * r, 0.45 * r, 0.25 * r, 0.21 * r)
    _eyes(d, d.paint((12, 12, 12), 0, 0.9), x, y - 0.12 * r, 0.45 * r, 0.08 * r, 0.2 * r)
    d.polygon(pink, [(x - 0.15 * r, y + 0.2 * r), (x + 0.15 * r, y + 0.2 * r), (x, y + 0.4 * r)])


def _dog_head(d: Drawing, rng: np.random.Generator, coat: Colour, x: float, y: float, r: float) -> None:
    fur, ear = d.paint(coat, 0.8, 0.8), d.paint(_shade(coat, 0.55), 0.6, 0.9)
    pale = d.paint(tuple(0.55 * c + 0.45 * 225 for c in coat), 0.2, 1.0)
    dark = d.paint((18, 16, 16), 0, 1.0)
    d.ellipse(fur, x, y, 0.9 * r, 0.95 * r)
    side = rng.uniform(0.25, 0.45) * r
    d.blob(pale, [(x - 0.3 * r, y + 0.05 * r), (x + side + 0.3 * r, y + 0.05 * r), (x + side + 0.62 * r, y + 0.5 * r),
                  (x + side + 0.1 * r, y + 0.95 * r), (x - 0.3 * r, y + 0.75 * r)])  # fmt: skip
    for s in (-1, 1):
        d.blob(ear, [(x + s * 0.5 * r, y - 0.92 * r), (x + s * 1.05 * r, y - 0.7 * r), (x + s * 1.32 * r, y + 0.3 * r),
                     (x + s * 1.05 * r, y + 0.72 * r), (x + s * 0.78 * r, y + 0.1 * r)])  # fmt: skip
    if rng.random() < 0.6:
        d.ellipse(d.paint((206, 84, 92), 0, 0.9), x + side, y + 1.0 * r, 0.17 * r, 0.28 * r)
    d.ellipse(dark, x + side + 0.25 * r, y + 0.28 * r, 0.27 * r, 0.2 * r)
    d.stroke(dark, [(x + side + 0.2 * r, y + 0.45 * r), (x + side, y + 0.78 * r)], 0.06 * r)
    _eyes(d, dark, x + 0.08 * r, y - 0.22 * r, 0.4 * r, 0.13 * r, 0.15 * r)


def cat(d: Drawing, rng: np.random.Generator) -> None:
    _pet(d, rng, _cat_head)


def dog(d: Drawing, rng: np.random.Generator) -> None:
    _pet(d, rng, _dog_head)


def person(d: Drawing, rng: np.random.Generator) -> None:
    skin, hair = _pick(rng, _SKINS, 6), _pick(rng, _HAIR, 6)
    top, trousers = _pick(rng, _CLOTHES), _pick(rng, _CLOTHES)
    d.second = _pick(rng, _CLOTHES) if rng.random() < 0.3 else None
    wide, stride = rng.uniform(0.9, 1.15), rng.uniform(-0.12, 0.12)
    far, leg = d.paint(_shade(trousers, 0.7), 0.4, 0.3), d.paint(trousers, 0.4, 0.5)
    shoe, cloth = d.paint(_shade(_pick(rng, _CLOTHES), 0.5), 0, 0.5), d.paint(top, 1.0, 0.65)
    sleeve, flesh = d.paint(_shade(top, 0.82), 0.8, 0.8), d.paint(skin, 0.1, 0.85)
    skirt = rng.random() < 0.25
    for s, paint in ((-1, far), (1, leg)):
        foot = 0.05 * s + stride * s
        d.stroke(
            flesh if skirt else paint,
            [(0.05 * s, 0.52), (0.055 * s + foot / 4, 0.75), (foot, 0.965)],
            [0.125, 0.09, 0.065],
        )
        d.ellipse(shoe, foot + 0.025, 0.975, 0.055, 0.025)
    swing = rng.uniform(-0.12, 0.16)
    d.stroke(sleeve, [(-0.12 * wide, 0.24), (-0.17 * wide, 0.38), (-0.15 * wide - swing, 0.52)], [0.08, 0.07, 0.05])
    d.ellipse(flesh, -0.15 * wide - swing, 0.53, 0.028, 0.03)
    if skirt:
        d.polygon(leg, [(-0.11 * wide, 0.46), (0.11 * wide, 0.46), (0.19 * wide, 0.72), (-0.19 * wide, 0.72)])
    d.stroke(flesh, [(0, 0.12), (0, 0.22)], 0.07)
    d.blob(cloth, [(0, 0.185), (0.13 * wide, 0.22), (0.14 * wide, 0.35), (0.115 * wide, 0.54), (0, 0.56),
                   (-0.115 * wide, 0.54), (-0.14 * wide, 0.35), (-0.13 * wide, 0.22)])  # fmt: skip
    raised = rng.random() < 0.15
    hand = (0.24 * wide, 0.12) if raised else (0.16 * wide + swing, 0.53)
    d.stroke(sleeve, [(0.13 * wide, 0.24), (0.2 * wide, 0.3 if raised else 0.38), hand], [0.08, 0.07, 0.05])
    d.ellipse(flesh, hand[0], hand[1] + 0.01, 0.03, 0.032)
    mane = d.paint(hair, 0.5, 0.8)
    if rng.random() < 0.4:
        d.ellipse(mane, 0, 0.115, 0.075, 0.115)
    d.ellipse(flesh, 0, 0.095, 0.06, 0.08)
    turn = rng.uniform(-0.03, 0.03)
    if rng.random() < 0.2:
        hat = d.paint(_pick(rng, _CLOTHES), 0.3, 0.95)
        d.ellipse(hat, 0, 0.055, 0.1, 0.02)
        d.ellipse(hat, 0, 0.035, 0.06, 0.045)
    else:
        d.blob(
            mane,
            [
                (-0.068, 0.1),
                (-0.065, 0.03),
                (0, 0.0),
                (0.065, 0.03),
                (0.068, 0.09),
                (0.045 + turn, 0.05),
                (turn - 0.04, 0.055),
            ],
        )
    dark = d.paint((30, 24, 22), 0, 0.85)
    _eyes(d, dark, turn, 0.095, 0.024, 0.009, 0.008)


def _wheel(d: Drawing, x: float, r: float) -> None:
    tyre, rim, hub = d.paint((24, 24, 26), 0, 0.7), d.paint((166, 168, 172), 0.1, 0.9), d.paint((70, 72, 76), 0, 0.8)
    d.ellipse(tyre, x, 1 - r, r, r)
    d.ellipse(rim, x, 1 - r, r * 0.6, r * 0.6)
    d.ellipse(hub, x, 1 - r, r * 0.22, r * 0.22)


def car(d: Drawing, rng: np.random.Generator) -> None:
    colour = _pick(rng, _CAR_PAINTS)
    half = rng.uniform(1.15, 1.45)
    body, sill = d.paint(colour, 0.25, 0.7), d.paint(_shade(colour, 0.6), 0.2, 0.5)
    glass, dark = (
        d.paint(_pick(rng, [(70, 88, 104), (44, 54, 64), (120, 140, 156)], 6), 0.15, 0.5),
        d.paint((22, 22, 24), 0, 0.3),
    )
    tail = rng.uniform(0.45, 0.98)  # 0.5: a boot, 1: an estate's upright back
    roof_l, roof_r, hood = -half * tail * 0.82, half * rng.uniform(0.15, 0.35), rng.uniform(0.4, 0.5)
    d.polygon(dark, [(-half * 0.95, 0.72), (half * 0.95, 0.72), (half * 0.9, 0.88), (-half * 0.9, 0.88)])
    d.blob(body, [(-half, 0.62), (-half * 0.97, 0.44), (roof_l - 0.08, 0.38), (roof_l + 0.12, 0.04),
                  ((roof_l + roof_r) / 2, 0.0), (roof_r, 0.05), (roof_r + 0.35, 0.38), (half * 0.9, hood),
                  (half, 0.6), (half * 0.98, 0.8), (0, 0.83), (-half * 0.98, 0.8)])  # fmt: skip
    d.polygon(sill, [(-half * 0.97, 0.7), (half * 0.97, 0.7), (half * 0.95, 0.82), (-half * 0.95, 0.82)])
    middle = (roof_l + roof_r) / 2 + 0.08
    d.polygon(glass, [(roof_l + 0.05, 0.37), (roof_l + 0.2, 0.1), (middle - 0.04, 0.08), (middle - 0.04, 0.37)])
    d.polygon(glass, [(middle + 0.04, 0.08), (roof_r - 0.03, 0.1), (roof_r + 0.24, 0.37), (middle + 0.04, 0.37)])
    shine = d.paint(_shade(colour, 1.35), 0.1, 0.75)
    d.stroke(shine, [(-half * 0.9, 0.46), (0, 0.44), (half * 0.85, hood + 0.04)], 0.035)
    seam = d.paint(_shade(colour, 0.5), 0, 0.6)
    d.box(seam, middle - 0.015, 0.42, middle + 0.015, 0.74)
    d.ellipse(d.paint((250, 240, 200), 0, 0.9), half * 0.93, 0.57, 0.07, 0.055)
    d.ellipse(d.paint((190, 30, 30), 0, 0.9), -half * 0.96, 0.55, 0.05, 0.07)
    r = rng.uniform(0.2, 0.25)
    for x in (-half * 0.62, half * 0.62):
        d.ellipse(dark, x, 1 - r, r * 1.18, r * 1.12)
        _wheel(d, x, r)


def boat(d: Drawing, rng: np.random.Generator) -> None:
    hull_colour = _pick(
        rng, [(232, 230, 224), (40, 62, 110), (170, 44, 40), (120, 84, 52), (58, 110, 92), (226, 190, 90)]
    )
    hull, band = (
        d.paint(hull_colour, 0.3, 0.7),
        d.paint(_pick(rng, [(190, 40, 36), (240, 240, 236), (34, 48, 80)]), 0.2, 0.7),
    )
    deck, wood = d.paint((176, 140, 98), 0.4, 0.5), d.paint((96, 78, 60), 0, 0.6)
    cloth = d.paint(_pick(rng, [(240, 236, 226), (238, 226, 200), (196, 70, 54), (70, 110, 160)], 8), 0.5, 0.6)
    if rng.random() < 0.6:  # under sail
        half, lean = rng.uniform(0.38, 0.5), rng.uniform(-0.03, 0.03)
        d.polygon(wood, [(-0.012, 0.86), (lean - 0.01, 0.0), (lean + 0.012, 0.0), (0.022, 0.86)])
        belly = rng.uniform(0.02, 0.1)
        d.polygon(cloth, [(lean - 0.02, 0.03), (-0.2 - belly, 0.4), (-half * 0.85, 0.76), (-0.02, 0.77)])
        d.polygon(cloth, [(lean + 0.03, 0.1), (0.15 + belly, 0.42), (half * 0.9, 0.78), (0.03, 0.75)])
        top = 0.83
    else:  # under power
        half, top = rng.uniform(0.9, 1.2), 0.55
        white, glass = d.paint((228, 228, 224), 0.2, 0.75), d.paint((58, 74, 90), 0.1, 0.5)
        left, right = -half * rng.uniform(0.3, 0.6), half * rng.uniform(0.1, 0.35)
        d.polygon(white, [(left, 0.6), (left + 0.05, 0.16), (right - 0.12, 0.16), (right, 0.6)])
        d.box(white, left - 0.06, 0.1, right - 0.06, 0.18)
        for x in np.linspace(left + 0.12, right - 0.28, 3):
            d.box(glass, x, 0.25, x + 0.14, 0.42)
        d.box(wood, left + 0.2, -0.1, left + 0.24, 0.12)
    deep = 1 - top
    d.blob(hull, [(-half, top + 0.02), (-half * 0.4, top + 0.05 * deep), (half * 0.5, top),
                  (half * 1.08, top - 0.22 * deep), (half * 0.9, top + 0.6 * deep), (half * 0.6, 1.0),
                  (-half * 0.7, 1.0), (-half * 0.95, top + 0.6 * deep)])  # fmt: skip
    d.polygon(band, [(-half * 0.97, top + 0.42 * deep), (half * 0.97, top + 0.3 * deep),
                     (half * 0.9, top + 0.55 * deep), (-half * 0.95, top + 0.62 * deep)])  # fmt: skip
    d.stroke(deck, [(-half, top + 0.02), (half * 0.5, top), (half * 1.05, top - 0.2 * deep)], 0.06 * deep + 0.012)


def train(d: Drawing, rng: np.random.Generator) -> None:
    colour = _pick(rng, _CAR_PAINTS)
    body, roof = d.paint(colour, 0.3, 0.7), d.paint(_shade((150, 152, 156), rng.uniform(0.6, 1.1)), 0.4, 0.5)
    stripe, glass = (
        d.paint(_pick(rng, [(238, 236, 230), (230, 190, 60), (30, 40, 70)]), 0.2, 0.7),
        d.paint((52, 62, 72), 0.15, 0.5),
    )
    dark, door = d.paint((34, 32, 32), 0.3, 0.3), d.paint(_shade(colour, 0.75), 0.2, 0.6)
    wagons, long = int(rng.integers(1, 4)), rng.uniform(2.0, 2.6)
    nose = rng.uniform(0.25, 0.6)
    right = wagons * long / 2
    for k in range(wagons):
        end = right - k * long
        start = end - long + 0.08
        d.box(dark, start + 0.1, 0.8, end - 0.15, 0.93)
        for x in (start + 0.3, start + 0.62, end - 0.72, end - 0.4):
            d.ellipse(dark, x, 0.9, 0.11, 0.1)
        if k == 0:
            d.polygon(roof, [(start, 0.06), (end - nose - 0.05, 0.06), (end - nose, 0.16), (start, 0.16)])
            d.polygon(
                body,
                [
                    (start, 0.14),
                    (end - nose, 0.14),
                    (end - nose * 0.5, 0.4),
                    (end, 0.6),
                    (end - 0.02, 0.84),
                    (start, 0.84),
                ],
            )
            d.polygon(
                glass,
                [
                    (end - nose - 0.08, 0.2),
                    (end - nose * 0.95, 0.2),
                    (end - nose * 0.55, 0.42),
                    (end - nose - 0.08, 0.42),
                ],
            )
            d.ellipse(d.paint((250, 244, 210), 0, 0.9), end - 0.1, 0.68, 0.05, 0.05)
            last = end - nose - 0.2
        else:
            d.box(dark, end - 0.02, 0.3, end + 0.1, 0.8)
            d.box(roof, start, 0.06, end, 0.16)
            d.box(body, start, 0.14, end, 0.84)
            last = end - 0.1
        d.box(stripe, start, 0.6, end - (0.12 if k == 0 else 0), 0.68)
        x = start + 0.12
        while x + 0.24 < last:
            d.box(glass, x, 0.26, x + 0.22, 0.48)
            x += 0.3
        d.box(door, start + 0.4, 0.24, start + 0.43, 0.82)
        if rng.random() < 0.5:
            d.stroke(dark, [(start + 0.9, 0.07), (start + 1.05, -0.06), (start + 0.9, -0.12)], 0.03)


def bird(d: Drawing, rng: np.random.Generator) -> None:
    colour = _pick(rng, [(30, 30, 34), (238, 238, 236), (66, 60, 58), (74, 52, 40)])
    wing, body = d.paint(_shade(colour, 0.75), 0.3, 0.5), d.paint(colour, 0.3, 0.8)
    beak = d.paint((220, 150, 50), 0, 0.8)
    if d.flying:
        flap = rng.uniform(0.05, 0.6)
        d.blob(
            wing,
            [(-0.1, 0.58), (-0.55, 0.58 - flap), (-1.25, 0.6 - flap * 0.7), (-0.6, 0.74 - flap * 0.6), (0.15, 0.7)],
        )
        d.ellipse(body, 0.05, 0.68, 0.42, 0.16)
        d.polygon(body, [(-0.3, 0.66), (-0.7, 0.6), (-0.66, 0.8), (-0.28, 0.74)])
        d.ellipse(body, 0.45, 0.6, 0.15, 0.13)
        d.polygon(beak, [(0.56, 0.55), (0.8, 0.62), (0.56, 0.66)])
        d.blob(wing, [(0.2, 0.6), (0.5, 0.5 - flap), (1.2, 0.5 - flap * 0.8), (0.65, 0.7 - flap * 0.6), (0.0, 0.72)])
    else:
        d.stroke(beak, [(0.0, 0.8), (0.02, 0.98)], 0.06)
        d.stroke(beak, [(0.12, 0.8), (0.14, 0.98)], 0.06)
        d.blob(body, [(-0.75, 0.5), (-0.2, 0.42), (0.3, 0.3), (0.42, 0.55), (0.2, 0.82), (-0.2, 0.78)])
        d.ellipse(wing, -0.12, 0.58, 0.36, 0.15, 0.15)
        d.ellipse(body, 0.36, 0.24, 0.19, 0.18)
        d.polygon(beak, [(0.52, 0.17), (0.76, 0.26), (0.52, 0.31)])
        d.ellipse(d.paint((10, 10, 10), 0, 0.9), 0.42, 0.2, 0.04, 0.04)


def _pole(d: Drawing, rng: np.random.Generator, top: float) -> int:
    """A pole that is 2 to 3 pixels wide at 128 pixels, whatever the height of what it carries."""
    paint = d.paint(_pick(rng, [(60, 62, 64), (120, 124, 126), (52, 70, 60), (150, 146, 138)], 6), 0.15, 0.7)
    half = rng.uniform(0.0082, 0.0098) / d.height
    d.polygon(paint, [(-half, top), (half, top), (half, 1.0), (-half, 1.0)])
    return paint


def lamp(d: Drawing, rng: np.random.Generator) -> None:
    light = d.paint(_pick(rng, [(250, 240, 205), (236, 236, 230), (250, 214, 150)], 5), 0, 0.9)
    thin = 0.016 / d.height
    d.face = (0.0, 0.1)
    if rng.random() < 0.5:  # an arm with a flat head
        pole = _pole(d, rng, 0.08)
        reach = rng.uniform(0.1, 0.16)
        d.stroke(pole, [(0, 0.1), (0.02, 0.03), (reach, 0.015)], thin)
        d.polygon(pole, [(reach - 0.02, 0.0), (reach + 0.1, 0.015), (reach + 0.1, 0.04), (reach - 0.02, 0.04)])
        d.ellipse(light, reach + 0.045, 0.042, 0.045, 0.014)
    else:  # a lantern
        pole = _pole(d, rng, 0.12)
        r = rng.uniform(0.04, 0.055)
        d.ellipse(light, 0, 0.08, r, r * 1.15)
        d.polygon(pole, [(-r, 0.04), (0, -0.01), (r, 0.04)])
        d.box(pole, -r * 0.8, 0.125, r * 0.8, 0.145)


def sign(d: Drawing, rng: np.random.Generator) -> None:
    _pole(d, rng, 0.1)
    white = d.paint((238, 238, 234), 0.1, 0.9)
    red, blue, black = (
        d.paint((196, 34, 38), 0.1, 0.85),
        d.paint((32, 84, 168), 0.1, 0.85),
        d.paint((30, 30, 32), 0, 0.9),
    )
    r = min(rng.uniform(0.14, 0.19), 0.09 / d.height)
    d.face = (0.0, 1.2 * r)
    kind = rng.integers(4)
    if kind == 0:
        d.ellipse(red, 0, r, r, r)
        d.ellipse(white, 0, r, r * 0.68, r * 0.68)
        d.box(black, -0.12 * r, 0.6 * r, 0.12 * r, 1.4 * r)
    elif kind == 1:
        d.polygon(red, [(0, -0.05 * r), (1.15 * r, 1.9 * r), (-1.15 * r, 1.9 * r)])
        d.polygon(white, [(0, 0.5 * r), (0.7 * r, 1.65 * r), (-0.7 * r, 1.65 * r)])
        d.box(black, -0.1 * r, 0.9 * r, 0.1 * r, 1.5 * r)
    elif kind == 2:
        d.box(blue, -r, 0, r, 2 * r)
        d.polygon(white, [(0, 0.35 * r), (0.6 * r, 1.5 * r), (-0.6 * r, 1.5 * r)])
    else:
        d.ellipse(red, 0, r, r, r)
        d.box(white, -0.68 * r, 0.78 * r, 0.68 * r, 1.22 * r)


def ball(d: Drawing, rng: np.random.Generator) -> None:
    first = d.paint(_pick(rng, [(236, 234, 228), (240, 200, 50), (220, 80, 50)], 6), 0.1, 0.8)
    second = d.paint(_pick(rng, [(200, 36, 40), (36, 80, 170), (40, 44, 48)], 6), 0.1, 0.8)
    d.ellipse(first, 0, 0.5, 0.5, 0.5)
    turn = rng.uniform(0, np.pi)
    for k in range(3):
        angles = turn + 2 * np.pi / 3 * k + np.linspace(0, np.pi / 3, 6)
        arc = 0.5 + 0.49 * np.stack([np.cos(angles), np.sin(angles)], axis=1) - (0.5, 0)
        d.polygon(second, np.concatenate([[(0.06, 0.42)], arc]))


SHAPES: dict[str, Callable[[Drawing, np.random.Generator], None]] = {
    "person": person, "car": car, "cat": cat, "dog": dog, "boat": boat, "train": train, "bird": bird, "lamp": lamp,
    "sign": sign, "ball": ball,
}  # fmt: skip
