"""The ladder, its costs and the recommended run: budgets are met, and known costs and laws are recovered."""

from __future__ import annotations

import math
from functools import cache

import pytest

from vita.design.cost_fit import Costs, MeasuredCost, fit_costs, memory_quantities, non_negative_fit, step_quantities
from vita.design.ladder import Rung, compact, ladder, ladder_life, shapes_between
from vita.design.law_fit import optima
from vita.design.recommendation import LadderRun, LadderText, ScalingStudy, Target, measured_loss, recommend
from vita.design.scaling_law import LawTerms
from vita.life import LifeFile
from vita.spine.config import build
from vita.spine.errors import ConfigError

LAW = LawTerms(floor=0.8, size_bits=0.25, size_power=0.32, data_bits=0.55, data_power=0.29)
TEXT = LadderText(vocabulary=1024, context=256, tokens=20_000_000, bytes_per_token=2.4)
TIME, MEMORY = (0.002, 2e-11, 1e-10, 1e-9), (4e8, 1.1, 1.5)


@cache
def rungs() -> list[Rung]:
    return ladder([3e12, 6e12, 1.2e13], sizes=4, vocabulary=1024, context=256)


@cache
def study() -> ScalingStudy:
    """Return a study of runs that follow a known law and known costs exactly."""
    costs = Costs(TIME, MEMORY)
    runs = []
    for rung in rungs():
        bits = LAW.bits_per_byte(rung.shape.matrix_parameters(), TEXT.bytes_of(rung.plan.tokens))
        seconds = costs.seconds(rung)
        runs.append(LadderRun(rung, bits, seconds / rung.plan.steps, seconds, seconds, costs.memory_bytes(rung)))
    return ScalingStudy.of(runs, TEXT)


def test_every_run_of_the_ladder_uses_its_budget() -> None:
    runs = rungs()
    assert len(runs) == 12 and len({run.name for run in runs}) == 12
    for run in runs:
        flops = run.shape.flops_per_token(256) * run.plan.tokens
        assert flops == pytest.approx(run.flops, rel=0.01)
        assert 32 <= run.shape.width / run.shape.layers <= 96
    for budget in (3e12, 6e12, 1.2e13):
        ratios = [run.plan.tokens / run.shape.matrix_parameters() for run in runs if run.flops == budget]
        assert ratios == sorted(ratios, reverse=True) and ratios[0] / ratios[-1] > 5


def test_the_life_of_a_ladder_is_a_valid_life_file() -> None:
    content = ladder_life(
        "x", rungs(), sources=["notes/"], vocabulary=1024, settings={"seed": 3}, training={"compile": "no"}
    )
    file = build(LifeFile, content, where="ladder")
    assert len(file.stages) == 2 + 3 * 12
    assert file.stages["pretrain-w64-l1-3e12"] == {"stage": "pretrain", "compile": "no"}
    assert (file.stages["design-w64-l1-3e12"] or {})["steps"] == 1313


def test_sufficient_budgets_have_no_models_with_fewer_than_four_heads() -> None:
    runs = ladder([5e13, 1e14], sizes=4, vocabulary=1024, context=256)
    assert min(run.shape.width for run in runs) >= 128 and min(run.shape.heads for run in runs) >= 4


def test_a_budget_that_is_too_small_for_the_sizes_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected 4 sizes with 100 steps or more, got 0 sizes at 1e10 FLOPs"):
        ladder([1e10], sizes=4, vocabulary=1024, context=256)


def test_shapes_have_distinct_sizes_within_the_limits() -> None:
    shapes = shapes_between(1e6, 4e6, vocabulary=4096, context=512)
    sizes = [shape.matrix_parameters() for shape in shapes]
    assert sizes == sorted(sizes) and sizes[0] >= 1e6 and sizes[-1] <= 4e6 and len(sizes) > 5


@pytest.mark.parametrize(("number", "text"), [(1e15, "1e15"), (1.2e13, "1.2e13"), (123_456, "1.23e5")])
def test_numbers_are_written_in_a_short_form(number: float, text: str) -> None:
    assert compact(number) == text


def test_a_negative_coefficient_is_replaced_by_zero() -> None:
    # a = 2 and a + b = 1 need b = -1. Without b, (a / 2 - 1)^2 + (a - 1)^2 is least for a = 1.5 / 1.25.
    assert non_negative_fit([[1, 0], [1, 1]], [2, 1]) == pytest.approx((1.2, 0))
    assert non_negative_fit([[1, 0], [0, 1], [1, 1]], [3, 5, 8]) == pytest.approx((3, 5))


def test_known_costs_are_recovered_from_the_runs() -> None:
    runs = [
        MeasuredCost(
            rung,
            sum(a * b for a, b in zip(TIME, step_quantities(rung), strict=True)),
            sum(a * b for a, b in zip(MEMORY, memory_quantities(rung), strict=True)),
        )
        for rung in rungs()
    ]
    costs = fit_costs(runs)
    (larger,) = ladder([5e13], sizes=1, vocabulary=1024, context=256)
    assert costs.seconds(larger) == pytest.approx(Costs(TIME, MEMORY).seconds(larger), rel=0.01)
    assert costs.memory_bytes(larger) == pytest.approx(Costs(TIME, MEMORY).memory_bytes(larger) or 0, rel=0.01)


def test_the_recommended_run_has_the_lowest_loss_of_the_known_law() -> None:
    recommendation = recommend(Target(flops=5e13), study())
    plan, shape = recommendation.rung.plan, recommendation.rung.shape
    bits = LAW.bits_per_byte(shape.matrix_parameters(), TEXT.bytes_of(plan.tokens))
    assert recommendation.bits.value == pytest.approx(bits, rel=0.002)
    # The optimum of the law with C = 6 N D / 2.4 bytes per token, found on a grid of sizes.
    grid = [10 ** (5 + index / 100) for index in range(200)]
    lowest = min(LAW.bits_per_byte(size, 2.4 * 5e13 / 6 / size) for size in grid)
    assert bits == pytest.approx(lowest, rel=0.02)
    assert recommendation.extrapolation == pytest.approx(5e13 / 1.2e13, rel=0.01)


def test_a_time_becomes_a_run_that_takes_this_time() -> None:
    recommendation = recommend(Target(seconds=600), study())
    assert recommendation.seconds == pytest.approx(600, rel=0.05)


def test_sizes_of_the_ladder_can_be_left_out_of_the_recommendation() -> None:
    measured = study()
    first = recommend(Target(flops=2e13), measured)
    size = first.rung.shape.matrix_parameters()
    assert recommend(Target(flops=2e13), measured, without={size}).rung.shape.matrix_parameters() != size


def test_far_extrapolation_and_repeated_text_have_warnings() -> None:
    warnings = recommend(Target(flops=3e15), study()).warnings
    assert any("times the largest one of the ladder" in warning for warning in warnings)
    near = recommend(Target(flops=2e13), study())
    assert [warning for warning in near.warnings if "narrower than 128" not in warning] == []
    assert near.narrow is (near.rung.shape.width >= 128)


def test_errors_for_sizes_that_were_left_out_are_small_for_exact_runs() -> None:
    errors = study().errors
    assert max(map(abs, errors["loss"])) < 0.005
    assert max(map(abs, errors["time"])) < 0.02 and max(map(abs, errors["memory"])) < 0.02
    assert all(
        math.isfinite(optimum.parameters) for optimum in optima([measured_loss(run, TEXT) for run in study().runs])
    )
