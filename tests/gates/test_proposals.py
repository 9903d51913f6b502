"""A failed re-test proposes a change; only the signed decision of a named person carries it out."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import sqlalchemy as sa

from tests.cards.lives import Life
from tests.cli.test_cli import Vita, vita
from tests.cli.test_gates import FIGURE, life, measure, set_criterion
from vita.gates.failed_criteria import failed_criteria
from vita.gates.proposals import Proposal, all_proposals, proposals, propose
from vita.server.service.admin import ServiceHandle

__all__ = ["life", "vita"]

WORSE = {"figure": FIGURE, "worse_by": {"value": 0.2, "low": 0.1, "high": 0.3, "n": 100}, "p_value": 0.001,
         "message": "world/accuracy is worse by 0.200 (0.100 to 0.300) (p = 0.001)"}  # fmt: skip


def _propose(life: Life, action: Any = "deprecate") -> int:
    model = str(life.ledger.named("cat/sft"))
    command = "vita deprecate cat:1 --sunset 30d --by NAME"
    figures = {"worse": [WORSE], "failed": []}
    return propose(life.ledger, Proposal("cat", "cat:1", model, action, "cat/check", "it is worse", command, figures))


@pytest.fixture
def ada(vita: Vita, life: Life) -> str:
    assert vita("people", "add", "Ada")[0] == 0
    return "Ada"


def test_an_open_proposal_is_not_repeated(life: Life) -> None:
    assert _propose(life) == _propose(life) == 1
    assert _propose(life, "rollback") == 2


def test_an_accepted_deprecation_is_signed_and_carried_out(life: Life, vita: Vita, ada: str) -> None:
    number, model = str(_propose(life)), str(life.ledger.named("cat/sft"))
    out = vita("proposals", "show", number)[1]
    assert "world/accuracy is worse by 0.200 (0.100 to 0.300)" in out and "vita deprecate cat:1" in out
    assert life.ledger.state(model) == "candidate", "a proposal changes nothing"
    code, _, err = vita("proposals", "accept", number, "--by", "Bob")
    assert code == 9 and "`Bob` has no registered key" in err and life.ledger.state(model) == "candidate"
    code, out, err = vita("proposals", "accept", number, "--by", ada, "--json")
    assert code == 0, err
    row = json.loads(out)
    assert (row["state"], row["decided_by"]) == ("accepted", "Ada")
    assert life.ledger.state(model) == "deprecated"
    assert life.ledger.moves(model)[-1].details["sunset"] > time.time() + 29 * 86400
    code, _, err = vita("proposals", "decline", number, "--by", ada, "--reason", "late")
    assert code == 9 and "was accepted by Ada" in err
    assert "accepted by Ada" in vita("proposals", "list", "--all")[1]
    assert vita("proposals", "list", "--json")[1].strip() == "[]"


def test_a_declined_proposal_changes_nothing_and_a_new_failure_proposes_again(life: Life, vita: Vita, ada: str) -> None:
    number, model = str(_propose(life)), str(life.ledger.named("cat/sft"))
    code, out, err = vita("proposals", "decline", number, "--by", ada, "--reason", "the test data changed")
    assert code == 0 and "declined" in out, err
    assert life.ledger.state(model) == "candidate"
    assert "the test data changed" in vita("proposals", "show", number)[1]
    assert _propose(life) == 2


def test_a_decision_does_not_count_for_a_proposal_that_was_edited(life: Life, vita: Vita, ada: str) -> None:
    number = _propose(life)
    assert vita("proposals", "decline", str(number), "--by", ada, "--reason", "no")[0] == 0
    with life.ledger.transaction() as database:
        database.execute(sa.update(proposals).values(reason="something else"))
    ((_, decision),) = all_proposals(life.ledger)
    assert decision is None


class FakeService:
    """Stand-in for a running service."""

    def __init__(self, *models: str) -> None:
        self.versions = [{"version": model, "model": model} for model in models]
        self.calls: list[str] = []

    def call(self, method: str, path: str) -> Any:
        self.calls.append(f"{method} {path}")
        return self

    def json(self) -> Any:
        return {"versions": self.versions}


def test_an_accepted_rollback_ends_only_the_proposed_version(
    life: Life, vita: Vita, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, model = str(_propose(life, "rollback")), str(life.ledger.named("cat/sft"))
    service = FakeService(model, "newer")
    monkeypatch.setattr(ServiceHandle, "find", lambda *_: service)
    code, _, err = vita("proposals", "accept", number, "--by", ada)
    assert code == 9 and "is no longer the newest of several versions" in err
    assert "POST /rollback" not in service.calls
    service.versions.reverse()
    code, _, err = vita("proposals", "accept", number, "--by", ada)
    assert code == 0 and service.calls[-1] == "POST /rollback", err


def test_the_criteria_of_all_gates_of_a_life_apply_to_a_new_report(life: Life) -> None:
    set_criterion(life, "cat/release", at_least=0.8)
    set_criterion(life, "cat/other", at_least=0.2)
    set_criterion(life, "dog/release", at_least=0.99)
    measure(life, correct=50)
    model, report = (str(life.ledger.named(f"cat/{name}")) for name in ("sft", "check"))
    folder = life.store.open(report).path
    (result,) = failed_criteria(life.ledger, "cat/check", folder, digest=report, model=model)
    assert str(result.criterion) == f"check:{FIGURE} at least 0.8" and result.value is not None
    assert not failed_criteria(life.ledger, "cat/elsewhere", folder, digest=report, model=model)
