"""Comparison of a plan with the actual run: predicted and actual loss, tokens, time, speed and memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PredictedFigure:
    """A figure with its predicted value, its actual value, and the relative error."""

    figure: str
    predicted: str
    actual: str
    error: str


def plan_vs_actual(
    blueprint: Mapping[str, Any], designed: Mapping[str, Any], *, facts: Mapping[str, Any], record: Mapping[str, Any]
) -> list[PredictedFigure]:
    """Return every figure that was both predicted and measured.

    `blueprint` is the content of `blueprint.json`, `designed` the record of its run; `facts` and `record` are those of
    the trained model.
    """
    predicted = blueprint["prediction"]
    seconds = record.get("training_seconds", record.get("seconds"))
    rows = [
        _bits(predicted.get("bits_per_byte"), facts.get("heldout_bits_per_byte")),
        _row("tokens", predicted["tokens"], facts.get("tokens")),
        _row("seconds", designed.get("training_seconds"), seconds),
        _row("tokens a second", designed.get("tokens_per_second"), record.get("tokens_per_second")),
        _row("bytes of memory", predicted["memory"]["total"], record.get("peak_memory_bytes")),
    ]
    return [row for row in rows if row is not None]


def memory_vs_actual(record: Mapping[str, Any]) -> list[PredictedFigure]:
    """Return the predicted and the measured peak of the memory of a tuning run; nothing without both."""
    predicted = (record.get("predicted_memory") or {}).get("total")
    row = _row("bytes of memory", predicted, record.get("peak_memory_bytes"))
    return [] if row is None else [row]


def _bits(predicted: Mapping[str, float] | None, actual: float | None) -> PredictedFigure | None:
    if actual is None or predicted is None:
        return None
    position = "within" if predicted["low"] <= actual <= predicted["high"] else "outside"
    predicted_text = f"{predicted['value']:.3f} ({predicted['low']:.3f} to {predicted['high']:.3f})"
    return PredictedFigure(
        "bits per byte",
        predicted_text,
        f"{actual:.3f}",
        f"{_relative_error(predicted['value'], actual)}, {position} the range",
    )


def _row(figure: str, predicted: float | None, actual: float | None) -> PredictedFigure | None:
    if not predicted or actual is None:
        return None
    return PredictedFigure(figure, f"{predicted:,.0f}", f"{actual:,.0f}", _relative_error(predicted, actual))


def _relative_error(predicted: float, actual: float) -> str:
    return f"{(actual / predicted - 1) * 100:+.1f} %"
