"""Training of the classifier of text quality: logistic regression with an L2 penalty, and cross-validation.

The objective is convex: mean log loss + |w|^2 / (2 C N), with N documents and C = `INVERSE_PENALTY`, where both classes
have the same total weight. It is minimized by accelerated gradient descent (Nesterov 1983), without randomness.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from vita.data.content import Keys
from vita.data.curation.text_classifier import HASH_BITS, SparseRows, TextClassifier, logistic
from vita.data.hash_sampling import hash_fractions

INVERSE_PENALTY = 10.0
MAX_STEPS = 400
_TOLERANCE = 1e-5
"""Largest component of the gradient at which the search ends."""
FOLDS = 5


def train_classifier(features: SparseRows, is_good: Bool[np.ndarray, "R"], record: Mapping[str, Any]) -> TextClassifier:
    """Fit the weights to labelled documents of both classes."""
    documents = len(is_good)
    counts = np.where(is_good, is_good.sum(), (~is_good).sum())
    importance = 0.5 / counts  # the total of each class is 1/2
    penalty = 1 / (INVERSE_PENALTY * documents)
    # With the bias, vectors have the squared length 2, and the total weight is 1: the curvature is at most 2/4.
    step = 1 / (0.5 + penalty)
    columns, used = features.used_columns()
    weights = ahead = np.zeros(len(columns) + 1)
    momentum = 1.0
    for _ in range(MAX_STEPS):
        error = importance * (logistic(used.dot(ahead[:-1]) + ahead[-1]) - is_good)
        gradient = np.append(used.transposed_dot(error) + penalty * ahead[:-1], error.sum())
        if np.abs(gradient).max() < _TOLERANCE:
            break
        previous, weights = weights, ahead - step * gradient
        next_momentum = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        if gradient @ (weights - previous) > 0:
            momentum, next_momentum = 1.0, 1.0  # adaptive restart (O'Donoghue and Candes 2015)
        ahead = weights + (momentum - 1) / next_momentum * (weights - previous)
        momentum = next_momentum
    all_weights = np.zeros(1 << HASH_BITS, np.float32)
    all_weights[columns] = ahead[:-1]
    return TextClassifier(all_weights, float(np.float32(ahead[-1])), dict(record))


def assign_folds(keys: Keys, *, seed: int) -> Int64[np.ndarray, "R"]:
    """Return the fold of each document by its content key, so that equal texts are in the same fold."""
    return (hash_fractions(keys, seed=seed, purpose=3) * FOLDS).astype(np.int64)


def cross_validated_scores(
    features: SparseRows, is_good: Bool[np.ndarray, "R"], keys: Keys, *, seed: int = 0
) -> Float64[np.ndarray, "R"]:
    """Return the probability of each document by a classifier that was trained on the other folds.

    The value is NaN where the other folds contain only one class.
    """
    folds = assign_folds(keys, seed=seed)
    scores = np.full(len(is_good), np.nan)
    for fold in range(FOLDS):
        inside, outside = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        if not len(inside) or len(np.unique(is_good[outside])) < 2:
            continue
        classifier = train_classifier(features.select(outside), is_good[outside], {})
        values = features.select(inside).dot(classifier.weights.astype(np.float64)) + classifier.bias
        scores[inside] = logistic(values)
    return scores
