"""Do several raters mean the same? Krippendorff's alpha, with gaps allowed, and the raw agreement beside it.

    alpha([[1, 1], [2, 3, 2], [4]], level="ordinal", seed=0)     # one list a unit: the values it was given

1 is perfect, 0 what chance would give. Where nearly everything gets one label, alpha is low though raters mostly
agree; raw agreement, shown beside it, tells the two cases apart.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Literal

import numpy as np

from vita.stats.intervals import CONFIDENCE, Interval, bootstrap_ratio, wilson

Level = Literal["nominal", "ordinal", "interval"]
"""What the values are: names, ranks, or numbers whose differences count."""


def alpha(
    units: Sequence[Sequence[Hashable]],
    *,
    level: Level,
    seed: int,
    resamples: int = 1000,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Krippendorff's alpha = 1 - observed / expected disagreement (Krippendorff 2011), resampling units.

    A unit with fewer than two values says nothing. NaN where all values are the same: then nothing was to be told
    apart, and nothing is known of the raters.
    """
    pairable = [unit for unit in units if len(unit) > 1]
    values = sorted({value for unit in pairable for value in unit}, key=_order)
    if level == "interval" and not all(isinstance(value, (int, float)) for value in values):
        raise ValueError("interval data are numbers")
    if len(values) < 2:
        return Interval(math.nan, -1.0, 1.0, len(pairable))
    counts = np.array([[unit.count(value) for value in values] for unit in map(list, pairable)], dtype=np.float64)
    scale = np.array(values, dtype=np.float64) if level == "interval" else None
    together = _coincidences(counts)
    value = _alpha(together.sum(0), level=level, scale=scale)
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(len(pairable), np.full(len(pairable), 1 / len(pairable)), size=resamples)
    drawn = np.array([_alpha(np.tensordot(weight, together, 1), level=level, scale=scale) for weight in weights])
    drawn = drawn[np.isfinite(drawn)]
    if value == 1.0:  # units that all agree cannot be resampled into a disagreement
        return Interval(value, _lowest(len(pairable), counts.sum(0)), 1.0, len(pairable))
    if len(pairable) < 2 or not len(drawn):
        return Interval(value, -1.0, 1.0, len(pairable))
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high), len(pairable))


def raw_agreement(units: Sequence[Sequence[Hashable]], *, seed: int) -> Interval:
    """How often two raters of one unit gave the same value; units are resampled."""
    pairable = [unit for unit in units if len(unit) > 1]
    pairs = [len(unit) * (len(unit) - 1) / 2 for unit in pairable]
    same = [sum(a == b for i, a in enumerate(unit) for b in unit[:i]) for unit in pairable]
    if sum(same) in (0, sum(pairs)):
        return wilson(len(pairable) if sum(same) else 0, len(pairable))
    return bootstrap_ratio(same, pairs, seed=seed)


def by_unit(ratings: Sequence[tuple[str, str, Hashable]]) -> dict[str, dict[str, Hashable]]:
    """(rater, unit, value) -> unit -> rater -> value; the later of two by one rater counts."""
    found: dict[str, dict[str, Hashable]] = {}
    for rater, unit, value in ratings:
        found.setdefault(unit, {})[rater] = value
    return found


def agreement(units: Mapping[str, Mapping[str, Hashable]], *, level: Level, seed: int) -> dict[str, Interval]:
    """Both measures of the units' values."""
    values = [list(given.values()) for given in units.values()]
    return {"alpha": alpha(values, level=level, seed=seed), "raw_agreement": raw_agreement(values, seed=seed)}


def _coincidences(counts: np.ndarray) -> np.ndarray:
    """For each unit, how often two values met in it: every pair of raters, weighted by 1 / (raters - 1)."""
    raters = counts.sum(1)
    pairs = counts[:, :, None] * counts[:, None, :] - np.einsum("ui,ij->uij", counts, np.eye(counts.shape[1]))
    return pairs / (raters - 1)[:, None, None]


def _alpha(together: np.ndarray, *, level: Level, scale: np.ndarray | None) -> float:
    totals = together.sum(0)
    n = totals.sum()
    squared = _distance(totals, level=level, scale=scale)
    expected = float(totals @ squared @ totals) / (n - 1) if n > 1 else 0.0
    return 1 - float((together * squared).sum()) / expected if expected > 0 else math.nan


def _distance(totals: np.ndarray, *, level: Level, scale: np.ndarray | None) -> np.ndarray:
    """The squared difference of any two values."""
    size = len(totals)
    if level == "nominal":
        return 1 - np.eye(size)
    if scale is not None:
        return (scale[:, None] - scale[None, :]) ** 2
    # Ranks: how many values lie between two, their own halves included.
    upto = np.cumsum(totals)
    middle = upto - totals / 2
    return (middle[:, None] - middle[None, :]) ** 2


def _lowest(agreed: int, totals: np.ndarray) -> float:
    """Alpha, were as many units disagreed on as may go unseen where `agreed` units all agree (Wilson)."""
    n = float(totals.sum())
    by_chance = 1 - float(totals @ (totals - 1)) / (n * (n - 1))
    return max(-1.0, 1 - (1 - wilson(agreed, agreed).low) / by_chance)


def _order(value: Hashable) -> tuple[int, float, str]:
    return (0, float(value), "") if isinstance(value, (int, float)) else (1, 0.0, str(value))
