"""Which steps are left out, and that healthy ones never are."""

from __future__ import annotations

import json
import math
import random

import pytest

from vita.spine.errors import TrainingError
from vita.train.step_filter import StepFilter


def healthy(guard: StepFilter, count: int, *, seed: int = 0, begun: int = 0) -> list[str | None]:
    """A falling loss with noise, and gradients whose lengths are spread over orders of magnitude."""
    chance = random.Random(seed)
    return [
        guard.judge(
            step,
            loss=3.0 + 5 * math.exp(-step / 50) + 0.1 * chance.gauss(0, 1),
            gradient_norm=math.exp(chance.gauss(0, 0.7)),
        )
        for step in range(begun, begun + count)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_never_punished(seed):
    assert healthy(StepFilter(), 2000, seed=seed) == [None] * 2000


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_left_out_and_poisons_nothing(bad):
    guard = StepFilter()
    assert guard.judge(0, loss=bad, gradient_norm=1.0) == f"loss {bad}"
    assert guard.judge(1, loss=1.0, gradient_norm=bad) == f"gradient norm {bad}"
    assert healthy(guard, 300) == [None] * 300
    assert guard.judge(301, loss=bad, gradient_norm=1.0)
    assert healthy(guard, 300, seed=1, begun=300) == [None] * 300
    assert guard.skipped == 3


def test_a_spike_is_left_out_and_a_good_surprise_is_not():
    guard = StepFilter()
    healthy(guard, 200)
    assert "loss 9 is an outlier (recent median 3" in (guard.judge(201, loss=9.0, gradient_norm=1.0) or "")
    assert "gradient norm 1e+06 is an outlier" in (guard.judge(202, loss=3.0, gradient_norm=1e6) or "")
    assert guard.judge(203, loss=0.5, gradient_norm=1e-6) is None


def test_too_many_in_a_row_end_the_run_with_advice():
    guard = StepFilter(patience=3)
    assert guard.judge(0, loss=math.nan, gradient_norm=1.0)
    assert guard.judge(1, loss=math.nan, gradient_norm=1.0)
    with pytest.raises(TrainingError, match=r"training, step 2: 3 steps in a row .* loss nan; lower the learning"):
        guard.judge(2, loss=math.nan, gradient_norm=1.0)


def test_a_restored_guard_judges_alike():
    guard, other = StepFilter(), StepFilter()
    healthy(guard, 100)
    other.load(json.loads(json.dumps(guard.state())))
    assert healthy(guard, 50, seed=2, begun=100) == healthy(other, 50, seed=2, begun=100)
    assert guard.state() == other.state()
