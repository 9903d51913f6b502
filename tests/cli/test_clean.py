"""`vita clean`, and what lives leave behind."""

from __future__ import annotations

import json
import os
import time
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.cli.test_cli import Vita, vita
from tests.request_logs import request_row, write_log
from vita.spine.ledger import Ledger, events, runs
from vita.spine.store import Store

__all__ = ["vita"]
DAY = 86_400.0
LIFE = """
name: plans
stages:
  design: {depth: 1, width: 32, context: 32, tokens_per_step: 128, steps: 12, timed_steps: 0, text: world}
"""


def _aged(folder: Path, days: float) -> Path:
    """A scratch folder that was changed the last time so long ago."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "checkpoint").write_text("x" * 1000)
    then = time.time() - days * DAY
    for path in (folder / "checkpoint", folder):
        os.utime(path, (then, then))
    return folder


def _run(ledger: Ledger, key: str, state: str, *, days: float, process: str = "0:0") -> None:
    """A run that ended so long ago; `process` 0 lives nowhere."""
    number = ledger.claim(key, life="l", step="s", stage="t", version=1, config={}, inputs={})
    at = time.time() - days * DAY
    values = {"state": state, "ended": None if state == "running" else at, "beat": at, "process": process}
    with ledger.transaction() as database:
        database.execute(sa.update(runs).where(runs.c.id == number).values(values))


@pytest.mark.slow
def test_only_scratch_that_no_run_can_go_on_with_is_removed(vita: Vita, tmp_path: Path) -> None:
    store = Store(tmp_path / "vita-store")
    scratch = store.root / "scratch"
    with closing(Ledger(store.root / "ledger.db")) as ledger:
        _run(ledger, "failed-long-ago", "failed", days=20)
        _run(ledger, "failed-lately", "failed", days=3)
        _run(ledger, "running", "running", days=20, process=f"{os.getpid()}:{_started()}")
        _run(ledger, "killed-long-ago", "running", days=20)
    for key in ("failed-long-ago", "failed-lately", "running", "killed-long-ago", "of-no-run"):
        _aged(scratch / key, 3 if key == "failed-lately" else 20)
    _aged(scratch / f"tmp-feedback-{os.getpid()}-{_started()}-1", 20)
    _aged(scratch / "tmp-feedback-999999-1-2", 2)

    shown = json.loads(vita("clean", "--dry-run", "--json")[1])
    removable = {"failed-long-ago", "killed-long-ago", "of-no-run", "tmp-feedback-999999-1-2"}
    assert {Path(one["path"]).name for one in shown["files"]} == removable and shown["dry_run"]
    assert len(list(scratch.iterdir())) == 7, "a dry run removes nothing"
    code, out, err = vita("clean")
    assert code == 0, err
    assert "4 files or folders (4,000 bytes) removed" in out
    left = {path.name for path in scratch.iterdir()}
    assert left == {"failed-lately", "running", f"tmp-feedback-{os.getpid()}-{_started()}-1"}
    assert "0 files or folders" in vita("clean")[1]


def test_old_requests_and_logs_are_removed_by_age(vita: Vita, tmp_path: Path) -> None:
    log = tmp_path / "vita-store" / "events" / "cat.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text("{}\n")
    os.utime(log, (time.time() - 100 * DAY, time.time() - 100 * DAY))
    with closing(Ledger(tmp_path / "vita-store" / "ledger.db")) as ledger:
        write_log(ledger, [request_row(n, at=time.time() - n * DAY) for n in range(10)])
    code, out, err = vita("clean", "--request-days", "5", "--content-days", "2", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["rows"] == {"contents of requests": 8, "requests": 5}
    assert [one["path"] for one in told["files"]] == [str(log)] and not log.exists()
    assert vita("clean", "--request-days", "-1")[0] == 2


def test_a_life_removes_old_scratch_when_it_begins_and_an_idle_one_adds_nothing(
    vita: Vita, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "life.yaml").write_text(LIFE)
    assert vita("live", "life.yaml")[0] == 0
    store, log = tmp_path / "vita-store", tmp_path / "vita-store" / "events" / "plans.jsonl"
    old = _aged(store / "scratch" / "of-no-run", 20)

    def rows() -> tuple[int, int, int]:
        with closing(Ledger(store / "ledger.db")) as ledger, ledger.transaction() as database:
            counts = [database.execute(sa.select(sa.func.count()).select_from(one)).scalar_one()
                      for one in (events, runs)]  # fmt: skip
        return log.stat().st_size, counts[0], counts[1]

    before = rows()
    assert before[0] > 0
    monkeypatch.setenv("VITA_SCRATCH_DAYS", "30")
    assert vita("live", "life.yaml")[0] == 0 and old.exists()
    monkeypatch.delenv("VITA_SCRATCH_DAYS")
    assert vita("live", "life.yaml")[0] == 0 and not old.exists()
    assert rows() == before
    monkeypatch.setenv("VITA_SCRATCH_DAYS", "soon")
    code, _, err = vita("live", "life.yaml")
    assert code == 2 and "VITA_SCRATCH_DAYS" in err and "soon" in err


def _started() -> str:
    from vita.spine import machine

    return machine.owner()[1].partition(":")[2]
