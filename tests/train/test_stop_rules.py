"""Rules that stop a run: conditions at values worked out by hand, and refusals."""

from __future__ import annotations

from typing import Any

import pytest

from vita.spine.config import build
from vita.spine.errors import ConfigError
from vita.train.stop_rules import StopRule, stop_reason


def rows(*losses: float, metric: str = "heldout_loss") -> list[dict[str, Any]]:
    return [{"step": step, metric: loss} for step, loss in enumerate(losses)]


@pytest.mark.parametrize(
    ("rule", "losses", "stops"),
    [
        ({"below": 2.0}, (3.0, 1.9), True),
        ({"below": 2.0}, (3.0, 2.0), False),
        ({"above": 5.0}, (3.0, 5.1), True),
        ({"patience": 2}, (3.0, 2.0, 2.1, 2.2), True),
        ({"patience": 2}, (3.0, 2.0, 2.1, 1.9), False),
        ({"patience": 2}, (3.0, 2.1, 2.2, 2.0, 2.05), False),
        ({"patience": 2, "min_change": 0.5}, (3.0, 2.8, 2.6), True),
        ({"patience": 2, "min_change": 0.5}, (3.0, 2.8, 2.4), False),
        ({"patience": 2, "from_step": 4}, (3.0, 3.1, 3.2, 3.3), False),
        ({"patience": 2, "from_step": 3}, (3.0, 3.1, 3.2, 3.3), True),
    ],
)
def test_a_rule_applies_at_the_value_worked_out_by_hand(
    rule: dict[str, Any], losses: tuple[float, ...], stops: bool
) -> None:
    rules = [build(StopRule, {"metric": "heldout_loss", **rule}, where="stop_when")]
    assert (stop_reason(rules, rows(*losses)) is not None) is stops


def test_a_step_without_the_metric_does_not_stop_the_run() -> None:
    rule = build(StopRule, {"metric": "heldout_loss", "patience": 1}, where="stop_when")
    measured = rows(2.0, 3.0)
    assert rule.reason(measured) == "heldout_loss has had no new minimum for 1 values; the lowest is 2"
    assert rule.reason([*measured, {"step": 3, "loss": 1.0}]) is None
    assert rule.reason([]) is None


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({}, "set one of below, above and patience, not none"),
        ({"below": 1, "patience": 2}, "set one of below, above and patience, not below and patience"),
        ({"below": 1, "min_change": 0.1}, "`min_change` goes with `patience`"),
    ],
)
def test_a_rule_without_exactly_one_condition_is_refused(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(StopRule, {"metric": "loss", **rule}, where="stop_when")
