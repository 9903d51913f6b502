"""Confidence intervals for shares, means and ratios, and an exact paired test between two models.

wilson(58, 58)                      # 1.000 (0.938 to 1.000): also valid at 0 % and 100 %
bootstrap_ratio(bits, bytes, seed=0)  # bits per byte, resampling whole documents
mcnemar(old_correct, new_correct).p_value
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

CONFIDENCE = 0.95
"""Default confidence level of intervals in reports."""

_CELLS = 4_000_000  # resampled counts per batch, which limits the memory for many documents


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate from `n` observations with its 95 % confidence interval."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        form = ".3f" if abs(self.value) < 100 else ",.1f" if abs(self.value) < 1e6 else ".3g"
        if not self.is_determined:
            observations = "1 observation" if self.n == 1 else f"{self.n} observations"
            return f"{self.value:{form}} (interval not determinable from {observations})"
        return f"{self.value:{form}} ({self.low:{form}} to {self.high:{form}})"

    @property
    def is_determined(self) -> bool:
        """True if both ends are finite; one observation does not determine the variance."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def as_json(self) -> dict[str, Any]:
        """Return plain values; an end that is not finite becomes None."""
        values = {"value": self.value, "low": self.low, "high": self.high}
        return {**{name: number if math.isfinite(number) else None for name, number in values.items()}, "n": self.n}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Interval:
        """Read the values of `as_json`: None is NaN for the value and infinity for an end."""
        value, low, high = values.get("value"), values.get("low"), values.get("high")
        return cls(
            math.nan if value is None else float(value),
            -math.inf if low is None else float(low),
            math.inf if high is None else float(high),
            int(values.get("n") or 0),
        )


