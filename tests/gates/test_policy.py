"""Bars, verdicts, approvals and waivers."""

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

from tests.cards.lives import registered
from vita.gates import decisions
from vita.gates.policy import Criterion, Policy, ReportEvidence, judge
from vita.reporting.figures import ReportContent, read_report, write_report
from vita.spine.config import build
from vita.spine.errors import ConfigError, GateError
from vita.spine.ledger import Ledger
from vita.spine.store import Draft, Store
from vita.stages.kinds import Report
from vita.stats.intervals import wilson

MODEL, OTHER = "a" * 64, "b" * 64
RIGHT = "world/held_out/accuracy"


def _report(folder: Path, *, hits: int, of: int, model: str = MODEL, items: list[bool] | None = None) -> ReportEvidence:
    """A report whose only figure is a share of right answers, measured now."""
    folder.mkdir()
    figures = {"world": {"world": {"held_out/accuracy": wilson(hits, of)}}}
    write_report(ReportContent.of("test", figures, model=model), folder)
    rows = [
        {"task": "world", "group": "held_out", "id": str(i), "accuracy": right} for i, right in enumerate(items or [])
    ]
    lines = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    (folder / "items.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(lines))
    return ReportEvidence(folder, digest=folder.name, began=time.time())


def _bar(**limits) -> Criterion:
    return build(Criterion, {"report": "test", "figure": RIGHT, **limits}, where="bar")


def _verdict(
    bar: Criterion, evidence: Mapping[str, ReportEvidence], *, since: float = 0.0, waived: dict[str, str] | None = None
):
    policy = Policy(model="sft", bars=(bar,))
    (found,) = judge(policy, model=MODEL, evidence=evidence, since={bar.identity: since}, waived=waived).results
    return found


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
def test_a_bar_is_cleared_by_the_whole_interval(tmp_path, hits, limits, verdict):
    assert _verdict(_bar(**limits), {"test": _report(tmp_path / "r", hits=hits, of=100)}).verdict == verdict


def test_no_report_other_weights_and_a_late_bar_are_no_evidence(tmp_path):
    bar = _bar(at_least=0.5)
    foreign = _report(tmp_path / "foreign", hits=9, of=9, model=OTHER)
    good = _report(tmp_path / "good", hits=100, of=100)
    assert _verdict(bar, {}).reason == "there is no report of the step `test`"
    assert "not of aaaaaaaaaaaa" in _verdict(bar, {"test": foreign}).reason
    assert (
        "set or changed after these weights were first measured"
        in _verdict(bar, {"test": good}, since=time.time() + 1).reason
    )
    assert _verdict(_bar(figure="world/nothing", at_least=0.5), {"test": good}).verdict == "could_not_run"
    assert {_verdict(bar, given).verdict for given in ({}, {"test": foreign})} == {"could_not_run"}


def test_paired_items_decide_what_independent_intervals_leave_open(tmp_path):
    """95 and 94 of 100 right, all but one item alike: paired, the loss is surely under 5 points."""
    bar = _bar(not_worse_than="before", margin=0.05)
    before, after = [True] * 95 + [False] * 5, [True] * 94 + [False] * 6
    paired = {
        "test": _report(tmp_path / "a", hits=94, of=100, items=after),
        "before": _report(tmp_path / "b", hits=95, of=100, items=before, model=OTHER),
    }
    alone = {
        "test": _report(tmp_path / "c", hits=94, of=100),
        "before": _report(tmp_path / "d", hits=95, of=100, model=OTHER),
    }
    assert _verdict(bar, paired).verdict == "pass"
    assert _verdict(bar, alone).verdict == "unsure"


def test_a_waiver_lets_go_only_what_would_not_pass(tmp_path):
    bad, good = _report(tmp_path / "bad", hits=1, of=100), _report(tmp_path / "good", hits=100, of=100)
    waived = {_bar(at_least=0.9).identity: "Ada: a trial"}
    assert _verdict(_bar(at_least=0.9), {"test": bad}, waived=waived).verdict == "waived"
    assert "waived by Ada: a trial" in _verdict(_bar(at_least=0.9), {"test": bad}, waived=waived).reason
    assert _verdict(_bar(at_least=0.9), {"test": good}, waived=waived).verdict == "pass"


def test_a_bar_has_exactly_one_limit():
    for limits in ({}, {"at_least": 1, "at_most": 2}):
        with pytest.raises(ConfigError, match="exactly one of"):
            _bar(**limits)


@pytest.fixture
def ledger(any_ledger: Ledger) -> Ledger:
    return any_ledger


@pytest.fixture
def people(ledger: Ledger, tmp_path: Path) -> dict[str, Any]:
    """Two people and their private keys."""
    return {name: registered(ledger, tmp_path, name) for name in ("Ada", "Ben")}


def _decide(
    ledger: Ledger, evidence: ReportEvidence, *, approvals: int = 0, at_least: float = 0.9
) -> decisions.GateDecision:
    policy = Policy(model="sft", bars=(_bar(at_least=at_least),), approvals=approvals)
    return decisions.evaluate_gate(ledger, "cat/release", policy, model=MODEL, evidence={"test": evidence})


def _fix(ledger: Ledger, *, approvals: int = 0, at_least: float = 0.9) -> None:
    decisions.record_policy(
        ledger, "cat/release", Policy(model="sft", bars=(_bar(at_least=at_least),), approvals=approvals)
    )


def test_a_green_gate_approves_exactly_these_weights(tmp_path, ledger):
    _fix(ledger)
    decision = _decide(ledger, _report(tmp_path / "r", hits=100, of=100))
    assert (decision.passed, decision.exit_code) == (True, 0)
    assert (ledger.state(MODEL), ledger.state(OTHER)) == ("approved", "candidate")
    assert ledger.moves(MODEL)[-1].reports == ["r"]


def test_bars_changed_after_the_measurement_do_not_count(tmp_path, ledger):
    _fix(ledger, at_least=0.9)
    report = _report(tmp_path / "r", hits=80, of=100)
    assert _decide(ledger, report).exit_code == 10
    lowered = _decide(ledger, report, at_least=0.5)
    assert (lowered.judged.verdict, lowered.exit_code, lowered.passed) == ("could_not_run", 11, False)
    assert _decide(ledger, _report(tmp_path / "again", hits=80, of=100), at_least=0.5).passed


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"at_least": 0.9}, {"at_least": 0.9, "by": "value"}),
        ({"at_least": 0.9}, {"at_least": 0.90000001}),
        ({"not_worse_than": "test", "lower_is_better": False}, {"not_worse_than": "test", "lower_is_better": True}),
    ],
)
def test_a_bar_of_which_anything_was_changed_is_another_bar(tmp_path, ledger, before, after):
    report = None
    for limits in (before, after):
        policy = Policy(model="sft", bars=(_bar(**limits),))
        decisions.record_policy(ledger, "cat/release", policy)
        report = report or _report(tmp_path / "r", hits=95, of=100)
        decision = decisions.evaluate_gate(ledger, "cat/release", policy, model=MODEL, evidence={"test": report})
    assert decision.judged.results[0].verdict != "pass"


