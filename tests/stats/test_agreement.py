"""Krippendorff's alpha: published values of its example, and general laws."""

from __future__ import annotations

import math
from collections.abc import Hashable

import numpy as np
import pytest

from vita.stats.agreement import agreement, alpha, group_by_unit, raw_agreement

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability": four observers, twelve units, with gaps.
OBSERVERS = ["1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 ."]
UNITS: list[list[Hashable]] = [
    [int(value) for value in column if value != "."] for column in zip(*map(str.split, OBSERVERS), strict=True)
]


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_equals_the_published_values(level, published: float) -> None:
    interval = alpha(UNITS, level=level, seed=0)
    assert interval.value == pytest.approx(published, abs=5e-4)
    assert interval.low < interval.value < interval.high and interval.n == 11


def test_alpha_of_two_raters_worked_by_hand() -> None:
    # ab, aa, bb, aa: coincidences aa 4, bb 2, ab 1 + 1; n = 8; Do = 2 / 8, De = 2 * 5 * 3 / (8 * 7)
    units: list[list[Hashable]] = [["a", "b"], ["a", "a"], ["b", "b"], ["a", "a"]]
    assert alpha(units, level="nominal", seed=0).value == pytest.approx(1 - (2 / 8) / (30 / 56))
    assert raw_agreement(units, seed=0).value == 0.75


def test_perfect_agreement_has_alpha_one_with_an_interval() -> None:
    interval = alpha([["a", "a"], ["b", "b"], ["a", "a"]], level="nominal", seed=0)
    assert interval.value == 1.0 and interval.low < 0.5


def test_alpha_of_equal_values_is_nan_and_raw_agreement_is_one() -> None:
    units: list[list[Hashable]] = [["a", "a"]] * 20
    assert math.isnan(alpha(units, level="nominal", seed=0).value)
    assert raw_agreement(units, seed=0).value == 1.0


def test_units_of_a_single_rater_do_not_change_alpha() -> None:
    assert alpha(UNITS, level="nominal", seed=0) == alpha([*UNITS, ["9"], []], level="nominal", seed=0)


def test_random_ratings_have_an_interval_that_covers_zero() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for run in range(60):
        units: list[list[Hashable]] = generator.integers(0, 3, size=(60, 3)).tolist()
        interval = alpha(units, level="nominal", seed=run, resamples=200)
        covered += interval.low <= 0 <= interval.high
    assert covered >= 51


def test_the_last_value_of_a_rater_counts() -> None:
    units = group_by_unit(
        [("ann", "1", "a"), ("bob", "1", "b"), ("ann", "1", "b"), ("ann", "2", "a"), ("bob", "2", "a")]
    )
    assert units["1"] == {"ann": "b", "bob": "b"}
    assert agreement(units, level="nominal", seed=0)["raw_agreement"].value == 1.0


def test_interval_level_needs_numbers() -> None:
    with pytest.raises(ValueError, match="numbers"):
        alpha([["a", "b"]], level="interval", seed=0)
