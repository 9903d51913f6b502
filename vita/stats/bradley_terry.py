"""Bradley-Terry strengths of models from pairwise votes (1952), with intervals that account for raters.

    fitted = fit([PairwiseVote("new", "old", 1.0, cluster="ann"), PairwiseVote("new", "old", 0.5, cluster="bob")])
    fitted.win_probability("new", "old")        # with its interval
    fitted.elo()                                # 400 points are odds of 10 to 1

A tie counts half for each model. The covariance is the sandwich A G A with A = (H + 11' tr(H) / n^2)^-1. G sums the
gradients of a cluster before squaring, because votes of one rater (or on one prompt) are not independent.
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
class PairwiseVote:
    """One comparison: 1 where `first` was better, 0 where `second` was, 0.5 for a tie."""

    first: str
    second: str
    outcome: float
    cluster: str = ""
    """The rater or prompt of the vote; without it, each vote is its own cluster."""


@dataclass(frozen=True)
class BradleyTerryFit:
    """The strengths of the models, with mean 0, and their covariance."""

    models: tuple[str, ...]
    strengths: np.ndarray
    covariance: np.ndarray
    votes: int
    clusters: int
    smoothed: bool
    """True if a virtual tie was added to each pair, because some model only won or only lost."""

    def elo(self, *, confidence: float = CONFIDENCE) -> dict[str, Interval]:
        """Return the strengths in Elo points, with mean 1000."""
        intervals: dict[str, Interval] = {}
        for index, model in enumerate(self.models):
            middle = ELO_BASE + ELO_SCALE * float(self.strengths[index])
            half = ELO_SCALE * self._half(float(self.covariance[index, index]), confidence)
            intervals[model] = Interval(middle, middle - half, middle + half, self.votes)
        return intervals

    def win_probability(self, first: str, second: str, *, confidence: float = CONFIDENCE) -> Interval:
        """Return the probability that the first is preferred to the second; a tie counts half."""
        weights = np.zeros(len(self.models))
        weights[self.models.index(first)] += 1
        weights[self.models.index(second)] -= 1
        gap = float(weights @ self.strengths)
        half = self._half(float(weights @ self.covariance @ weights), confidence)
        return Interval(_sigmoid(gap), _sigmoid(gap - half), _sigmoid(gap + half), self.votes)

    def _half(self, variance: float, confidence: float) -> float:
        """Return half the width of an interval; infinite with one cluster, whose variance is unknown.

        It uses Student's quantile, with (clusters - 1) degrees of freedom.
        """
        if self.clusters < 2:
            return math.inf
        return student_quantile((1 + confidence) / 2, self.clusters - 1) * math.sqrt(max(0.0, variance))


def fit(votes: Iterable[PairwiseVote], *, steps: int = 100) -> BradleyTerryFit:
    """Fit the maximum-likelihood strengths (Newton's method), and their covariance.

    If a model only won or only lost, the maximum is at infinity (Ford 1957); then every compared pair gets one virtual
    tie.
    """
    vote_list = list(votes)
    models = tuple(sorted({name for vote in vote_list for name in (vote.first, vote.second)}))
    _check(vote_list, models)
    index = {name: number for number, name in enumerate(models)}
    design = np.zeros((len(vote_list), len(models)))
    for row, vote in enumerate(vote_list):
        design[row, index[vote.first]] += 1
        design[row, index[vote.second]] -= 1
    outcomes = np.array([vote.outcome for vote in vote_list])
    smoothed = not _connected(vote_list, models)
    num_votes = len(vote_list)
    if smoothed:
        pairs = sorted({(min(v.first, v.second), max(v.first, v.second)) for v in vote_list})
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
    names = [vote.cluster or f"\0{row}" for row, vote in enumerate(vote_list)]
    clusters = len(set(names))  # virtual ties do not count as clusters
    names += [f"\0tie {row}" for row in range(len(design) - num_votes)]
    middle = _cluster_covariance(gradients, names) * (clusters / (clusters - 1) if clusters > 1 else 1.0)
    return BradleyTerryFit(models, strengths, inverse @ middle @ inverse, num_votes, clusters, smoothed)


def comparable_models(votes: Sequence[PairwiseVote], model: str) -> set[str]:
    """Return the model and all models compared with it, directly or indirectly: these can be ranked together."""
    pairs = {frozenset((vote.first, vote.second)) for vote in votes}
    connected, size = {model}, 0
    while len(connected) > size:
        size = len(connected)
        connected |= {name for pair in pairs if pair & connected for name in pair}
    return connected


def _check(votes: Sequence[PairwiseVote], models: Sequence[str]) -> None:
    if len(models) < 2:
        raise DataError("bradley-terry", expected="votes between at least two models", got=f"{len(votes)} votes")
    for vote in votes:
        if vote.first == vote.second or not 0 <= vote.outcome <= 1:
            raise DataError("bradley-terry", expected="an outcome from 0 to 1 between two models", got=str(vote))
    if unconnected := set(models) - comparable_models(votes, models[0]):
        hint = "collect votes that compare models across the groups"
        raise DataError(
            "bradley-terry", f"{', '.join(sorted(unconnected))} was never compared with {models[0]}", hint=hint
        )


def _inverse(design: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return (H + 11' tr(H) / n^2)^-1: the likelihood is flat along the sum of all strengths, which is fixed at 0."""
    hessian = design.T @ (design * (expected * (1 - expected))[:, None])
    size = len(hessian)
    return np.linalg.inv(hessian + np.ones((size, size)) * np.trace(hessian) / size**2)


def _cluster_covariance(gradients: np.ndarray, names: Sequence[str]) -> np.ndarray:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    sums = np.zeros((len(numbers), gradients.shape[1]))
    np.add.at(sums, [numbers[name] for name in names], gradients)
    return sums.T @ sums


def _connected(votes: Sequence[PairwiseVote], models: Sequence[str]) -> bool:
    """Return True if wins or ties lead from every model to every other: only then is the maximum finite."""
    not_lost = {(v.first, v.second) for v in votes if v.outcome > 0} | {
        (v.second, v.first) for v in votes if v.outcome < 1
    }
    return all(
        _path(not_lost, first, second) and _path(not_lost, second, first) for first, second in combinations(models, 2)
    )


def _path(edges: set[tuple[str, str]], start: str, end: str) -> bool:
    reached, queue = {start}, [start]
    while queue:
        model = queue.pop()
        for winner, loser in edges:
            if winner == model and loser not in reached:
                reached.add(loser)
                queue.append(loser)
    return end in reached


def _sigmoid(value: float) -> float:
    if value >= 0:
        return 1 / (1 + math.exp(-value)) if value < math.inf else 1.0
    return math.exp(value) / (1 + math.exp(value)) if value > -math.inf else 0.0
