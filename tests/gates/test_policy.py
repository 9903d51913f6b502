"""Criteria, verdicts, approvals and waivers."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
import zstandard

from tests.cards.lives import register_person
from vita.gates import decisions
from vita.gates.policy import Criterion, Policy, ReportEvidence, judge
from vita.reporting.figures import ReportContent, read_report, write_report
from vita.spine.config import build
from vita.spine.errors import ConfigError, GateError
from vita.spine.ledger import Ledger
from vita.spine.store import Draft, Store
from vita.stages.kinds import Report
from vita.stats.intervals import wilson

MODEL, OTHER_MODEL = "a" * 64, "b" * 64
ACCURACY = "world/held_out/accuracy"


def _report(
    folder: Path, *, hits: int, total: int, model: str = MODEL, items: list[bool] | None = None
) -> ReportEvidence:
    """Write a report with one share of correct answers, measured now."""
    folder.mkdir()
    figures = {"world": {"world": {"held_out/accuracy": wilson(hits, total)}}}
    write_report(ReportContent.of("test", figures, model=model), folder)
    rows = [
        {"task": "world", "group": "held_out", "id": str(i), "accuracy": is_correct}
        for i, is_correct in enumerate(items or [])
    ]
    lines = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    (folder / "items.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(lines))
    return ReportEvidence(folder, digest=folder.name, began=time.time())


def _criterion(**limits) -> Criterion:
    return build(Criterion, {"report": "test", "figure": ACCURACY, **limits}, where="bar")


def _verdict(
    criterion: Criterion,
    evidence: Mapping[str, ReportEvidence],
    *,
    since: float = 0.0,
    waivers: dict[str, str] | None = None,
):
    policy = Policy(model="sft", bars=(criterion,))
    (result,) = judge(policy, model=MODEL, evidence=evidence, since={criterion.identity: since}, waived=waivers).results
    return result


@pytest.mark.parametrize(
    ("hits", "limits", "verdict"),
    [
        (100, {"at_least": 0.9}, "pass"),
        (50, {"at_least": 0.9}, "fail"),
        (90, {"at_least": 0.9}, "unsure"),
        (90, {"at_least": 0.9, "by": "value"}, "pass"),
        (0, {"at_most": 0.1}, "pass"),
        (50, {"at_most": 0.1}, "fail"),
        (10, {"at_most": 0.1}, "unsure"),
    ],
)
def test_a_criterion_passes_only_if_the_whole_interval_meets_the_limit(tmp_path, hits, limits, verdict):
    assert _verdict(_criterion(**limits), {"test": _report(tmp_path / "r", hits=hits, total=100)}).verdict == verdict


def test_a_missing_report_other_weights_or_a_late_criterion_are_not_evidence(tmp_path):
    criterion = _criterion(at_least=0.5)
    foreign_report = _report(tmp_path / "foreign", hits=9, total=9, model=OTHER_MODEL)
    good_report = _report(tmp_path / "good", hits=100, total=100)
    assert _verdict(criterion, {}).reason == "there is no report of the step `test`"
    assert "not of aaaaaaaaaaaa" in _verdict(criterion, {"test": foreign_report}).reason
    assert (
        "set or changed after these weights were first measured"
        in _verdict(criterion, {"test": good_report}, since=time.time() + 1).reason
    )
    assert _verdict(_criterion(figure="world/nothing", at_least=0.5), {"test": good_report}).verdict == "could_not_run"
    assert {_verdict(criterion, evidence).verdict for evidence in ({}, {"test": foreign_report})} == {"could_not_run"}


def test_paired_items_decide_a_criterion_that_independent_intervals_cannot(tmp_path):
    """95 and 94 of 100 are correct, and all items but one agree: the paired interval of the loss is below 5 points."""
    criterion = _criterion(not_worse_than="before", margin=0.05)
    correct_before, correct_after = [True] * 95 + [False] * 5, [True] * 94 + [False] * 6
    paired_evidence = {
        "test": _report(tmp_path / "a", hits=94, total=100, items=correct_after),
        "before": _report(tmp_path / "b", hits=95, total=100, items=correct_before, model=OTHER_MODEL),
    }
    independent_evidence = {
        "test": _report(tmp_path / "c", hits=94, total=100),
        "before": _report(tmp_path / "d", hits=95, total=100, model=OTHER_MODEL),
    }
    assert _verdict(criterion, paired_evidence).verdict == "pass"
    assert _verdict(criterion, independent_evidence).verdict == "unsure"


def test_a_waiver_applies_only_to_a_criterion_that_does_not_pass(tmp_path):
    bad_report, good_report = (
        _report(tmp_path / "bad", hits=1, total=100),
        _report(tmp_path / "good", hits=100, total=100),
    )
    waivers = {_criterion(at_least=0.9).identity: "Ada: a trial"}
    assert _verdict(_criterion(at_least=0.9), {"test": bad_report}, waivers=waivers).verdict == "waived"
    assert "waived by Ada: a trial" in _verdict(_criterion(at_least=0.9), {"test": bad_report}, waivers=waivers).reason
    assert _verdict(_criterion(at_least=0.9), {"test": good_report}, waivers=waivers).verdict == "pass"


def test_a_criterion_has_exactly_one_limit():
    for limits in ({}, {"at_least": 1, "at_most": 2}):
        with pytest.raises(ConfigError, match="exactly one of"):
            _criterion(**limits)


@pytest.fixture
def ledger(any_ledger: Ledger) -> Ledger:
    return any_ledger


@pytest.fixture
def people(ledger: Ledger, tmp_path: Path) -> dict[str, Any]:
    """Register two people and return their private keys."""
    return {name: register_person(ledger, tmp_path, name) for name in ("Ada", "Ben")}


def _decide(
    ledger: Ledger, evidence: ReportEvidence, *, approvals: int = 0, at_least: float = 0.9
) -> decisions.GateDecision:
    policy = Policy(model="sft", bars=(_criterion(at_least=at_least),), approvals=approvals)
    return decisions.evaluate_gate(ledger, "cat/release", policy, model=MODEL, evidence={"test": evidence})


def _record_policy(ledger: Ledger, *, approvals: int = 0, at_least: float = 0.9) -> None:
    decisions.record_policy(
        ledger, "cat/release", Policy(model="sft", bars=(_criterion(at_least=at_least),), approvals=approvals)
    )


def test_a_gate_that_passes_approves_exactly_these_weights(tmp_path, ledger):
    _record_policy(ledger)
    decision = _decide(ledger, _report(tmp_path / "r", hits=100, total=100))
    assert (decision.passed, decision.exit_code) == (True, 0)
    assert (ledger.state(MODEL), ledger.state(OTHER_MODEL)) == ("approved", "candidate")
    assert ledger.moves(MODEL)[-1].reports == ["r"]


def test_criteria_changed_after_the_measurement_do_not_count(tmp_path, ledger):
    _record_policy(ledger, at_least=0.9)
    report = _report(tmp_path / "r", hits=80, total=100)
    assert _decide(ledger, report).exit_code == 10
    decision = _decide(ledger, report, at_least=0.5)
    assert (decision.judged.verdict, decision.exit_code, decision.passed) == ("could_not_run", 11, False)
    assert _decide(ledger, _report(tmp_path / "again", hits=80, total=100), at_least=0.5).passed


@pytest.mark.parametrize(
    ("limits_before", "limits_after"),
    [
        ({"at_least": 0.9}, {"at_least": 0.9, "by": "value"}),
        ({"at_least": 0.9}, {"at_least": 0.90000001}),
        ({"not_worse_than": "test", "lower_is_better": False}, {"not_worse_than": "test", "lower_is_better": True}),
    ],
)
def test_a_criterion_with_any_change_is_another_criterion(tmp_path, ledger, limits_before, limits_after):
    report = None
    for limits in (limits_before, limits_after):
        policy = Policy(model="sft", bars=(_criterion(**limits),))
        decisions.record_policy(ledger, "cat/release", policy)
        report = report or _report(tmp_path / "r", hits=95, total=100)
        decision = decisions.evaluate_gate(ledger, "cat/release", policy, model=MODEL, evidence={"test": report})
    assert decision.judged.results[0].verdict != "pass"


def test_a_removed_criterion_counts_for_earlier_measurements(tmp_path, ledger):
    full_policy = Policy(model="sft", bars=(_criterion(at_least=0.9), _criterion(report="attack", at_most=0.1)))
    reduced_policy = Policy(model="sft", bars=full_policy.bars[:1])
    decisions.record_policy(ledger, "cat/release", full_policy)
    evidence = {
        "test": _report(tmp_path / "r", hits=100, total=100),
        "attack": _report(tmp_path / "a", hits=50, total=100),
    }
    decision = decisions.evaluate_gate(ledger, "cat/release", reduced_policy, model=MODEL, evidence=evidence)
    assert [result.verdict for result in decision.judged.results] == ["pass", "fail"]
    assert "removed after the measurement began" in str(decision.refusal())
    test_evidence = {"test": evidence["test"]}
    decision = decisions.evaluate_gate(ledger, "cat/release", reduced_policy, model=MODEL, evidence=test_evidence)
    assert decision.exit_code == 11
    later_evidence = {"test": _report(tmp_path / "later", hits=100, total=100)}
    assert decisions.evaluate_gate(ledger, "cat/release", reduced_policy, model=MODEL, evidence=later_evidence).passed


def test_the_policy_at_the_start_of_the_measurement_sets_the_number_of_approvals(tmp_path, ledger, people):
    _record_policy(ledger, approvals=2)
    report = _report(tmp_path / "r", hits=100, total=100)
    _decide(ledger, report, approvals=2)
    decisions.approve(ledger, "cat/release", MODEL, who="Ada", key=people["Ada"])
    decision = _decide(ledger, report, approvals=1)
    assert (decision.exit_code, decision.needed, decision.approved_by) == (13, 2, ())
    later_decision = _decide(ledger, _report(tmp_path / "again", hits=100, total=100), approvals=1)
    assert (later_decision.exit_code, later_decision.needed) == (13, 1), "Ada has agreed to another policy"
    for unknown_name in ("", "  ", "Eve"):
        with pytest.raises(GateError, match="has no registered key"):
            decisions.approve(ledger, "cat/release", MODEL, who=unknown_name, key=people["Ada"])
    decisions.approve(ledger, "cat/release", MODEL, who="Ada", key=people["Ada"])
    with pytest.raises(GateError, match="Ada has approved"):
        decisions.approve(ledger, "cat/release", MODEL, who=" ada ", key=people["Ada"])


def test_a_policy_can_require_approvals(tmp_path, ledger, people):
    _record_policy(ledger, approvals=2)
    report = _report(tmp_path / "r", hits=100, total=100)
    with pytest.raises(GateError, match="never evaluated"):
        decisions.approve(ledger, "cat/release", MODEL, who="Ada", key=people["Ada"])
    decision = _decide(ledger, report, approvals=2)
    assert decision.exit_code == 13
    assert "2 more approvals are required" in str(decision.refusal())
    decisions.approve(ledger, "cat/release", MODEL, who="Ada", key=people["Ada"])
    with pytest.raises(GateError, match="Ada has approved"):
        decisions.approve(ledger, "cat/release", MODEL, who="Ada", key=people["Ada"])
    decisions.approve(ledger, "cat/release", MODEL, who="Ben", key=people["Ben"])
    assert _decide(ledger, report, approvals=2).passed
    assert ledger.moves(MODEL)[-1].who == "Ada, Ben"


def test_an_expired_waiver_revokes_the_approval(tmp_path, ledger, monkeypatch, people):
    _record_policy(ledger)
    report = _report(tmp_path / "r", hits=80, total=100)
    waiver = {"who": "Ada", "key": people["Ada"], "reason": "a trial in the house"}
    decisions.waive(ledger, "cat/release", MODEL, expires=time.time() + 3600, **waiver)
    assert _decide(ledger, report).judged.verdict == "waived"
    assert ledger.state(MODEL) == "approved"
    later_time = time.time() + 7200
    monkeypatch.setattr(time, "time", lambda: later_time)
    assert _decide(ledger, report).exit_code == 10
    assert ledger.state(MODEL) == "candidate"
    with pytest.raises(GateError, match="the expiry of the waiver is in the past"):
        decisions.waive(ledger, "cat/release", MODEL, expires=later_time - 1, **waiver)
    with pytest.raises(GateError, match="one of its criteria: test:world"):
        decisions.waive(ledger, "cat/release", MODEL, expires=later_time + 9, criterion="test:nothing", **waiver)


def test_a_refusal_names_the_criterion_and_the_next_command(tmp_path, ledger):
    _record_policy(ledger)
    refusal = str(_decide(ledger, _report(tmp_path / "r", hits=81, total=100)).refusal())
    assert refusal.startswith(
        "gate cat/release: test:world/held_out/accuracy at least 0.9: fail (0.810 (0.722 to 0.875))"
    )
    assert "vita waive aaaaaaaaaaaa --gate cat/release" in refusal


def test_a_repeated_verdict_is_recorded_once(tmp_path, ledger):
    _record_policy(ledger)
    report = _report(tmp_path / "r", hits=100, total=100)
    for _ in range(3):
        _decide(ledger, report)
    assert [row["what"] for row in decisions.history(ledger, MODEL)] == ["verdict"]


def test_only_a_model_that_its_gate_approves_now_may_be_released(tmp_path, ledger):
    store = Store(tmp_path / "store")

    def refusal() -> str:
        with pytest.raises(GateError) as error:
            decisions.require_approved(ledger, store, MODEL, where="release.model")
        return str(error.value)

    assert (
        "release.model: expected a model that a gate has approved, got the model aaaaaaaaaaaa in the state cand"
        in refusal()
    )
    ledger.move(MODEL, "approved", who="Ada", why="by hand")
    assert "in the state approved, which no gate approved" in refusal()
    ledger.move(MODEL, "candidate", who="Ada", why="after all")

    _record_policy(ledger)
    ledger.name("cat/sft", MODEL)
    report = _store_report(store, ledger, _report(tmp_path / "r", hits=100, total=100))
    assert decisions.evaluate_gate_by_name(ledger, store, "cat/release").passed
    ledger.move(MODEL, "serving", who="release", why="released")
    decisions.require_approved(ledger, store, MODEL, where="release.model")

    ledger.name("cat/sft", OTHER_MODEL)
    _store_report(store, ledger, _report(tmp_path / "other", hits=1, total=100, model=OTHER_MODEL))
    decisions.require_approved(ledger, store, MODEL, where="release.model")
    assert decisions.evaluate_gate_by_name(ledger, store, "cat/release").judged.results[0].report != report

    _store_report(store, ledger, _report(tmp_path / "worse", hits=10, total=100))
    assert "at least 0.9: fail" in refusal()
    assert ledger.state(MODEL) == "candidate", "a serving model is no exception"


GUARD = {"words": ["poison"]}


@pytest.mark.parametrize(
    ("measurement_guards", "release_guard", "message"),
    [
        ([GUARD], GUARD, None),
        ([GUARD], None, "got no guard"),
        ([GUARD], {"words": ["steal"]}, "got the guard"),
        ([None], GUARD, "expected the guard used in the measurement: no guard"),
        ([None], None, None),
        ([None, GUARD], GUARD, None),
        ([None, GUARD], None, "got no guard"),
        (["unsaid"], GUARD, None),
    ],
)
def test_a_release_needs_the_content_filter_of_its_measurements(
    tmp_path, ledger, people, measurement_guards, release_guard, message
):
    store, steps = Store(tmp_path / "store"), [f"test{i}" for i in range(len(measurement_guards))]
    policy = Policy(model="sft", bars=tuple(_criterion(report=step, at_least=0.9) for step in steps))
    decisions.record_policy(ledger, "cat/release", policy)
    ledger.name("cat/sft", MODEL)
    for step, guard in zip(steps, measurement_guards, strict=True):
        report = _report(tmp_path / step, hits=100, total=100)
        if guard != "unsaid":
            content = read_report(report.folder)
            write_report(content.model_copy(update={"settings": {"guard": guard}}), report.folder)
        _store_report(store, ledger, report, step=step)
    assert decisions.evaluate_gate_by_name(ledger, store, "cat/release").passed

    def release() -> None:
        decisions.require_approved_release(ledger, store, MODEL, where="release.model", guard=release_guard)

    with nullcontext() if message is None else pytest.raises(GateError, match=message):
        release()
    waiver = {"who": "Ada", "key": people["Ada"], "reason": "a trial", "expires": time.time() + 3600}
    decisions.waive(ledger, "cat/release", MODEL, criterion="guard", **waiver)
    release()


def _store_report(store: Store, ledger: Ledger, report: ReportEvidence, *, step: str = "test") -> str:
    """Store a report as a step of the life `cat`."""
    artifact = store.commit(Draft(Report, report.folder, {"of": report.digest}))
    inputs = {"model": MODEL}
    run = ledger.claim(report.digest, life="cat", step=step, stage="test", version=1, config={}, inputs=inputs)
    assert isinstance(run, int)
    ledger.finish(run, artifact=artifact.digest, record={})
    ledger.name(f"cat/{step}", artifact.digest)
    return artifact.digest


def test_a_gate_judges_only_the_weights_of_its_step(tmp_path, ledger):
    _record_policy(ledger)
    ledger.name("cat/sft", MODEL)
    with pytest.raises(
        GateError, match="is for the weights of `cat/sft`; bbbbbbbbbbbb was never an output of that step"
    ):
        decisions.evaluate_gate_by_name(ledger, Store(tmp_path / "store"), "cat/release", model=OTHER_MODEL)


def test_the_reason_states_the_size_of_a_loss_and_no_negative_gain(tmp_path: Path) -> None:
    criterion = _criterion(not_worse_than="before", margin=0.5)
    for hits, phrase in (
        (80, "worse than before by 0.100"),
        (95, "better than before by 0.050"),
        (90, "equal to before"),
    ):
        evidence = {
            "test": _report(tmp_path / f"now-{hits}", hits=hits, total=100),
            "before": _report(tmp_path / f"before-{hits}", hits=90, total=100, model=OTHER_MODEL),
        }
        reason = _verdict(criterion, evidence).reason
        assert phrase in reason and "by -" not in reason, reason


def test_a_verdict_of_several_processes_at_once_is_recorded_once(tmp_path, ledger):
    _record_policy(ledger)
    report, barrier = _report(tmp_path / "r", hits=100, total=100), threading.Barrier(6)

    def decide(_: int) -> bool:
        with closing(Ledger(ledger.url)) as thread_ledger:
            barrier.wait()
            return _decide(thread_ledger, report).passed

    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(decide, range(6)))
    with ledger.transaction() as database:
        assert len(database.execute(sa.select(decisions.verdicts)).all()) == 1


def test_a_policy_of_several_processes_at_once_is_recorded_once(ledger):
    barrier = threading.Barrier(6)

    def record(_: int) -> None:
        with closing(Ledger(ledger.url)) as thread_ledger:
            barrier.wait()
            _record_policy(thread_ledger)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(record, range(6)))
    with ledger.transaction() as database:
        assert len(database.execute(sa.select(decisions.policies)).all()) == 1


def test_results_recorded_with_former_keys_are_read_with_the_present_ones() -> None:
    rows = [{"bar": "test:a at least 1", "name": "test:a", "verdict": "fail", "said": "0.5"}]
    result = {"criterion": "test:a at least 1", "name": "test:a", "verdict": "fail", "reason": "0.5"}
    assert decisions.stored_results(rows) == [result] == decisions.stored_results([result])
