"""Findings in the ledger: the state of each successful attack, from its discovery to its closure.

    open -> triaged -> mitigated -> retested -> closed        accepted (for a time, by name)        false_positive

A later report of the same life on other weights, or with another guard, changes the states automatically. If an attack
fails now, a mitigated or retested finding is closed, and any other is retested; if it succeeds again, the finding is
reopened. Findings can be exported as regression items, which later runs repeat verbatim.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import orjson
import sqlalchemy as sa
import zstandard

from vita.redteam.probe import PROBES
from vita.reporting.figures import read_report
from vita.spine.errors import DataError, LedgerError
from vita.spine.ledger import Ledger, add_event
from vita.spine.store import Artifact
from vita.spine.tables import table

State = Literal["open", "triaged", "mitigated", "retested", "closed", "accepted", "false_positive"]
STATES: tuple[State, ...] = get_args(State)
RED_TEAM = "red team"
"""The author of state changes by a report."""

_RATES = {"pair", "replay"}  # a single preference or recitation is no attack: what counts is how often

findings = table(
    "findings", string="key life probe item hazard severity", text="prompt answer", real="at", json="taxonomy test"
)
moves = table("finding_moves", string="state who why subject model report", integer="finding", real="expires at")


@dataclass(frozen=True, slots=True)
class FindingTransition:
    """A change of a finding's state, with author and reason; changes by a report name the report and the model."""

    state: State
    who: str
    why: str
    subject: str | None
    model: str | None
    report: str | None
    expires: float | None
    at: float


@dataclass(frozen=True, slots=True)
class Finding:
    """A successful attack with the history of its states."""

    id: int
    key: str
    life: str
    probe: str
    item: str
    hazard: str
    severity: str
    taxonomy: list[str]
    prompt: str
    answer: str
    test: Mapping[str, Any]
    at: float
    moves: tuple[FindingTransition, ...]

    @property
    def state(self) -> State:
        """Return the current state; an accepted finding is open again after the acceptance expires."""
        last = self.moves[-1]
        if last.state == "accepted" and last.expires is not None and last.expires < time.time():
            return "open"
        return last.state

    def as_json(self) -> dict[str, Any]:
        """Return the finding as plain values."""
        moves = []
        for move in self.moves:
            values = asdict(move)
            moves.append({"by": values.pop("who"), "reason": values.pop("why"), **values})
        return {**asdict(self), "moves": moves, "state": self.state}


# -- changes by reports


def track(report: Artifact, model: str, ledger: Ledger) -> None:
    """Record the findings of a red-team report for every life that it belongs to; a report is recorded once."""
    rows = [row for row in _rows(report) if not row["twin"] and row["test"].get("kind") not in _RATES]
    content = read_report(report.path)
    subject = _subject(model, content.settings.get("guard"))
    unsure = set(content.could_not_run)
    for life in sorted({run.life for run in ledger.find(artifact=report.digest, state="done")}):
        if _entered(ledger, report.digest, life):
            continue
        counts = {"new": 0, "reopened": 0, "passed": 0}
        # Two lives may enter the same report at once: the second waits here, and finds it entered.
        with ledger.exclusive(f"findings of {life}") as database:
            if _entered(ledger, report.digest, life):
                continue
            known_findings = {finding.key: finding for finding in all_findings(ledger, life=life)}
            for row in rows:
                if row["task"] in unsure or row["outcome"] == "error" or row.get("empty"):  # no answer mends nothing
                    continue
                verdict = _verdict(known_findings.get(_key(row)), row["outcome"] == "harmful", subject)
                if verdict:
                    counts[
                        _enter(
                            database, row, verdict, known_findings.get(_key(row)), life, subject, model, report.digest
                        )
                    ] += 1
            add_event(database, "findings", report.digest, life=life, model=model, **counts)


def _verdict(finding: Finding | None, succeeded: bool, subject: str) -> tuple[State, str] | None:
    """Return the new state after the outcome, with its reason; None without a change."""
    if finding is None:
        return ("open", "the attack succeeded") if succeeded else None
    state, last = finding.state, finding.moves[-1]
    if state == "false_positive":
        return None
    if succeeded:
        if state in ("retested", "closed"):
            return "open", "the attack succeeds again"
        return ("open", "its acceptance has expired") if state != last.state else None
    failed_on = {move.subject for move in finding.moves if move.state == "open" and move.subject}
    if subject in failed_on or state == "closed":
        return None
    if state in ("open", "triaged", "accepted"):
        return ("retested", "the attack fails on these weights") if state != "accepted" else None
    if state == "retested" and subject == last.subject:
        return None
    return "closed", "the attack fails after the mend" if state == "mitigated" else "the attack fails once more"


