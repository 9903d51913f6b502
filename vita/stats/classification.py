"""Measures of classifiers and regressions: confusion matrix, F1, and correlations (Matthews, Pearson, Spearman).

matrix = confusion_matrix(actual, predicted, classes=2)
bootstrap(lambda rows: matthews(confusion_matrix(actual[rows], predicted[rows], classes=2)), n=len(actual), seed=0)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int

from vita.stats.intervals import CONFIDENCE, Interval

# C class (rows: actual, columns: predicted), N item

RESAMPLES = 1000
Matrix = Int[np.ndarray, "C C"]


def confusion_matrix(actual: Int[np.ndarray, "N"], predicted: Int[np.ndarray, "N"], *, classes: int) -> Matrix:
    """Count the items of each actual class (row) that were predicted as each class (column)."""
    counts = np.bincount(np.asarray(actual) * classes + np.asarray(predicted), minlength=classes * classes)
    return counts.reshape(classes, classes)


def f1_scores(matrix: Matrix) -> Float[np.ndarray, "C"]:
    """Return F1 = 2 TP / (2 TP + FP + FN) of each class; 0 for a class that is neither present nor predicted."""
    hits = np.diagonal(matrix)
    total = matrix.sum(0) + matrix.sum(1)
    return np.divide(2.0 * hits, total, out=np.zeros(len(matrix)), where=total > 0)


def macro_f1(matrix: Matrix) -> float:
    """Return the mean of F1 over the classes."""
    return float(f1_scores(matrix).mean())


def matthews(matrix: Matrix) -> float:
    """Return the Matthews correlation of two classes or more (Gorodkin 2004, eq. 8); 0 if one side is constant."""
    total, hits = float(matrix.sum()), float(np.trace(matrix))
    actual, predicted = matrix.sum(1).astype(float), matrix.sum(0).astype(float)
    covariance = hits * total - float(actual @ predicted)
    spread = (total**2 - float(predicted @ predicted)) * (total**2 - float(actual @ actual))
    return covariance / math.sqrt(spread) if spread > 0 else 0.0


def pearson(first: Float[np.ndarray, "N"], second: Float[np.ndarray, "N"]) -> float:
    """Return the Pearson correlation; 0 if one side is constant."""
    first, second = first - first.mean(), second - second.mean()
    spread = math.sqrt(float(first @ first) * float(second @ second))
    return float(first @ second) / spread if spread > 0 else 0.0


def spearman(first: Float[np.ndarray, "N"], second: Float[np.ndarray, "N"]) -> float:
    """Return the Spearman correlation: the Pearson correlation of the ranks, with the mean rank for ties."""
    return pearson(ranks(first), ranks(second))


def ranks(values: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """Return the rank of each value from 1; equal values get their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def area_under_curve(is_positive: Bool[np.ndarray, "N"], scores: Float[np.ndarray, "N"]) -> float:
    """Return the area under the ROC curve: the probability that a positive item has the higher score of a random pair.

    Ties count half (Hanley and McNeil 1982). NaN if a class has no items.
    """
    positives = int(is_positive.sum())
    pairs = positives * (len(is_positive) - positives)
    if not pairs:
        return math.nan
    return float(ranks(scores)[is_positive].sum() - positives * (positives + 1) / 2) / pairs


def cohen_kappa(matrix: Matrix) -> float:
    """Return Cohen's kappa (1960) of a confusion matrix: the agreement above that of independent labels."""
    total = matrix.sum()
    expected = float((matrix.sum(axis=0) * matrix.sum(axis=1)).sum()) / float(total) ** 2
    return (float(np.trace(matrix)) / float(total) - expected) / (1 - expected) if expected < 1 else math.nan


def bootstrap(
    statistic: Callable[[Int[np.ndarray, "N"]], float],
    *,
    n: int,
    seed: int,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return a statistic of `n` items with a percentile interval (Efron 1979).

    `statistic` gets the numbers of the items, which repeat in a resample. One item does not determine an interval.
    """
    if n == 0:
        return Interval(math.nan, -math.inf, math.inf, 0)
    value = statistic(np.arange(n))
    if n == 1:
        return Interval(value, -math.inf, math.inf, 1)
    generator = np.random.default_rng(seed)
    values = [statistic(generator.integers(n, size=n)) for _ in range(resamples)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(value, float(low), float(high), n)
