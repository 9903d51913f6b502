"""A measured figure as one JSON line, with the value of a peer.

The rounds of the tools alternate (A B A B ...), and the ratio is computed per round, so that a temporary
slowdown of the machine affects both. A `ratio` above 1 means that Vita is better, both for units where
more is better (tokens/s) and for units where less is better (bits_per_byte).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

LESS_IS_BETTER = ("bits_per_byte", "seconds", "us", "ms", "MiB")


@dataclass(frozen=True)
class Figure:
    """A value, the value of the peer, and their spread."""

    figure: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    spread: dict[str, Any] | None = None
    """Lowest and highest value over the rounds, of the ratio if there is one, else of the value."""

    def line(self) -> str:
        """Return the figure as one JSON line."""
        return json.dumps(asdict(self))


def figure(
    name: str,
    values: Sequence[float],
    *,
    unit: str,
    peer: str | None = None,
    peer_values: Sequence[float] | None = None,
) -> Figure:
    """Return the medians over rounds of `values` and `peer_values`, and the median of the ratio per round."""
    if peer is None or not peer_values:
        return Figure(name, _short(median(values)), unit, spread=_spread("value", values))
    pairs = zip(values, peer_values, strict=True)
    ratios = [peer_value / value if unit in LESS_IS_BETTER else value / peer_value for value, peer_value in pairs]
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
    """Print each figure, and append it to the file `save` if it is given."""
    for measured_figure in figures:
        print(measured_figure.line(), flush=True)
    if save:
        save.parent.mkdir(parents=True, exist_ok=True)
        with save.open("a", encoding="utf-8") as file:
            file.writelines(measured_figure.line() + "\n" for measured_figure in figures)


def _spread(of: str, values: Sequence[float]) -> dict[str, Any]:
    return {"of": of, "low": _short(min(values)), "high": _short(max(values)), "rounds": len(values)}


def _short(value: float) -> float:
    return float(f"{value:.4g}")
