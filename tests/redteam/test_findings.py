"""Findings: created by a report, changed by later reports and by people, exported as regression items."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard

from vita.redteam import findings
from vita.redteam.probe import ProbeInputs, built_in_goals, plain
from vita.redteam.probes import PROBES
from vita.redteam.probes.regressions import read as read_regressions
from vita.reporting.figures import ReportContent, write_report
from vita.spine.errors import LedgerError
from vita.spine.ledger import Ledger
from vita.stages.kinds import Report

ITEMS = [item for item in PROBES["harm"].items(ProbeInputs(goals=built_in_goals("held_out")[:3])) if not item.twin]


@pytest.fixture
def ledger(any_ledger: Ledger) -> Ledger:
    return any_ledger


def report(
    ledger: Ledger, folder: Path, name: str, outcomes: list[str], *, task: str = "harm", guard: Any = None
) -> Report:
    """Write a report and record its run of the life `cat`."""
    path = folder / name
    path.mkdir()
    rows = [
        {"task": task, "id": f"harm/{item.id}" if task == "regressions" else item.id, "group": item.group,
         "twin": False, "outcome": outcome, "prompt": "asked", "answer": f"said in {name}", "test": plain(item.test)}
        for item, outcome in zip(ITEMS, outcomes, strict=False)
    ]  # fmt: skip
    content = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    (path / "items.jsonl.zst").write_bytes(zstandard.compress(content))
    write_report(ReportContent.of("redteam", settings={"guard": guard}), path)
    run = ledger.claim(name, life="cat", step="redteam", stage="redteam", version=1, config={}, inputs={})
    assert isinstance(run, int)
    ledger.finish(run, artifact=name * 8, record={})
    return Report(name * 8, path)


def states(ledger: Ledger) -> list[str]:
    return [finding.state for finding in findings.all_findings(ledger)]


def test_a_successful_attack_becomes_one_finding_and_a_failed_attack_none(ledger, tmp_path):
    first_report = report(ledger, tmp_path, "one", ["harmful", "refused", "error"])
    for _ in range(2):
        findings.track(first_report, "weights1", ledger)
    (finding,) = findings.all_findings(ledger)
    assert (finding.life, finding.probe, finding.item, finding.state) == ("cat", "harm", ITEMS[0].id, "open")
    assert finding.answer == "said in one" and finding.severity == "high" and finding.taxonomy
    assert len(finding.moves) == 1 and finding.moves[0].report == first_report.digest


def test_a_later_report_retests_closes_and_reopens_findings(ledger, tmp_path):
    findings.track(report(ledger, tmp_path, "one", ["harmful", "harmful", "harmful"]), "weights1", ledger)
    findings.move(ledger, [1], "mitigated", who="Anna", why="refusals in the tuning data")
    later_report = report(ledger, tmp_path, "two", ["refused", "incoherent", "error"])
    findings.track(later_report, "weights2", ledger)
    assert states(ledger) == ["closed", "retested", "open"]
    closed_finding = findings.find_one(ledger, 1)
    assert [move.state for move in closed_finding.moves] == ["open", "mitigated", "retested", "closed"]
    assert closed_finding.moves[-1].report == later_report.digest and closed_finding.moves[-1].model == "weights2"
    findings.track(report(ledger, tmp_path, "tri", ["harmful", "refused", "harmful"]), "weights3", ledger)
    assert states(ledger) == ["open", "closed", "open"]
    assert findings.find_one(ledger, 1).moves[-1].why == "the attack succeeds again"
    findings.track(later_report, "weights2", ledger)  # an old report changes nothing
    assert states(ledger) == ["open", "closed", "open"]


def test_a_finding_is_retested_by_a_new_content_filter_and_not_by_the_same_weights(ledger, tmp_path):
    findings.track(report(ledger, tmp_path, "one", ["harmful"]), "weights1", ledger)
    findings.track(report(ledger, tmp_path, "two", ["refused"]), "weights1", ledger)
    assert states(ledger) == ["open"]
    findings.track(report(ledger, tmp_path, "tri", ["refused"], guard={"words": ["steal"]}), "weights1", ledger)
    assert states(ledger) == ["retested"]


def test_a_regression_item_updates_its_original_finding(ledger, tmp_path):
    findings.track(report(ledger, tmp_path, "one", ["harmful"]), "weights1", ledger)
    findings.track(report(ledger, tmp_path, "two", ["refused"], task="regressions"), "weights2", ledger)
    assert states(ledger) == ["retested"]


def test_an_accepted_risk_expires_and_a_false_positive_does_not(ledger, tmp_path, monkeypatch):
    findings.track(report(ledger, tmp_path, "one", ["harmful", "harmful"]), "weights1", ledger)
    findings.move(ledger, [1], "accepted", who="Anna", why="a fairy tale", expires=time.time() + 100)
    findings.move(ledger, [2], "false_positive", who="Tom", why="the answer is harmless")
    findings.track(report(ledger, tmp_path, "two", ["harmful", "harmful"]), "weights2", ledger)
    assert states(ledger) == ["accepted", "false_positive"]
    now = time.time()
    monkeypatch.setattr(findings.time, "time", lambda: now + 200)
    assert states(ledger) == ["open", "false_positive"]


def test_manual_changes_need_a_name_a_reason_and_an_expiry(ledger, tmp_path):
    findings.track(report(ledger, tmp_path, "one", ["harmful"]), "weights1", ledger)
    with pytest.raises(LedgerError, match="expected a name and a reason"):
        findings.move(ledger, [1], "closed", who=" ", why="x")
    with pytest.raises(LedgerError, match="a day in the future until which the risk is accepted"):
        findings.move(ledger, [1], "accepted", who="Anna", why="x", expires=1.0)
    with pytest.raises(LedgerError, match="finding 7: there is none of this number; see `vita findings`"):
        findings.move(ledger, [1, 7], "closed", who="Anna", why="x")
    assert states(ledger) == ["open"]


def test_findings_are_exported_as_regression_items(ledger, tmp_path):
    findings.track(report(ledger, tmp_path, "one", ["harmful", "harmful"]), "weights1", ledger)
    findings.move(ledger, [2], "false_positive", who="Tom", why="the answer is harmless")
    path = tmp_path / "regressions.jsonl"
    path.write_bytes(findings.to_regressions(findings.all_findings(ledger)))
    (item,) = read_regressions(str(path))
    assert item.id == f"harm/{ITEMS[0].id}" and item.test == ITEMS[0].test
    assert findings.to_regressions([]) == b""
