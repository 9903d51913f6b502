"""Charts as SVG text, readable on a light and on a dark background.

line_chart({"training": [(step, loss), ...]}, x="step", y="loss")
interval_chart({"arc_easy": [Interval(...)]}, unit="accuracy")
span_chart({"data": [Span(0, 12.5, "curate", BLUE)]}, [(0, "0 s"), (12.5, "13 s")])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from vita.spine.plain_text import printable
from vita.stats.intervals import Interval

COLOURS = ("#1f6feb", "#c2410c", "#15803d", "#7c3aed", "#b45309")
LINE_COLOURS = (*COLOURS, "#0e7490", "#db2777", "#4d7c0f", "#6b7280")
"""Colours of the lines of a chart, which may be more than the series of other charts."""
GREY = "#808a94"  # contrast above 3:1 on white and on black
WIDTH = 440
"""Width of a drawing in its own units: 12-unit text stays readable on a screen of 390 pixels."""
_LETTER = 6.4
"""Average width of a letter."""
_LEFT, _RIGHT = 48.0, WIDTH - 20.0
"""The plot area of charts with a vertical axis."""


class Span(NamedTuple):
    """A coloured part of a row; positions count seconds or other units of the axis."""

    start: float
    stop: float
    label: str
    colour: str


def line_chart(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x: str,
    y: str,
    dots: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> str:
    """Draw lines through points; each line is named above the plot in its colour.

    `dots` are single points of a line, such as the measurements to which it was fitted, in the colour of the line.
    """
    finite = {name: _finite(points) for name, points in lines.items()}
    single = {name: _finite(points) for name, points in (dots or {}).items()}
    points = [point for line in (*finite.values(), *single.values()) for point in line]
    across, x_ticks = _axis([point[0] for point in points], _LEFT, _RIGHT)
    up, y_ticks = _axis([point[1] for point in points], 214, 32)
    drawing = _Drawing(250)
    for tick in y_ticks:
        drawing.line(_LEFT, up(tick), _RIGHT, up(tick))
        drawing.text(_LEFT - 6, up(tick) + 4, _tick_label(tick), anchor="end")
    for tick in x_ticks[:: -(-len(x_ticks) // 8)]:
        drawing.text(across(tick), 230, _tick_label(tick), anchor="middle")
    for index, (name, line) in enumerate(finite.items()):
        path = " ".join(f"{across(px):.1f},{up(py):.1f}" for px, py in line)
        colour = LINE_COLOURS[index % len(LINE_COLOURS)]
        drawing.add("polyline", points=path, fill="none", stroke=colour, stroke_width="2")
        for px, py in single.get(name, ()):
            drawing.add("circle", cx=across(px), cy=up(py), r="3.5", fill=colour)
    drawing.legend(list(finite), left=_LEFT if not y else max(_LEFT, 24 + _LETTER * len(y)))
    drawing.text(WIDTH / 2, 246, x, anchor="middle")
    drawing.text(4, 14, y)
    return str(drawing)


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [point for point in points if all(map(math.isfinite, point))]


def interval_chart(rows: Mapping[str, Sequence[Interval]], *, unit: str, series: Sequence[str] = ()) -> str:
    """Draw a dot with its confidence interval for each label and series; an infinite end reaches the axis' end."""
    across, ticks = _axis([end for row in rows.values() for i in row for end in (i.low, i.high, i.value)], 20, _RIGHT)
    top = 22.0 if series else 4.0
    drawing = _Drawing(top + sum(24 + 11 * len(row) for row in rows.values()) + 40)
    drawing.legend(series, left=12)
    for label, row in rows.items():
        drawing.text(12, top + 14, shortened(label, (WIDTH - 24) / _LETTER))
        for tick in ticks:
            drawing.line(across(tick), top + 18, across(tick), top + 23 + 11 * len(row))
        for index, interval in enumerate(row):
            y, colour = top + 23 + 11 * index, COLOURS[index % len(COLOURS)]
            if math.isfinite(interval.value):
                drawing.line(across(interval.low), y, across(interval.high), y, colour, "2")
                drawing.add("circle", cx=across(interval.value), cy=y, r="4", fill=colour)
        top += 24 + 11 * len(row)
    for tick in ticks:
        drawing.text(across(tick), top + 16, _tick_label(tick), anchor="middle")
    drawing.text(WIDTH / 2, top + 33, unit, anchor="middle")
    return str(drawing)


def span_chart(rows: Mapping[str, Sequence[Span]], ticks: Sequence[tuple[float, str]]) -> str:
    """Draw a row of coloured spans for each name, over an axis with labelled ticks.

    A label is in its span where it fits, and beside it if it is the only one of its row.
    """
    stops = [span.stop for row in rows.values() for span in row] + [position for position, _ in ticks]
    left = 14 + _LETTER * min(16, max((len(name) for name in rows), default=0))
    across = _mapping(0, max([*stops, 1e-9]), left, _RIGHT)
    drawing = _Drawing(24 * len(rows) + 26)
    for y, (name, row) in zip(range(4, 24 * len(rows) + 4, 24), rows.items(), strict=True):
        drawing.text(left - 8, y + 13, shortened(name, 16), anchor="end")
        for span in row:
            start, width = across(span.start), across(span.stop) - across(span.start)
            drawing.add("rect", x=start, y=y, width=max(1.5, width - 1), height=18, fill=span.colour, title=span.label)
            if width > _LETTER * len(span.label) + 4:
                drawing.text(start + width / 2, y + 13, span.label, anchor="middle", colour="#fff")
            elif len(row) == 1 and (length := _LETTER * len(span.label) + 6) < max(
                start - left, _RIGHT - start - width
            ):
                is_right = start + width + length < _RIGHT
                x = start + width + 4 if is_right else start - 4
                drawing.text(x, y + 13, span.label, anchor="start" if is_right else "end")
    end = left - 20.0
    for position, label in ticks:
        half = _LETTER * len(label) / 2
        x = min(max(across(position), left + half), _RIGHT - half)
        if x - half > end + 6:
            drawing.text(x, 24 * len(rows) + 20, label, anchor="middle")
            end = x + half
    return str(drawing)


