"""The pictures of a whole life: bars, before and after, bars of a gate, shares of traffic, states, lineage.

As in `plots`, each is SVG text that reads on light and dark ground.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from vita.reporting.svg import (
    COLOURS,
    GREY,
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
    shortened,
    text,
)
from vita.spine.plain_text import html_text
from vita.stats.intervals import Interval

BLUE, ORANGE, GREEN, PURPLE, _ = COLOURS
STATE_COLOURS = {"candidate": GREY, "approved": BLUE, "serving": GREEN, "deprecated": ORANGE, "retired": PURPLE}
_LETTER = 6.6  # pixels of a letter at 12 pixels, on average


def bars(rows: Sequence[tuple[str, float, str]]) -> str:
    """A bar per row, with its value in words beside it."""
    left = _left(name for name, _, _ in rows)
    room = WIDTH - RIGHT - _LETTER * max((len(said) for _, _, said in rows), default=0) - 8
    across = mapping(0, max([value for _, value, _ in rows] + [1e-9]), left, max(left + 40, room))
    parts = []
    for index, (name, value, said) in enumerate(rows):
        y = 22 * index + 4
        parts.append(text(left - 8, y + 12, shortened(name, 26), "end"))
        parts.append(rectangle(left, y, max(1.0, across(value) - left), 15, BLUE, opacity=0.85))
        parts.append(text(across(value) + 6, y + 12, said, "start"))
    return picture(22 * len(rows) + 8, parts)


def before_after(rows: Sequence[tuple[str, Interval, Interval]], *, unit: str) -> str:
    """Two dots with whiskers a row, before above and after below, and a thin line between them."""
    ends = [end for _, *pair in rows for one in pair for end in (one.low, one.high, one.value)]
    low, high, ticks = scale([end for end in ends if math.isfinite(end)])
    left = _left(name for name, _, _ in rows)
    across = mapping(low, high, left, WIDTH - RIGHT)
    bottom = 34 * len(rows) + 28
    parts = [grid_line(across(tick), 24, across(tick), bottom) for tick in ticks]
    parts += [dot(left + 4, 10, ORANGE), text(left + 14, 14, "before", "start", ORANGE)]
    parts += [dot(left + 74, 10, BLUE), text(left + 84, 14, "after", "start", BLUE)]
    for index, (name, before, after) in enumerate(rows):
        y = 34 * index + 38
        parts.append(text(left - 10, y + 8, shortened(name, 26), "end"))
        parts += [
            *_whisker(before, y, across, (low, high), ORANGE),
            *_whisker(after, y + 10, across, (low, high), BLUE),
        ]
    parts += [text(across(tick), bottom + 16, number(tick), "middle") for tick in ticks]
    parts.append(text((left + WIDTH - RIGHT) / 2, bottom + 34, unit, "middle"))
    return picture(bottom + 42, parts)


@dataclass(frozen=True)
class Limit:
    """A figure against the limit that it must keep; `verdict` as a gate says it."""

    name: str
    value: Interval
    limit: float
    at_least: bool
    verdict: str


VERDICT_COLOURS = {"pass": GREEN, "waived": ORANGE, "unsure": ORANGE, "fail": "#c21c1c", "could_not_run": GREY}


def limits(rows: Sequence[Limit]) -> str:
    """A row per bar on a scale of its own: the interval, and the side of the limit that is forbidden."""
    left, right = 210.0, WIDTH - RIGHT - 96
    parts = []
    for index, row in enumerate(rows):
        y = 44 * index + 24
        ends = [end for end in (row.value.low, row.value.high, row.value.value, row.limit) if math.isfinite(end)]
        spread = max(ends) - min(ends) or abs(row.limit) or 1.0
        low, high = min(ends) - 0.15 * spread, max(ends) + 0.15 * spread
        across = mapping(low, high, left, right)
        colour, edge = VERDICT_COLOURS.get(row.verdict, GREY), across(row.limit)
        bad = (left, edge - left) if row.at_least else (edge, right - edge)
        parts.append(rectangle(bad[0], y - 12, max(0.0, bad[1]), 24, "#c21c1c", opacity=0.13))
        parts.append(line(edge, y - 14, edge, y + 14, "#c21c1c", 2))
        sign = "≥" if row.at_least else "≤"
        parts.append(text(edge, y + 26, f"{sign} {row.limit:g}", "middle", "#d04545"))
        parts += _whisker(row.value, y, across, (low, high), colour)
        parts.append(text(left - 10, y + 4, shortened(row.name, 30), "end"))
        parts.append(text(right + 12, y + 4, row.verdict.replace("_", " "), "start", colour))
    return picture(44 * len(rows) + 14, parts)


def shares(moments: Sequence[str], versions: Mapping[str, Sequence[float]]) -> str:
    """What part of the traffic went to which version, from one change to the next."""
    wide = (WIDTH - RIGHT - 40) / max(1, len(moments))
    up = mapping(0, 1, 150, 30)
    parts = [text(34, up(tick) + 4, f"{tick:.0%}", "end") for tick in (0, 0.5, 1)]
    stacked = [0.0] * len(moments)
    for index, (name, own) in enumerate(versions.items()):
        colour = COLOURS[index % len(COLOURS)]
        parts.append(text(40 + 150 * index, 16, shortened(name, 22), "start", colour))
        for place, share in enumerate(own):
            top = up(min(1.0, stacked[place] + share))
            height = up(stacked[place]) - top
            if height > 0:
                parts.append(rectangle(40 + place * wide + 1, top, wide - 2, height, colour, opacity=0.85))
            stacked[place] += share
    letters = int(wide / _LETTER)
    parts += [
        text(40 + (place + 0.5) * wide, 168, shortened(said, letters), "middle")
        for place, said in enumerate(moments)
        if letters > 3
    ]
    return picture(176, parts)


def states(rows: Mapping[str, Sequence[tuple[float, str]]], *, moments: Mapping[float, str]) -> str:
    """Each version's states from move to move; the moves stand at even distances, each with its time."""
    order = {at: index for index, at in enumerate(sorted(moments))}
    left = _left(rows)
    wide = (WIDTH - RIGHT - left) / max(1, len(order))
    parts = []
    for index, (name, moves) in enumerate(rows.items()):
        y = 30 * index + 8
        parts.append(text(left - 10, y + 15, shortened(name, 26), "end"))
        for place, (at, state) in enumerate(moves):
            start = left + order[at] * wide
            stop = left + (order[moves[place + 1][0]] if place + 1 < len(moves) else len(order)) * wide
            colour = STATE_COLOURS.get(state, GREY)
            parts.append(rectangle(start + 1, y, max(2.0, stop - start - 2), 20, colour, opacity=0.9))
            if stop - start > _LETTER * len(state):
                parts.append(text((start + stop) / 2, y + 14, state, "middle", "#fff"))
    bottom = 30 * len(rows) + 8
    for at, index in order.items():
        said = moments[at] if wide > _LETTER * len(moments[at]) or index in (0, len(order) - 1) else ""
        anchor = "end" if index == len(order) - 1 and index and not wide > _LETTER * len(said) else "start"
        x = WIDTH - RIGHT if anchor == "end" else left + index * wide
        parts.append(text(x, bottom + 14, said, anchor))
    return picture(bottom + 22, parts)


