"""Plans: cached steps are skipped, a change runs the dependent steps, and a killed run resumes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.spine.stages import stage
from vita.spine.config import InputPath
from vita.spine.errors import DataError, PlanError
from vita.spine.events import Events
from vita.spine.ledger import Ledger
from vita.spine.machine import Machine
from vita.spine.plan import Plan, Step, ancestors, descendants, execute, forecast
from vita.spine.store import Store


class StepStates:
    """An event handler that records the states of steps."""

    def __init__(self) -> None:
        self.states: list[tuple[str, str]] = []

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        if event == "step":
            self.states.append((fields["life_step"], fields["state"]))

    def close(self) -> None: ...


def _plan(
    value: int = 1, amount: int = 1, *, version: int = 1, seconds: float = 0.0, source: str | None = None
) -> Plan:
    begin, add = stage("begin"), stage("add", version=version)
    first = begin.config(value=value, source=InputPath(source) if source else None)  # pyright: ignore[reportCallIssue]
    return Plan(
        "life",
        (
            Step("begin", begin, first),
            Step("add", add, add.config(amount=amount, seconds=seconds), {"number": "begin"}),  # pyright: ignore
            Step("again", add, add.config(amount=10), {"number": "add"}),  # pyright: ignore[reportCallIssue]
        ),
    )


def _execute_plan(plan: Plan, folder: Path, *, rerun: bool = False) -> tuple[dict, list[str]]:
    step_states = StepStates()
    store, ledger = Store(folder / "store"), Ledger(folder / "ledger.db")
    artifacts = execute(
        plan,
        store,
        ledger,
        machine=Machine(),
        events=Events([step_states]),
        rerun=[step.name for step in plan.steps] if rerun else (),
    )
    ledger.close()
    return artifacts, [name for name, state in step_states.states if state == "done"]


def test_a_second_run_uses_the_cache(tmp_path: Path) -> None:
    first, ran = _execute_plan(_plan(), tmp_path)
    second, ran_again = _execute_plan(_plan(), tmp_path)
    assert ran == ["begin", "add", "again"] and ran_again == []
    assert {name: artifact.digest for name, artifact in first.items()} == {
        name: artifact.digest for name, artifact in second.items()
    }
    assert first["again"].facts["value"] == 12


def test_a_change_runs_only_the_dependent_steps(tmp_path: Path) -> None:
    _execute_plan(_plan(), tmp_path)
    assert _execute_plan(_plan(amount=2), tmp_path)[1] == ["add", "again"]
    assert _execute_plan(_plan(amount=2, version=2), tmp_path)[1] == ["add", "again"]


def test_steps_after_an_unchanged_result_are_cached(tmp_path: Path) -> None:
    _execute_plan(_plan(value=1, amount=3), tmp_path)
    assert _execute_plan(_plan(value=2, amount=2), tmp_path)[1] == ["begin", "add"]


def test_rerun_executes_all_steps_and_gives_the_same_digests(tmp_path: Path) -> None:
    first, _ = _execute_plan(_plan(), tmp_path)
    second, ran = _execute_plan(_plan(), tmp_path, rerun=True)
    assert ran == ["begin", "add", "again"]
    assert first["again"].digest == second["again"].digest


def test_an_input_file_is_identified_by_content_and_not_by_name_or_time(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("one")
    _execute_plan(_plan(source=str(tmp_path / "a.txt")), tmp_path)
    assert _execute_plan(_plan(source=str(tmp_path / "b.txt")), tmp_path)[1] == []
    (tmp_path / "b.txt").write_text("two")
    assert _execute_plan(_plan(source=str(tmp_path / "b.txt")), tmp_path)[1] == ["begin"]


def test_a_missing_file_is_refused_with_a_clear_message(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"begin: .*nowhere.txt: no such file"):
        _execute_plan(_plan(source=str(tmp_path / "nowhere.txt")), tmp_path)


def test_the_forecast_gives_the_steps_to_run_with_reasons(tmp_path: Path) -> None:
    store, ledger = Store(tmp_path / "store"), Ledger(tmp_path / "ledger.db")
    assert [(step.runs, step.reason) for step in forecast(_plan(), store, ledger)] == [
        (True, "has not run yet"),
        (True, "waits for begin"),
        (True, "waits for add"),
    ]
    _execute_plan(_plan(), tmp_path)
    assert [step.runs for step in forecast(_plan(), store, ledger)] == [False, False, False]
    forecasts = forecast(_plan(amount=5), store, ledger)
    assert [(step.runs, step.reason) for step in forecasts] == [
        (False, "cached"),
        (True, "amount: 1 -> 5"),
        (True, "waits for add"),
    ]
    assert forecast(_plan(version=3), store, ledger)[1].reason == "the stage is now version 3 (was 1)"
    assert not (tmp_path / "store/scratch").exists() or not list((tmp_path / "store/scratch").iterdir())


def test_lineage_lists_ancestors_and_descendants(tmp_path: Path) -> None:
    artifacts, _ = _execute_plan(_plan(), tmp_path)
    ledger = Ledger(tmp_path / "ledger.db")
    up = [(distance, digest) for distance, _, _, digest in ancestors(artifacts["again"].digest, ledger)]
    assert up == [(1, artifacts["add"].digest), (2, artifacts["begin"].digest)]
    down = [(distance, digest) for distance, _, _, digest in descendants(artifacts["begin"].digest, ledger)]
    assert down == [(1, artifacts["add"].digest), (2, artifacts["again"].digest)]
    record = ledger.find(artifact=artifacts["add"].digest)[0].record
    assert record is not None and record["speed"] == 12.5 and record["machine"]["threads"] == 1


def test_a_lost_artifact_is_created_again(tmp_path: Path) -> None:
    artifacts, _ = _execute_plan(_plan(), tmp_path)
    for path in (tmp_path / "store/objects").rglob("*"):
        if path.is_file() and path.read_text() == "2":
            path.unlink()
    recreated, ran = _execute_plan(_plan(), tmp_path)
    assert ran == ["add"] and recreated["again"].digest == artifacts["again"].digest


def test_a_step_that_depends_on_a_later_step_is_refused() -> None:
    add = stage("add")
    with pytest.raises(PlanError, match=r"add\.number: depends on `later`, which is not an earlier step"):
        Plan("life", (Step("add", add, add.config(), {"number": "later"}),))


def _execute_slow_plan(folder: Path, seconds: float) -> None:
    _execute_plan(_plan(seconds=seconds), folder)


def test_a_killed_run_resumes_where_it_stopped(tmp_path: Path) -> None:
    uninterrupted, _ = _execute_plan(_plan(seconds=0.01), tmp_path / "quiet")
    fork_context = multiprocessing.get_context("fork")
    kills = 0
    for wait in (0.25, 0.5, 0.75):
        process = fork_context.Process(target=_execute_slow_plan, args=(tmp_path / "killed", 1.0))
        process.start()
        time.sleep(wait)
        if process.is_alive():
            kills += 1
            os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    assert kills
    artifacts, _ = _execute_plan(_plan(seconds=1.0), tmp_path / "killed")
    steps = (artifacts["add"].path / "deep/er/steps.txt").read_text()
    assert steps == "x" * 10
    assert artifacts["again"].digest == uninterrupted["again"].digest
    states = {run.state for run in Ledger(tmp_path / "killed/ledger.db").find()}
    assert states <= {"done", "abandoned"}


def test_two_concurrent_lifecycles_run_a_step_once(tmp_path: Path) -> None:
    fork_context = multiprocessing.get_context("fork")
    processes = [fork_context.Process(target=_execute_slow_plan, args=(tmp_path, 1.0)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    runs = Ledger(tmp_path / "ledger.db").find(step="add")
    assert [run.state for run in runs] == ["done"]


def _many_steps(folder: Path, begin: float) -> None:
    number = stage("begin")
    steps = [Step(f"step{value}", number, number.config(value=value)) for value in range(25)]  # pyright: ignore
    time.sleep(max(0.0, begin - time.time()))
    store, ledger = Store(folder / "store"), Ledger(folder / "ledger.db")
    execute(Plan("life", tuple(steps)), store, ledger, machine=Machine(), events=Events([]))
    ledger.close()


def test_four_concurrent_lifecycles_run_each_quick_step_once(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.db").close()
    fork_context, begin = multiprocessing.get_context("fork"), time.time() + 0.5
    processes = [fork_context.Process(target=_many_steps, args=(tmp_path, begin)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        runs = ledger.find()
    assert len(runs) == len({run.key for run in runs}) == 25
    assert {run.state for run in runs} == {"done"}


@pytest.mark.slow
def test_a_concurrent_rerun_does_not_use_the_earlier_result(tmp_path: Path) -> None:
    _execute_plan(_plan(seconds=1.0), tmp_path)
    fork_context = multiprocessing.get_context("fork")
    processes = [fork_context.Process(target=_rerun_slow_plan, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        runs = ledger.find(step="add")
    assert [run.state for run in runs] == ["done", "done"], "both repeated runs share one new answer"


def _rerun_slow_plan(folder: Path) -> None:
    _execute_plan(_plan(seconds=1.0), folder, rerun=True)
