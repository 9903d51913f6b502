"""`vita clean` removes scratch files, old requests and old logs."""

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


def _write_aged_scratch(folder: Path, days: float) -> Path:
    """Write a scratch folder whose last change was this many days ago."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "checkpoint").write_text("x" * 1000)
    changed_at = time.time() - days * DAY
    for path in (folder / "checkpoint", folder):
        os.utime(path, (changed_at, changed_at))
    return folder


def _run(ledger: Ledger, key: str, state: str, *, days: float, process: str = "0:0") -> None:
    """Record a run that ended this many days ago; the process `0:0` does not exist."""
    number = ledger.claim(key, life="l", step="s", stage="t", version=1, config={}, inputs={})
    ended_at = time.time() - days * DAY
    values = {"state": state, "ended": None if state == "running" else ended_at, "beat": ended_at, "process": process}
    with ledger.transaction() as database:
        database.execute(sa.update(runs).where(runs.c.id == number).values(values))


@pytest.mark.slow
def test_clean_removes_only_scratch_that_no_run_can_continue(vita: Vita, tmp_path: Path) -> None:
    store = Store(tmp_path / "vita-store")
    scratch = store.root / "scratch"
    with closing(Ledger(store.root / "ledger.db")) as ledger:
        _run(ledger, "failed-long-ago", "failed", days=20)
        _run(ledger, "failed-lately", "failed", days=3)
        _run(ledger, "running", "running", days=20, process=f"{os.getpid()}:{_start_time()}")
        _run(ledger, "killed-long-ago", "running", days=20)
    for key in ("failed-long-ago", "failed-lately", "running", "killed-long-ago", "of-no-run"):
        _write_aged_scratch(scratch / key, 3 if key == "failed-lately" else 20)
    _write_aged_scratch(scratch / f"tmp-feedback-{os.getpid()}-{_start_time()}-1", 20)
    _write_aged_scratch(scratch / "tmp-feedback-999999-1-2", 2)

    report = json.loads(vita("clean", "--dry-run", "--json")[1])
    removable = {"failed-long-ago", "killed-long-ago", "of-no-run", "tmp-feedback-999999-1-2"}
    assert {Path(file["path"]).name for file in report["files"]} == removable and report["dry_run"]
    assert len(list(scratch.iterdir())) == 7, "a dry run removes nothing"
    code, out, err = vita("clean")
    assert code == 0, err
    assert "4 files or folders (4,000 bytes) removed" in out
    remaining = {path.name for path in scratch.iterdir()}
    assert remaining == {"failed-lately", "running", f"tmp-feedback-{os.getpid()}-{_start_time()}-1"}
    assert "0 files or folders" in vita("clean")[1]


def test_clean_removes_old_requests_and_logs(vita: Vita, tmp_path: Path) -> None:
    log = tmp_path / "vita-store" / "events" / "cat.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text("{}\n")
    os.utime(log, (time.time() - 100 * DAY, time.time() - 100 * DAY))
    with closing(Ledger(tmp_path / "vita-store" / "ledger.db")) as ledger:
        write_log(ledger, [request_row(n, at=time.time() - n * DAY) for n in range(10)])
    code, out, err = vita("clean", "--request-days", "5", "--content-days", "2", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["rows"] == {"contents of requests": 8, "requests": 5}
    assert [file["path"] for file in report["files"]] == [str(log)] and not log.exists()
    assert vita("clean", "--request-days", "-1")[0] == 2


def test_a_life_removes_old_scratch_at_its_start_and_adds_no_rows_without_work(
    vita: Vita, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "life.yaml").write_text(LIFE)
    assert vita("live", "life.yaml")[0] == 0
    store, log = tmp_path / "vita-store", tmp_path / "vita-store" / "events" / "plans.jsonl"
    old_scratch = _write_aged_scratch(store / "scratch" / "of-no-run", 20)

    def sizes() -> tuple[int, int, int]:
        with closing(Ledger(store / "ledger.db")) as ledger, ledger.transaction() as database:
            counts = [database.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
                      for table in (events, runs)]  # fmt: skip
        return log.stat().st_size, counts[0], counts[1]

    sizes_before = sizes()
    assert sizes_before[0] > 0
    monkeypatch.setenv("VITA_SCRATCH_DAYS", "30")
    assert vita("live", "life.yaml")[0] == 0 and old_scratch.exists()
    monkeypatch.delenv("VITA_SCRATCH_DAYS")
    assert vita("live", "life.yaml")[0] == 0 and not old_scratch.exists()
    assert sizes() == sizes_before
    monkeypatch.setenv("VITA_SCRATCH_DAYS", "soon")
    code, _, err = vita("live", "life.yaml")
    assert code == 2 and "VITA_SCRATCH_DAYS" in err and "soon" in err


def _start_time() -> str:
    from vita.spine import machine

    return machine.owner()[1].partition(":")[2]
