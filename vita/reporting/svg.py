"""Strokes of SVG that read on light and dark ground, and the scale of an axis.

A picture is a list of such strings put into `picture`; it needs no library and no script to be shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from vita.spine.plain_text import html_text

COLOURS = ("#1f6feb", "#c2410c", "#15803d", "#7c3aed", "#b45309")
GREY = "#808a94"  # dark enough on white, light enough on black
WIDTH, RIGHT = 640, 16


def scale(values: Sequence[float]) -> tuple[float, float, list[float]]:
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


def mapping(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    """From a value to its place on the picture."""
    return lambda value: start + (value - low) / (high - low) * (stop - start)


def number(value: float) -> str:
    """A tick's label."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def grid_line(x1: float, y1: float, x2: float, y2: float) -> str:
    return line(x1, y1, x2, y2, GREY, 0.3)


def dot(x: float, y: float, colour: str, *, radius: float = 4) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{colour}"/>'


def rectangle(x: float, y: float, width: float, height: float, colour: str, *, opacity: float = 1) -> str:
    see = f' fill-opacity="{opacity:g}"' if opacity < 1 else ""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"{see}/>'


def text(x: float, y: float, said: str, anchor: str, colour: str = GREY, *, halo: bool = False) -> str:
    """Text, escaped; with a halo of the page's ground where lines may pass behind it."""
    around = ' style="paint-order:stroke;stroke:var(--ground,transparent);stroke-width:5px"' if halo else ""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {place}{around}>{html_text(said)}</text>"


def shortened(said: str, longest: int) -> str:
    """`said`, cut where a picture has no room for more."""
    return said if len(said) <= longest else said[: longest - 1] + "…"


def picture(height: float, parts: Sequence[str]) -> str:
    """The whole picture."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
    return head + 'font-family="system-ui, sans-serif" font-size="12">' + "".join(parts) + "</svg>"
