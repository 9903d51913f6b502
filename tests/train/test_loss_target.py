"""The step and the training time of the first evaluation at or below a target."""

from __future__ import annotations

import pytest

from vita.train import loss_target
from vita.train.loss_target import TrainingClock, reached_target

ROWS = [
    {"step": 0, "heldout_loss": 5.0},
    {"step": 1, "loss": 1.0, "training_seconds": 2.0},
    {"step": 2, "loss": 4.0, "heldout_loss": 3.3, "training_seconds": 4.5},
    {"step": 4, "loss": 4.0, "heldout_loss": 3.28, "training_seconds": 9.0},
    {"step": 6, "loss": 4.0, "heldout_loss": 3.1, "training_seconds": 13.5},
]


def test_the_first_evaluation_at_or_below_the_target_counts() -> None:
    assert reached_target(ROWS, target=3.28) == {"loss": 3.28, "step": 4, "seconds": 9.0}
    assert reached_target(ROWS, target=3.0) is None
    curve = [{name: value for name, value in row.items() if name != "training_seconds"} for row in ROWS]
    assert reached_target(curve, target=3.3) == {"loss": 3.3, "step": 2}


def test_the_clock_counts_steps_only(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([10.0, 12.0, 50.0, 51.5])
    monkeypatch.setattr(loss_target.time, "perf_counter", lambda: next(moments))
    clock = TrainingClock("cpu", seconds=100.0)
    for _ in range(2):  # an evaluation between the two steps takes 38 seconds
        clock.start()
        clock.stop(wait=True)
    assert clock.seconds == 103.5
