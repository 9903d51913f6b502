"""Clusters of documents by k-means, and the effective number of clusters."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64

_ITERATIONS = 30
_RESTARTS = 3
_DECIMALS = 9
"""Distances are rounded, so that the order of floating-point sums does not change the assignment of a document."""


def cluster(
    points: Float64[np.ndarray, "N D"], count: int, *, seed: int = 0
) -> tuple[Int64[np.ndarray, "N"], Float64[np.ndarray, "K D"]]:
    """Return the cluster of each point and the means, the largest cluster first (Lloyd 1982; k-means++).

    Of several starts, the one with the smallest sum of squared distances is taken. Empty clusters are left out.
    """
    rng = np.random.default_rng(seed)
    count = min(count, len(points))
    best: tuple[float, Int64[np.ndarray, "N"]] | None = None
    for _ in range(_RESTARTS):
        means = _initial_means(points, count, rng)
        labels = np.full(len(points), -1)
        for _ in range(_ITERATIONS):
            distances = _squared_distances(points, means)
            nearest = distances.argmin(1)
            if (nearest == labels).all():
                break
            labels = nearest
            means = np.stack([_mean(points, labels == k, means[k]) for k in range(count)])
        cost = round(float(_squared_distances(points, means).min(1).sum()), 6)
        if best is None or cost < best[0]:
            best = cost, labels
    assert best is not None, "there is at least one start"
    sizes = np.bincount(best[1], minlength=count)
    order = [int(k) for k in np.argsort(-sizes, kind="stable") if sizes[k]]
    position = np.zeros(count, np.int64)
    position[order] = np.arange(len(order))
    labels = position[best[1]]
    return labels, np.stack([points[labels == k].mean(0) for k in range(len(order))])


def effective_number(counts: Float64[np.ndarray, "K"] | Int64[np.ndarray, "K"]) -> float:
    """Return exp(H) of the shares with Shannon entropy H (Hill 1973, order 1): K for K equal shares, 1 for one."""
    total = counts.sum()
    if not total:
        return 0.0
    shares = counts[counts > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _initial_means(points: Float64[np.ndarray, "N D"], count: int, rng: np.random.Generator) -> np.ndarray:
    """Choose points far from one another (k-means++, Arthur and Vassilvitskii 2007)."""
    indices = [int(rng.integers(len(points)))]
    nearest = _squared_distances(points, points[indices])[:, 0]
    while len(indices) < count:
        total = np.cumsum(nearest)
        if total[-1] <= 0:  # all points equal one of them
            indices.append(indices[-1])
            continue
        indices.append(min(int(np.searchsorted(total, rng.random() * total[-1], side="right")), len(points) - 1))
        nearest = np.minimum(nearest, _squared_distances(points, points[indices[-1:]])[:, 0])
    return points[indices]


def _squared_distances(
    points: Float64[np.ndarray, "N D"], means: Float64[np.ndarray, "K D"]
) -> Float64[np.ndarray, "N K"]:
    squares = (points**2).sum(1)[:, None] + (means**2).sum(1) - 2 * points @ means.T
    return np.maximum(np.round(squares, _DECIMALS), 0)


def _mean(points: np.ndarray, mask: np.ndarray, before: np.ndarray) -> np.ndarray:
    return points[mask].mean(0) if mask.any() else before
