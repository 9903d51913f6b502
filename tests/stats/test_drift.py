"""Drift: sizes agree with simple implementations, and the test keeps its false-alarm rate at any number of looks."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vita.stats.drift import DriftTest, energy_shift
from vita.stats.intervals import wilson


def _plain_energy(reference: np.ndarray, sample: np.ndarray) -> float:
    def mean_distance(first: np.ndarray, second: np.ndarray, *, same: bool) -> float:
        values = [
            float(np.linalg.norm(a - b))
            for i, a in enumerate(first)
            for j, b in enumerate(second)
            if not (same and i == j)
        ]
        return float(np.mean(values))

    within = mean_distance(reference, reference, same=True)
    across = mean_distance(reference, sample, same=False)
    return (2 * across - within - mean_distance(sample, sample, same=True)) / within


def test_the_energy_shift_equals_a_plain_implementation() -> None:
    chance = np.random.default_rng(0)
    reference, sample = chance.normal(size=(12, 3)), chance.normal(size=(7, 3)) + 0.5
    assert energy_shift(reference, sample, seed=0).value == pytest.approx(_plain_energy(reference, sample))


def test_the_interval_of_the_shift_covers_the_true_value() -> None:
    chance = np.random.default_rng(1)
    many = [chance.normal(size=(2000, 4)) + shift for shift in (0.0, 0.7)]
    truth = energy_shift(many[0], many[1][:1000], seed=0).value
    covered = 0
    for _ in range(40):
        reference, sample = chance.normal(size=(150, 4)), chance.normal(size=(80, 4)) + 0.7
        interval = energy_shift(reference, sample, seed=2)
        covered += interval.low <= truth <= interval.high
    assert wilson(covered, 40).high >= 0.95


def _p_value(chance: np.random.Generator, *, looks: int, shift: float = 0.0) -> float:
    test = DriftTest(chance.normal(size=100).tolist())
    for look in range(looks):
        test.look((chance.normal(size=20) + shift).tolist(), seed=look)
    return test.p_value


@pytest.mark.parametrize("level", [0.05, 0.2])
def test_false_alarms_at_any_of_many_looks_are_at_most_as_frequent_as_the_level(level: float) -> None:
    alarms = sum(_p_value(np.random.default_rng(seed), looks=10) <= level for seed in range(300))
    assert wilson(alarms, 300).low <= level, f"{alarms} of 300"
    assert alarms <= 300 * level + 3 * (300 * level * (1 - level)) ** 0.5


@pytest.mark.parametrize("shift", [1.0, -1.0])
def test_a_shift_in_either_direction_is_detected(shift: float) -> None:
    assert all(_p_value(np.random.default_rng(seed), looks=5, shift=shift) < 0.01 for seed in range(10))


def test_a_shift_after_many_looks_without_one_is_detected() -> None:
    chance = np.random.default_rng(3)
    test = DriftTest(chance.normal(size=100).tolist())
    for look in range(40):
        assert test.look(chance.normal(size=20).tolist(), seed=look) > 0.01
    for look in range(40, 46):
        test.look((chance.normal(size=20) + 1.5).tolist(), seed=look)
    assert test.p_value < 0.01


def test_equal_scores_are_no_drift() -> None:
    test = DriftTest([1.0] * 50)
    for look in range(10):
        test.look([1.0] * 20, seed=look)
    assert test.p_value > 0.05


def test_a_restored_test_continues_exactly() -> None:
    chance = np.random.default_rng(4)
    calibration = chance.normal(size=50).tolist()
    batches = [chance.normal(size=20).tolist() for _ in range(4)]
    whole = DriftTest(calibration)
    p_values = [whole.look(batch, seed=look) for look, batch in enumerate(batches)]
    resumed = DriftTest(calibration)
    for look, batch in enumerate(batches):
        state = json.loads(json.dumps(resumed.state()))
        resumed = DriftTest(calibration)
        resumed.restore(state, [score for earlier in batches[:look] for score in earlier])
        assert resumed.look(batch, seed=look) == p_values[look]
