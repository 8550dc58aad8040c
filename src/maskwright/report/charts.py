"""Charts as inline SVG: no script, no font, colours from the page's style sheet so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from maskwright.data.pictures import heat_table


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Args:
        name: for the legend.
        points: (x, y), ascending in x.
        style: 1..4, the colour and dash of the style sheet's `.s1` to `.s4`.
        dots: draw each point, with its values on hover.
        faint: drawn thin and pale, without a place in the legend.
    """

    name: str
    points: Sequence[tuple[float, float]]
    style: int = 1
    dots: bool = False
    faint: bool = False


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    percent: bool = False,
    marks: Sequence[tuple[float, str]] = (),
    width: int = 340,
    height: int = 210,
) -> Markup:
    """Lines over a common axis.

    Args:
        series: at least one with a point.
        title: said by screen readers.
        x_label: below the axis.
        percent: y is a share, written times 100.
        marks: (x, text) of vertical lines.
        width: of the drawing, in its own units.
        height: of the drawing, in its own units.
    """
    points = [point for line in series for point in line.points]
    xs = [x for x, _ in points] + [x for x, _ in marks]
    ys = [y for _, y in points]
    x_ticks = ticks(min(xs), max(xs), 6)
    y_ticks = ticks(min(0.0, min(ys)), max(ys), 5)
    left, right, top, bottom = 46.0, width - 14.0, 14.0 + 15 * len(marks), height - 38.0
    x0, x1 = min(xs), max(xs)
    y0, y1 = y_ticks[0], max(y_ticks[-1], max(ys))

    def place_x(x: float) -> float:
        return left + (right - left) * (x - x0) / (x1 - x0 or 1)

    def place_y(y: float) -> float:
        return bottom - (bottom - top) * (y - y0) / (y1 - y0 or 1)

    parts = []
    for tick in y_ticks:
        y = place_y(tick)
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        text = number(100 * tick if percent else tick)
        parts.append(f'<text class="tick" x="{left - 7}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for tick in x_ticks:
        if x0 <= tick <= x1:
            text = number(tick)
            parts.append(
                f'<text class="tick" x="{place_x(tick):.1f}" y="{bottom + 17}" text-anchor="middle">{text}</text>'
            )
    centre = (left + right) / 2
    parts.append(f'<text class="label" x="{centre:.1f}" y="{height - 4}" text-anchor="middle">{escape(x_label)}</text>')
    for row, (x, text) in enumerate(marks):
        at = place_x(x)
        anchor, shift = ("start", 5) if at < (left + right) / 2 else ("end", -5)
        parts.append(
            f'<line class="mark m{row + 1}" x1="{at:.1f}" x2="{at:.1f}" y1="{8 + 15 * row}" y2="{bottom}"/>'
            f'<text class="label" x="{at + shift:.1f}" y="{16 + 15 * row}" text-anchor="{anchor}">{escape(text)}</text>'
        )
    for line in series:
        path = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in line.points)
        faint = " faint" if line.faint else ""
        parts.append(f'<polyline class="line s{line.style}{faint}" points="{path}"/>')
        if line.dots:
            for x, y in line.points:
                value = f"{100 * y:.1f}" if percent else number(y, 4)
                hint = escape(f"{line.name} {value} at {x_label} {number(x)}")
                parts.append(
                    f'<circle class="dot s{line.style}" cx="{place_x(x):.1f}" cy="{place_y(y):.1f}" r="3">'
                    f"<title>{hint}</title></circle>"
                )
    return _svg(parts, width, height, title)


def dot_plot(rows: Sequence[tuple[str, str, Sequence[tuple[str, int, float | None]]]], *, title: str) -> Markup:
    """One line per class with a dot per source.

    Args:
        rows: (name, CSS colour of the swatch or "", [(source, style, value in 0..1 or None)]).
        title: said by screen readers.
    """
    width, step, left = 720, 24, 168
    right, top = width - 26, 26
    height = top + step * len(rows) + 8
    parts = []
    for tick in (0, 20, 40, 60, 80, 100):
        x = left + (right - left) * tick / 100
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 6}" y2="{height - 8}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{top - 12}" text-anchor="middle">{tick}</text>')
    for place, (name, colour, values) in enumerate(rows):
        y = top + step * (place + 0.5)
        parts.append(_class_name(name, colour, left, y))
        found = [value for _, _, value in values if value is not None]
        if found:
            low, high = (left + (right - left) * value for value in (min(found), max(found)))
            parts.append(f'<line class="span" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        for source, style, value in values:
            if value is not None:
                hint = escape(f"{name}, {source}: {100 * value:.1f}")
                parts.append(_marker(left + (right - left) * value, y, style, hint))
    return _svg(parts, width, height, title)


def share_bars(
    rows: Sequence[tuple[str, str, Sequence[float]]], parts: Sequence[tuple[str, int]], *, title: str
) -> Markup:
    """One bar per class, cut into shares that sum to 1.

    Args:
        rows: (name, CSS colour of the swatch, shares).
        parts: (what a share is, style), in the order of the shares.
        title: said by screen readers.
    """
    width, step, left = 720, 24, 168
    right, top = width - 26, 26
    height = top + step * len(rows) + 8
    pieces = []
    for tick in (0, 20, 40, 60, 80, 100):
        x = left + (right - left) * tick / 100
        pieces.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 6}" y2="{height - 8}"/>')
        pieces.append(f'<text class="tick" x="{x:.1f}" y="{top - 12}" text-anchor="middle">{tick}</text>')
    for place, (name, colour, shares) in enumerate(rows):
        y = top + step * (place + 0.5)
        pieces.append(_class_name(name, colour, left, y))
        start = float(left)
        for (what, style), share in zip(parts, shares, strict=True):
            length = (right - left) * share
            hint = escape(f"{name}, {what}: {100 * share:.1f}")
            pieces.append(
                f'<rect class="part s{style}" x="{start:.1f}" y="{y - 7}" width="{max(0.0, length - 1):.1f}" '
                f'height="14"><title>{hint}</title></rect>'
            )
            start += length
    return _svg(pieces, width, height, title)


