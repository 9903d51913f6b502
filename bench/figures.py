"""One measured figure as one JSON line, with what it was measured beside.

Rounds of the two sides are taken in turns (A B A B ...), so the ratio is taken round by round: what
slows the machine for a minute slows both. `ratio` says how many times better we are: above 1 is better
for Vita whether the unit is one where more is better (tokens/s) or less (bits_per_byte).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

LESS_IS_BETTER = ("bits_per_byte", "seconds")


@dataclass(frozen=True)
class Figure:
    """A value, the peer's value, and how both varied."""

    figure: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    spread: dict[str, Any] | None = None
    """Lowest and highest over the rounds, of the ratio where there is one and of the value otherwise."""

    def line(self) -> str:
        """The figure as one JSON line."""
        return json.dumps(asdict(self))


def figure(
    name: str,
    values: Sequence[float],
    *,
    unit: str,
    peer: str | None = None,
    peer_values: Sequence[float] | None = None,
) -> Figure:
    """The medians over rounds of `values` and, round by round, what they are beside `peer_values`."""
    if peer is None or not peer_values:
        return Figure(name, _short(median(values)), unit, spread=_spread("value", values))
    pairs = zip(values, peer_values, strict=True)
    ratios = [theirs / ours if unit in LESS_IS_BETTER else ours / theirs for ours, theirs in pairs]
    return Figure(
        name,
        _short(median(values)),
        unit,
        peer,
        _short(median(peer_values)),
        _short(median(ratios)),
        _spread("ratio", ratios),
    )


def report(figures: Sequence[Figure], *, save: Path | None = None) -> None:
    """Print each figure, and append it to the file `save` when one is given."""
    for one in figures:
        print(one.line(), flush=True)
    if save:
        save.parent.mkdir(parents=True, exist_ok=True)
        with save.open("a", encoding="utf-8") as file:
            file.writelines(one.line() + "\n" for one in figures)


def _spread(of: str, values: Sequence[float]) -> dict[str, Any]:
    return {"of": of, "low": _short(min(values)), "high": _short(max(values)), "rounds": len(values)}


def _short(value: float) -> float:
    return float(f"{value:.4g}")