def test_a_bar_that_is_taken_away_counts_for_what_was_measured_before(tmp_path, ledger):
    both = Policy(model="sft", bars=(_bar(at_least=0.9), _bar(report="attack", at_most=0.1)))
    one = Policy(model="sft", bars=both.bars[:1])
    decisions.record_policy(ledger, "cat/release", both)
    evidence = {"test": _report(tmp_path / "r", hits=100, of=100), "attack": _report(tmp_path / "a", hits=50, of=100)}
    decided = decisions.evaluate_gate(ledger, "cat/release", one, model=MODEL, evidence=evidence)
    assert [found.verdict for found in decided.judged.results] == ["pass", "fail"]
    assert "removed after the measurement began" in str(decided.refusal())
    never_attacked = {"test": evidence["test"]}
    decided = decisions.evaluate_gate(ledger, "cat/release", one, model=MODEL, evidence=never_attacked)
    assert decided.exit_code == 11
    again = {"test": _report(tmp_path / "later", hits=100, of=100)}
    assert decisions.evaluate_gate(ledger, "cat/release", one, model=MODEL, evidence=again).passed


def test_as_many_must_approve_as_when_measuring_began_and_by_the_same_policy(tmp_path, ledger, people):
    _fix(ledger, approvals=2)
    report = _report(tmp_path / "r", hits=100, of=100)
    _decide(ledger, report, approvals=2)
    decisions.approve(ledger, "cat/release", MODEL, who="Ada", key=people["Ada"])
    lowered = _decide(ledger, report, approvals=1)
    assert (lowered.exit_code, lowered.needed, lowered.approved_by) == (13, 2, ())
    again = _decide(ledger, _report(tmp_path / "again", hits=100, of=100), approvals=1)
    assert (again.exit_code, again.needed) == (13, 1), "Ada has agreed to another policy"
    for nobody in ("", "  ", "Eve"):
        with pytest.raises(GateError, match="has no registered key"):
            decisions.approve(ledger, "cat/release", MODEL, who=nobody, key=people["Ada"])
    decisions.approve(ledger, "cat/release", MODEL, who="Ada", key=people["Ada"])
    with pytest.raises(GateError, match="Ada has approved"):
        decisions.approve(ledger, "cat/release", MODEL, who=" ada ", key=people["Ada"])