def _enter(
    database: sa.Connection, row: Mapping[str, Any], verdict: tuple[State, str], finding: Finding | None,
    life: str, subject: str, model: str, report: str,
) -> str:  # fmt: skip
    state, why = verdict
    if finding is None:
        number = database.execute(sa.insert(findings).values(_finding(row, life)).returning(findings.c.id)).scalar_one()
    else:
        number = finding.id
        if state == "open":
            new = {"answer": row["answer"]}
            database.execute(sa.update(findings).where(findings.c.id == number).values(new))
    steps: list[State] = (
        ["retested", "closed"] if state == "closed" and finding and finding.state == "mitigated" else [state]
    )
    for step in steps:
        move = {"finding": number, "state": step, "who": RED_TEAM, "why": why, "subject": subject, "model": model,
                "report": report, "at": time.time()}  # fmt: skip
        database.execute(sa.insert(moves).values(move))
    return "new" if finding is None else "reopened" if state == "open" else "passed"


def _finding(row: Mapping[str, Any], life: str) -> dict[str, Any]:
    probe, item = _named(row)
    probe_settings = next((PROBES[name] for name in PROBES if name == probe), None)
    return {
        "key": _key(row),
        "life": life,
        "probe": probe,
        "item": item,
        "hazard": row["group"],
        "severity": probe_settings.severity if probe_settings else "medium",
        "taxonomy": list(probe_settings.taxonomy) if probe_settings else [],
        "prompt": row["prompt"],
        "answer": row["answer"],
        "test": row["test"],
        "at": time.time(),
    }


# -- changes by people


def all_findings(
    ledger: Ledger, *, life: str | None = None, state: str | None = None, probe: str | None = None
) -> list[Finding]:
    """Return the findings, oldest first."""
    query = sa.select(findings).order_by(findings.c.id)
    if life is not None:
        query = query.where(findings.c.life == life)
    if probe is not None:
        query = query.where(findings.c.probe == probe)
    with ledger.transaction() as database:
        rows = [dict(row) for row in database.execute(query).mappings()]
        history: dict[int, list[FindingTransition]] = {}
        for row in database.execute(sa.select(moves).order_by(moves.c.id)).mappings():
            values = {name: row[name] for name in FindingTransition.__dataclass_fields__}
            history.setdefault(row["finding"], []).append(FindingTransition(**values))
    matches = [Finding(**row, moves=tuple(history[row["id"]])) for row in rows]
    return [finding for finding in matches if state in (None, finding.state)]


def find_one(ledger: Ledger, number: int) -> Finding:
    """Return the finding with this number."""
    finding = next((finding for finding in all_findings(ledger) if finding.id == number), None)
    if finding is None:
        raise LedgerError(f"finding {number}", "there is none of this number", hint="see `vita findings`")
    return finding


def move(
    ledger: Ledger, numbers: Sequence[int], state: State, *, who: str, why: str, expires: float | None = None
) -> None:
    """Change the state of findings manually, with a name, a reason, and an expiry for an accepted risk."""
    if not who.strip() or not why.strip():
        raise LedgerError("findings", expected="a name and a reason", hint="give --by and --reason")
    if state == "accepted" and (expires is None or expires <= time.time()):
        raise LedgerError("findings", expected="a day in the future until which the risk is accepted", got=expires,
                          hint="give --expires YYYY-MM-DD")  # fmt: skip
    for number in numbers:
        find_one(ledger, number)
    with ledger.transaction() as database:
        for number in numbers:
            row = {"finding": number, "state": state, "who": who, "why": why, "expires": expires, "at": time.time()}
            database.execute(sa.insert(moves).values(row))
    for number in numbers:
        ledger.log("finding", str(number), state=state, who=who, why=why, expires=expires)


def to_regressions(findings_to_export: Iterable[Finding]) -> bytes:
    """Return the findings as regression items in JSON lines, sorted by name, without false positives."""
    rows = {
        (finding.probe, finding.item): {
            "probe": finding.probe, "item": finding.item, "group": finding.hazard, "severity": finding.severity,
            "taxonomy": finding.taxonomy, "prompt": finding.prompt, "test": dict(finding.test),
        }
        for finding in findings_to_export
        if finding.state != "false_positive" and "left_out" not in finding.test
    }  # fmt: skip
    return b"".join(orjson.dumps(rows[name], option=orjson.OPT_SORT_KEYS) + b"\n" for name in sorted(rows))


# -- helpers


def _rows(report: Artifact) -> list[dict[str, Any]]:
    path = report.path / "items.jsonl.zst"
    try:
        content = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()
        return [orjson.loads(line) for line in content.splitlines()]
    except (OSError, zstandard.ZstdError, orjson.JSONDecodeError) as error:
        raise DataError(str(path), f"cannot be read: {error}") from None


def _entered(ledger: Ledger, report: str, life: str) -> bool:
    return any(event["event"] == "findings" and event["data"]["life"] == life for event in ledger.events(report))


def _named(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return probe and item; a regression item keeps the name of its finding."""
    if row["task"] == "regressions":
        probe, _, item = row["id"].partition("/")
        return probe, item
    return row["task"], row["id"]


def _key(row: Mapping[str, Any]) -> str:
    return hashlib.sha256("\0".join(_named(row)).encode()).hexdigest()


def _subject(model: str, guard: Any) -> str:
    """Return the identity of the attacked weights and their guard."""
    if not guard:
        return model
    return hashlib.sha256(model.encode() + orjson.dumps(guard, option=orjson.OPT_SORT_KEYS)).hexdigest()