def heat_map(rows: Mapping[str, Sequence[float]], *, columns: Sequence[str], x: str, y: str) -> str:
    """Draw a table of shares from 0 to 1, each a cell that is darker for a higher share, with its percentage."""
    left = 14 + _LETTER * max((len(name) for name in rows), default=0)
    width = (_RIGHT - left) / max(1, len(columns))
    drawing = _Drawing(24 * len(rows) + 64)
    drawing.text(4, 14, y)
    for index, (name, row) in enumerate(rows.items()):
        top = 22 + 24 * index
        drawing.text(left - 8, top + 15, name, anchor="end")
        for column, value in enumerate(row):
            cell = {"x": left + column * width, "y": top, "width": width - 1, "height": 23.0, "fill": COLOURS[0]}
            title = f"{name}, {columns[column]}: {value:.0%}"
            drawing.add("rect", fill_opacity=f"{0.08 + 0.92 * value:.2f}", title=title, **cell)
            colour = "#fff" if value > 0.5 else GREY
            drawing.text(left + (column + 0.5) * width, top + 15, f"{value:.0%}", anchor="middle", colour=colour)
    bottom = 22 + 24 * len(rows)
    for column, name in enumerate(columns):
        drawing.text(left + (column + 0.5) * width, bottom + 15, name, anchor="middle")
    drawing.text((left + _RIGHT) / 2, bottom + 34, x, anchor="middle")
    return str(drawing)


def histogram(values: Sequence[float], *, x: str, bins: int = 24) -> str:
    """Draw the outline of the numbers of values in equal bins."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    width = (high - low) / bins or 1 / bins
    counts = [0] * bins
    for value in finite:
        counts[min(bins - 1, int((value - low) / width))] += 1
    edges = [(low + width * index, float(count)) for i, count in enumerate(counts) for index in (i, i + 1)]
    return line_chart({"": [(low, 0.0), *edges, (low + width * bins, 0.0)]}, x=x, y="number")


class _Drawing:
    """An SVG element under construction; `str` returns its text. Text is escaped."""

    def __init__(self, height: float) -> None:
        box = f"0 0 {WIDTH} {height:.0f}"
        attributes = {"viewBox": box, "role": "img", "font-family": "system-ui, sans-serif", "font-size": "12"}
        self._root = ElementTree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **attributes})

    def __str__(self) -> str:
        return ElementTree.tostring(self._root, encoding="unicode")

    def add(self, tag: str, *, content: str = "", title: str = "", **attributes: float | str) -> None:
        """Add an element; a pointer on it shows the title."""
        values = {
            name.replace("_", "-"): value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")
            for name, value in attributes.items()
        }
        element = ElementTree.SubElement(self._root, tag, values)
        element.text = printable(content) or None
        if title:
            ElementTree.SubElement(element, "title").text = printable(title)

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str = GREY, width: str = "0.3") -> None:
        self.add("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=colour, stroke_width=width)

    def text(self, x: float, y: float, content: str, *, anchor: str = "start", colour: str = GREY) -> None:
        self.add("text", x=x, y=y, text_anchor=anchor, fill=colour, content=content)

    def legend(self, names: Sequence[str], *, left: float) -> None:
        x, y = left, 10
        for index, name in enumerate(filter(None, names)):
            if x + 12 + _LETTER * len(name) > WIDTH:
                x, y = left, y + 13
            self.add("circle", cx=x + 4, cy=y, r="4", fill=LINE_COLOURS[index % len(LINE_COLOURS)])
            self.text(x + 12, y + 4, name, colour=LINE_COLOURS[index % len(LINE_COLOURS)])
            x += 28 + _LETTER * len(name)


def _axis(values: Sequence[float], start: float, stop: float) -> tuple[Callable[[float], float], list[float]]:
    """Return the mapping of an axis and about five ticks: 1, 2 or 5 times a power of ten, around all finite values."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    power = 10 ** math.floor(math.log10((high - low) / 5))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= (high - low) / 5)
    ticks = [step * index for index in range(math.floor(low / step), math.ceil(high / step) + 1)]
    return _mapping(ticks[0], ticks[-1], start, stop), ticks


def _mapping(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    """Return the function from a value to its coordinate; values outside of the ends are clipped."""
    return lambda value: start + (min(max(value, low), high) - low) / (high - low) * (stop - start)


def _tick_label(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def shortened(text: str, limit: float) -> str:
    """Shorten text to a number of letters."""
    return text if len(text) <= limit else text[: max(0, int(limit) - 1)] + "…"
