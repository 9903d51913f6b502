"""The learning rate as a function of the step."""

from __future__ import annotations

import pytest

from vita.spine.config import build
from vita.spine.errors import ConfigError
from vita.train.schedule import SCHEDULES, Schedule, lr_multiplier


@pytest.mark.parametrize("name", SCHEDULES.names())
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 5), (7, 3), (100, 10)])
def test_every_schedule_rises_in_the_warmup_and_never_after(name, steps, warmup):
    schedule = Schedule(steps=steps, name=name, warmup=warmup, final=0.1)
    multipliers = [lr_multiplier(schedule, step) for step in range(steps)]
    assert all(0 < value <= 1 for value in multipliers)
    rising = multipliers[: min(warmup, steps - 1)]
    assert rising == sorted(rising)
    assert multipliers[len(rising) :] == sorted(multipliers[len(rising) :], reverse=True)
    assert multipliers[len(rising)] == 1.0
    assert multipliers[-1] >= 0.1


def test_schedules_worked_by_hand():
    def multiplier_at(step: int, **changes: object) -> float:
        return lr_multiplier(Schedule.model_validate({"steps": 10, **changes}), step)

    assert [multiplier_at(step, warmup=4) for step in range(5)] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert [multiplier_at(step, decay=0.4) for step in (0, 6, 7, 9)] == pytest.approx([1.0, 1.0, 0.75, 0.25])
    assert multiplier_at(5, name="cosine", final=0.2) == pytest.approx(0.6)
    assert multiplier_at(5, name="linear", final=0.2) == pytest.approx(0.6)
    assert multiplier_at(9, name="constant") == 1.0


def test_an_unknown_schedule_is_refused_with_the_closest_name():
    with pytest.raises(ConfigError, match=r"schedule: `cosin` is not known here; did you mean `cosine`\?"):
        build(Schedule, {"steps": 3, "name": "cosin"}, where="training")
