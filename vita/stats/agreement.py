"""Inter-rater agreement: Krippendorff's alpha, with missing ratings allowed, and raw agreement.

    alpha([[1, 1], [2, 3, 2], [4]], level="ordinal", seed=0)     # one list of ratings per unit

1 is perfect agreement, 0 is chance. If nearly all units get the same label, alpha is low although raters mostly agree;
raw agreement distinguishes the two cases.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Literal

import numpy as np

from vita.stats.intervals import CONFIDENCE, Interval, bootstrap_ratio, wilson

Level = Literal["nominal", "ordinal", "interval"]
"""Level of measurement: categories, ranks, or numbers with meaningful differences."""


def alpha(
    units: Sequence[Sequence[Hashable]],
    *,
    level: Level,
    seed: int,
    resamples: int = 1000,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Krippendorff's alpha = 1 - observed / expected disagreement (Krippendorff 2011), resampling units.

    Units with fewer than two ratings are ignored. The value is NaN if all ratings are equal: then agreement cannot be
    distinguished from a constant rating.
    """
    pairable = [unit for unit in units if len(unit) > 1]
    values = sorted({value for unit in pairable for value in unit}, key=_order)
    if level == "interval" and not all(isinstance(value, (int, float)) for value in values):
        raise ValueError("interval data must be numbers")
    if len(values) < 2:
        return Interval(math.nan, -1.0, 1.0, len(pairable))
    counts = np.array([[unit.count(value) for value in values] for unit in map(list, pairable)], dtype=np.float64)
    scale = np.array(values, dtype=np.float64) if level == "interval" else None
    coincidences = _coincidences(counts)
    value = _alpha(coincidences.sum(0), level=level, scale=scale)
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(len(pairable), np.full(len(pairable), 1 / len(pairable)), size=resamples)
    resampled_alphas = np.array(
        [_alpha(np.tensordot(weight, coincidences, 1), level=level, scale=scale) for weight in weights]
    )
    resampled_alphas = resampled_alphas[np.isfinite(resampled_alphas)]
    if value == 1.0:  # resampling units with full agreement gives no disagreement
        return Interval(value, _lowest(len(pairable), counts.sum(0)), 1.0, len(pairable))
    if len(pairable) < 2 or not len(resampled_alphas):
        return Interval(value, -1.0, 1.0, len(pairable))
    low, high = np.quantile(resampled_alphas, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high), len(pairable))


def raw_agreement(units: Sequence[Sequence[Hashable]], *, seed: int) -> Interval:
    """Return the share of rater pairs of a unit that gave the same rating; units are resampled."""
    pairable = [unit for unit in units if len(unit) > 1]
    pairs = [len(unit) * (len(unit) - 1) / 2 for unit in pairable]
    agreeing_pairs = [sum(a == b for i, a in enumerate(unit) for b in unit[:i]) for unit in pairable]
    if sum(agreeing_pairs) in (0, sum(pairs)):
        return wilson(len(pairable) if sum(agreeing_pairs) else 0, len(pairable))
    return bootstrap_ratio(agreeing_pairs, pairs, seed=seed)


def group_by_unit(ratings: Sequence[tuple[str, str, Hashable]]) -> dict[str, dict[str, Hashable]]:
    """Group (rater, unit, value) as unit -> rater -> value; the last rating of a rater counts."""
    by_unit_and_rater: dict[str, dict[str, Hashable]] = {}
    for rater, unit, value in ratings:
        by_unit_and_rater.setdefault(unit, {})[rater] = value
    return by_unit_and_rater


def agreement(units: Mapping[str, Mapping[str, Hashable]], *, level: Level, seed: int) -> dict[str, Interval]:
    """Return alpha and raw agreement of the ratings."""
    values = [list(ratings.values()) for ratings in units.values()]
    return {"alpha": alpha(values, level=level, seed=seed), "raw_agreement": raw_agreement(values, seed=seed)}


def _coincidences(counts: np.ndarray) -> np.ndarray:
    """Return the coincidence matrix of each unit: all pairs of raters, weighted by 1 / (raters - 1)."""
    raters = counts.sum(1)
    pairs = counts[:, :, None] * counts[:, None, :] - np.einsum("ui,ij->uij", counts, np.eye(counts.shape[1]))
    return pairs / (raters - 1)[:, None, None]


def _alpha(coincidences: np.ndarray, *, level: Level, scale: np.ndarray | None) -> float:
    totals = coincidences.sum(0)
    n = totals.sum()
    squared = _distance(totals, level=level, scale=scale)
    expected = float(totals @ squared @ totals) / (n - 1) if n > 1 else 0.0
    return 1 - float((coincidences * squared).sum()) / expected if expected > 0 else math.nan


def _distance(totals: np.ndarray, *, level: Level, scale: np.ndarray | None) -> np.ndarray:
    """Return the squared distance of each pair of values."""
    size = len(totals)
    if level == "nominal":
        return 1 - np.eye(size)
    if scale is not None:
        return (scale[:, None] - scale[None, :]) ** 2
    # Ranks: the number of ratings between two values, including half of each.
    upto = np.cumsum(totals)
    middle = upto - totals / 2
    return (middle[:, None] - middle[None, :]) ** 2


def _lowest(agreed: int, totals: np.ndarray) -> float:
    """Return alpha at the lower Wilson limit of the agreement, when all `agreed` units agree."""
    n = float(totals.sum())
    by_chance = 1 - float(totals @ (totals - 1)) / (n * (n - 1))
    return max(-1.0, 1 - (1 - wilson(agreed, agreed).low) / by_chance)


def _order(value: Hashable) -> tuple[int, float, str]:
    return (0, float(value), "") if isinstance(value, (int, float)) else (1, 0.0, str(value))
