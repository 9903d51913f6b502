"""Drift of a distribution against a reference sample: two sizes with intervals, and a test for any number of looks.

    energy_shift(reference, sample, seed=0)       # 0.000 (-0.010 to 0.012) for equal distributions
    test = DriftTest(calibration_scores); test.look(new_scores, seed=1); test.p_value

The test is a conformal test martingale (Vovk, Nouretdinov and Gammerman 2003; "simple jumper", Vovk et al. 2021). Each
new score has a conformal p-value among all earlier scores. If all scores are exchangeable, the p-values are independent
and uniform, and the capital of a bet against this is a martingale. By Ville's inequality its maximum reaches 1/a with
probability at most a, however often somebody looks.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from vita.stats.intervals import CONFIDENCE, Interval

BETS = (-1.8, -0.9, 0.0, 0.9, 1.8)
"""Slopes of the bets: 1 + slope * (p - 1/2). Negative ones win if scores become larger, positive ones if smaller."""
JUMP = 0.01
"""Fraction of the capital that is redistributed over the bets after each score, so that bets adapt to changes."""
RESAMPLES = 1000


def energy_shift(reference: Float[np.ndarray, "N D"], sample: Float[np.ndarray, "M D"], *, seed: int) -> Interval:
    """Return the energy distance of two samples (Székely and Rizzo 2013) with a bootstrap interval.

    The unit is the mean distance between two points of the reference. Equal distributions have the distance 0, where
    the estimate may be slightly negative.
    """
    within, across, inside = (
        distances(first, second) for first, second in ((reference, reference), (reference, sample), (sample, sample))
    )
    chance = np.random.default_rng(seed)
    count_reference, count_sample = len(reference), len(sample)
    weights = [
        np.vstack([np.ones(count), chance.multinomial(count, np.full(count, 1 / count), RESAMPLES)])
        for count in (count_reference, count_sample)
    ]
    scale = _mean_within(within, weights[0])
    cross = ((weights[0] @ across) * weights[1]).sum(1) / (count_reference * count_sample)
    values = (2 * cross - scale - _mean_within(inside, weights[1])) / scale
    low, high = np.quantile(values[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(values[0]), float(low), float(high), count_sample)


def distances(first: Float[np.ndarray, "N D"], second: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "N M"]:
    """Return the Euclidean distances between two samples of points."""
    squares = (first**2).sum(1)[:, None] + (second**2).sum(1)[None, :] - 2 * first @ second.T
    return np.sqrt(np.maximum(squares, 0.0))


def _mean_within(pair_distances: Float[np.ndarray, "N N"], weights: Float[np.ndarray, "B N"]) -> Float[np.ndarray, "B"]:
    """Return the weighted mean distance between two different points, per row of weights.

    Pairs of copies of one point are left out, because their distance 0 would bias a resample.
    """
    count = weights.sum(1)
    return ((weights @ pair_distances) * weights).sum(1) / (count**2 - (weights**2).sum(1))


@dataclass
class DriftTest:
    """A test of exchangeability with earlier scores that stays valid for any number of looks."""

    calibration: Sequence[float]
    """Scores of the reference, which are not used to compute other scores."""
    looks: int = 0
    peak: float = 1.0
    """Largest capital so far."""
    _scores: list[float] = field(default_factory=list)
    _capital: np.ndarray = field(default_factory=lambda: np.zeros(len(BETS)))
    _cash: float = 1.0
    """Capital of the bets that later looks begin."""

    def __post_init__(self) -> None:
        self._scores = sorted(self.calibration)

    @property
    def p_value(self) -> float:
        """The p-value of all looks together."""
        return min(1.0, 1.0 / self.peak)

    def look(self, scores: Sequence[float], *, seed: int) -> float:
        """Bet on new scores in their order, and return the p-value of all looks together.

        Each look begins new bets with 1 / (k (k + 1)) of the initial capital, k being its number. Without them, a test
        that ran long without drift would need long to detect one. `seed` breaks ties between equal scores.
        """
        self.looks += 1
        start = 1 / (self.looks * (self.looks + 1))
        self._cash = max(0.0, self._cash - start)
        self._capital = self._capital + start / len(BETS)
        chance = np.random.default_rng(seed)
        for score in scores:
            self._bet(self._conformal_p_value(score, float(chance.random())))
            self.peak = max(self.peak, self._cash + float(self._capital.sum()))
        return self.p_value

    def state(self) -> dict[str, Any]:
        """Return the state as plain values; `restore` continues from it."""
        return {"looks": self.looks, "peak": self.peak, "capital": self._capital.tolist(), "cash": self._cash}

    def restore(self, state: Mapping[str, Any], scores: Sequence[float]) -> None:
        """Continue from a state; `scores` are those of all earlier looks."""
        self.looks, self.peak, self._cash = int(state["looks"]), float(state["peak"]), float(state["cash"])
        self._capital = np.array(state["capital"])
        self._scores = sorted([*self.calibration, *scores])

    def _conformal_p_value(self, score: float, fraction: float) -> float:
        """Return the share of scores, with this one, that are at least as large; ties count with a fraction."""
        below, through = bisect_left(self._scores, score), bisect_right(self._scores, score)
        insort(self._scores, score)
        larger, equal = len(self._scores) - 1 - through, through - below + 1
        return (larger + fraction * equal) / len(self._scores)

    def _bet(self, p_value: float) -> None:
        capital = (1 - JUMP) * self._capital + JUMP * self._capital.mean()
        self._capital = capital * (1 + np.array(BETS) * (p_value - 0.5))
