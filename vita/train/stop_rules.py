"""Rules that end a training run early, by a metric of its steps.

    stop_when: [{metric: heldout_loss, patience: 3}, {metric: loss, above: 20}]

A rule reads only the recorded metrics, so that an interrupted run stops at the same step. When a rule stops the run,
the learning rate has not decayed to its final value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from vita.spine.config import Settings


class StopRule(Settings):
    """A condition that ends the training; exactly one of `below`, `above` and `patience`."""

    metric: str = Field(min_length=1)
    """Name of a metric in `metrics.jsonl`, such as loss, heldout_loss or heldout_bits_per_byte."""
    below: float | None = None
    """Stop when the metric is lower than this value."""
    above: float | None = None
    """Stop when the metric is higher than this value."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after this number of consecutive values without a new minimum of the metric, which should fall."""
    min_change: Annotated[float, Field(ge=0)] = 0.0
    """With `patience`: least decrease that counts as a new minimum."""
    from_step: Annotated[int, Field(ge=1)] = 1
    """First step at which the rule can stop the training."""

    @model_validator(mode="after")
    def _one_condition(self) -> Self:
        conditions = [name for name in ("below", "above", "patience") if getattr(self, name) is not None]
        if len(conditions) != 1:
            raise ValueError(f"set one of below, above and patience, not {' and '.join(conditions) or 'none'}")
        if self.min_change and self.patience is None:
            raise ValueError("`min_change` goes with `patience`")
        return self

    def reason(self, rows: Sequence[Mapping[str, Any]]) -> str | None:
        """Return the reason to stop after the last of `rows`, which are the metrics of all steps; None to continue."""
        if not rows or rows[-1].get("step", 0) < self.from_step or self.metric not in rows[-1]:
            return None
        value = rows[-1][self.metric]
        if self.below is not None:
            return f"{self.metric} {value:.4g} is below {self.below:g}" if value < self.below else None
        if self.above is not None:
            return f"{self.metric} {value:.4g} is above {self.above:g}" if value > self.above else None
        assert self.patience is not None
        lowest, since = float("inf"), 0
        for row in rows:
            if self.metric in row:
                improved = row[self.metric] < lowest - self.min_change
                lowest, since = (row[self.metric], 0) if improved else (lowest, since + 1)
        if since < self.patience:
            return None
        return f"{self.metric} has had no new minimum for {since} values; the lowest is {lowest:.4g}"


def stop_reason(rules: Sequence[StopRule], rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the reason of the first rule that stops the training, or None."""
    return next((reason for rule in rules if (reason := rule.reason(rows)) is not None), None)
