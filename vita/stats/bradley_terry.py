"""How strong is each model, from votes between pairs? Bradley and Terry (1952), with intervals that know the raters.

    fitted = fit([Vote("new", "old", 1.0, cluster="ann"), Vote("new", "old", 0.5, cluster="bob")])
    fitted.win_probability("new", "old")        # with its interval
    fitted.elo()                                # 400 points are odds of 10 to 1

A tie counts half to each. The covariance is the sandwich A G A with A = (H + 11' tr(H) / n^2)^-1, in which G sums the
gradients of a cluster before squaring: votes of one rater (or on one prompt) are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from vita.spine.errors import DataError
from vita.stats.intervals import CONFIDENCE, Interval, student_quantile

ELO_BASE, ELO_SCALE = 1000.0, 400 / math.log(10)


@dataclass(frozen=True, slots=True)
class Vote:
    """One comparison: 1 where `first` was better, 0 where `second` was, 0.5 for a tie."""

    first: str
    second: str
    outcome: float
    cluster: str = ""
    """Whose vote it is; without it, each vote stands alone."""


@dataclass(frozen=True)
class Fitted:
    """Strengths of the models, their mean being 0, with their covariance."""

    models: tuple[str, ...]
    strengths: np.ndarray
    covariance: np.ndarray
    votes: int
    clusters: int
    smoothed: bool
    """Whether a virtual tie was added to each pair, since some model only won or only lost."""

    def elo(self, *, confidence: float = CONFIDENCE) -> dict[str, Interval]:
        """Strengths in Elo points, 1000 being the mean."""
        found: dict[str, Interval] = {}
        for index, model in enumerate(self.models):
            middle = ELO_BASE + ELO_SCALE * float(self.strengths[index])
            half = ELO_SCALE * self._half(float(self.covariance[index, index]), confidence)
            found[model] = Interval(middle, middle - half, middle + half, self.votes)
        return found

    def win_probability(self, first: str, second: str, *, confidence: float = CONFIDENCE) -> Interval:
        """How often the first is preferred to the second, a tie counting half."""
        weights = np.zeros(len(self.models))
        weights[self.models.index(first)] += 1
        weights[self.models.index(second)] -= 1
        gap = float(weights @ self.strengths)
        half = self._half(float(weights @ self.covariance @ weights), confidence)
        return Interval(_sigmoid(gap), _sigmoid(gap - half), _sigmoid(gap + half), self.votes)

    def _half(self, variance: float, confidence: float) -> float:
        """Half the width of an interval; boundless with one cluster, whose spread cannot be seen.

        Student's quantile, with as many degrees of freedom as clusters less one.
        """
        if self.clusters < 2:
            return math.inf
        return student_quantile((1 + confidence) / 2, self.clusters - 1) * math.sqrt(max(0.0, variance))


def fit(votes: Iterable[Vote], *, steps: int = 100) -> Fitted:
    """The maximum of the likelihood (Newton), and its covariance.

    Where a model only won or only lost, the maximum lies at infinity (Ford 1957); then every pair that was compared
    gets one virtual tie.
    """
    given = list(votes)
    models = tuple(sorted({name for vote in given for name in (vote.first, vote.second)}))
    _check(given, models)
    index = {name: number for number, name in enumerate(models)}
    design = np.zeros((len(given), len(models)))
    for row, vote in enumerate(given):
        design[row, index[vote.first]] += 1
        design[row, index[vote.second]] -= 1
    outcomes = np.array([vote.outcome for vote in given])
    smoothed = not _connected(given, models)
    real = len(given)
    if smoothed:
        pairs = sorted({(min(v.first, v.second), max(v.first, v.second)) for v in given})
        ties = np.zeros((len(pairs), len(models)))
        for row, (first, second) in enumerate(pairs):
            ties[row, index[first]], ties[row, index[second]] = 1, -1
        design, outcomes = np.vstack([design, ties]), np.concatenate([outcomes, np.full(len(pairs), 0.5)])
    strengths = np.zeros(len(models))
    for _ in range(steps):
        expected = 1 / (1 + np.exp(-design @ strengths))
        inverse = _inverse(design, expected)
        step = inverse @ (design.T @ (outcomes - expected))
        strengths = strengths + step / max(1.0, float(np.abs(step).max()))
        if float(np.abs(step).max()) < 1e-10:
            break
    strengths -= strengths.mean()
    expected = 1 / (1 + np.exp(-design @ strengths))
    gradients = design * (outcomes - expected)[:, None]
    inverse = _inverse(design, expected)
    names = [vote.cluster or f"\0{row}" for row, vote in enumerate(given)]
    clusters = len(set(names))  # those of the virtual ties say nothing of how much voices differ
    names += [f"\0tie {row}" for row in range(len(design) - real)]
    middle = _of_clusters(gradients, names) * (clusters / (clusters - 1) if clusters > 1 else 1.0)
    return Fitted(models, strengths, inverse @ middle @ inverse, real, clusters, smoothed)


def compared_with(votes: Sequence[Vote], model: str) -> set[str]:
    """The model, and all that were compared with it, directly or through others: only these can be ranked together."""
    pairs = {frozenset((vote.first, vote.second)) for vote in votes}
    seen, size = {model}, 0
    while len(seen) > size:
        size = len(seen)
        seen |= {name for pair in pairs if pair & seen for name in pair}
    return seen


def _check(votes: Sequence[Vote], models: Sequence[str]) -> None:
    if len(models) < 2:
        raise DataError("bradley-terry", expected="votes between at least two models", got=f"{len(votes)} votes")
    for vote in votes:
        if vote.first == vote.second or not 0 <= vote.outcome <= 1:
            raise DataError("bradley-terry", expected="an outcome from 0 to 1 between two models", got=str(vote))
    if apart := set(models) - compared_with(votes, models[0]):
        hint = "let raters compare across the groups, too"
        raise DataError("bradley-terry", f"{', '.join(sorted(apart))} was never compared with {models[0]}", hint=hint)


def _inverse(design: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """(H + 11' tr(H) / n^2)^-1: the likelihood is flat along the sum of all strengths, which is held at 0."""
    hessian = design.T @ (design * (expected * (1 - expected))[:, None])
    size = len(hessian)
    return np.linalg.inv(hessian + np.ones((size, size)) * np.trace(hessian) / size**2)


def _of_clusters(gradients: np.ndarray, names: Sequence[str]) -> np.ndarray:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    sums = np.zeros((len(numbers), gradients.shape[1]))
    np.add.at(sums, [numbers[name] for name in names], gradients)
    return sums.T @ sums


def _connected(votes: Sequence[Vote], models: Sequence[str]) -> bool:
    """Whether every model beat (or tied) its way to every other: only then is the maximum finite."""
    beaten = {(v.first, v.second) for v in votes if v.outcome > 0} | {
        (v.second, v.first) for v in votes if v.outcome < 1
    }
    return all(
        _path(beaten, first, second) and _path(beaten, second, first) for first, second in combinations(models, 2)
    )


def _path(edges: set[tuple[str, str]], start: str, end: str) -> bool:
    seen, queue = {start}, [start]
    while queue:
        at = queue.pop()
        for above, below in edges:
            if above == at and below not in seen:
                seen.add(below)
                queue.append(below)
    return end in seen


def _sigmoid(value: float) -> float:
    if value >= 0:
        return 1 / (1 + math.exp(-value)) if value < math.inf else 1.0
    return math.exp(value) / (1 + math.exp(value)) if value > -math.inf else 0.0
