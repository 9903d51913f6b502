"""Proposals to roll back or deprecate a version, with the figures that are the reason.

    number = propose(ledger, Proposal("cat", "cat:2", digest, "rollback", "cat/test_chat", reason, command, figures))
    decide(ledger, proposal, "accepted", who="Ada Lovelace", key=private_key)

Failed re-tests create proposals. A proposal takes effect only after a person has accepted it. The person signs the
decision, as for an approval. The first valid decision counts.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import sqlalchemy as sa

from vita.gates import approvals
from vita.gates.approvals import SignedStatement
from vita.gates.people import person_of
from vita.spine.errors import GateError
from vita.spine.ledger import Ledger, add_event
from vita.spine.store import canonical_json
from vita.spine.tables import table

Action = Literal["deprecate", "rollback"]
Decision = Literal["accepted", "declined"]
proposals = table(
    "proposals", string="service version model action test", text="reason command", real="at", json="figures"
)

_CHANGE = ("version", "model", "action", "test")
"""Fields that identify the proposed change."""


@dataclass(frozen=True)
class Proposal:
    """A proposed change of a service."""

    service: str
    version: str
    model: str
    """The digest of the weights."""
    action: Action
    test: str
    """The repeated test: `life/step`."""
    reason: str
    command: str
    """The equivalent command."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """The failed criteria and the figures that are worse than before, with their intervals."""
    at: float = 0.0
    id: int | None = None

    @property
    def digest(self) -> str:
        """The digest of the content, which a decision signs."""
        return hashlib.sha256(canonical_json(asdict(self))).hexdigest()


@dataclass(frozen=True)
class ProposalDecision:
    """A person's decision on a proposal."""

    decision: str
    who: str
    reason: str
    at: float


def propose(ledger: Ledger, proposal: Proposal) -> int:
    """Record a proposal and return its number; if the same change is already proposed, return the open proposal."""
    with ledger.exclusive(f"proposals of {proposal.service}") as database:
        for earlier in _read(database, service=proposal.service):
            is_same = all(getattr(earlier, name) == getattr(proposal, name) for name in _CHANGE)
            if is_same and earlier.id is not None and decision_on(ledger, earlier) is None:
                return earlier.id
        values = {**asdict(proposal), "at": time.time()}
        values.pop("id")
        number = int(database.execute(sa.insert(proposals).values(values).returning(proposals.c.id)).scalar_one())
        details = {"service": proposal.service, "version": proposal.version, "action": proposal.action}
        add_event(database, "proposed", proposal.model, proposal=number, **details)
    return number


def all_proposals(ledger: Ledger, *, service: str | None = None) -> list[tuple[Proposal, ProposalDecision | None]]:
    """Return the proposals, of one service or of all, oldest first, with the decisions on them."""
    with ledger.transaction() as database:
        recorded = _read(database, service=service)
    return [(proposal, decision_on(ledger, proposal)) for proposal in recorded]


def proposal_of(ledger: Ledger, number: int) -> Proposal:
    """Return the proposal with this number."""
    with ledger.transaction() as database:
        recorded = [proposal for proposal in _read(database) if proposal.id == number]
    if not recorded:
        raise GateError(f"proposal {number}", "does not exist", hint="`vita proposals list --all` lists the proposals")
    return recorded[0]


def decision_on(ledger: Ledger, proposal: Proposal) -> ProposalDecision | None:
    """Return the first valid decision on a proposal; a decision on other content does not count."""
    valid, _ = approvals.statements(ledger, _gate(proposal), proposal.model, kind="proposal decision")
    for statement, person in valid:
        if statement.policy == proposal.digest:
            return ProposalDecision(statement.verdict, person.name, statement.reason, statement.at)
    return None


def decide(ledger: Ledger, proposal: Proposal, decision: Decision, *, who: str, key: Any, reason: str = "") -> None:
    """Record a person's signed decision; raises `GateError` if the proposal is already decided."""
    if (earlier := decision_on(ledger, proposal)) is not None:
        raise GateError(f"proposal {proposal.id}", f"was {earlier.decision} by {earlier.who}")
    person = person_of(ledger, who)
    statement = SignedStatement(
        "proposal decision",
        _gate(proposal),
        proposal.model,
        proposal.digest,
        decision,
        person.name,
        reason,
        time.time(),
    )
    approvals.add(ledger, statement, person=person, key=key)


def _gate(proposal: Proposal) -> str:
    return f"proposal/{proposal.id}"


def _read(database: sa.Connection, *, service: str | None = None) -> Sequence[Proposal]:
    query = sa.select(proposals).order_by(proposals.c.id)
    if service is not None:
        query = query.where(proposals.c.service == service)
    return [Proposal(**row) for row in database.execute(query).mappings()]
