"""Approvals and waivers: signed statements of people about a model at a gate, or about a policy, kept in the ledger.

    add(ledger, SignedStatement("approval", gate, model, ...), key=private_key)
    valid, rejected = statements(ledger, gate, model, kind="approval")

A statement counts only with a valid signature over all of its fields, by the registered key of the named person. A row
that was written or edited directly in the database does not count, and is reported.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import sqlalchemy as sa

from vita.gates.people import Person, all_people, same_name
from vita.spine import signing
from vita.spine.errors import GateError, StoreError
from vita.spine.ledger import Ledger, add_event
from vita.spine.store import canonical_json
from vita.spine.tables import table

Kind = Literal["approval", "waiver", "curation approval", "proposal decision"]
_DONE: dict[Kind, str] = {
    "approval": "approved these weights", "curation approval": "approved this policy for this corpus",
    "proposal decision": "decided on this proposal",
}  # fmt: skip

approvals = table(
    "approvals", string="gate artifact kind who reason bar policy verdict key signature", real="expires at"
)


@dataclass(frozen=True)
class SignedStatement:
    """The statement that a person signs."""

    kind: Kind
    gate: str
    artifact: str
    """The digest of the model; for a curation policy, the fingerprint of the corpus."""
    policy: str
    """The digest of the gate's policy at the time of signing, or of the curation policy."""
    verdict: str
    """The gate's verdict at the time of signing; empty for a curation policy."""
    who: str
    reason: str
    at: float
    bar: str | None = None
    """The criterion that is waived; None for all."""
    expires: float | None = None

    def encode(self) -> bytes:
        """Return the signed bytes: canonical JSON of all fields."""
        return b"vita approval v1\n" + canonical_json(asdict(self))


def add(ledger: Ledger, statement: SignedStatement, *, person: Person, key: Any) -> None:
    """Sign a statement with a person's private key and record it; a repeated approval is refused.

    The check and the new row are one exclusive transaction, so that exactly one of several concurrent approvals with
    the key of one person succeeds.
    """
    if signing.key_id(key.public_key()) != person.key:
        raise GateError(
            f"gate {statement.gate}",
            expected=f"the key {person.key[:12]}, which {person.name} registered",
            got=signing.key_id(key.public_key())[:12],
        )
    signature = base64.b64encode(signing.sign_bytes(statement.encode(), key)).decode()
    row = {**asdict(statement), "key": person.key, "signature": signature}
    details = {name: value for name, value in row.items() if name not in ("kind", "artifact", "signature", "at")}
    registered = all_people(ledger)
    with ledger.exclusive(f"approvals of {statement.gate}") as database:
        if statement.kind != "waiver":
            valid, _ = _read_statements(database, registered, statement.gate, statement.artifact, kind=statement.kind)
            _refuse_repeated(statement, person, valid)
        database.execute(sa.insert(approvals).values(row))
        add_event(database, statement.kind, statement.artifact, **details)


def _refuse_repeated(
    statement: SignedStatement, person: Person, earlier: Sequence[tuple[SignedStatement, Person]]
) -> None:
    """Raise if the person has approved the same model or corpus under the same policy."""
    for approval, signer in earlier:
        same_person = signer.key == person.key or same_name(signer.name, person.name)
        if same_person and approval.policy == statement.policy:
            done = _DONE[statement.kind]
            raise GateError(f"gate {statement.gate}", f"{person.name} has {done} already")


def statements(
    ledger: Ledger, gate: str, model: str, *, kind: Kind
) -> tuple[list[tuple[SignedStatement, Person]], list[str]]:
    """Return the valid statements with their signers, oldest first, and the reasons why other rows do not count."""
    registered = all_people(ledger)
    with ledger.transaction() as database:
        return _read_statements(database, registered, gate, model, kind=kind)


def _read_statements(
    database: sa.Connection, people: Sequence[Person], gate: str, model: str, *, kind: Kind
) -> tuple[list[tuple[SignedStatement, Person]], list[str]]:
    """Read the statements of the database, and verify them with the registered keys."""
    same = (approvals.c.gate == gate, approvals.c.artifact == model, approvals.c.kind == kind)
    query = sa.select(approvals).where(*same).order_by(approvals.c.id)
    rows = [dict(row) for row in database.execute(query).mappings()]
    registered = {person.key: person for person in people}
    valid: list[tuple[SignedStatement, Person]] = []
    rejected: list[str] = []
    for row in rows:
        statement = SignedStatement(**{name: row[name] for name in SignedStatement.__dataclass_fields__})
        if problem := _problem(row, statement, registered.get(row["key"])):
            rejected.append(f"the {kind} of {row['who']} does not count: {problem}")
        else:
            valid.append((statement, registered[row["key"]]))
    return valid, rejected


def _problem(row: Mapping[str, Any], statement: SignedStatement, person: Person | None) -> str | None:
    """Return the reason why a row does not count, or None."""
    if not row["signature"]:
        return "it is not signed"
    if person is None:
        return "its key is not registered"
    if person.revoked is not None and statement.at >= person.revoked:
        return "its key was revoked"
    if not same_name(person.name, statement.who):
        return f"its key is {person.name}'s"
    try:
        signature = base64.b64decode(row["signature"], validate=True)
        public = signing.public_from_text(person.public_key, where=f"the key of {person.name}")
        fits = signing.verifies(statement.encode(), signature, public)
    except (binascii.Error, StoreError, ValueError, TypeError):
        fits = False
    return None if fits else "its signature does not match its content"
