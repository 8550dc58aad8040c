"""The charts of a report as files for other pages and programs: each as PNG, as the page draws it, and as CSV."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from PIL import Image, ImageColor, ImageDraw, ImageFont

from maskwright.files import atomic_write
from maskwright.report.charts import Chart

SCALE = 2.5  # pixels by unit of the drawing
# Those of the page's style sheet on light paper, by the classes that charts have.
INK, SOFT, RULE, TINT = "#1b2130", "#59617a", "#e4e2db", "#f2f0ea"
STYLES = ("#59617a", "#d55e00", "#0072b2", "#007a59", "#6b4fa0", "#c2185b", "#b98600")
STROKES = {"grid": (RULE, 1.0), "span": ("#a9aebb", 2.0), "mark": (INK, 1.4)}
TEXTS = {"tick": (SOFT, 11.5), "label": (SOFT, 12.0), "who": (INK, 13.0), "cell": (INK, 10.5)}
DASHES = {2: (7.0, 4.0), 5: (7.0, 4.0), 3: (2.0, 3.5), 6: (2.0, 3.5)}
NUMBERS = re.compile(r"-?\d+(?:\.\d+)?")


def write_charts(shown: Any, folder: Path) -> list[Path]:
    """Write every chart among what a template shows, by its title; files of other charts are deleted.

    Args:
        shown: dictionaries and lists, among whose values are charts.
        folder: where to.

    Returns:
        The files.
    """
    written = []
    for chart in _charts(shown):
        name = re.sub(r"\W+", "_", chart.name.lower()).strip("_")
        with (
            atomic_write(folder / f"{name}.csv") as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            csv.writer(file).writerows([chart.header, *chart.rows])
        with atomic_write(folder / f"{name}.png") as temporary:
            draw_chart(chart).save(temporary, dpi=(200, 200))
        written += [folder / f"{name}.csv", folder / f"{name}.png"]
    for path in [*folder.glob("*.csv"), *folder.glob("*.png")]:
        if path not in written:
            path.unlink()
    return written


def draw_chart(chart: Chart) -> Image.Image:
    """A chart on white, with its title above and its legend below."""
    root = ElementTree.fromstring(str(chart))
    width, height = (float(value) for value in (root.get("viewBox") or "").split()[2:])
    top, bottom = 30.0, 24.0 if chart.legend else 6.0
    canvas = _Canvas(width, height + top + bottom, dashed=len(chart.legend) > 1)
    canvas.text(chart.name, 10, 19, 14.0, INK)
    canvas.shift = top
    for element in root:
        canvas.element(element)
    canvas.shift = top + height
    place = 12.0
    lines = root.find("polyline") is not None
    for name, style in chart.legend:
        dash = DASHES.get(style) if lines and len(chart.legend) > 1 else None
        canvas.line([(place, 10), (place + 22, 10)], STYLES[style], 3.0 if lines else 10.0, dash)
        canvas.text(name, place + 29, 14, 12.0, SOFT)
        place += 29 + canvas.length(name, 12.0) + 18
    return canvas.image


class _Canvas:
    """Draws the few kinds of elements that charts consist of, in the drawing's own units."""

    def __init__(self, width: float, height: float, *, dashed: bool) -> None:
        self.dashed = dashed
        self.image = Image.new("RGB", (round(SCALE * width), round(SCALE * height)), "#ffffff")
        self.pen = ImageDraw.Draw(self.image)
        self.shift = 0.0

    def at(self, x: float, y: float) -> tuple[float, float]:
        return SCALE * x, SCALE * (y + self.shift)

    def length(self, text: str, size: float) -> float:
        return _font(size).getlength(text) / SCALE

    def text(self, text: str, x: float, y: float, size: float, fill: str, anchor: str = "ls") -> None:
        # Pillow's own font has no Greek.
        self.pen.text(self.at(x, y), text.replace("τ", "tau"), fill=fill, font=_font(size), anchor=anchor)

    def line(
        self, points: Sequence[tuple[float, float]], fill: str, width: float, dash: tuple[float, float] | None = None
    ) -> None:
        for piece in [points] if dash is None else _dashed(points, *dash):
            self.pen.line([self.at(x, y) for x, y in piece], fill=fill, width=round(SCALE * width), joint="curve")

    def element(self, element: ElementTree.Element) -> None:
        words = (element.get("class") or "").split()
        style = next((int(word[1:]) for word in words if re.fullmatch(r"s\d", word)), 0)
        number = {key: float(value) for key, value in element.items() if NUMBERS.fullmatch(value)}
        colour = element.get("fill") or (TINT if "field" in words else STYLES[style])
        colour = _pale(colour, number.get("fill-opacity", 1.0))
        if element.tag == "line":
            stroke, width = STROKES[words[0]]
            dash = (4.0, 4.0) if "m2" in words else None
            self.line([(number["x1"], number["y1"]), (number["x2"], number["y2"])], stroke, width, dash)
        elif element.tag == "polyline":
            values = [float(value) for value in NUMBERS.findall(element.get("points") or "")]
            points = list(zip(values[::2], values[1::2]))
            if "faint" in words:
                self.line(points, _pale(colour, 0.35), 1.1)
            else:
                self.line(points, colour, 2.2, DASHES.get(style) if self.dashed else None)
        elif element.tag == "circle":
            x, y, r = number["cx"], number["cy"], number["r"]
            self.pen.ellipse((*self.at(x - r, y - r), *self.at(x + r, y + r)), fill=colour, outline="#ffffff")
        elif element.tag == "rect" and colour != "transparent":
            x, y = number["x"], number["y"]
            box = (*self.at(x, y), *self.at(x + number["width"], y + number["height"]))
            if box[2] > box[0]:
                self.pen.rectangle(box, fill=colour)
        elif element.tag == "path":
            x, y, r = (float(value) for value in NUMBERS.findall(element.get("d") or "")[:3])
            corners = [(x, y), (x + r, y + r), (x, y + 2 * r), (x - r, y + r)]
            self.pen.polygon([self.at(*corner) for corner in corners], fill=colour)
        elif element.tag == "text":
            fill, size = TEXTS[words[0]]
            fill = "#ffffff" if "on" in words else fill
            turned = [float(value) for value in NUMBERS.findall(element.get("transform") or "")]
            if turned:
                self.turned_text(element.text or "", turned, size, fill)
            else:
                anchor = {"middle": "ms", "end": "rs"}.get(element.get("text-anchor") or "", "ls")
                self.text(element.text or "", number["x"], number["y"], size, fill, anchor)

    def turned_text(self, text: str, turned: Sequence[float], size: float, fill: str) -> None:
        """Text that begins at (x, y) and is turned about there by so many degrees."""
        x, y, angle = turned
        side = round(2 * _font(size).getlength(text)) + 40
        mask = Image.new("L", (side, side))
        ImageDraw.Draw(mask).text((side / 2, side / 2), text, fill=255, font=_font(size), anchor="ls")
        left, top = self.at(x, y)
        mask = mask.rotate(-angle, Image.Resampling.BICUBIC)
        self.image.paste(ImageColor.getrgb(fill), (round(left - side / 2), round(top - side / 2)), mask)


def _charts(shown: Any) -> Iterator[Chart]:
    if isinstance(shown, Chart):
        yield shown
    elif isinstance(shown, dict):
        for value in shown.values():
            yield from _charts(value)
    elif isinstance(shown, list | tuple):
        for value in shown:
            yield from _charts(value)


def _dashed(points: Sequence[tuple[float, float]], on: float, off: float) -> Iterator[list[tuple[float, float]]]:
    """The pieces of a line that are drawn."""
    walked = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        start = walked // (on + off) * (on + off) - walked
        while start < length:
            low, high = max(0.0, start), min(length, start + on)
            if high > low:
                yield [(x0 + (x1 - x0) * at / length, y0 + (y1 - y0) * at / length) for at in (low, high)]
            start += on + off
        walked += length


def _pale(colour: str, opacity: float) -> str:
    """A colour on white."""
    if colour == "transparent" or opacity == 1:
        return colour
    red, green, blue = (round(255 + (channel - 255) * opacity) for channel in ImageColor.getrgb(colour)[:3])
    return f"#{red:02x}{green:02x}{blue:02x}"


def _font(size: float) -> Any:
    return ImageFont.load_default(SCALE * size)
