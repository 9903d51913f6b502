"""Step filter: skips steps whose loss or gradient norm is not finite, or an outlier among recent healthy steps.

An outlier is measured with the median and the median deviation of the last healthy steps. Skipped steps are not
included, so that one NaN does not affect later steps, as it would in a running mean.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

from vita.spine.errors import TrainingError

NO_TARGETS = "no targets"
"""The reason for a step whose batch has no targets."""
WINDOW = 64
"""Number of recent healthy steps."""
MIN_HISTORY = 16
"""Minimum number of healthy steps before a step can be an outlier."""
OUTLIER_DEVIATIONS = 10.0
"""Deviations above the median at which a step is an outlier; heavy-tailed noise stays below."""
MIN_DEVIATION = {"loss": 0.05, "gradient": 0.4}
"""Minimum deviation: a fraction of the loss, or of the logarithm of the gradient norm."""


class StepFilter:
    """Decides before each update whether the step is skipped."""

    def __init__(self, *, patience: int = 20, outliers: bool = True) -> None:
        """Without `outliers` only non-finite steps are skipped, for losses that are naturally close to 0."""
        self.patience, self.outliers, self.skipped = patience, outliers, 0
        self._consecutive = 0
        self._healthy = {"loss": deque[float](maxlen=WINDOW), "gradient": deque[float](maxlen=WINDOW)}

    def judge(self, step: int, *, loss: float, gradient_norm: float, targets: float = 1.0) -> str | None:
        """Return None for a healthy step, else the reason to skip it; too many skipped steps in a row end the run."""
        reason = self._reason(loss, gradient_norm) if targets else NO_TARGETS
        if reason is None:
            self._consecutive = 0
            self._healthy["loss"].append(loss)
            self._healthy["gradient"].append(math.log(gradient_norm) if gradient_norm > 0 else -50.0)
            return None
        self._consecutive, self.skipped = self._consecutive + 1, self.skipped + 1
        if self._consecutive >= self.patience:
            hint = "lower the learning rate, lengthen the warmup, or check the data from this step on"
            raise TrainingError(
                f"training, step {step}",
                f"{self._consecutive} steps in a row were skipped; reason of the last: {reason}",
                hint=hint,
            )
        return reason

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {
            "row": self._consecutive,
            "left_out": self.skipped,
            **{name: list(history) for name, history in self._healthy.items()},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore `state`."""
        self._consecutive, self.skipped = state["row"], state["left_out"]
        for name, history in self._healthy.items():
            history.clear()
            history.extend(state[name])

    def _reason(self, loss: float, gradient_norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"loss {loss}"
        if not math.isfinite(gradient_norm):
            return f"gradient norm {gradient_norm}"
        if not self.outliers:
            return None
        if self._is_outlier("loss", loss, minimum=MIN_DEVIATION["loss"] * abs(self._median("loss"))):
            return f"loss {loss:.3g} is an outlier (recent median {self._median('loss'):.3g})"
        if gradient_norm > 0 and self._is_outlier(
            "gradient", math.log(gradient_norm), minimum=MIN_DEVIATION["gradient"]
        ):
            median_norm = math.exp(self._median("gradient"))
            return f"gradient norm {gradient_norm:.3g} is an outlier (recent median {median_norm:.3g})"
        return None

    def _median(self, name: str) -> float:
        return median(self._healthy[name]) if self._healthy[name] else 0.0

    def _is_outlier(self, name: str, value: float, *, minimum: float) -> bool:
        history = self._healthy[name]
        if len(history) < MIN_HISTORY:
            return False
        centre = self._median(name)
        # 1.4826 makes the median deviation of a normal distribution its standard deviation.
        deviation = 1.4826 * median(abs(sample - centre) for sample in history)
        return value > centre + OUTLIER_DEVIATIONS * max(deviation, minimum)
