"""Text of numbers, times and names.

duration(700)                     # "12 min"
interval_text("acc", interval)    # "97% (91% to 99%)"
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from typing import Any

from vita.reporting.catalogue import DESCRIPTIONS, LABELS
from vita.stats.intervals import Interval

_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")


def words(name: str) -> str:
    """Return the name of a column or setting as words; names that contain other characters stay as they are."""
    return " ".join(word.replace("_", " ") if _IDENTIFIER.fullmatch(word) else word for word in name.split(" "))


def capitalized(text: str) -> str:
    """Return text with a capital first letter; the other letters stay as they are."""
    return text[:1].upper() + text[1:]


def figure_name(name: str) -> str:
    """Return the readable name of a figure."""
    name = name.removeprefix("comparison/").removeprefix("all/")
    if name in LABELS:
        return LABELS[name]
    for ending, label in LABELS.items():
        if name.endswith(f"/{ending}"):
            return f"{_joined(name.removesuffix(f'/{ending}'))}: {label}"
    return _joined(name)


def description(metric: str) -> str:
    """Return the description of a metric in the catalogue, by the longest end of its name; empty if it has none."""
    parts = metric.split("/")
    endings = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((DESCRIPTIONS[ending] for ending in endings if ending in DESCRIPTIONS), "")


def is_share(name: str, interval: Interval) -> bool:
    """Return True if a figure is a share, which is formatted in percent."""
    numbers = ("bits_per_byte", "perplexity", "kl", "before", "after", "loss", "alpha", "change", "margin")
    bounded = all(0 <= end <= 1 for end in (interval.value, interval.low, interval.high) if math.isfinite(end))
    parts = name.split("/")
    return bounded and parts[-1] not in numbers and not {"length", "reward", "log_ratio"} & set(parts[:-1])


def interval_text(name: str, interval: Interval) -> str:
    """Format a figure with its interval: `97% (91% to 99%)`, or `0.253 (0.241 to 0.265)`."""
    if not math.isfinite(interval.value):
        return "unknown"
    numbers = (interval.value, interval.low, interval.high)
    texts = [percent(number) if is_share(name, interval) else _decimal(number) for number in numbers]
    return f"{texts[0]} ({texts[1]} to {texts[2]})" if interval.is_determined else texts[0]


def percent(value: float) -> str:
    """Format a share: `97%`, with a decimal close to 0 and 1."""
    return f"{value:.0%}" if value in (0, 1) or 0.02 <= value <= 0.98 else f"{value:.1%}"


def count(value: Any) -> str:
    """Format a large number: `3.7M`, `44,765`."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return "unknown"
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if abs(value) >= unit:
            return f"{value / unit:,.{1 if abs(value) < 100 * unit else 0}f}{name}"
    return f"{value:,.0f}"


def size(amount: float) -> str:
    """Format a number of bytes: `12.7 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def duration(seconds: float) -> str:
    """Format a duration: `3.8 s`, `12 min`, `2 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.1f} s" if 0 < seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def moment(timestamp: float | None) -> str:
    """Format a time in UTC, to the minute."""
    return time.strftime("%d %b %Y %H:%M", time.gmtime(timestamp)) if timestamp else "unknown"


def value_text(value: Any) -> str:
    """Format any plain value; an interval has three decimals."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, Mapping):
        parts = {name: part for name, part in value.items() if part not in (None, "", [], {})}
        return ", ".join(f"{words(str(name))}: {value_text(part)}" for name, part in parts.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(value_text, value))
    return "" if value is None else str(value)


def one_line(text: str, *, limit: int = 100) -> str:
    """Return text as one line of at most `limit` letters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _joined(name: str) -> str:
    """Return the parts of a name as words; a part that follows itself is left out."""
    parts = [words(part) for part in name.split("/")]
    return ", ".join(part for index, part in enumerate(parts) if index == 0 or part != parts[index - 1])


def _decimal(number: float) -> str:
    return f"{number:.3f}" if abs(number) < 100 else f"{number:,.0f}"
