"""Small pictures for reports, as SVG text that reads on light and dark ground and needs no library to draw.

intervals([("arc_easy", Interval(...), 0.25)], unit="accuracy")     # a dot with whiskers per row, and the chance level
curves({"run": [(step, loss), ...]}, x="step", y="loss")
histogram(values, x="bits per byte")
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence

from vita.measure.statistics import Interval

_COLOURS = ("#1f6feb", "#c2410c", "#15803d", "#7c3aed", "#b45309")
_GREY = "#808a94"  # dark enough on white, light enough on black
_WIDTH, _RIGHT = 640, 16


def intervals(rows: Sequence[tuple[str, Interval, float | None]], *, unit: str) -> str:
    """A row per estimate: its dot, its interval, and where chance would be as a short upright line."""
    ends = [value for _, interval, mark in rows for value in (interval.low, interval.high, mark or interval.value)]
    low, high, ticks = _scale([end for end in ends if math.isfinite(end)])
    left = 24 + 7 * max((len(name) for name, _, _ in rows), default=0)
    across = _mapping(low, high, left, _WIDTH - _RIGHT)
    bottom = 24 * len(rows) + 12
    parts = [_grid_line(across(tick), 0, across(tick), bottom) for tick in ticks]
    for index, (name, interval, mark) in enumerate(rows):
        y = 24 * index + 16
        start, stop = across(max(low, interval.low)), across(min(high, interval.high))
        parts.append(_text(left - 10, y + 4, name, "end"))
        parts.append(_line(start, y, stop, y, _COLOURS[0], 2))
        parts.append(f'<circle cx="{across(interval.value):.1f}" cy="{y}" r="4" fill="{_COLOURS[0]}"/>')
        if mark is not None:
            parts.append(_line(across(mark), y - 8, across(mark), y + 8, _COLOURS[1], 2))
    parts += [_text(across(tick), bottom + 16, _number(tick), "middle") for tick in ticks]
    parts.append(_text((left + _WIDTH - _RIGHT) / 2, bottom + 34, unit, "middle"))
    return _svg(bottom + 42, parts)


def curves(lines: Mapping[str, Sequence[tuple[float, float]]], *, x: str, y: str) -> str:
    """Lines through points, each named at the top in its colour."""
    points = [point for line in lines.values() for point in line if all(map(math.isfinite, point))]
    left, right, x_ticks = _scale([point[0] for point in points])
    low, high, y_ticks = _scale([point[1] for point in points])
    across, up = _mapping(left, right, 64, _WIDTH - _RIGHT), _mapping(low, high, 264, 32)
    parts = [_grid_line(64, up(tick), _WIDTH - _RIGHT, up(tick)) for tick in y_ticks]
    parts += [_text(56, up(tick) + 4, _number(tick), "end") for tick in y_ticks]
    parts += [_text(across(tick), 282, _number(tick), "middle") for tick in x_ticks]
    for index, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        path = " ".join(f"{across(px):.1f},{up(py):.1f}" for px, py in line if math.isfinite(px) and math.isfinite(py))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(_text(64 + 150 * index, 18, name, "start", colour))
    parts += [_text(350, 302, x, "middle"), _text(8, 18, y, "start")]
    return _svg(310, parts)


def histogram(values: Sequence[float], *, x: str, bins: int = 24) -> str:
    """How often values fall where."""
    finite = sorted(value for value in values if math.isfinite(value))
    low, high, ticks = _scale(finite)
    counts = [0] * bins
    for value in finite:
        counts[min(bins - 1, int((value - low) / (high - low) * bins))] += 1
    across, up = _mapping(low, high, 64, _WIDTH - _RIGHT), _mapping(0, max([*counts, 1]), 160, 12)
    wide = (_WIDTH - _RIGHT - 64) / bins
    parts = [
        f'<rect x="{64 + index * wide + 1:.1f}" y="{up(count):.1f}" width="{wide - 2:.1f}" '
        f'height="{160 - up(count):.1f}" fill="{_COLOURS[0]}"/>'
        for index, count in enumerate(counts)
        if count
    ]
    parts += [
        _grid_line(64, 160, _WIDTH - _RIGHT, 160),
        _text(56, 20, str(max(counts)), "end"),
        _text(56, 164, "0", "end"),
    ]
    parts += [_text(across(tick), 178, _number(tick), "middle") for tick in ticks]
    return _svg(206, [*parts, _text(350, 198, x, "middle")])


def _scale(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Ends and about five ticks at 1, 2 or 5 times a power of ten, outside of all values."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    ticks = [step * index for index in range(first, last + 1)]
    return ticks[0], ticks[-1], ticks


def _mapping(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / (high - low) * (stop - start)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def _grid_line(x1: float, y1: float, x2: float, y2: float) -> str:
    return _line(x1, y1, x2, y2, _GREY, 0.3)


def _text(x: float, y: float, text: str, anchor: str, colour: str = _GREY) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{html.escape(text)}</text>'


def _svg(height: float, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" role="img" '
    return head + 'font-family="system-ui, sans-serif" font-size="12">' + "".join(parts) + "</svg>"
