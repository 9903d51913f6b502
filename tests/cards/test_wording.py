"""The main result of a step in a few words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from vita.cards.life_record import StepRecord
from vita.cards.wording import headline


@pytest.mark.parametrize(
    ("stage", "facts", "expected"),
    [
        ("pilot", {"sessions": 300, "answers": 497, "complaint_rate": 0.7364}, "complaint rate 74% of 497 answers"),
        (
            "refine",
            {"kept_edit": 0, "pairs": 107, "dialogues": 0, "rated": 61, "dropped": 8},
            "107 pairs, 0 dialogues, 61 rated answers, 8 records dropped",
        ),
    ],
)
def test_feedback_steps_have_a_headline_with_numbers(stage: str, facts: dict[str, Any], expected: str) -> None:
    run = cast(Any, SimpleNamespace(stage=stage, config={}, record={}))
    assert headline(StepRecord(stage, "1" * 64, "feedback", facts, run, {})) == expected