def wilson(successes: int, trials: int, *, confidence: float = CONFIDENCE) -> Interval:
    """Return a share and its score interval (Wilson 1927), which is accurate near 0 and 1."""
    if trials == 0:
        return Interval(math.nan, 0.0, 1.0, 0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / trials
    scale = 1 + z * z / trials
    middle = (share + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    low = 0.0 if successes == 0 else middle - half
    high = 1.0 if successes == trials else middle + half
    return Interval(share, low, high, trials)


def share(outcomes: Sequence[bool]) -> Interval:
    """Return the share of true outcomes with its Wilson interval."""
    return wilson(sum(outcomes), len(outcomes))


def difference(after: Interval, before: Interval) -> Interval:
    """Return `after` minus `before` of independent estimates (Newcombe 1998, method 10); too wide for paired items."""
    gain = after.value - before.value
    low = gain - math.hypot(after.value - after.low, before.high - before.value)
    high = gain + math.hypot(after.high - after.value, before.value - before.low)
    return Interval(gain, low, high, min(after.n, before.n))


def student(values: Sequence[float], *, confidence: float = CONFIDENCE) -> Interval:
    """Return a mean and its Student interval; with one value the interval is infinite."""
    n = len(values)
    if n == 0:
        return Interval(math.nan, -math.inf, math.inf, 0)
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = student_quantile((1 + confidence) / 2, n - 1) * deviation / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def student_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t: exact for 1 and 2 degrees of freedom, else by Hill (1970) to 4 digits."""
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        return (2 * probability - 1) * math.sqrt(2 / (4 * probability * (1 - probability)))
    if probability < 0.5:
        return -student_quantile(1 - probability, freedom)
    n, tail = float(freedom), 2 * (1 - probability)
    a = 1 / (n - 0.5)
    b = 48 / a**2
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * math.sqrt(a * math.pi / 2) * n
    y = (d * tail) ** (2 / n)
    if y > 0.05 + a:
        x = NormalDist().inv_cdf(tail / 2)
        y = x * x
        if freedom < 5:
            c += 0.3 * (n - 4.5) * (x + 0.6)
        c = (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b + c
        y = (((((0.4 * y + 6.3) * y + 36) * y + 94.5) / c - y - 3) / b + 1) * x
        y = math.expm1(a * y * y)
    else:
        y = ((1 / (((n + 6) / (n * y) - 0.089 * d - 0.822) * (n + 2) * 3) + 0.5 / (n + 4)) * y - 1) * (n + 1) / (
            n + 2
        ) + 1 / y
    return math.sqrt(n * y)


def bootstrap_ratio(
    numerators: Sequence[float],
    denominators: Sequence[float],
    *,
    seed: int,
    resamples: int = 1000,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return sum(numerators) / sum(denominators) with a percentile interval from a cluster bootstrap (Efron 1979).

    A document is a cluster: its tokens are not independent, documents are approximately independent.
    """
    numerator_array, denominator_array = (
        np.asarray(numerators, dtype=np.float64),
        np.asarray(denominators, dtype=np.float64),
    )
    n = len(numerator_array)
    if n == 0 or denominator_array.sum() <= 0:
        return Interval(math.nan, -math.inf, math.inf, n)
    value = float(numerator_array.sum() / denominator_array.sum())
    if n == 1:
        return Interval(value, -math.inf, math.inf, 1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(
        _resampled_ratios(numerator_array, denominator_array, seed=seed, resamples=resamples), [tail, 1 - tail]
    )
    return Interval(value, float(low), float(high), n)


def _resampled_ratios(numerators: np.ndarray, denominators: np.ndarray, *, seed: int, resamples: int) -> np.ndarray:
    n = len(numerators)
    generator = np.random.default_rng(seed)
    ratios: list[np.ndarray] = []
    remaining = resamples
    while remaining > 0:
        rows = min(remaining, max(1, _CELLS // n))
        counts = generator.multinomial(n, np.full(n, 1 / n), size=rows)
        weight = counts @ denominators
        ratios.append((counts @ numerators)[weight > 0] / weight[weight > 0])
        remaining -= rows
    return np.concatenate(ratios)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same items: items that only one solved, the difference, and its p-value."""

    n: int
    only_first: int
    only_second: int
    difference: Interval
    p_value: float
    mde80: float = math.nan
    """Minimum detectable effect: the smallest true difference that this number of items detects with 80 % power."""


def mcnemar(first: Sequence[bool], second: Sequence[bool], *, confidence: float = CONFIDENCE) -> Comparison:
    """Run the exact paired test (McNemar 1947, binomial form), which uses only items on which the two disagree.

    `difference` is second minus first, with the paired normal interval.
    """
    if len(first) != len(second):
        raise ValueError(f"paired outcomes differ in number: {len(first)} and {len(second)}")
    n = len(first)
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    num_discordant = only_first + only_second
    fewer = sum(math.comb(num_discordant, k) for k in range(min(only_first, only_second) + 1))
    p_value = min(1.0, 2 * fewer / 2**num_discordant)
    gain = (only_second - only_first) / n if n else math.nan
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    # 0.5 is added to each disagreement (Agresti & Min 2005), so that the width is not zero for few items.
    b, c, m = only_first + 0.5, only_second + 0.5, n + 2
    half = z * math.sqrt(max(b + c - (c - b) ** 2 / m, 0.0)) / m
    difference = Interval(gain, max(-1, gain - half), min(1, gain + half), n)
    return Comparison(n, only_first, only_second, difference, p_value, detectable(n, (b + c) / m))


def detectable(n: int, discordant_share: float, *, confidence: float = CONFIDENCE, power: float = 0.8) -> float:
    """Return the smallest difference of two paired shares that `n` items detect with this power (Connor 1987).

    `discordant_share` is the share of items on which the two disagree; it is raised to the difference if it is smaller.
    NaN if no difference is detectable with so few items.
    """
    a, b = NormalDist().inv_cdf((1 + confidence) / 2), NormalDist().inv_cdf(power)
    if n == 0:
        return math.nan
    smallest = (
        math.sqrt(discordant_share) * (math.sqrt(n) * a + b * math.sqrt(max(0.0, n + b * b - a * a))) / (n + b * b)
    )
    if smallest > discordant_share:  # all disagreements in one direction: the share equals the difference
        smallest = min(1.0, (a + b) ** 2 / n)
        for _ in range(50):
            smallest = (a + b * math.sqrt(max(0.0, 1 - smallest))) ** 2 / n
    return smallest if smallest <= 1 else math.nan


@dataclass(frozen=True, slots=True)
class RatioComparison:
    """Two ratios over the same documents: both values, their difference (second minus first), and its p-value."""

    n: int
    first: float
    second: float
    difference: Interval
    p_value: float
    mde80: float


def paired_ratio(
    first: Sequence[float],
    second: Sequence[float],
    denominators: Sequence[float],
    *,
    seed: int,
    resamples: int = 2000,
    confidence: float = CONFIDENCE,
) -> RatioComparison:
    """Compare sum(second) and sum(first), each over sum(denominators), with a paired bootstrap over documents."""
    if not len(first) == len(second) == len(denominators):
        raise ValueError(f"paired values differ in number: {len(first)}, {len(second)} and {len(denominators)}")
    change = [new - old for old, new in zip(first, second, strict=True)]
    n, total = len(change), math.fsum(denominators)
    before, after = (math.fsum(values) / total if total > 0 else math.nan for values in (first, second))
    if n < 2 or total <= 0:
        return RatioComparison(n, before, after, Interval(after - before, -math.inf, math.inf, n), 1.0, math.nan)
    ratios = _resampled_ratios(np.asarray(change), np.asarray(denominators), seed=seed, resamples=resamples)
    tail = (1 - confidence) / 2
    low, high = (float(end) for end in np.quantile(ratios, [tail, 1 - tail]))
    # One is added to each count, so that the p-value of a finite number of resamples is never 0.
    tail_count = 1 + min(int((ratios <= 0).sum()), int((ratios >= 0).sum()))
    z_sum = NormalDist().inv_cdf((1 + confidence) / 2) + NormalDist().inv_cdf(0.8)
    p_value = min(1.0, 2 * tail_count / (len(ratios) + 1))
    return RatioComparison(
        n, before, after, Interval(after - before, low, high, n), p_value, z_sum * float(ratios.std())
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for multiple comparisons (Holm 1979)."""
    corrected = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
        corrected[index] = largest
    return corrected