@dataclass(frozen=True)
class Node:
    """An artifact in a picture of lineage: its lane, what is written beside it, and the nodes that it was made of."""

    name: str
    lane: int
    colour: str
    made_of: tuple[str, ...] = ()


def lineage(nodes: Mapping[str, Node], *, lanes: Sequence[str]) -> str:
    """The artifacts from top to bottom in the order in which they were made, with a line from each to its sources."""
    wide = (WIDTH - 20) / max(1, len(lanes))
    place = {key: (18 + node.lane * wide, 46 + 28 * index) for index, (key, node) in enumerate(nodes.items())}
    parts = [text(12 + lane * wide, 16, said, "start") for lane, said in enumerate(lanes)]
    for key, node in nodes.items():
        for source in node.made_of:
            if source in place:
                parts.append(_strand(place[source], place[key], nodes[source].colour))
    letters = int((wide - 20) / _LETTER)
    for key, node in nodes.items():
        x, y = place[key]
        parts.append(f"<g><title>{html_text(node.name)}</title>")
        parts.append(dot(x, y, node.colour, radius=5))
        parts.append(text(x + 11, y + 4, shortened(node.name, letters), "start", halo=True) + "</g>")
    return picture(46 + 28 * len(nodes), parts)


def _strand(start: tuple[float, float], stop: tuple[float, float], colour: str) -> str:
    """A line down from a source to what was made of it, bent so that long ones pass beside what lies between."""
    (x1, y1), (x2, y2) = start, stop
    bend = -min(14.0, (y2 - y1) / 8) if x1 == x2 else 0
    middle = (y1 + y2) / 2
    path = f"M{x1:.1f},{y1:.1f} C{x1 + bend:.1f},{middle:.1f} {x2 + bend:.1f},{middle:.1f} {x2:.1f},{y2:.1f}"
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.2" stroke-opacity="0.5"/>'


def _whisker(
    one: Interval, y: float, across: Callable[[float], float], ends: tuple[float, float], colour: str
) -> list[str]:
    if not math.isfinite(one.value):
        return []
    start, stop = across(max(ends[0], one.low)), across(min(ends[1], one.high))
    return [line(start, y, stop, y, colour, 2), dot(across(one.value), y, colour)]


def _left(names: Iterable[str]) -> float:
    """Where a picture begins beside its longest name."""
    return 24 + _LETTER * min(26, max((len(name) for name in names), default=0))
