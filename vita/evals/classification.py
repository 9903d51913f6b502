"""Evaluation of a classifier on held-out texts, with intervals and a baseline that ignores the text.

The baseline of classes predicts the most frequent class of the training texts, and that of a regression their mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from vita.data.tokens.label_scheme import LabelScheme, Target
from vita.stats.classification import bootstrap, confusion_matrix, f1_scores, macro_f1, matthews, pearson, spearman
from vita.stats.intervals import Comparison, Interval, mcnemar, share, student

# N item, L label


@dataclass(frozen=True)
class ClassifierResults:
    """The measures of a classifier on held-out texts."""

    figures: Mapping[str, Interval]
    matrix: np.ndarray | None = None
    """Counts by actual (row) and predicted class (column); None for other problems than one class of several."""
    versus_baseline: Comparison | None = None
    """Paired test of the accuracy against that of the baseline."""

    def table(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Return the confusion matrix as rows of a table."""
        if self.matrix is None:
            return []
        rows = zip(names, self.matrix.tolist(), f1_scores(self.matrix).tolist(), strict=True)
        return [
            {"actual": name, **{f"predicted {other}": count for other, count in zip(names, row, strict=True)}, "F1": f1}
            for name, row, f1 in rows
        ]


def evaluate_logits(
    logits: Float[np.ndarray, "N L"],
    targets: Sequence[Target],
    scheme: LabelScheme,
    *,
    train_targets: Sequence[Target],
    seed: int,
) -> ClassifierResults:
    """Measure the logits of held-out texts against their targets."""
    if scheme.problem == "regression":
        return _regression(logits[:, 0].astype(float), np.array(targets, float), np.array(train_targets, float), seed)
    if scheme.problem == "multi":
        return _multi_label(logits > 0, targets, train_targets, seed)
    return _single_label(logits.argmax(-1), np.array(targets), np.array(train_targets), len(scheme.names), seed)


def _single_label(
    predicted: np.ndarray, actual: np.ndarray, trained: np.ndarray, classes: int, seed: int
) -> ClassifierResults:
    matrix, n = confusion_matrix(actual, predicted, classes=classes), len(actual)

    def measure(function: Any) -> Interval:
        resampled = lambda rows: function(confusion_matrix(actual[rows], predicted[rows], classes=classes))  # noqa: E731
        return bootstrap(resampled, n=n, seed=seed)

    majority = Counter(trained.tolist()).most_common(1)[0][0]
    correct, baseline = (predicted == actual).tolist(), (actual == majority).tolist()
    comparison = mcnemar(baseline, correct)
    figures = {"accuracy": share(correct), "majority_accuracy": share(baseline)}
    figures |= {"accuracy_gain": comparison.difference, "macro_f1": measure(macro_f1), "mcc": measure(matthews)}
    if classes == 2:
        figures["f1"] = measure(lambda counts: float(f1_scores(counts)[1]))
    return ClassifierResults(figures, matrix, comparison)


def _multi_label(
    predicted: np.ndarray, targets: Sequence[Target], train_targets: Sequence[Target], seed: int
) -> ClassifierResults:
    classes, n = predicted.shape[1], len(targets)
    actual = np.zeros((n, classes), bool)
    for row, numbers in enumerate(targets):
        assert isinstance(numbers, tuple)
        actual[row, list(numbers)] = True
    hits, total = (actual & predicted).sum(1), actual.sum(1) + predicted.sum(1)
    micro = bootstrap(lambda rows: 2 * hits[rows].sum() / max(1, total[rows].sum()), n=n, seed=seed)
    common = Counter(train_targets).most_common(1)[0][0]
    correct, baseline = (actual == predicted).all(1).tolist(), [target == common for target in targets]
    comparison = mcnemar(baseline, correct)
    figures = {"accuracy": share(correct), "majority_accuracy": share(baseline)}
    figures |= {"accuracy_gain": comparison.difference, "micro_f1": micro}
    return ClassifierResults(figures, versus_baseline=comparison)


def _regression(predicted: np.ndarray, actual: np.ndarray, trained: np.ndarray, seed: int) -> ClassifierResults:
    n = len(actual)
    errors, baseline = (predicted - actual) ** 2, (actual - trained.mean()) ** 2
    figures = {
        "pearson": bootstrap(lambda rows: pearson(predicted[rows], actual[rows]), n=n, seed=seed),
        "spearman": bootstrap(lambda rows: spearman(predicted[rows], actual[rows]), n=n, seed=seed),
        "squared_error": student(errors.tolist()),
        "baseline_squared_error": student(baseline.tolist()),
    }
    return ClassifierResults(figures)