def test_people_must_speak_where_the_policy_asks_for_them(tmp_path, ledger, people):
    _fix(ledger, approvals=2)
    report = _report(tmp_path / "r", hits=100, of=100)
    with pytest.raises(GateError, match="never evaluated"):
        decisions.approve(ledger, "cat/release", MODEL, who="Ada", key=people["Ada"])
    waiting = _decide(ledger, report, approvals=2)
    assert waiting.exit_code == 13
    assert "2 more approvals are required" in str(waiting.refusal())
    decisions.approve(ledger, "cat/release", MODEL, who="Ada", key=people["Ada"])
    with pytest.raises(GateError, match="Ada has approved"):
        decisions.approve(ledger, "cat/release", MODEL, who="Ada", key=people["Ada"])
    decisions.approve(ledger, "cat/release", MODEL, who="Ben", key=people["Ben"])
    assert _decide(ledger, report, approvals=2).passed
    assert ledger.moves(MODEL)[-1].who == "Ada, Ben"


def test_an_expired_waiver_takes_the_approval_back(tmp_path, ledger, monkeypatch, people):
    _fix(ledger)
    report = _report(tmp_path / "r", hits=80, of=100)
    give = {"who": "Ada", "key": people["Ada"], "reason": "a trial in the house"}
    decisions.waive(ledger, "cat/release", MODEL, expires=time.time() + 3600, **give)
    assert _decide(ledger, report).judged.verdict == "waived"
    assert ledger.state(MODEL) == "approved"
    later = time.time() + 7200
    monkeypatch.setattr(time, "time", lambda: later)
    assert _decide(ledger, report).exit_code == 10
    assert ledger.state(MODEL) == "candidate"
    with pytest.raises(GateError, match="the expiry of the waiver is in the past"):
        decisions.waive(ledger, "cat/release", MODEL, expires=later - 1, **give)
    with pytest.raises(GateError, match="one of its criteria: test:world"):
        decisions.waive(ledger, "cat/release", MODEL, expires=later + 9, criterion="test:nothing", **give)


def test_a_refusal_says_which_bar_and_what_to_do(tmp_path, ledger):
    _fix(ledger)
    told = str(_decide(ledger, _report(tmp_path / "r", hits=81, of=100)).refusal())
    assert told.startswith("gate cat/release: test:world/held_out/accuracy at least 0.9: fail (0.810 (0.722 to 0.875))")
    assert "vita waive aaaaaaaaaaaa --gate cat/release" in told


def test_the_same_verdict_is_written_once(tmp_path, ledger):
    _fix(ledger)
    report = _report(tmp_path / "r", hits=100, of=100)
    for _ in range(3):
        _decide(ledger, report)
    assert [row["what"] for row in decisions.history(ledger, MODEL)] == ["verdict"]


def test_only_what_a_gate_lets_out_now_is_let_out(tmp_path, ledger):
    store = Store(tmp_path / "store")

    def refusal() -> str:
        with pytest.raises(GateError) as refused:
            decisions.require_approved(ledger, store, MODEL, where="release.model")
        return str(refused.value)

    assert (
        "release.model: expected a model that a gate has approved, got the model aaaaaaaaaaaa in the state cand"
        in refusal()
    )
    ledger.move(MODEL, "approved", who="Ada", why="by hand")
    assert "in the state approved, which no gate approved" in refusal()
    ledger.move(MODEL, "candidate", who="Ada", why="after all")

    _fix(ledger)
    ledger.name("cat/sft", MODEL)
    report = _kept(store, ledger, _report(tmp_path / "r", hits=100, of=100))
    assert decisions.evaluate_gate_by_name(ledger, store, "cat/release").passed
    ledger.move(MODEL, "serving", who="release", why="released")
    decisions.require_approved(ledger, store, MODEL, where="release.model")

    ledger.name("cat/sft", OTHER)
    _kept(store, ledger, _report(tmp_path / "other", hits=1, of=100, model=OTHER))
    decisions.require_approved(ledger, store, MODEL, where="release.model")
    assert decisions.evaluate_gate_by_name(ledger, store, "cat/release").judged.results[0].report != report

    _kept(store, ledger, _report(tmp_path / "worse", hits=10, of=100))
    assert "at least 0.9: fail" in refusal()
    assert ledger.state(MODEL) == "candidate", "what serves is no exception"


GUARDED = {"words": ["poison"]}


