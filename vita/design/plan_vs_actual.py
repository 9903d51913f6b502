"""A plan scored against what happened: loss, tokens, time, speed and memory, each foretold and as it came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reckoned:
    """One figure: as it was foretold, as it came, and how far off that was."""

    figure: str
    foretold: str
    came: str
    off: str


def reckon(
    blueprint: Mapping[str, Any], designed: Mapping[str, Any], *, facts: Mapping[str, Any], record: Mapping[str, Any]
) -> list[Reckoned]:
    """Every figure that was both foretold and measured.

    `blueprint` is the content of `blueprint.json` and `designed` the record of the run that made it; `facts` and
    `record` are those of the trained model.
    """
    foretold = blueprint["prediction"]
    seconds = record.get("training_seconds", record.get("seconds"))
    rows = [
        _bits(foretold["bits_per_byte"], facts.get("heldout_bits_per_byte")),
        _row("tokens", foretold["tokens"], facts.get("tokens")),
        _row("seconds", designed.get("training_seconds"), seconds),
        _row("tokens a second", designed.get("tokens_per_second"), record.get("tokens_per_second")),
        _row("bytes of memory", foretold["memory"]["total"], record.get("peak_memory_bytes")),
    ]
    return [row for row in rows if row is not None]


def _bits(foretold: Mapping[str, float], came: float | None) -> Reckoned | None:
    if came is None:
        return None
    within = "within" if foretold["low"] <= came <= foretold["high"] else "outside"
    told = f"{foretold['value']:.3f} ({foretold['low']:.3f} to {foretold['high']:.3f})"
    return Reckoned("bits per byte", told, f"{came:.3f}", f"{_off(foretold['value'], came)}, {within} the range")


def _row(figure: str, foretold: float | None, came: float | None) -> Reckoned | None:
    if not foretold or came is None:
        return None
    return Reckoned(figure, f"{foretold:,.0f}", f"{came:,.0f}", _off(foretold, came))


def _off(foretold: float, came: float) -> str:
    return f"{(came / foretold - 1) * 100:+.1f} %"
