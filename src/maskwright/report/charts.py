"""Charts as inline SVG: no script, no font, colours from the page's style sheet so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape


class Chart(Markup):
    """A drawing as SVG, with the numbers that it shows."""

    name: str = ""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[object]] = ()
    legend: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Args:
        name: for the legend.
        points: (x, y), ascending in x.
        style: the colour and dash of the style sheet's `.s0` to `.s6`, each of one meaning on the whole page: 0 of no
            source, 1 pseudo-masks, 2 the model, 3 the fully supervised one, 4 seeds, 5 false positives, 6 false
            negatives.
        dots: draw each point, with its values on hover.
        faint: drawn thin and pale, without a place in the legend.
    """

    name: str
    points: Sequence[tuple[float, float]]
    style: int = 0
    dots: bool = False
    faint: bool = False


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str = "",
    percent: bool = False,
    marks: Sequence[tuple[float, str]] = (),
    width: int = 340,
    height: int = 210,
) -> Markup:
    """Lines over a common axis; in words where there is no more than one point of each.

    Args:
        series: at least one with a point.
        title: said by screen readers.
        x_label: below the axis.
        y_label: above the axis; "%" where `percent` and nothing is said.
        percent: y is a share, written times 100.
        marks: (x, text) of vertical lines.
        width: of the drawing, in its own units.
        height: of the drawing, in its own units.
    """
    points = [point for line in series for point in line.points]
    if len({x for x, _ in points}) < 2:
        return _single(series, title, x_label, percent)
    xs = [x for x, _ in points] + [x for x, _ in marks]
    ys = [y for _, y in points]
    x_ticks = ticks(min(xs), max(xs), 6)
    y_ticks = ticks(min(0.0, min(ys)), max(ys), 5)
    y_label = y_label or "%" * percent
    left, right, top, bottom = 46.0, width - 14.0, 14.0 + 15 * len(marks) + 13 * bool(y_label), height - 38.0
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
    if y_label:
        parts.append(f'<text class="label" x="4" y="{top - 11:.1f}">{escape(y_label)}</text>')
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
    table = [[x, *(dict(line.points).get(x) for line in series)] for x in sorted({x for x, _ in points})]
    chart = _svg(parts, width, height, title, [x_label, *(line.name for line in series)], table)
    chart.legend = [(line.name, line.style) for line in series if not line.faint]
    return chart


def _single(series: Sequence[Series], title: str, x_label: str, percent: bool) -> Markup:
    """What a chart of one point would say, in words."""
    found = [(line.name, *line.points[-1]) for line in series if line.points and not line.faint]
    words = [
        f"<b>{f'{100 * y:.1f}' if percent else number(y, 4)}</b> {escape(name)} at {escape(x_label)} {number(x)}"
        for name, x, y in found
    ]
    return Markup(f'<p class="single" title="{escape(title)}">{"<br>".join(words)}</p>')


def dot_plot(rows: Sequence[tuple[str, str, Sequence[tuple[str, int, float | None]]]], *, title: str) -> Chart:
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
    parts.append(f'<text class="label" x="{left - 10}" y="{top - 12}" text-anchor="end">IoU, %</text>')
    sources = dict.fromkeys((source, style) for _, _, values in rows for source, style, _ in values)
    table = [[name, *(value for _, _, value in values)] for name, _, values in rows]
    chart = _svg(parts, width, height, title, ["class", *(source for source, _ in sources)], table)
    chart.legend = list(sources)
    return chart


def share_bars(
    rows: Sequence[tuple[str, str, Sequence[float]]], parts: Sequence[tuple[str, int]], *, title: str
) -> Chart:
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
    pieces.append(f'<text class="label" x="{left - 10}" y="{top - 12}" text-anchor="end">% of the union</text>')
    table = [[name, *shares] for name, _, shares in rows]
    chart = _svg(pieces, width, height, title, ["class", *(what for what, _ in parts)], table)
    chart.legend = list(parts)
    return chart


def matrix_chart(matrix: Sequence[Sequence[float]], names: Sequence[str], *, title: str) -> Chart:
    """Confusion as a heat map: each row (ground truth) sums to 1; what is right in grey, what is wrong in red.

    Args:
        matrix: `(C, C)` counts, rows ground truth, columns prediction.
        names: one per class.
        title: said by screen readers.
    """
    count = len(names)
    cell = max(14, min(56, 960 // count))
    left, top = 136, 128
    width, height = max(340, left + cell * count + 70), top + cell * count + 10
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
            hint = escape(f"{100 * share:.1f} % of {names[r]} is predicted as {names[c]}")
            x = left + cell * c
            parts.append(
                f'<rect class="part s{0 if r == c else 5}" fill-opacity="{0.06 + 0.94 * share:.2f}" x="{x}" y="{y}" '
                f'width="{cell - 1}" height="{cell - 1}"><title>{hint}</title></rect>'
            )
            if cell >= 24 and share >= 0.01:
                parts.append(
                    f'<text class="cell{" on" if share >= 0.6 else ""}" x="{x + cell / 2 - 0.5}" '
                    f'y="{y + cell / 2 + 4}" text-anchor="middle">{100 * share:.0f}</text>'
                )
    for c, name in enumerate(names):
        middle = left + cell * (c + 0.5)
        parts.append(
            f'<text class="tick" transform="translate({middle + 3:.1f} {top - 8}) rotate(-50)">'
            f"{escape(_short(name))}</text>"
        )
    edge = cell * count + 1
    parts.insert(0, f'<rect class="field" x="{left - 1}" y="{top - 1}" width="{edge}" height="{edge}" rx="3"/>')
    parts.append(f'<text class="label" x="{left - 7}" y="{top - 12}" text-anchor="end">rows: ground truth</text>')
    parts.append(f'<text class="label" x="{left - 7}" y="{top - 30}" text-anchor="end">columns: prediction</text>')
    return _svg(parts, width, height, title, ["ground truth", *names], [[n, *row] for n, row in zip(names, matrix)])


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


def _svg(
    parts: Sequence[str],
    width: int,
    height: int,
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
) -> Chart:
    chart = Chart(
        f'<svg class="chart" viewBox="0 0 {width} {height}" style="max-width:{width * 1.15:.0f}px" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )
    chart.name, chart.header, chart.rows = title, header, rows
    return chart
