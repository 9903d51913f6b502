"""Approvals of curation policies: signed like those of gates, and valid for one corpus and one version of the rules.

approve_policy(ledger, policy, digest, who="Ada Lovelace", key=private_key)
approvals = require_approved_policy(ledger, policy, digest, corpus, where="curate.policy")
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from vita.data.curation.policy import CorpusFingerprint, CurationPolicy
from vita.gates.approvals import SignedStatement, add, statements
from vita.gates.approvals import approvals as approvals_table
from vita.gates.people import people_table, person_of
from vita.spine.errors import GateError
from vita.spine.ledger import Ledger

GATE = "curation"
"""The gate of these statements; the gates of lives have a slash in their names."""


@dataclass(frozen=True)
class PolicyApproval:
    """A valid approval of a policy."""

    who: str
    at: float
    """Seconds since 1970."""
    reason: str
    key: str
    """The sha256 of the public key."""


def approve_policy(
    ledger: Ledger, policy: CurationPolicy, digest: str, *, who: str, key: Any, reason: str = ""
) -> PolicyApproval:
    """Record a person's approval of a policy with this digest for its corpus; `key` signs it."""
    person = person_of(ledger, who)
    statement = SignedStatement(
        "curation approval", GATE, policy.corpus.fingerprint, digest, "", person.name, reason, time.time()
    )
    add(ledger, statement, person=person, key=key)
    return PolicyApproval(person.name, statement.at, reason, person.key)


def policy_approvals(
    ledger: Ledger, policy: CurationPolicy, digest: str
) -> tuple[list[PolicyApproval], list[PolicyApproval], list[str]]:
    """Return the valid approvals of this policy, those of other rules for its corpus, and reasons of invalid rows."""
    valid, rejected = statements(ledger, GATE, policy.corpus.fingerprint, kind="curation approval")
    of_policy: list[PolicyApproval] = []
    of_others: list[PolicyApproval] = []
    for statement, person in valid:
        approval = PolicyApproval(statement.who, statement.at, statement.reason, person.key)
        (of_policy if statement.policy == digest else of_others).append(approval)
    return of_policy, of_others, rejected


def copy_policy_approvals(source: Ledger, target: Ledger) -> None:
    """Copy people and approvals of policies to the empty ledger of a separate folder, which verifies them again."""
    with source.transaction() as database:
        people = [dict(row) for row in database.execute(sa.select(people_table)).mappings()]
        query = sa.select(approvals_table).where(approvals_table.c.kind == "curation approval")
        approvals = [dict(row) for row in database.execute(query).mappings()]
    with target.exclusive("people") as database:
        for table, rows in ((people_table, people), (approvals_table, approvals)):
            database.execute(sa.delete(table))
            if rows:
                database.execute(sa.insert(table), rows)


def require_approved_policy(
    ledger: Ledger, policy: CurationPolicy, digest: str, corpus: CorpusFingerprint, *, file: str
) -> list[PolicyApproval]:
    """Return the approvals of a policy for the corpus that is read; raise a `GateError` if there is none."""
    where = f"curate.policy {file}"
    if difference := policy.corpus.difference(corpus):
        hint = "measure this corpus with `vita curate-policy propose`, and have the new policy approved"
        raise GateError(where, difference, hint=hint)
    of_policy, of_others, rejected = policy_approvals(ledger, policy, digest)
    if of_policy:
        return of_policy
    hint = f"after a review: `vita curate-policy approve {file} --by NAME`"
    if of_others:
        last = of_others[-1]
        day = datetime.fromtimestamp(last.at, UTC).strftime("%Y-%m-%d")
        raise GateError(where, f"has changed since {last.who} approved the rules for this corpus on {day}", hint=hint)
    reasons = "".join(f"; {reason}" for reason in rejected)
    raise GateError(where, f"is not approved for this corpus{reasons}", hint=hint)


def policy_record(
    ledger: Ledger,
    policy: CurationPolicy,
    digest: str,
    corpus: CorpusFingerprint | None,
    *,
    file: str,
    is_required: bool,
) -> dict[str, Any]:
    """Return the policy of a corpus and its approvals for the report.

    If an approval `is_required` and missing, a `GateError` is raised. `corpus` is None if its bytes are not known.
    """
    approvals: list[PolicyApproval] = []
    if is_required:
        assert corpus is not None, "a corpus without a fingerprint is refused before"
        approvals = require_approved_policy(ledger, policy, digest, corpus, file=file)
    difference = policy.corpus.difference(corpus) if corpus else None
    return {
        "approval": "required" if is_required else "not required",
        "digest": digest,
        "corpus_fingerprint": policy.corpus.fingerprint,
        "corpus": "not known" if corpus is None else "another" if difference else "the measured one",
        "difference": difference,
        "approvals": [asdict(approval) for approval in approvals],
    }


def policy_facts(record: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the facts of a corpus about its policy; none without a policy."""
    if record is None:
        return {}
    return {"policy": record["digest"], "approved_by": [approval["who"] for approval in record["approvals"]]}
