"""The lifecycle state of a model, derived from its state transitions in the ledger."""

from __future__ import annotations

import pytest

from vita.gates.model_state import model_state
from vita.spine.ledger import StateTransition


def move(state: str, time: float, **details: object) -> StateTransition:
    return StateTransition(1, "model", state, "ann", f"became {state}", [], details, time)


@pytest.mark.parametrize(
    "sunset", [86_400.0, 86_400, "1970-01-02", "1970-01-02T00:00:00+00:00", "1970-01-02T02:00+02:00"]
)
def test_a_deprecated_model_is_retired_from_its_sunset_on(sunset) -> None:
    state = model_state([move("serving", 1.0), move("deprecated", 100.0, sunset=sunset, successor="next")])
    assert state.at(86_399.0).state == "deprecated" and state.at(86_399.0).since == 100.0
    assert state.at(86_400.0).state == "retired" and state.at(86_400.0).since == 86_400.0
    assert state.successor == "next"


def test_later_details_of_the_same_state_are_added_and_do_not_change_its_time() -> None:
    moves = [move("retired", 5.0, research=True), move("retired", 9.0, archive="sealed")]
    assert model_state(moves).since == 5.0 and model_state(moves).for_research
    assert not model_state([move("deprecated", 1.0, research=True), *moves[1:]]).for_research


def test_a_model_without_moves_is_a_candidate() -> None:
    assert model_state([]).at(1e12).state == "candidate"
