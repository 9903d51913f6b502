"""A drawing: lines, dots, rectangles and text as one SVG element, readable on a light and on a dark background.

drawing = Drawing(100)
drawing.line(0, 50, 440, 50, GREY, 1)
str(drawing)                       # '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 440 100" ...'
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from xml.etree import ElementTree

from vita.spine.plain_text import printable

COLOURS = ("#1f6feb", "#c2410c", "#15803d", "#7c3aed", "#b45309")
BLUE, ORANGE, GREEN, PURPLE, BROWN = COLOURS
RED = "#c21c1c"
GREY = "#808a94"  # contrast above 3:1 on white and on black
WIDTH = 440
"""Width of a drawing in its own units: 12-unit text stays readable on a screen of 390 pixels."""
LETTER = 6.4
"""Average width of a letter."""


class Drawing:
    """An SVG element under construction; `str` returns its text. Text is escaped."""

    def __init__(self, height: float) -> None:
        box = f"0 0 {WIDTH} {height:.0f}"
        attributes = {"viewBox": box, "role": "img", "font-family": "system-ui, sans-serif", "font-size": "12"}
        self._root = ElementTree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **attributes})

    def __str__(self) -> str:
        return ElementTree.tostring(self._root, encoding="unicode")

    def _add(self, tag: str, *, content: str = "", title: str = "", **attributes: float | str) -> None:
        values = {
            name.replace("_", "-"): value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")
            for name, value in attributes.items()
        }
        element = ElementTree.SubElement(self._root, tag, values)
        element.text = printable(content) or None
        if title:
            ElementTree.SubElement(element, "title").text = printable(title)

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str, width: str) -> None:
        """Draw a straight line."""
        self._add("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=colour, stroke_width=width)

    def grid_line(self, x1: float, y1: float, x2: float, y2: float) -> None:
        """Draw a thin grey line at a tick."""
        self.line(x1, y1, x2, y2, GREY, "0.3")

    def polyline(self, points: Sequence[tuple[float, float]], colour: str) -> None:
        """Draw a line through points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._add("polyline", points=path, fill="none", stroke=colour, stroke_width="2")

    def path(self, commands: str, colour: str) -> None:
        """Draw a thin curve from SVG path commands."""
        self._add("path", d=commands, fill="none", stroke=colour, stroke_width="1.2", stroke_opacity="0.5")

    def dot(self, x: float, y: float, colour: str, *, title: str = "") -> None:
        """Draw a dot."""
        self._add("circle", cx=x, cy=y, r="4", fill=colour, title=title)

    def rectangle(
        self, x: float, y: float, width: float, height: float, colour: str, *, opacity: float = 1, title: str = ""
    ) -> None:
        """Draw a filled rectangle; a pointer on it shows the title."""
        self._add("rect", x=x, y=y, width=width, height=height, fill=colour, fill_opacity=f"{opacity:g}", title=title)

    def text(self, x: float, y: float, content: str, *, anchor: str = "start", colour: str = GREY) -> None:
        """Write text; `anchor` is start, middle or end."""
        self._add("text", x=x, y=y, text_anchor=anchor, fill=colour, content=content)


def scale(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Return the ends and about five ticks of an axis: 1, 2 or 5 times a power of ten, around all finite values."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    ticks = [step * index for index in range(math.floor(low / step), math.ceil(high / step) + 1)]
    return ticks[0], ticks[-1], ticks


def mapping(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    """Return the function from a value to its coordinate; values outside of the ends are clipped."""
    return lambda value: start + (min(max(value, low), high) - low) / (high - low) * (stop - start)


def tick_label(value: float) -> str:
    """Format the value of a tick."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def shortened(text: str, limit: float) -> str:
    """Shorten text to a number of letters."""
    return text if len(text) <= limit else text[: max(0, int(limit) - 1)] + "…"
