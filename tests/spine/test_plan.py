"""Plans: what is known is skipped, one change runs what hangs on it, killed anywhere it goes on."""

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


class Told:
    """Remembers the states of steps."""

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


def _carry_out(plan: Plan, folder: Path, *, rerun: bool = False) -> tuple[dict, list[str]]:
    told = Told()
    store, ledger = Store(folder / "store"), Ledger(folder / "ledger.db")
    made = execute(
        plan,
        store,
        ledger,
        machine=Machine(),
        events=Events([told]),
        rerun=[step.name for step in plan.steps] if rerun else (),
    )
    ledger.close()
    return made, [name for name, state in told.states if state == "done"]


def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    first, ran = _carry_out(_plan(), tmp_path)
    second, ran_again = _carry_out(_plan(), tmp_path)
    assert ran == ["begin", "add", "again"] and ran_again == []
    assert {name: one.digest for name, one in first.items()} == {name: one.digest for name, one in second.items()}
    assert first["again"].facts["value"] == 12


def test_one_change_runs_only_what_hangs_on_it(tmp_path: Path) -> None:
    _carry_out(_plan(), tmp_path)
    assert _carry_out(_plan(amount=2), tmp_path)[1] == ["add", "again"]
    assert _carry_out(_plan(amount=2, version=2), tmp_path)[1] == ["add", "again"]


def test_equal_content_by_another_way_stops_the_ripple(tmp_path: Path) -> None:
    _carry_out(_plan(value=1, amount=3), tmp_path)
    assert _carry_out(_plan(value=2, amount=2), tmp_path)[1] == ["begin", "add"]


def test_fresh_runs_everything_and_gives_the_same_digests(tmp_path: Path) -> None:
    first, _ = _carry_out(_plan(), tmp_path)
    second, ran = _carry_out(_plan(), tmp_path, rerun=True)
    assert ran == ["begin", "add", "again"]
    assert first["again"].digest == second["again"].digest


def test_a_file_matters_by_content_and_not_by_name_or_time(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("one")
    _carry_out(_plan(source=str(tmp_path / "a.txt")), tmp_path)
    assert _carry_out(_plan(source=str(tmp_path / "b.txt")), tmp_path)[1] == []
    (tmp_path / "b.txt").write_text("two")
    assert _carry_out(_plan(source=str(tmp_path / "b.txt")), tmp_path)[1] == ["begin"]


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"begin: .*nowhere.txt: no such file"):
        _carry_out(_plan(source=str(tmp_path / "nowhere.txt")), tmp_path)


def test_the_forecast_says_what_would_run_and_why(tmp_path: Path) -> None:
    store, ledger = Store(tmp_path / "store"), Ledger(tmp_path / "ledger.db")
    assert [(one.runs, one.reason) for one in forecast(_plan(), store, ledger)] == [
        (True, "has not run yet"),
        (True, "waits for begin"),
        (True, "waits for add"),
    ]
    _carry_out(_plan(), tmp_path)
    assert [one.runs for one in forecast(_plan(), store, ledger)] == [False, False, False]
    answers = forecast(_plan(amount=5), store, ledger)
    assert [(one.runs, one.reason) for one in answers] == [
        (False, "cached"),
        (True, "amount: 1 -> 5"),
        (True, "waits for add"),
    ]
    assert forecast(_plan(version=3), store, ledger)[1].reason == "the stage is now version 3 (was 1)"
    assert not (tmp_path / "store/scratch").exists() or not list((tmp_path / "store/scratch").iterdir())


def test_lineage_goes_both_ways(tmp_path: Path) -> None:
    made, _ = _carry_out(_plan(), tmp_path)
    ledger = Ledger(tmp_path / "ledger.db")
    up = [(distance, digest) for distance, _, _, digest in ancestors(made["again"].digest, ledger)]
    assert up == [(1, made["add"].digest), (2, made["begin"].digest)]
    down = [(distance, digest) for distance, _, _, digest in descendants(made["begin"].digest, ledger)]
    assert down == [(1, made["add"].digest), (2, made["again"].digest)]
    record = ledger.find(artifact=made["add"].digest)[0].record
    assert record is not None and record["speed"] == 12.5 and record["machine"]["threads"] == 1


def test_a_lost_artifact_is_made_anew(tmp_path: Path) -> None:
    made, _ = _carry_out(_plan(), tmp_path)
    for path in (tmp_path / "store/objects").rglob("*"):
        if path.is_file() and path.read_text() == "2":
            path.unlink()
    again, ran = _carry_out(_plan(), tmp_path)
    assert ran == ["add"] and again["again"].digest == made["again"].digest


def test_a_step_that_takes_from_a_later_one_is_refused() -> None:
    add = stage("add")
    with pytest.raises(PlanError, match=r"add\.number: depends on `later`, which is not an earlier step"):
        Plan("life", (Step("add", add, add.config(), {"number": "later"}),))


def _in_process(folder: Path, seconds: float) -> None:
    _carry_out(_plan(seconds=seconds), folder)


def test_killed_in_the_middle_it_goes_on_where_it_was(tmp_path: Path) -> None:
    undisturbed, _ = _carry_out(_plan(seconds=0.01), tmp_path / "quiet")
    spawn = multiprocessing.get_context("fork")
    kills = 0
    for wait in (0.25, 0.5, 0.75):
        process = spawn.Process(target=_in_process, args=(tmp_path / "killed", 1.0))
        process.start()
        time.sleep(wait)
        if process.is_alive():
            kills += 1
            os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    assert kills
    made, _ = _carry_out(_plan(seconds=1.0), tmp_path / "killed")
    steps = (made["add"].path / "deep/er/steps.txt").read_text()
    assert steps == "x" * 10
    assert made["again"].digest == undisturbed["again"].digest
    states = {run.state for run in Ledger(tmp_path / "killed/ledger.db").find()}
    assert states <= {"done", "abandoned"}


def test_two_lives_at_once_do_the_work_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    processes = [spawn.Process(target=_in_process, args=(tmp_path, 1.0)) for _ in range(2)]
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


def test_four_lives_with_the_same_quick_steps_run_each_step_once(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.db").close()
    spawn, begin = multiprocessing.get_context("fork"), time.time() + 0.5
    processes = [spawn.Process(target=_many_steps, args=(tmp_path, begin)) for _ in range(4)]
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
def test_a_fresh_run_beside_one_that_is_running_does_not_take_the_answer_from_before(tmp_path: Path) -> None:
    _carry_out(_plan(seconds=1.0), tmp_path)
    spawn = multiprocessing.get_context("fork")
    processes = [spawn.Process(target=_fresh_in_process, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        runs = ledger.find(step="add")
    assert [run.state for run in runs] == ["done", "done"], "both repeated runs share one new answer"


def _fresh_in_process(folder: Path) -> None:
    _carry_out(_plan(seconds=1.0), folder, rerun=True)
