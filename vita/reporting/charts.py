"""Small pictures for reports, as SVG text that reads on light and dark ground and needs no library to draw.

intervals([("arc_easy", Interval(...), 0.25)], unit="accuracy")     # a dot with whiskers per row, and the chance level
curves({"run": [(step, loss), ...]}, x="step", y="loss")
histogram(values, x="bits per byte")
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from vita.reporting.svg import (
    COLOURS,
    RIGHT,
    WIDTH,
    dot,
    grid_line,
    line,
    mapping,
    number,
    picture,
    rectangle,
    scale,
    text,
)
from vita.stats.intervals import Interval


def intervals(rows: Sequence[tuple[str, Interval, float | None]], *, unit: str) -> str:
    """A row per estimate: its dot, its interval, and where chance would be as a short upright line."""
    ends = [value for _, interval, mark in rows for value in (interval.low, interval.high, mark or interval.value)]
    low, high, ticks = scale([end for end in ends if math.isfinite(end)])
    left = 24 + 7 * max((len(name) for name, _, _ in rows), default=0)
    across = mapping(low, high, left, WIDTH - RIGHT)
    bottom = 24 * len(rows) + 12
    parts = [grid_line(across(tick), 0, across(tick), bottom) for tick in ticks]
    for index, (name, interval, mark) in enumerate(rows):
        y = 24 * index + 16
        start, stop = across(max(low, interval.low)), across(min(high, interval.high))
        parts.append(text(left - 10, y + 4, name, "end"))
        parts.append(line(start, y, stop, y, COLOURS[0], 2))
        parts.append(dot(across(interval.value), y, COLOURS[0]))
        if mark is not None:
            parts.append(line(across(mark), y - 8, across(mark), y + 8, COLOURS[1], 2))
    parts += [text(across(tick), bottom + 16, number(tick), "middle") for tick in ticks]
    parts.append(text((left + WIDTH - RIGHT) / 2, bottom + 34, unit, "middle"))
    return picture(bottom + 42, parts)


def curves(lines: Mapping[str, Sequence[tuple[float, float]]], *, x: str, y: str) -> str:
    """Lines through points, each named at the top in its colour."""
    points = [point for own in lines.values() for point in own if all(map(math.isfinite, point))]
    left, right, x_ticks = scale([point[0] for point in points])
    low, high, y_ticks = scale([point[1] for point in points])
    across, up = mapping(left, right, 64, WIDTH - RIGHT), mapping(low, high, 264, 32)
    parts = [grid_line(64, up(tick), WIDTH - RIGHT, up(tick)) for tick in y_ticks]
    parts += [text(56, up(tick) + 4, number(tick), "end") for tick in y_ticks]
    parts += [text(across(tick), 282, number(tick), "middle") for tick in x_ticks]
    legend = max(64, 20 + 7 * len(y))
    for index, (name, own) in enumerate(lines.items()):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{across(px):.1f},{up(py):.1f}" for px, py in own if math.isfinite(px) and math.isfinite(py))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(text(legend + 140 * index, 18, name, "start", colour))
    parts += [text(350, 302, x, "middle"), text(8, 18, y, "start")]
    return picture(310, parts)


def histogram(values: Sequence[float], *, x: str, bins: int = 24) -> str:
    """How often values fall where."""
    finite = sorted(value for value in values if math.isfinite(value))
    low, high, ticks = scale(finite)
    counts = [0] * bins
    for value in finite:
        counts[min(bins - 1, int((value - low) / (high - low) * bins))] += 1
    across, up = mapping(low, high, 64, WIDTH - RIGHT), mapping(0, max([*counts, 1]), 160, 12)
    wide = (WIDTH - RIGHT - 64) / bins
    parts = [
        rectangle(64 + index * wide + 1, up(count), wide - 2, 160 - up(count), COLOURS[0])
        for index, count in enumerate(counts)
        if count
    ]
    parts += [
        grid_line(64, 160, WIDTH - RIGHT, 160),
        text(56, 20, str(max(counts)), "end"),
        text(56, 164, "0", "end"),
    ]
    parts += [text(across(tick), 178, number(tick), "middle") for tick in ticks]
    return picture(206, [*parts, text(350, 198, x, "middle")])
