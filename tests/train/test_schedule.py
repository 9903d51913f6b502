"""The learning rate as a function of the step."""

from __future__ import annotations

import pytest

from vita.spine.config import build
from vita.spine.errors import ConfigError
from vita.train.schedule import SCHEDULES, Schedule, lr_multiplier


@pytest.mark.parametrize("name", SCHEDULES.names())
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 5), (7, 3), (100, 10)])
def test_every_course_rises_in_the_warmup_and_never_after(name, steps, warmup):
    schedule = Schedule(steps=steps, name=name, warmup=warmup, final=0.1)
    shares = [lr_multiplier(schedule, step) for step in range(steps)]
    assert all(0 < value <= 1 for value in shares)
    rising = shares[: min(warmup, steps - 1)]
    assert rising == sorted(rising)
    assert shares[len(rising) :] == sorted(shares[len(rising) :], reverse=True)
    assert shares[len(rising)] == 1.0
    assert shares[-1] >= 0.1


def test_courses_worked_by_hand():
    def at(step: int, **changes: object) -> float:
        return lr_multiplier(Schedule.model_validate({"steps": 10, **changes}), step)

    assert [at(step, warmup=4) for step in range(5)] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert [at(step, decay=0.4) for step in (0, 6, 7, 9)] == pytest.approx([1.0, 1.0, 0.75, 0.25])
    assert at(5, name="cosine", final=0.2) == pytest.approx(0.6)
    assert at(5, name="linear", final=0.2) == pytest.approx(0.6)
    assert at(9, name="constant") == 1.0


def test_an_unknown_course_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"schedule: `cosin` is not known here; did you mean `cosine`\?"):
        build(Schedule, {"steps": 3, "name": "cosin"}, where="training")
