"""Charts of reports as SVG text.

interval_chart({"arc_easy": Interval(...)}, unit="accuracy", marks={"arc_easy": 0.25})
line_chart({"training": [(step, loss), ...]}, x="step", y="loss")
histogram(values, x="bits per byte")
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vita.reporting.svg import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    LETTER,
    ORANGE,
    RED,
    WIDTH,
    Drawing,
    mapping,
    scale,
    shortened,
    tick_label,
)
from vita.stats.intervals import Interval

_LEFT, _RIGHT = 48, WIDTH - 20
"""The plot area of charts with a vertical axis."""
VERDICT_COLOURS = {"pass": GREEN, "waived": ORANGE, "unsure": ORANGE, "fail": RED, "could_not_run": GREY}


@dataclass(frozen=True)
class CriterionRow:
    """A measured figure with its limit; `verdict` is the verdict of the gate."""

    label: str
    interval: Interval
    limit: float
    at_least: bool
    verdict: str


@dataclass(frozen=True)
class Span:
    """A coloured part of a row; positions count columns or seconds."""

    start: float
    stop: float
    label: str
    colour: str
    opacity: float = 0.9


@dataclass(frozen=True)
class LineageNode:
    """An artifact with its lane and the keys of the artifacts it was made from."""

    label: str
    lane: int
    colour: str
    sources: tuple[str, ...] = ()


def interval_chart(
    rows: Mapping[str, Interval] | Mapping[str, Sequence[Interval]],
    *,
    unit: str,
    marks: Mapping[str, float] | None = None,
    series: Sequence[str] = (),
) -> str:
    """Draw a dot with its confidence interval for each label, or one for each label and series.

    `marks` are reference values of labels, such as the chance level; `series` names the intervals of a label.
    """
    marks = marks or {}
    intervals = {label: [row] if isinstance(row, Interval) else row for label, row in rows.items()}
    bounds = [end for row in intervals.values() for item in row for end in (item.low, item.high, item.value)]
    low, high, ticks = scale([*bounds, *marks.values()])
    across = mapping(low, high, 12, _RIGHT)
    y = top = 22 if series else 4
    bottom = top + sum(24 + 11 * len(row) for row in intervals.values())
    drawing = Drawing(bottom + 40)
    for tick in ticks:
        drawing.text(across(tick), bottom + 16, tick_label(tick), anchor="middle")
    _legend(drawing, series, 12)
    for label, row in intervals.items():
        height = 24 + 11 * len(row)
        drawing.text(12, y + 14, shortened(label, (WIDTH - 24) / LETTER))
        for tick in ticks:
            drawing.grid_line(across(tick), y + 18, across(tick), y + height - 1)
        if label in marks:
            drawing.line(across(marks[label]), y + 18, across(marks[label]), y + height - 2, ORANGE, "2")
        for index, interval in enumerate(row):
            _draw_interval(drawing, interval, across, y + 23 + 11 * index, COLOURS[index])
        y += height
    drawing.text(WIDTH / 2, bottom + 33, unit, anchor="middle")
    return str(drawing)


def line_chart(lines: Mapping[str, Sequence[tuple[float, float]]], *, x: str, y: str) -> str:
    """Draw lines through points; each line is named above the plot in its colour."""
    finite = {name: [point for point in points if all(map(math.isfinite, point))] for name, points in lines.items()}
    points = [point for line in finite.values() for point in line]
    left, right, x_ticks = scale([point[0] for point in points])
    low, high, y_ticks = scale([point[1] for point in points])
    across, up = mapping(left, right, _LEFT, _RIGHT), mapping(low, high, 214, 32)
    drawing = Drawing(250)
    for tick in y_ticks:
        drawing.grid_line(_LEFT, up(tick), _RIGHT, up(tick))
        drawing.text(_LEFT - 6, up(tick) + 4, tick_label(tick), anchor="end")
    for tick in x_ticks[:: -(-len(x_ticks) // 8)]:
        drawing.text(across(tick), 230, tick_label(tick), anchor="middle")
    for index, line in enumerate(finite.values()):
        drawing.polyline([(across(px), up(py)) for px, py in line], COLOURS[index % len(COLOURS)])
    _legend(drawing, list(finite), max(_LEFT, 24 + LETTER * len(y)))
    drawing.text(WIDTH / 2, 246, x, anchor="middle")
    drawing.text(4, 14, y)
    return str(drawing)


def histogram(values: Sequence[float], *, x: str, bins: int = 24) -> str:
    """Draw the number of values in equal bins."""
    finite = [value for value in values if math.isfinite(value)]
    low, high, ticks = scale(finite)
    counts = Counter(min(bins - 1, int((value - low) / (high - low) * bins)) for value in finite)
    most = max(counts.values(), default=0)
    across, width = mapping(low, high, _LEFT, _RIGHT), (_RIGHT - _LEFT) / bins
    drawing = Drawing(180)
    for index, count in counts.items():
        height = 124 * count / most
        drawing.rectangle(_LEFT + index * width + 1, 136 - height, width - 2, height, BLUE, title=f"{count:,}")
    drawing.grid_line(_LEFT, 136, _RIGHT, 136)
    drawing.text(_LEFT - 6, 18, f"{most:,}", anchor="end")
    drawing.text(_LEFT - 6, 140, "0", anchor="end")
    for tick in ticks:
        drawing.text(across(tick), 154, tick_label(tick), anchor="middle")
    drawing.text(WIDTH / 2, 173, x, anchor="middle")
    return str(drawing)


def bar_chart(rows: Sequence[tuple[str, float, str]]) -> str:
    """Draw a bar for each row: its label, its value, and the value as text."""
    letters = min(22, max((len(label) for label, _, _ in rows), default=0))
    left, room = 16 + LETTER * letters, LETTER * max((len(text) for _, _, text in rows), default=0) + 8
    across = mapping(0, max([value for _, value, _ in rows] + [1e-9]), left, max(left + 20, _RIGHT - room))
    drawing = Drawing(20 * len(rows) + 8)
    for index, (label, value, text) in enumerate(rows):
        y = 20 * index + 4
        drawing.text(left - 8, y + 12, shortened(label, 22), anchor="end")
        drawing.rectangle(left, y, max(1.0, across(value) - left), 14, BLUE, opacity=0.85)
        drawing.text(across(value) + 6, y + 12, text)
    return str(drawing)


def criteria_chart(rows: Sequence[CriterionRow]) -> str:
    """Draw each criterion on a scale of its own: the interval, the limit, and the excluded side in red."""
    right = _RIGHT - 84.0
    drawing = Drawing(56 * len(rows) + 4)
    for index, row in enumerate(rows):
        y = 56 * index + 32
        bounds = [end for end in (row.interval.low, row.interval.high, row.interval.value, row.limit)
                if math.isfinite(end)]  # fmt: skip
        margin = 0.15 * (max(bounds) - min(bounds) or abs(row.limit) or 1.0)
        across = mapping(min(bounds) - margin, max(bounds) + margin, 12, right)
        edge, colour = across(row.limit), VERDICT_COLOURS.get(row.verdict, GREY)
        start, stop = (12, edge) if row.at_least else (edge, right)
        drawing.text(12, y - 14, shortened(row.label, (WIDTH - 24) / LETTER))
        drawing.rectangle(start, y - 9, max(0.0, stop - start), 18, RED, opacity=0.13)
        drawing.line(edge, y - 11, edge, y + 11, RED, "2")
        drawing.text(edge, y + 21, f"{'≥' if row.at_least else '≤'} {row.limit:g}", anchor="middle", colour="#d04545")
        _draw_interval(drawing, row.interval, across, y, colour)
        drawing.text(right + 10, y + 4, row.verdict.replace("_", " "), colour=colour)
    return str(drawing)


def span_chart(rows: Mapping[str, Sequence[Span]], ticks: Sequence[tuple[float, str]]) -> str:
    """Draw a row of coloured spans for each name, over an axis with labelled ticks."""
    spans = [span for row in rows.values() for span in row]
    last = max([span.stop for span in spans] + [position for position, _ in ticks] + [1e-9])
    left = 14 + LETTER * min(16, max((len(name) for name in rows), default=0))
    across = mapping(min([span.start for span in spans] + [0.0]), last, left, _RIGHT)
    drawing = Drawing(24 * len(rows) + 26)
    for index, (name, row) in enumerate(rows.items()):
        y = 24 * index + 4
        drawing.text(left - 8, y + 13, shortened(name, 16), anchor="end")
        for span in row:
            start, stop = across(span.start), across(span.stop)
            drawing.rectangle(
                start, y, max(1.5, stop - start - 1), 18, span.colour, opacity=span.opacity, title=span.label
            )
            if stop - start > LETTER * len(span.label) + 4:
                drawing.text((start + stop) / 2, y + 13, span.label, anchor="middle", colour="#fff")
    end = left - 20.0
    for position, label in ticks:
        x, half = across(position), LETTER * len(label) / 2
        x = min(max(x, left + half), _RIGHT - half)
        if x - half > end + 6:
            drawing.text(x, 24 * len(rows) + 20, label, anchor="middle")
            end = x + half
    return str(drawing)


def lineage_chart(nodes: Mapping[str, LineageNode], *, lanes: Sequence[str]) -> str:
    """Draw artifacts from top to bottom in their order, with a line from each to the artifacts it was made from."""
    width = (WIDTH - 8) / max(1, len(lanes))
    points = {key: (10 + node.lane * width, 40 + 22 * index) for index, (key, node) in enumerate(nodes.items())}
    drawing = Drawing(40 + 22 * len(nodes))
    for lane, label in enumerate(lanes):
        drawing.text(4 + lane * width, 14, shortened(label, width / LETTER))
    for key, node in nodes.items():
        for source in node.sources:
            if source in points:
                drawing.path(_curve(points[source], points[key]), nodes[source].colour)
    for key, node in nodes.items():
        x, y = points[key]
        drawing.dot(x, y, node.colour, title=node.label)
        drawing.text(x + 8, y + 4, shortened(node.label, (width - 14) / LETTER))
    return str(drawing)


def _curve(start: tuple[float, float], stop: tuple[float, float]) -> str:
    """Return the path between two nodes; within a lane it bends to the left, past the nodes between them."""
    (x1, y1), (x2, y2) = start, stop
    bend = -min(9.0, (y2 - y1) / 8) if x1 == x2 else 0
    middle = (y1 + y2) / 2
    return f"M{x1:.1f},{y1:.1f} C{x1 + bend:.1f},{middle:.1f} {x2 + bend:.1f},{middle:.1f} {x2:.1f},{y2:.1f}"


def _draw_interval(
    drawing: Drawing, interval: Interval, across: Callable[[float], float], y: float, colour: str
) -> None:
    """Draw a dot with its interval; an end that is not finite reaches the end of the axis."""
    if math.isfinite(interval.value):
        drawing.line(across(interval.low), y, across(interval.high), y, colour, "2")
        drawing.dot(across(interval.value), y, colour)


def _legend(drawing: Drawing, names: Sequence[str], left: float) -> None:
    x = left
    for index, name in enumerate(names):
        colour = COLOURS[index % len(COLOURS)]
        drawing.dot(x + 4, 10, colour)
        drawing.text(x + 12, 14, name, colour=colour)
        x += 28 + LETTER * len(name)
