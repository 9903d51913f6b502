"""Comparison of a plan with the actual run: predicted and actual loss, tokens, time, speed and memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PredictedFigure:
    """A figure with its predicted value, its actual value, and the relative error."""

    figure: str
    foretold: str
    came: str
    off: str


def plan_vs_actual(
    blueprint: Mapping[str, Any], designed: Mapping[str, Any], *, facts: Mapping[str, Any], record: Mapping[str, Any]
) -> list[PredictedFigure]:
    """Return every figure that was both predicted and measured.

    `blueprint` is the content of `blueprint.json`, `designed` the record of its run; `facts` and `record` are those of
    the trained model.
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


def _bits(foretold: Mapping[str, float], came: float | None) -> PredictedFigure | None:
    if came is None:
        return None
    range_note = "within" if foretold["low"] <= came <= foretold["high"] else "outside"
    predicted_text = f"{foretold['value']:.3f} ({foretold['low']:.3f} to {foretold['high']:.3f})"
    return PredictedFigure(
        "bits per byte", predicted_text, f"{came:.3f}", f"{_off(foretold['value'], came)}, {range_note} the range"
    )


def _row(figure: str, foretold: float | None, came: float | None) -> PredictedFigure | None:
    if not foretold or came is None:
        return None
    return PredictedFigure(figure, f"{foretold:,.0f}", f"{came:,.0f}", _off(foretold, came))


def _off(foretold: float, came: float) -> str:
    return f"{(came / foretold - 1) * 100:+.1f} %"
