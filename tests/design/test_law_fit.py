"""The fit of a scaling law: it recovers known laws, resists one wrong run, and covers the truth with its interval."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from vita.design.law_fit import MeasuredLoss, fit_law, left_out_errors, optima, size_exponent
from vita.design.scaling_law import FittedLaw, LawTerms, read_law
from vita.spine.errors import ConfigError, DataError

TRUE = LawTerms(floor=0.8, size_bits=0.25, size_power=0.32, data_bits=0.55, data_power=0.29)
BUDGETS, SIZES = (3e12, 6e12, 1.2e13), (120e3, 210e3, 320e3, 560e3)


def runs(noise: float = 0.0, seed: int = 0) -> list[MeasuredLoss]:
    """Return runs of the true law at 2.4 bytes per token, with relative noise."""
    random = np.random.default_rng(seed)
    results = []
    for flops in BUDGETS:
        for size in SIZES:
            text_bytes = 2.4 * flops / 6 / size
            loss = TRUE.bits_per_byte(size, text_bytes) * math.exp(noise * random.normal())
            results.append(MeasuredLoss(round(size), text_bytes, flops, loss))
    return results


def test_a_known_law_predicts_a_larger_budget_within_a_thousandth() -> None:
    law = fit_law(runs(), samples=20)
    assert law.bits_per_byte(600e3, 20e6) == pytest.approx(TRUE.bits_per_byte(600e3, 20e6), rel=1e-3)
    assert law.bits_per_byte(1.2e6, 80e6) == pytest.approx(TRUE.bits_per_byte(1.2e6, 80e6), rel=5e-3)


@pytest.mark.slow
def test_the_prediction_interval_covers_the_truth_and_grows_with_the_distance() -> None:
    covered = 0
    for seed in range(10):
        law = fit_law(runs(noise=0.003, seed=seed), samples=50, seed=seed)
        near, far = law.interval(600e3, 20e6), law.interval(2.4e6, 400e6)
        covered += near.low <= TRUE.bits_per_byte(600e3, 20e6) <= near.high
        assert (far.high - far.low) / far.value > (near.high - near.low) / near.value
    assert covered >= 7


def test_one_wrong_run_changes_the_prediction_little() -> None:
    wrong = runs(noise=0.001)
    wrong[5] = MeasuredLoss(wrong[5].parameters, wrong[5].text_bytes, wrong[5].flops, wrong[5].bits_per_byte * 1.3)
    predicted = fit_law(wrong, samples=1).bits_per_byte(600e3, 20e6)
    assert predicted == pytest.approx(TRUE.bits_per_byte(600e3, 20e6), rel=0.01)


def test_sizes_that_are_left_out_are_predicted() -> None:
    errors = left_out_errors(runs())
    assert len(errors) == 12 and max(map(abs, errors)) < 0.005


def test_the_optimum_of_a_budget_is_the_vertex_of_its_parabola() -> None:
    measured = [MeasuredLoss(round(1e5 * factor), 1e6, 6e12, 2 + 0.1 * math.log(factor) ** 2) for factor in (0.5, 1, 4)]
    (optimum,) = optima(measured)
    assert optimum.parameters == pytest.approx(1e5, rel=1e-3)
    assert optimum.bits_per_byte == pytest.approx(2.0, abs=1e-6)


def test_a_budget_whose_losses_only_fall_has_no_optimum() -> None:
    falling = [
        MeasuredLoss(size, 1e6, 6e12, 2 - 0.1 * index) for index, size in enumerate((10**5, 2 * 10**5, 4 * 10**5))
    ]
    assert optima(falling) == []


def test_the_optimal_size_grows_with_the_share_of_the_data_exponent() -> None:
    # Hoffmann et al. 2022: 0.28 / (0.34 + 0.28)
    assert size_exponent(LawTerms(1.0, 1.0, 0.34, 1.0, 0.28)) == pytest.approx(0.4516, abs=1e-4)


@pytest.mark.parametrize(
    ("measured", "message"),
    [
        (runs()[:5], "expected at least 6 runs, got 5"),
        ([MeasuredLoss(10**5, 1e6 * i, 1e12, 2.0) for i in range(1, 8)], "at least two sizes"),
        ([MeasuredLoss(10**5 * i, 1e6, 1e12, 2.0) for i in range(1, 8)], "at least two amounts of text"),
        ([*runs(), MeasuredLoss(10**5, 1e6, 1e12, math.nan)], "a positive finite loss"),
    ],
)
def test_runs_that_do_not_determine_a_law_are_refused(measured: list[MeasuredLoss], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit_law(measured)


def test_a_law_is_read_as_it_was_written(tmp_path: Path) -> None:
    import json

    law = fit_law(runs(noise=0.002), samples=5)
    (tmp_path / "law.json").write_text(json.dumps({"law": law.as_json()}))
    assert read_law(tmp_path / "law.json") == law
    assert isinstance(law, FittedLaw)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"law": {"floor": 1}}'])
def test_another_file_is_not_a_law(tmp_path: Path, content: str) -> None:
    (tmp_path / "law.json").write_text(content)
    with pytest.raises(ConfigError, match="expected a law.json of `vita scaling`"):
        read_law(tmp_path / "law.json")
