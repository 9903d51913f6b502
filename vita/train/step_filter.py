"""Which steps to leave out: a loss or gradient that is no number, or far outside what healthy steps gave lately.

The yardstick is the median and the median deviation of the last healthy steps only. A step that is left out never
enters it, so one NaN cannot make the healthy steps after it look bad, as it would in a running mean.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

from vita.spine.errors import TrainingError

NO_TARGETS = "no targets"
"""The reason of a step whose batch holds nothing to learn."""
WINDOW = 64
"""Healthy steps remembered."""
ENOUGH = 16
"""Healthy steps before any can be called an outlier."""
FAR = 10.0
"""Deviations beyond the median at which a step is an outlier; noise that is merely heavy-tailed stays within."""
LEAST = {"loss": 0.05, "gradient": 0.4}
"""A deviation counts for at least this much: a share of the loss, or of the gradient's logarithm."""


class StepFilter:
    """Judges each step before it is taken."""

    def __init__(self, *, patience: int = 20, outliers: bool = True) -> None:
        """Without `outliers` only what is no number is left out: where losses are near 0 by nature, all are far."""
        self.patience, self.outliers, self.left_out = patience, outliers, 0
        self._row = 0
        self._healthy = {"loss": deque[float](maxlen=WINDOW), "gradient": deque[float](maxlen=WINDOW)}

    def judge(self, step: int, *, loss: float, gradient_norm: float, targets: float = 1.0) -> str | None:
        """None for a healthy step, else why to leave it out; too many in a row end the run."""
        reason = self._reason(loss, gradient_norm) if targets else NO_TARGETS
        if reason is None:
            self._row = 0
            self._healthy["loss"].append(loss)
            self._healthy["gradient"].append(math.log(gradient_norm) if gradient_norm > 0 else -50.0)
            return None
        self._row, self.left_out = self._row + 1, self.left_out + 1
        if self._row >= self.patience:
            hint = "lower the learning rate, lengthen the warmup, or look at the data from this step on"
            raise TrainingError(
                f"training, step {step}",
                f"{self._row} steps in a row could not be used, the last for {reason}",
                hint=hint,
            )
        return reason

    def state(self) -> dict[str, Any]:
        """All that later judgements depend on."""
        return {
            "row": self._row,
            "left_out": self.left_out,
            **{name: list(kept) for name, kept in self._healthy.items()},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Judge from now on as the guard that gave `state` would have."""
        self._row, self.left_out = state["row"], state["left_out"]
        for name, kept in self._healthy.items():
            kept.clear()
            kept.extend(state[name])

    def _reason(self, loss: float, gradient_norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"a loss of {loss}"
        if not math.isfinite(gradient_norm):
            return f"a gradient norm of {gradient_norm}"
        if not self.outliers:
            return None
        if self._far("loss", loss, least=LEAST["loss"] * abs(self._median("loss"))):
            return f"a loss of {loss:.3g} where {self._median('loss'):.3g} is usual"
        if gradient_norm > 0 and self._far("gradient", math.log(gradient_norm), least=LEAST["gradient"]):
            return f"a gradient norm of {gradient_norm:.3g} where {math.exp(self._median('gradient')):.3g} is usual"
        return None

    def _median(self, name: str) -> float:
        return median(self._healthy[name]) if self._healthy[name] else 0.0

    def _far(self, name: str, value: float, *, least: float) -> bool:
        kept = self._healthy[name]
        if len(kept) < ENOUGH:
            return False
        centre = self._median(name)
        # 1.4826 makes the median deviation of a normal distribution its standard deviation.
        deviation = 1.4826 * median(abs(one - centre) for one in kept)
        return value > centre + FAR * max(deviation, least)
