"""Strengths from votes: against closed forms and scipy, invariances, coverage, and votes that are one-sided."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vita.spine.errors import DataError
from vita.stats.bradley_terry import PairwiseVote, fit


def votes(won: int, lost: int, tied: int = 0, *, first: str = "a", second: str = "b") -> list[PairwiseVote]:
    outcomes = [1.0] * won + [0.0] * lost + [0.5] * tied
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


def test_strengths_agree_with_a_maximum_found_by_scipy() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    given = [*votes(7, 3, 2), *votes(5, 6, first="b", second="c"), *votes(4, 1, 3, first="c", second="a")]
    fitted = fit(given)

    def loss(strengths: np.ndarray) -> float:
        total = 1e-12 * float(strengths.sum() ** 2)
        for vote in given:
            gap = strengths["abc".index(vote.first)] - strengths["abc".index(vote.second)]
            total += vote.outcome * math.log1p(math.exp(-gap)) + (1 - vote.outcome) * math.log1p(math.exp(gap))
        return total

    found = optimize.minimize(loss, np.zeros(3), tol=1e-12).x
    np.testing.assert_allclose(fitted.strengths, found - found.mean(), atol=1e-5)


def test_which_is_called_first_changes_nothing() -> None:
    turned = [PairwiseVote(v.second, v.first, 1 - v.outcome) for v in votes(9, 4, 3)]
    same = [fit(given).win_probability("a", "b") for given in (turned, votes(9, 4, 3))]
    assert [same[0].value, same[0].low] == pytest.approx([same[1].value, same[1].low])


def test_repeated_votes_of_one_rater_make_nothing_surer() -> None:
    people = [PairwiseVote("a", "b", float(n % 3 > 0), cluster=f"{n}") for n in range(30)]
    once, thrice = fit(people), fit(people * 3)
    np.testing.assert_allclose(once.covariance, thrice.covariance, rtol=1e-6)
    careless = fit([PairwiseVote(v.first, v.second, v.outcome) for v in people * 3])
    assert careless.covariance[0, 0] < once.covariance[0, 0] / 2.5


def test_intervals_cover_the_truth_when_raters_differ() -> None:
    generator = np.random.default_rng(0)
    truth, covered, runs = 0.5, 0, 150
    for _ in range(runs):
        given = []
        for rater in range(40):
            leaning = truth + generator.normal(0, 0.8)
            chances = generator.random(8) < 1 / (1 + math.exp(-leaning))
            given += [PairwiseVote("a", "b", float(won), cluster=str(rater)) for won in chances]
        found = fit(given).win_probability("a", "b")
        # Over raters of different leanings, the mean preference is a little nearer to a half.
        marginal = float(np.mean(1 / (1 + np.exp(-(truth + 0.8 * np.random.default_rng(1).normal(size=20000))))))
        covered += found.low <= marginal <= found.high
    assert 0.9 <= covered / runs <= 0.99


def test_a_model_that_only_won_gets_a_finite_strength_and_it_is_said() -> None:
    fitted = fit(votes(10, 0))
    assert fitted.smoothed and fitted.win_probability("a", "b").value == pytest.approx(10.5 / 11)
    assert not fit(votes(10, 1)).smoothed


def test_one_rater_alone_leaves_everything_open() -> None:
    found = fit(
        [PairwiseVote("a", "b", 1.0, cluster="ann"), PairwiseVote("a", "b", 0.0, cluster="ann")]
    ).win_probability("a", "b")
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)


def test_models_that_never_met_are_refused() -> None:
    with pytest.raises(DataError, match="c, d was never compared with a"):
        fit([*votes(2, 1), *votes(1, 2, first="c", second="d")])
    with pytest.raises(DataError, match="at least two models"):
        fit([])
    with pytest.raises(DataError, match="from 0 to 1"):
        fit([PairwiseVote("a", "b", 2.0)])


def test_one_raters_votes_say_nothing_of_how_much_raters_differ_however_one_sided() -> None:
    alone = [PairwiseVote(first, second, 1.0, cluster="ann") for first, second in ("ab", "bc", "ac") for _ in range(4)]
    fitted = fit(alone)
    assert fitted.smoothed and fitted.clusters == 1
    probability = fitted.win_probability("a", "b")
    assert (probability.low, probability.high) == (0, 1)
