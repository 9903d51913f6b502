"""Division of a whole number in proportion to weights, with a limit for each share.

A share that reaches its limit stays there, and the others divide the rest. For equal weights this is UniMax (Chung et
al. 2023, algorithm 1).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64


def allocate(
    weights: Float64[np.ndarray, "S"], limits: Int64[np.ndarray, "S"], total: int
) -> Int64[np.ndarray, "S"] | None:
    """Return shares of `total` in proportion to the weights within the limits; None if the limits are too low."""
    quota = np.zeros(len(weights), np.int64)
    active = (weights > 0) & (limits > 0)
    while True:
        remaining = total - int(quota.sum())
        if not remaining or not active.any():
            return None if remaining else quota
        share = np.where(active, weights, 0.0)
        exact = remaining * (share / share.sum())
        reached = active & (exact >= limits)
        if not reached.any():
            break
        quota[reached] = limits[reached]
        active &= ~reached
    # Largest remainders; of equal ones the first source. A rounded quota is at most its limit, a whole number.
    quota += np.floor(exact).astype(np.int64)
    fractions = np.where(active, exact - np.floor(exact), -1.0)
    quota[np.argsort(-fractions, kind="stable")[: total - int(quota.sum())]] += 1
    return quota
