"""The rule for stored corpora: a required approval of their policy must be valid whenever they are read."""

from __future__ import annotations

import sqlalchemy as sa

from vita.gates.approvals import approvals, statements
from vita.gates.curation_approvals import GATE
from vita.reporting.figures import stored_reports
from vita.spine.errors import GateError
from vita.spine.ledger import Ledger
from vita.spine.lineage import upstream_lineage
from vita.spine.store import Store


def require_valid_approvals(digest: str, slot: str, ledger: Ledger, store: Store) -> None:
    """Raise a `GateError` if an artifact is, or derives from, a corpus whose required approval does not count now.

    `slot` is the input that uses the artifact, for the message. Corpora that the store does not have are not checked.
    """
    for origin in upstream_lineage([digest], ledger).distances:
        if store.has(origin) and (policy := _required_policy(origin, store)):
            _require_approval(origin, policy, slot, ledger)


def _required_policy(digest: str, store: Store) -> str | None:
    """Return the digest of the policy of a corpus that required an approval, None for other artifacts."""
    manifest = store.manifest(digest)
    if manifest.kind != "corpus":
        return None
    if manifest.facts:
        return manifest.facts["policy"] if manifest.facts.get("approved_by") else None
    # A folder that was imported into the store has no facts.
    policies = [report.details.get("policy") or {} for report in stored_reports(store, digest)]
    return next((policy["digest"] for policy in policies if policy.get("approval") == "required"), None)


def _require_approval(corpus: str, policy: str, slot: str, ledger: Ledger) -> None:
    same_policy = (approvals.c.gate == GATE, approvals.c.policy == policy)
    with ledger.transaction() as database:
        subjects = set(database.execute(sa.select(approvals.c.artifact).where(*same_policy)).scalars())
    problems: list[str] = []
    for subject in subjects:
        valid, rejected = statements(ledger, GATE, subject, kind="curation approval")
        if any(statement.policy == policy for statement, _ in valid):
            return
        problems += rejected
    reasons = "".join(f"; {problem}" for problem in problems)
    hint = "have the policy approved again: `vita curate-policy approve POLICY --by NAME`"
    raise GateError(slot, f"the corpus {corpus[:12]} requires an approval, and none counts{reasons}", hint=hint)