@pytest.mark.parametrize(
    ("measured_behind", "released_with", "refused"),
    [
        ([GUARDED], GUARDED, None),
        ([GUARDED], None, "got no guard"),
        ([GUARDED], {"words": ["steal"]}, "got the guard"),
        ([None], GUARDED, "expected the guard used in the measurement: no guard"),
        ([None], None, None),
        ([None, GUARDED], GUARDED, None),
        ([None, GUARDED], None, "got no guard"),
        (["unsaid"], GUARDED, None),
    ],
)
def test_a_release_bears_the_guard_that_its_figures_were_measured_behind(
    tmp_path, ledger, people, measured_behind, released_with, refused
):
    store, steps = Store(tmp_path / "store"), [f"test{i}" for i in range(len(measured_behind))]
    policy = Policy(model="sft", bars=tuple(_bar(report=step, at_least=0.9) for step in steps))
    decisions.record_policy(ledger, "cat/release", policy)
    ledger.name("cat/sft", MODEL)
    for step, guard in zip(steps, measured_behind, strict=True):
        report = _report(tmp_path / step, hits=100, of=100)
        if guard != "unsaid":
            content = read_report(report.folder)
            write_report(content.model_copy(update={"settings": {"guard": guard}}), report.folder)
        _kept(store, ledger, report, step=step)
    assert decisions.evaluate_gate_by_name(ledger, store, "cat/release").passed

    def release() -> None:
        decisions.require_approved_release(ledger, store, MODEL, where="release.model", guard=released_with)

    with nullcontext() if refused is None else pytest.raises(GateError, match=refused):
        release()
    give = {"who": "Ada", "key": people["Ada"], "reason": "a trial", "expires": time.time() + 3600}
    decisions.waive(ledger, "cat/release", MODEL, criterion="guard", **give)
    release()


def _kept(store: Store, ledger: Ledger, report: ReportEvidence, *, step: str = "test") -> str:
    """The report in the store, as a step of the life `cat` would have left it."""
    artifact = store.commit(Draft(Report, report.folder, {"of": report.digest}))
    inputs = {"model": MODEL}
    run = ledger.claim(report.digest, life="cat", step=step, stage="test", version=1, config={}, inputs=inputs)
    assert isinstance(run, int)
    ledger.finish(run, artifact=artifact.digest, record={})
    ledger.name(f"cat/{step}", artifact.digest)
    return artifact.digest


def test_a_gate_judges_the_weights_of_its_own_step_alone(tmp_path, ledger):
    _fix(ledger)
    ledger.name("cat/sft", MODEL)
    with pytest.raises(
        GateError, match="is for the weights of `cat/sft`; bbbbbbbbbbbb was never an output of that step"
    ):
        decisions.evaluate_gate_by_name(ledger, Store(tmp_path / "store"), "cat/release", model=OTHER)


def test_a_change_for_the_worse_is_described_by_its_size_and_not_by_a_negative_gain(tmp_path: Path) -> None:
    bar = _bar(not_worse_than="before", margin=0.5)
    for hits, phrase in (
        (80, "worse than before by 0.100"),
        (95, "better than before by 0.050"),
        (90, "equal to before"),
    ):
        evidence = {
            "test": _report(tmp_path / f"now-{hits}", hits=hits, of=100),
            "before": _report(tmp_path / f"before-{hits}", hits=90, of=100, model=OTHER),
        }
        said = _verdict(bar, evidence).reason
        assert phrase in said and "by -" not in said, said


def test_a_verdict_that_several_processes_reach_at_once_is_recorded_once(tmp_path, ledger):
    _fix(ledger)
    report, together = _report(tmp_path / "r", hits=100, of=100), threading.Barrier(6)

    def decide(_: int) -> bool:
        with closing(Ledger(ledger.url)) as own:
            together.wait()
            return _decide(own, report).passed

    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(decide, range(6)))
    with ledger.transaction() as database:
        assert len(database.execute(sa.select(decisions.verdicts)).all()) == 1


def test_bars_set_by_several_processes_at_once_are_recorded_once(ledger):
    together = threading.Barrier(6)

    def fix(_: int) -> None:
        with closing(Ledger(ledger.url)) as own:
            together.wait()
            _fix(own)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(fix, range(6)))
    with ledger.transaction() as database:
        assert len(database.execute(sa.select(decisions.policies)).all()) == 1


def test_results_recorded_with_former_keys_are_read_with_the_present_ones() -> None:
    rows = [{"bar": "test:a at least 1", "name": "test:a", "verdict": "fail", "said": "0.5"}]
    result = {"criterion": "test:a at least 1", "name": "test:a", "verdict": "fail", "reason": "0.5"}
    assert decisions.stored_results(rows) == [result] == decisions.stored_results([result])
