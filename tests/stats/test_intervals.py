"""Confidence intervals: values worked by hand, published values and coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vita.stats.intervals import (
    Interval,
    bootstrap_ratio,
    detectable,
    difference,
    mcnemar,
    paired_ratio,
    share,
    student,
    student_quantile,
    wilson,
)


def test_wilson_interval_worked_by_hand() -> None:
    # 8 of 10, z = 1.959964: middle (0.8 + 0.19207) / 1.384146, half 1.416020 * sqrt(0.016 + 0.0096036)
    interval = wilson(8, 10)
    assert interval.low == pytest.approx(0.490162, abs=1e-5)
    assert interval.high == pytest.approx(0.943318, abs=1e-5)


def test_zero_of_58_has_an_upper_limit_of_six_percent() -> None:
    assert wilson(0, 58).low == 0.0
    assert wilson(0, 58).high == pytest.approx(0.0621, abs=1e-4)
    assert wilson(58, 58).high == 1.0


def test_zero_trials_give_the_widest_interval() -> None:
    interval = wilson(0, 0)
    assert math.isnan(interval.value) and (interval.low, interval.high) == (0.0, 1.0)
    assert interval.as_json()["value"] is None


def test_wilson_intervals_cover_the_truth_in_95_percent() -> None:
    generator = np.random.default_rng(0)
    hits = generator.binomial(40, 0.9, size=2000)
    covered = np.mean([(wilson(int(h), 40).low <= 0.9 <= wilson(int(h), 40).high) for h in hits])
    assert 0.92 < covered < 0.98


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (5, 2.5706), (10, 2.2281), (30, 2.0423), (1000, 1.9623)],
)
def test_student_quantiles_equal_the_printed_table(freedom: int, expected: float) -> None:
    assert student_quantile(0.975, freedom) == pytest.approx(expected, abs=2e-3)
    assert student_quantile(0.025, freedom) == pytest.approx(-expected, abs=2e-3)


@pytest.mark.parametrize(("freedom", "expected"), [(3, 5.8409), (10, 3.1693), (4, 4.6041), (60, 2.6603)])
def test_student_quantiles_are_accurate_in_the_tail(freedom: int, expected: float) -> None:
    assert student_quantile(0.995, freedom) == pytest.approx(expected, abs=2e-3)


def test_student_interval_worked_by_hand() -> None:
    # mean 2, deviation 1, n 3: 2 +- 4.30265 / sqrt(3)
    interval = student([1.0, 2.0, 3.0])
    assert (interval.value, interval.n) == (2.0, 3)
    assert interval.high - interval.value == pytest.approx(4.30265 / math.sqrt(3), abs=1e-4)
    assert math.isinf(student([1.0]).high)


def test_a_ratio_of_sums_has_no_width_for_equal_documents() -> None:
    interval = bootstrap_ratio([2.0, 6.0], [1.0, 3.0], seed=0)
    assert interval == Interval(2.0, 2.0, 2.0, 2)
    assert bootstrap_ratio([1.0, 9.0], [1.0, 3.0], seed=0).value == 2.5


def test_the_bootstrap_is_deterministic_and_close_to_student_for_equal_weights() -> None:
    values = np.random.default_rng(3).normal(5.0, 2.0, size=400)
    first = bootstrap_ratio(values.tolist(), [1.0] * 400, seed=1)
    assert first == bootstrap_ratio(values.tolist(), [1.0] * 400, seed=1)
    normal = student(values.tolist())
    assert first.low == pytest.approx(normal.low, abs=0.06) and first.high == pytest.approx(normal.high, abs=0.06)


def test_mcnemar_worked_by_hand() -> None:
    # 1 against 6 disagreements: 2 * (C(7,0) + C(7,1)) / 2^7 = 16 / 128
    first = [True] * 1 + [False] * 6 + [True] * 13
    second = [False] * 1 + [True] * 6 + [True] * 13
    compared = mcnemar(first, second)
    assert (compared.only_first, compared.only_second) == (1, 6)
    assert compared.p_value == 0.125
    assert compared.difference.value == 0.25
    assert compared.difference.low < 0.25 < compared.difference.high


def test_a_model_does_not_differ_from_itself() -> None:
    outcomes = [True, False, True]
    assert mcnemar(outcomes, outcomes).p_value == 1.0
    assert mcnemar(outcomes, outcomes).difference.value == 0.0


def test_outcomes_of_different_items_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="differ in number: 1 and 2"):
        mcnemar([True], [True, False])


def test_the_detectable_difference_solves_connors_equation() -> None:
    # sqrt(n) d = 1.959964 sqrt(psi) + 0.841621 sqrt(psi - d^2)
    for n, discordance in [(200, 0.2), (50, 0.5), (1000, 0.05)]:
        detectable_difference = detectable(n, discordance)
        assert math.sqrt(n) * detectable_difference == pytest.approx(
            1.959964 * math.sqrt(discordance) + 0.841621 * math.sqrt(discordance - detectable_difference**2), rel=1e-5
        )


def test_the_detectable_difference_is_significant_in_80_percent() -> None:
    n, discordance = 300, 0.2
    gap = detectable(n, discordance)
    generator = np.random.default_rng(0)
    wins = generator.binomial(n, (discordance + gap) / 2, size=600)
    losses = [
        int(generator.binomial(n - win_count, (discordance - gap) / 2 / (1 - (discordance + gap) / 2)))
        for win_count in wins
    ]
    significant = [
        (win_count - loss_count) / n > 1.96 * math.sqrt(win_count + loss_count - (win_count - loss_count) ** 2 / n) / n
        for win_count, loss_count in zip(wins, losses, strict=True)
    ]
    assert 0.74 < np.mean(significant) < 0.87


def test_few_equal_items_have_a_detectable_difference() -> None:
    detectable_difference = mcnemar([True] * 20, [True] * 20).mde80
    # all disagreements in one direction: d = (1.96 + 0.84 sqrt(1 - d))^2 / 20
    assert detectable_difference == pytest.approx(
        (1.959964 + 0.841621 * math.sqrt(1 - detectable_difference)) ** 2 / 20, rel=1e-4
    )
    assert math.isnan(mcnemar([True] * 2, [True] * 2).mde80)


def test_paired_ratios_have_narrower_intervals_than_single_ratios() -> None:
    generator = np.random.default_rng(1)
    sizes = generator.integers(50, 500, size=80)
    bits = sizes * generator.normal(2.0, 0.5, size=80)
    later = bits - 0.05 * sizes + generator.normal(0, 1, size=80)
    compared = paired_ratio(bits.tolist(), later.tolist(), sizes.tolist(), seed=0)
    assert compared.difference.value == pytest.approx(-0.05, abs=0.005)
    assert compared.difference.high < 0 and compared.p_value < 0.01
    single_ratio = bootstrap_ratio(bits.tolist(), sizes.tolist(), seed=0)
    assert compared.difference.high - compared.difference.low < (single_ratio.high - single_ratio.low) / 5
    equal_comparison = paired_ratio(bits.tolist(), bits.tolist(), sizes.tolist(), seed=0)
    assert (equal_comparison.p_value, equal_comparison.difference.low, equal_comparison.difference.high) == (
        1.0,
        0.0,
        0.0,
    )


def test_intervals_are_formatted_as_text() -> None:
    assert str(share([True, True, False, False])) == "0.500 (0.150 to 0.850)"


def test_the_difference_of_two_shares_equals_that_of_newcombe() -> None:
    """Example of Newcombe (1998), table II: 56 of 70 and 48 of 80 give 0.2, from 0.0524 to 0.3339."""
    interval = difference(wilson(56, 70), wilson(48, 80))
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    reversed_interval = difference(wilson(48, 80), wilson(56, 70))
    assert (reversed_interval.low, reversed_interval.high) == pytest.approx((-interval.high, -interval.low))
