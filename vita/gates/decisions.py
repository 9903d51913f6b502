"""Gates in the ledger: recorded policies, verdicts, approvals and waivers; a gate that passes approves a model.

A gate is called `life/gate`. Its verdict applies to one artifact: the weights that the reports measured.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from vita.gates import approvals
from vita.gates.approvals import SignedStatement
from vita.gates.guard_match import GUARD, guards_of, refuse_other_guard
from vita.gates.measurements import first_measured, measurements
from vita.gates.people import Person, person_of, same_name
from vita.gates.policy import (
    EXIT_CODES,
    WAITING_FOR_APPROVAL,
    Criterion,
    GateResult,
    MeasurementHistory,
    Policy,
    ReportEvidence,
    judge,
    measured,
)
from vita.gates.policy_history import PolicyVersion, approvals_needed, criterion_added_at, removed_criteria
from vita.gates.weights import same_weights
from vita.spine.config import unknown_name
from vita.spine.errors import GateError
from vita.spine.ledger import Ledger
from vita.spine.store import Store, canonical_json
from vita.spine.tables import table

APPROVED_STATES = ("approved", "serving")
"""States of models that a gate has approved."""
SERVABLE = (*APPROVED_STATES, "deprecated")
"""States of models that may be served while their gate passes; a deprecated model until its sunset."""

policies = table("policies", string="gate digest", real="at", json="policy")
verdicts = table("verdicts", string="gate artifact policy verdict", real="at", json="findings")


@dataclass(frozen=True)
class GateDecision:
    """The current decision of a gate on a model."""

    gate: str
    model: str
    judged: GateResult
    approved_by: tuple[str, ...]
    needed: int
    guards: tuple[str | None, ...] = ()
    """Digests of the guards with which the criteria were measured; None for no guard."""
    not_counted: tuple[str, ...] = ()
    """Approvals and waivers in the ledger that do not count, with the reason."""

    @property
    def passed(self) -> bool:
        """Return True if all criteria pass and enough people have approved."""
        return self.judged.verdict in ("pass", "waived") and len(self.approved_by) >= self.needed

    @property
    def exit_code(self) -> int:
        """Return the exit code of `vita gate`: 0 pass, 10 fail, 11 could not run, 12 unsure, 13 approvals missing."""
        code = EXIT_CODES[self.judged.verdict]
        return WAITING_FOR_APPROVAL if code == 0 and not self.passed else code

    def refusal(self) -> GateError:
        """Return the error that explains why the gate does not pass."""
        if self.judged.verdict in ("pass", "waived"):
            missing = self.needed - len(self.approved_by)
            hint = "; ".join([f"`vita approve {self.model[:12]} --gate {self.gate} --by NAME`", *self.not_counted])
            return GateError(
                f"gate {self.gate}", f"all criteria pass, and {missing} more approvals are required", hint=hint
            )
        bad = [result for result in self.judged.results if result.verdict not in ("pass", "waived")]
        problems = "; ".join(f"{result.criterion}: {result.verdict} ({result.reason})" for result in bad[:3])
        more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
        hint = f"see `vita gate`, or `vita waive {self.model[:12]} --gate {self.gate}` with a reason and an expiry"
        return GateError(f"gate {self.gate}", f"{problems}{more}", hint=hint)

    def as_json(self) -> dict[str, Any]:
        return {
            "gate": self.gate,
            "model": self.model,
            "verdict": self.judged.verdict,
            "passed": self.passed,
            "approved_by": list(self.approved_by),
            "approvals_needed": self.needed,
            "not_counted": list(self.not_counted),
            "criteria": [result.as_json() for result in self.judged.results],
        }


def record_policy(ledger: Ledger, gate: str, policy: Policy) -> None:
    """Record the policy of a gate before the measurements; an unchanged policy is not recorded again."""
    value = policy.model_dump(mode="json")
    digest = hashlib.sha256(canonical_json(value)).hexdigest()
    newest = sa.select(policies.c.digest).where(policies.c.gate == gate).order_by(policies.c.id.desc()).limit(1)
    with ledger.transaction() as database:
        if database.execute(newest).scalar() == digest:
            return
    with ledger.exclusive(f"gate {gate}") as database:  # two processes may set the same criteria at once
        if database.execute(newest).scalar() == digest:
            return
        database.execute(sa.insert(policies).values(gate=gate, digest=digest, policy=value, at=time.time()))
    ledger.log("policy recorded", gate, digest=digest)


def has_gate(ledger: Ledger, lives: Iterable[str]) -> bool:
    """Return True if one of these lives declares a gate."""
    with ledger.transaction() as database:
        gates = database.execute(sa.select(policies.c.gate).distinct()).scalars().all()
    return any(gate.partition("/")[0] in set(lives) for gate in gates)


def evaluate_gate(
    ledger: Ledger,
    gate: str,
    policy: Policy,
    *,
    model: str,
    evidence: Mapping[str, ReportEvidence],
    history: MeasurementHistory | None = None,
) -> GateDecision:
    """Evaluate the gate on these weights and record the verdict; a gate that passes approves a candidate.

    `history` contains earlier measurements of the same weights; by default only the evidence counts.
    """
    record_policy(ledger, gate, policy)
    versions, history = _policy_versions(ledger, gate), history or MeasurementHistory()

    def first(criterion: Criterion) -> float | None:
        report = evidence.get(criterion.report)
        return history.measured_at(criterion, report if report and measured(report.folder) == model else None)

    waivers, invalid_waivers = _waived(ledger, gate, model)
    judged = judge(
        policy, model=model, evidence=evidence, since=criterion_added_at(versions), waived=waivers,
        removed=removed_criteria(versions, first), history=history,
    )  # fmt: skip
    approved_by, invalid = _approved_by(ledger, gate, model)
    decision = GateDecision(
        gate, model, judged, approved_by, approvals_needed(versions, first), guards_of(judged, evidence),
        (*invalid_waivers, *invalid),
    )  # fmt: skip
    _record_decision(ledger, decision, versions[-1].digest)
    if decision.passed and ledger.state(model) == "candidate":
        why = f"gate {gate}: {judged.verdict}"
        who = ", ".join(decision.approved_by) or f"gate {gate}"
        guards = list(decision.guards)
        ledger.move(model, "approved", who=who, why=why, reports=judged.reports, gate=gate, guards=guards)
    if not decision.passed and ledger.state(model) in APPROVED_STATES and _approving_gate(ledger, model) == gate:
        ledger.move(model, "candidate", who=f"gate {gate}", why=f"the gate is no longer passed: {judged.verdict}")
    return decision


def evaluate_gate_by_name(ledger: Ledger, store: Store, gate: str, *, model: str | None = None) -> GateDecision:
    """Evaluate the gate `life/gate` by its present criteria, for `model` or the present weights of its step."""
    versions = _policy_versions(ledger, gate)
    if not versions:
        with ledger.transaction() as database:
            known = list(database.execute(sa.select(policies.c.gate).distinct()).scalars())
        raise unknown_name("gate", gate, known)
    policy, life = versions[-1].policy, gate.rsplit("/", 1)[0]
    candidates = _digests_of_name(ledger, f"{life}/{policy.model}")
    if not candidates:
        raise GateError(f"gate {gate}", f"the step `{policy.model}` has not run")
    if model is None:
        model = candidates[0]
    elif model not in candidates:
        problem = f"is for the weights of `{life}/{policy.model}`; {model[:12]} was never an output of that step"
        raise GateError(f"gate {gate}", problem)
    criteria = [criterion for version in versions for criterion in version.policy.bars]
    evidence = _evidence(ledger, store, life, criteria, model=model)
    history = _history(ledger, store, life, criteria, model=model)
    return evaluate_gate(ledger, gate, policy, model=model, evidence=evidence, history=history)


def require_approved(
    ledger: Ledger, store: Store, model: str, *, where: str, states: Sequence[str] = APPROVED_STATES
) -> GateDecision:
    """Raise unless the gate that approved these weights still approves them; the gate is evaluated again.

    An earlier verdict is not sufficient: waivers expire, and reports, criteria and approvals change. Weights that the
    gate rejects become candidates again, also while they are served.
    """
    state, gate = ledger.state(model), _approving_gate(ledger, model)
    if state not in states or gate is None:
        got = f"the model {model[:12]} in the state {state}" + (", which no gate approved" if state in states else "")
        hint = "test the model and let a gate approve it: `vita gate`; `vita waive` exempts it from one criterion"
        raise GateError(where, expected="a model that a gate has approved", got=got, hint=hint)
    decision = evaluate_gate_by_name(ledger, store, gate, model=model)
    if not decision.passed:
        raise decision.refusal()
    return decision


def require_approved_release(
    ledger: Ledger, store: Store, model: str, *, where: str, guard: Mapping[str, Any] | None,
    states: Sequence[str] = APPROVED_STATES,
) -> str:  # fmt: skip
    """Return the gate that approves these weights with this guard; raise if there is none.

    `guard` is the guard of the release, as in release.json: criteria that were measured with a guard do not apply to
    the weights without it.
    """
    decision = require_approved(ledger, store, model, where=where, states=states)
    if GUARD not in _waived(ledger, decision.gate, model)[0]:
        refuse_other_guard(decision.guards, guard, gate=decision.gate, model=model)
    refuse_rejected(ledger, same_weights(ledger, store, model), approved_by=decision.gate)
    return decision.gate


@dataclass(frozen=True)
class Rejection:
    """The last verdict of a gate on a model, if it is `fail`."""

    gate: str
    model: str
    since: float
    """The time of the first failure since the gate last passed the model."""


def rejections(ledger: Ledger, models: Sequence[str]) -> list[Rejection]:
    """Return the gates whose last verdict on one of these models is `fail`."""
    query = sa.select(verdicts).where(verdicts.c.artifact.in_(models)).order_by(verdicts.c.id)
    failing: dict[tuple[str, str], Rejection] = {}
    with ledger.transaction() as database:
        for row in database.execute(query):
            pair = (row.gate, row.artifact)
            if row.verdict == "fail":
                failing.setdefault(pair, Rejection(row.gate, row.artifact, row.at))
            elif row.verdict in ("pass", "waived"):
                failing.pop(pair, None)
    return list(failing.values())


def refuse_rejected(ledger: Ledger, models: Sequence[str], *, approved_by: str) -> None:
    """Raise if another gate rejected these weights before the approving gate existed.

    Two gates that existed before the measurement are independent; a gate that was created after a rejection cannot
    override it.
    """
    versions = _policy_versions(ledger, approved_by)
    for rejection in rejections(ledger, models):
        if rejection.gate != approved_by and versions and versions[0].at > rejection.since:
            problem = f"rejected these weights before the gate {approved_by} was set"
            raise GateError(f"gate {rejection.gate}", problem)


def approve(ledger: Ledger, gate: str, model: str, *, who: str, key: Any, reason: str = "") -> None:
    """Record the approval of a person for weights that pass the present criteria of a gate.

    `key` is the private key of the person's registered public key; it signs the approval.
    """
    person = person_of(ledger, who)
    last = last_verdict(ledger, gate, model)
    if last not in ("pass", "waived"):
        hint = "an approval requires passed criteria; `vita waive` makes an exception for a criterion"
        raise GateError(
            f"gate {gate}", f"{model[:12]} has not passed its criteria ({last or 'never evaluated'})", hint=hint
        )
    policy = _policy_versions(ledger, gate)[-1].digest
    statement = SignedStatement("approval", gate, model, policy, last, person.name, reason, time.time())
    approvals.add(ledger, statement, person=person, key=key)


def waive(
    ledger: Ledger,
    gate: str,
    model: str,
    *,
    who: str,
    key: Any,
    reason: str,
    expires: float,
    criterion: str | None = None,
) -> None:
    """Record a person's waiver of one criterion (`step:figure`, or `guard`) or all, with a reason and an expiry."""
    if not reason.strip():
        raise GateError(f"gate {gate}", "a waiver needs a reason")
    if expires <= time.time():
        raise GateError(f"gate {gate}", "the expiry of the waiver is in the past", expected="a date in the future")
    versions = _policy_versions(ledger, gate)
    names = {criterion.name for version in versions for criterion in version.policy.bars}
    if criterion is not None and criterion not in {*names, GUARD}:
        raise GateError(
            f"gate {gate}", expected=f"one of its criteria: {', '.join(sorted(names))}, or {GUARD}", got=criterion
        )
    person, verdict = person_of(ledger, who), last_verdict(ledger, gate, model) or "never evaluated"
    statement = SignedStatement(
        "waiver",
        gate,
        model,
        versions[-1].digest if versions else "",
        verdict,
        person.name,
        reason,
        time.time(),
        criterion,
        expires,
    )
    approvals.add(ledger, statement, person=person, key=key)