def matrix_chart(matrix: Sequence[Sequence[float]], names: Sequence[str], *, title: str) -> Markup:
    """Confusion as a heat map: each row (ground truth) sums to 1; the ramp of the score maps.

    Args:
        matrix: `(C, C)` counts, rows ground truth, columns prediction.
        names: one per class.
        title: said by screen readers.
    """
    count = len(names)
    cell = max(9, min(42, 620 // count))
    left, top = 132, 104
    width, height = max(340, left + cell * count + 20), top + cell * count + 26
    colours, _ = heat_table(101)
    parts = []
    for r, row in enumerate(matrix):
        total = sum(row)
        y = top + cell * r
        parts.append(
            f'<text class="tick" x="{left - 7}" y="{y + cell / 2 + 4:.1f}" text-anchor="end">'
            f"{escape(_short(names[r]))}</text>"
        )
        if not total:
            continue
        for c, value in enumerate(row):
            share = value / total
            if share < 0.005:
                continue
            red, green, blue = (int(channel) for channel in colours[round(100 * share)])
            hint = escape(f"{100 * share:.1f} % of {names[r]} is predicted as {names[c]}")
            x = left + cell * c
            parts.append(
                f'<rect x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}" rx="2" '
                f'fill="#{red:02x}{green:02x}{blue:02x}"><title>{hint}</title></rect>'
            )
            if cell >= 24 and share >= 0.05:
                ink = "#fff" if share < 0.62 else "#111"
                parts.append(
                    f'<text class="cell" x="{x + cell / 2 - 0.5}" y="{y + cell / 2 + 4}" fill="{ink}" '
                    f'text-anchor="middle">{100 * share:.0f}</text>'
                )
    for c, name in enumerate(names):
        middle = left + cell * (c + 0.5)
        parts.append(
            f'<text class="tick" transform="translate({middle + 3:.1f} {top - 8}) rotate(-50)">'
            f"{escape(_short(name))}</text>"
        )
    edge = cell * count + 1
    parts.insert(0, f'<rect class="field" x="{left - 1}" y="{top - 1}" width="{edge}" height="{edge}" rx="3"/>')
    parts.append(f'<text class="label" x="{left}" y="{height - 6}">rows: ground truth · columns: prediction</text>')
    return _svg(parts, width, height, title)


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers that cover `low..high` in about `wanted` steps."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def number(value: float, digits: int = 3) -> str:
    """A number as short as its digits allow: 0.15, 20, 3.2e-05, 12k."""
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.{digits - 2}e}"
    if abs(value) >= 10000:
        return f"{value / 1000:.{digits}g}k" if abs(value) < 1e6 else f"{value / 1e6:.{digits}g}M"
    return f"{value:.4g}" if abs(value) >= 1000 else f"{value:.{digits}g}"


def thin(points: Sequence[tuple[float, float]], at_most: int = 240) -> list[tuple[float, float]]:
    """Points averaged in groups, so that a long log stays small."""
    size = math.ceil(len(points) / at_most) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Running mean over about a twentieth of the points, unbiased at the start: what a noisy loss does on the whole."""
    weight = 1 - 1 / max(1.0, len(points) / 20)
    mean, total = 0.0, 0.0
    found = []
    for x, y in points:
        mean, total = weight * mean + (1 - weight) * y, weight * total + (1 - weight)
        found.append((x, mean / total))
    return found


def _marker(x: float, y: float, style: int, hint: Markup) -> str:
    """A shape per style, so that sources differ without colour too."""
    shapes = {
        1: f'<circle class="dot s1" cx="{x:.1f}" cy="{y:.1f}" r="5.5">',
        2: f'<rect class="dot s2" x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10" rx="1.5">',
        3: f'<path class="dot s3" d="M{x:.1f} {y - 6.5:.1f}l6.5 6.5-6.5 6.5-6.5-6.5z">',
    }
    shape = shapes[style]
    return f"{shape}<title>{hint}</title></{shape[1:].split(' ')[0]}>"


def _class_name(name: str, colour: str, left: float, y: float) -> str:
    """A class's name to the left of its row, and its swatch where it has a colour."""
    most, at = (19, left - 30) if colour else (22, left - 10)
    shown = name if len(name) <= most else name[: most - 1] + "…"
    place = f'class="who" x="{at}" y="{y + 4:.1f}" text-anchor="end"'
    text = f"<text {place}>{escape(shown)}<title>{escape(name)}</title></text>"
    if not colour:
        return text
    return (
        text + f'<rect class="swatch" x="{left - 22}" y="{y - 6:.1f}" width="12" height="12" rx="3" fill="{colour}"/>'
    )


def _short(name: str) -> str:
    return name if len(name) <= 16 else name[:15] + "…"


def _svg(parts: Sequence[str], width: int, height: int, title: str) -> Markup:
    return Markup(
        f'<svg class="chart" viewBox="0 0 {width} {height}" style="max-width:{width * 1.15:.0f}px" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )
