"""The step filter skips outliers and non-finite steps, and no healthy step."""

from __future__ import annotations

import json
import math
import random

import pytest

from vita.spine.errors import TrainingError
from vita.train.step_filter import StepFilter


def judge_healthy_steps(step_filter: StepFilter, count: int, *, seed: int = 0, start: int = 0) -> list[str | None]:
    """Judge steps with a falling noisy loss and gradient norms over several orders of magnitude."""
    random_source = random.Random(seed)
    return [
        step_filter.judge(
            step,
            loss=3.0 + 5 * math.exp(-step / 50) + 0.1 * random_source.gauss(0, 1),
            gradient_norm=math.exp(random_source.gauss(0, 0.7)),
        )
        for step in range(start, start + count)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_noisy_steps_are_not_skipped(seed):
    assert judge_healthy_steps(StepFilter(), 2000, seed=seed) == [None] * 2000


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_steps_are_skipped_and_do_not_affect_later_steps(value):
    step_filter = StepFilter()
    assert step_filter.judge(0, loss=value, gradient_norm=1.0) == f"loss {value}"
    assert step_filter.judge(1, loss=1.0, gradient_norm=value) == f"gradient norm {value}"
    assert judge_healthy_steps(step_filter, 300) == [None] * 300
    assert step_filter.judge(301, loss=value, gradient_norm=1.0)
    assert judge_healthy_steps(step_filter, 300, seed=1, start=300) == [None] * 300
    assert step_filter.skipped == 3


def test_a_spike_is_skipped_and_a_sudden_improvement_is_not():
    step_filter = StepFilter()
    judge_healthy_steps(step_filter, 200)
    assert "loss 9 is an outlier (recent median 3" in (step_filter.judge(201, loss=9.0, gradient_norm=1.0) or "")
    assert "gradient norm 1e+06 is an outlier" in (step_filter.judge(202, loss=3.0, gradient_norm=1e6) or "")
    assert step_filter.judge(203, loss=0.5, gradient_norm=1e-6) is None


def test_too_many_skipped_steps_in_a_row_stop_the_run_with_advice():
    step_filter = StepFilter(patience=3)
    assert step_filter.judge(0, loss=math.nan, gradient_norm=1.0)
    assert step_filter.judge(1, loss=math.nan, gradient_norm=1.0)
    with pytest.raises(TrainingError, match=r"training, step 2: 3 steps in a row .* loss nan; lower the learning"):
        step_filter.judge(2, loss=math.nan, gradient_norm=1.0)


def test_a_restored_step_filter_gives_the_same_verdicts():
    step_filter, restored = StepFilter(), StepFilter()
    judge_healthy_steps(step_filter, 100)
    restored.load(json.loads(json.dumps(step_filter.state())))
    assert judge_healthy_steps(step_filter, 50, seed=2, start=100) == judge_healthy_steps(
        restored, 50, seed=2, start=100
    )
    assert step_filter.state() == restored.state()
