"""Decision of a race: candidates that were trained with the same seeds, compared by paired t-intervals.

result = decide({"a": [1.50, 1.52, 1.51], "b": [1.60, 1.61, 1.62]}, lower_is_better=True)
result.winner                                # "a", or None if an interval of a difference contains 0
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vita.stats.intervals import CONFIDENCE, Interval, student


@dataclass(frozen=True)
class RaceResult:
    """The best candidate by its mean, and its differences from the others."""

    best: str
    means: Mapping[str, Interval]
    """Candidate -> mean over the seeds with its 95% interval."""
    differences: Mapping[str, Interval]
    """Other candidate -> the best minus the other over the seeds, with intervals that hold for all of them together."""

    @property
    def winner(self) -> str | None:
        """Return the best candidate if it differs from every other one, otherwise None."""
        differs = all(interval.low > 0 or interval.high < 0 for interval in self.differences.values())
        return self.best if differs else None


def decide(values: Mapping[str, Sequence[float]], *, lower_is_better: bool) -> RaceResult:
    """Compare candidates by their values for the same seeds in the same order; at least two of each.

    The intervals of the differences use Student's t of the paired differences. Their confidence level is corrected for
    the number of comparisons (Bonferroni).
    """
    means = {name: student(row) for name, row in values.items()}
    best = (min if lower_is_better else max)(means, key=lambda name: means[name].value)
    others = [name for name in values if name != best]
    confidence = 1 - (1 - CONFIDENCE) / max(len(others), 1)
    differences = {
        name: student(np.subtract(values[best], values[name]).tolist(), confidence=confidence) for name in others
    }
    return RaceResult(best, means, differences)