def last_verdict(ledger: Ledger, gate: str, model: str) -> str | None:
    """Return the last verdict of the gate on these weights, if the criteria have not changed since."""
    same = (verdicts.c.gate == gate, verdicts.c.artifact == model)
    query = sa.select(verdicts.c.verdict, verdicts.c.policy).where(*same).order_by(verdicts.c.id.desc()).limit(1)
    with ledger.transaction() as database:
        last = database.execute(query).first()
    versions = _policy_versions(ledger, gate)
    return last.verdict if last and versions and last.policy == versions[-1].digest else None


def history(ledger: Ledger, model: str) -> list[dict[str, Any]]:
    """Return all verdicts, approvals and waivers of these weights, oldest first."""
    entries: list[dict[str, Any]] = []
    with ledger.transaction() as database:
        for table, what in ((verdicts, "verdict"), (approvals.approvals, "approval")):
            rows = database.execute(sa.select(table).where(table.c.artifact == model)).mappings()
            entries += [{"what": row.get("kind", what), **row} for row in rows]
    for entry in entries:
        if "findings" in entry:
            entry["findings"] = stored_results(entry["findings"])
    return sorted(entries, key=lambda row: row["at"])


# -- rows of the ledger


def stored_results(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the recorded results of the criteria with their present keys; earlier versions wrote `bar` and `said`."""
    present = {"bar": "criterion", "said": "reason"}
    return [{present.get(key, key): value for key, value in row.items()} for row in rows]


def _evidence(
    ledger: Ledger, store: Store, life: str, criteria: Sequence[Criterion], *, model: str
) -> dict[str, ReportEvidence]:
    evidence: dict[str, ReportEvidence] = {}
    for step in {name for criterion in criteria for name in (criterion.report, criterion.not_worse_than) if name}:
        name = step if "/" in step else f"{life}/{step}"
        judges_model = any(criterion.report == step for criterion in criteria)
        reports = _reports(ledger, store, name)
        if fitting := next(
            (report for report in reports if not judges_model or measured(report.folder) == model), None
        ):
            evidence[step] = fitting
        elif newest := next(_reports(ledger, store, name), None):
            evidence[step] = newest
    return evidence


def _reports(ledger: Ledger, store: Store, name: str) -> Iterator[ReportEvidence]:
    """Yield the reports that a step name referred to, newest first; superseded weights keep their own reports."""
    for digest in _digests_of_name(ledger, name):
        if store.has(digest) and (runs := ledger.find(artifact=digest, state="done")):
            yield ReportEvidence(store.open(digest).path, digest, runs[-1].began, version=runs[-1].version)


def _digests_of_name(ledger: Ledger, name: str) -> list[str]:
    """Return all digests that a name has had, latest first."""
    return list(dict.fromkeys(digest for full, digest in reversed(ledger.newest_names(name)) if full == name))


def _policy_versions(ledger: Ledger, gate: str) -> list[PolicyVersion]:
    query = sa.select(policies).where(policies.c.gate == gate).order_by(policies.c.id)
    with ledger.transaction() as database:
        rows = database.execute(query).mappings()
        return [PolicyVersion(Policy.model_validate(row["policy"]), row["digest"], float(row["at"])) for row in rows]


def _waived(ledger: Ledger, gate: str, model: str) -> tuple[dict[str, str], list[str]]:
    """Return criterion identity -> person and reason of its waiver, and the reasons why other waivers do not count.

    A waiver applies to criteria of the policy at the time of the waiver, not to criteria that were added or changed
    later.
    """
    valid, invalid = approvals.statements(ledger, gate, model, kind="waiver")
    versions, now = _policy_versions(ledger, gate), time.time()
    waivers: dict[str, str] = {}
    for statement, person in valid:
        if not statement.expires or statement.expires <= now:
            continue
        waiver_text = f"{person.name}: {statement.reason}"
        if statement.bar in (None, GUARD):
            waivers[GUARD] = waiver_text
        criteria = [
            criterion for version in versions if version.at <= statement.at for criterion in version.policy.bars
        ]
        waivers |= {
            criterion.identity: waiver_text for criterion in criteria if statement.bar in (None, criterion.name)
        }
    return waivers, invalid


def _approved_by(ledger: Ledger, gate: str, model: str) -> tuple[tuple[str, ...], list[str]]:
    """Return the people who approved under the present policy, each once, and why other rows do not count."""
    valid, invalid = approvals.statements(ledger, gate, model, kind="approval")
    versions = _policy_versions(ledger, gate)
    signers: list[Person] = []
    for statement, person in valid:
        known = any(person.key == signer.key or same_name(person.name, signer.name) for signer in signers)
        if versions and statement.policy == versions[-1].digest and not known:
            signers.append(person)
    return tuple(signer.name for signer in signers), invalid


def _history(
    ledger: Ledger, store: Store, life: str, criteria: Sequence[Criterion], *, model: str
) -> MeasurementHistory:
    """Return the earlier measurements of the same weights, and the reports of the steps of the criteria."""
    results = measurements(ledger, store, model)
    names = {
        criterion.report: criterion.report if "/" in criterion.report else f"{life}/{criterion.report}"
        for criterion in criteria
    }
    reports = {
        step: [
            measurement.evidence
            for measurement in results
            if measurement.step == name and measurement.figures is not None
        ]
        for step, name in names.items()
    }
    return MeasurementHistory(first_measured(results), reports)


def _record_decision(ledger: Ledger, decision: GateDecision, policy: str) -> None:
    """Record the verdict, unless it repeats the last one."""
    results = [result.as_json() for result in decision.judged.results]
    row = {"gate": decision.gate, "artifact": decision.model, "policy": policy, "verdict": decision.judged.verdict,
           "findings": results, "at": time.time()}  # fmt: skip
    same = (verdicts.c.gate == decision.gate, verdicts.c.artifact == decision.model)
    newest = sa.select(verdicts.c.policy, verdicts.c.findings).where(*same).order_by(verdicts.c.id.desc()).limit(1)

    def is_repeated(database: sa.Connection) -> bool:
        last = database.execute(newest).first()
        return last is not None and (last.policy, stored_results(last.findings)) == (policy, results)

    with ledger.transaction() as database:
        if is_repeated(database):
            return
    with ledger.exclusive(f"verdicts of {decision.gate}") as database:
        if is_repeated(database):
            return
        database.execute(sa.insert(verdicts).values(row))
    ledger.log("gate judged", decision.model, gate=decision.gate, verdict=decision.judged.verdict)


def _approving_gate(ledger: Ledger, model: str) -> str | None:
    """Return the gate that last approved these weights."""
    gates = [move.details.get("gate") for move in ledger.moves(model) if move.state == "approved"]
    return next((gate for gate in reversed(gates) if gate), None)
