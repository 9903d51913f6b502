"""Bradley-Terry strengths: closed forms, parity with scipy, invariances, coverage, and one-sided votes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vita.spine.errors import DataError
from vita.stats.bradley_terry import PairwiseVote, fit


def votes(wins: int, losses: int, ties: int = 0, *, first: str = "a", second: str = "b") -> list[PairwiseVote]:
    outcomes = [1.0] * wins + [0.0] * losses + [0.5] * ties
    return [PairwiseVote(first, second, outcome) for outcome in outcomes]


def test_two_models_have_a_closed_form() -> None:
    # 12 wins, 4 losses, 8 ties: p = 16 / 24; independent votes: var(logit p) = sum (y - p)^2 / (n p q)^2 * n / (n - 1)
    fitted = fit(votes(12, 4, 8))
    p, n = 16 / 24, 24
    assert fitted.win_probability("a", "b").value == pytest.approx(p)
    squares = 12 * (1 - p) ** 2 + 4 * p**2 + 8 * (0.5 - p) ** 2
    variance = squares / (n * p * (1 - p)) ** 2 * n / (n - 1)
    gap = np.array([1, -1])
    assert float(gap @ fitted.covariance @ gap) == pytest.approx(variance)
    elo = fitted.elo()
    assert elo["a"].value - elo["b"].value == pytest.approx(400 * math.log10(p / (1 - p)))
    assert (elo["a"].value + elo["b"].value) / 2 == pytest.approx(1000)


def test_strengths_equal_the_maximum_found_by_scipy() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    all_votes = [*votes(7, 3, 2), *votes(5, 6, first="b", second="c"), *votes(4, 1, 3, first="c", second="a")]
    fitted = fit(all_votes)

    def loss(strengths: np.ndarray) -> float:
        total = 1e-12 * float(strengths.sum() ** 2)
        for vote in all_votes:
            gap = strengths["abc".index(vote.first)] - strengths["abc".index(vote.second)]
            total += vote.outcome * math.log1p(math.exp(-gap)) + (1 - vote.outcome) * math.log1p(math.exp(gap))
        return total

    strengths_by_scipy = optimize.minimize(loss, np.zeros(3), tol=1e-12).x
    np.testing.assert_allclose(fitted.strengths, strengths_by_scipy - strengths_by_scipy.mean(), atol=1e-5)


def test_the_order_of_a_pair_does_not_change_the_result() -> None:
    swapped_votes = [PairwiseVote(v.second, v.first, 1 - v.outcome) for v in votes(9, 4, 3)]
    probabilities = [fit(vote_list).win_probability("a", "b") for vote_list in (swapped_votes, votes(9, 4, 3))]
    assert [probabilities[0].value, probabilities[0].low] == pytest.approx(
        [probabilities[1].value, probabilities[1].low]
    )


def test_repeated_votes_of_a_rater_do_not_narrow_the_interval() -> None:
    rater_votes = [PairwiseVote("a", "b", float(n % 3 > 0), cluster=f"{n}") for n in range(30)]
    single, repeated = fit(rater_votes), fit(rater_votes * 3)
    np.testing.assert_allclose(single.covariance, repeated.covariance, rtol=1e-6)
    unclustered = fit([PairwiseVote(v.first, v.second, v.outcome) for v in rater_votes * 3])
    assert unclustered.covariance[0, 0] < single.covariance[0, 0] / 2.5


def test_intervals_cover_the_truth_when_raters_differ() -> None:
    generator = np.random.default_rng(0)
    truth, covered, runs = 0.5, 0, 150
    for _ in range(runs):
        all_votes = []
        for rater in range(40):
            preference = truth + generator.normal(0, 0.8)
            wins = generator.random(8) < 1 / (1 + math.exp(-preference))
            all_votes += [PairwiseVote("a", "b", float(is_win), cluster=str(rater)) for is_win in wins]
        interval = fit(all_votes).win_probability("a", "b")
        # Averaged over different raters, the mean preference is slightly closer to one half.
        marginal = float(np.mean(1 / (1 + np.exp(-(truth + 0.8 * np.random.default_rng(1).normal(size=20000))))))
        covered += interval.low <= marginal <= interval.high
    assert 0.9 <= covered / runs <= 0.99


def test_a_model_with_only_wins_gets_a_finite_smoothed_strength() -> None:
    fitted = fit(votes(10, 0))
    assert fitted.smoothed and fitted.win_probability("a", "b").value == pytest.approx(10.5 / 11)
    assert not fit(votes(10, 1)).smoothed


def test_a_single_rater_gives_the_widest_interval() -> None:
    interval = fit(
        [PairwiseVote("a", "b", 1.0, cluster="ann"), PairwiseVote("a", "b", 0.0, cluster="ann")]
    ).win_probability("a", "b")
    assert (interval.value, interval.low, interval.high) == (0.5, 0.0, 1.0)


def test_models_without_a_comparison_are_refused() -> None:
    with pytest.raises(DataError, match="c, d was never compared with a"):
        fit([*votes(2, 1), *votes(1, 2, first="c", second="d")])
    with pytest.raises(DataError, match="at least two models"):
        fit([])
    with pytest.raises(DataError, match="from 0 to 1"):
        fit([PairwiseVote("a", "b", 2.0)])


def test_one_sided_votes_of_a_single_rater_give_the_widest_interval() -> None:
    rater_votes = [
        PairwiseVote(first, second, 1.0, cluster="ann") for first, second in ("ab", "bc", "ac") for _ in range(4)
    ]
    fitted = fit(rater_votes)
    assert fitted.smoothed and fitted.clusters == 1
    probability = fitted.win_probability("a", "b")
    assert (probability.low, probability.high) == (0, 1)
