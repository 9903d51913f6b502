"""The gate criteria that a re-test of served weights fails."""

from __future__ import annotations

import math
from pathlib import Path

import sqlalchemy as sa

from vita.gates.decisions import policies
from vita.gates.policy import CriterionResult, Policy, ReportEvidence, judge
from vita.spine.config import build
from vita.spine.ledger import Ledger


def failed_criteria(ledger: Ledger, test: str, report: Path, *, digest: str, model: str) -> list[CriterionResult]:
    """Return the criteria on the test `life/step` that its new report on a model fails.

    The current criteria of all gates of the life are evaluated, except comparisons with another model, which need the
    report of that model.
    """
    life, _, step = test.rpartition("/")
    evidence = {name: ReportEvidence(report, digest, 0.0) for name in (step, test)}
    failed: dict[str, CriterionResult] = {}
    for policy in _present_policies(ledger, life):
        bars = tuple(bar for bar in policy.bars if bar.report in evidence and bar.not_worse_than is None)
        if not bars:
            continue
        since = {bar.identity: -math.inf for bar in bars}
        result = judge(policy.model_copy(update={"bars": bars}), model=model, evidence=evidence, since=since)
        failed |= {row.criterion.identity: row for row in result.results if row.verdict == "fail"}
    return list(failed.values())


def _present_policies(ledger: Ledger, life: str) -> list[Policy]:
    """Return the newest policy of each gate of a life."""
    newest = sa.select(sa.func.max(policies.c.id)).group_by(policies.c.gate)
    query = sa.select(policies.c.gate, policies.c.policy).where(policies.c.id.in_(newest)).order_by(policies.c.id)
    with ledger.transaction() as database:
        rows = [(row.gate, row.policy) for row in database.execute(query)]
    return [build(Policy, policy, where=gate) for gate, policy in rows if gate.rpartition("/")[0] == life]
