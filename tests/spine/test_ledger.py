"""The ledger, on SQLite and (where a server is installed) on PostgreSQL."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from vita.spine.errors import LedgerError, MissingExtra
from vita.spine.ledger import Fingerprint, FinishedRun, Ledger


@pytest.fixture
def open_ledger(ledger_url: str) -> Iterator[Callable[[], Ledger]]:
    """Return a function that opens the ledger; all opened ledgers are closed after the test."""
    ledgers: list[Ledger] = []

    def open_another() -> Ledger:
        ledgers.append(Ledger(ledger_url))
        return ledgers[-1]

    yield open_another
    for ledger in ledgers:
        ledger.close()


def _claim(ledger: Ledger, key: str = "k", *, after: int | None = 0, **inputs: str) -> int | FinishedRun | None:
    return ledger.claim(key, life="l", step="s", stage="t", version=1, config={"a": 1}, inputs=inputs, after=after)


def test_a_key_has_one_claim_at_a_time(open_ledger: Callable[[], Ledger]) -> None:
    ledger, other_ledger = open_ledger(), open_ledger()
    number = _claim(ledger, data="d1")
    assert isinstance(number, int) and _claim(other_ledger) is None
    ledger.finish(number, artifact="a1", record={"seconds": 1.5})
    assert other_ledger.cached_artifact("k") == "a1"
    assert [run.record for run in other_ledger.users("d1")] == [{"seconds": 1.5}]
    assert _claim(other_ledger) == FinishedRun(number, "a1"), "a finished key is answered, not run again"
    assert isinstance(_claim(other_ledger, after=number), int), "an answer whose artifact is lost does not count"


def test_a_repeated_run_ignores_earlier_results(open_ledger: Callable[[], Ledger]) -> None:
    ledger, other_ledger = open_ledger(), open_ledger()
    first = _claim(ledger)
    assert isinstance(first, int)
    ledger.finish(first, artifact="a1", record={})
    second = _claim(ledger, after=None)
    assert isinstance(second, int) and _claim(other_ledger, after=None) is None
    ledger.finish(second, artifact="a2", record={})
    assert _claim(other_ledger, after=first) == FinishedRun(second, "a2")


def _claim_all(ledger: Ledger, keys: int, begin: float) -> None:
    time.sleep(max(0.0, begin - time.time()))
    for number in range(keys):
        claim = _claim(ledger, f"key {number}")
        if isinstance(claim, int):
            ledger.finish(claim, artifact=f"made by {os.getpid()}", record={})


def test_concurrent_processes_run_each_key_once(ledger_url: str) -> None:
    Ledger(ledger_url).close()
    processes, keys, begin = 4, 30, time.time() + 0.5
    children = []
    for _ in range(processes):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with closing(Ledger(ledger_url)) as ledger:
                    _claim_all(ledger, keys, begin)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * processes
    with closing(Ledger(ledger_url)) as ledger:
        runs = ledger.find()
    assert sorted(run.key for run in runs) == sorted(f"key {number}" for number in range(keys))
    assert {run.state for run in runs} == {"done"}


def test_opening_a_new_file_waits_for_another_process_that_creates_it(tmp_path: Path) -> None:
    """SQLite refuses the switch to a write-ahead log at once while another connection holds the write lock."""
    path = tmp_path / "ledger.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("begin immediate")
    timer = threading.Timer(0.3, lambda: other.execute("rollback"))
    timer.start()
    Ledger(path).close()
    timer.join()
    assert other.execute("pragma journal_mode").fetchone() == ("wal",)
    other.close()


def _move_at(ledger: Ledger, state: str, begin: float) -> None:
    time.sleep(max(0.0, begin - time.time()))
    for number in range(20):
        with suppress(LedgerError):
            ledger.move(f"model {number}", state, who="test", why="at the same moment")


def test_a_version_retired_during_another_move_stays_retired(ledger_url: str) -> None:
    Ledger(ledger_url).close()
    begin, children = time.time() + 0.5, []
    for state in ("serving", "retired", "approved"):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with closing(Ledger(ledger_url)) as ledger:
                    _move_at(ledger, state, begin)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    with closing(Ledger(ledger_url)) as ledger:
        assert {ledger.state(f"model {number}") for number in range(20)} == {"retired"}


def test_the_claim_of_a_dead_process_is_replaced_immediately(open_ledger: Callable[[], Ledger]) -> None:
    ledger = open_ledger()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if _claim(open_ledger()) else 1
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status == 0 and ledger.find()[0].state == "running"
    assert _claim(ledger) is not None
    assert [run.state for run in ledger.find()] == ["abandoned", "running"]


def test_a_name_refers_to_its_newest_artifact_and_keeps_its_history(open_ledger: Callable[[], Ledger]) -> None:
    ledger = open_ledger()
    for digest in ("d1", "d2", "d2"):
        ledger.name("cat/sft", digest)
    assert ledger.named("cat/sft") == "d2" and ledger.named("cat/dpo") is None
    assert [digest for _, digest in ledger.newest_names("cat/")] == ["d1", "d2"]


def test_events_are_appended_in_order(open_ledger: Callable[[], Ledger]) -> None:
    ledger = open_ledger()
    ledger.log("made", "d1", by="pretrain")
    ledger.log("made", "d2", by="sft")
    assert [event["data"]["by"] for event in ledger.events()] == ["pretrain", "sft"]
    assert [event["subject"] for event in ledger.events("d2")] == ["d2"]


def test_fingerprints_are_stored_by_inode_size_and_both_times(open_ledger: Callable[[], Ledger]) -> None:
    ledger = open_ledger()
    fingerprints = [Fingerprint(f"/b/{number}", "z", number, 1, 2, 3) for number in range(1200)]
    ledger.remember_fingerprints([Fingerprint("/a", "x", 1, 3, 5, 7), *fingerprints])
    ledger.remember_fingerprints([Fingerprint("/a", "y", 2, 4, 6, 8)])
    known_fingerprints = ledger.fingerprints(["/a", "/none", *(fingerprint.path for fingerprint in fingerprints)])
    assert known_fingerprints["/a"].digest == "y" and known_fingerprints["/a"].state == (2, 4, 6, 8)
    assert len(known_fingerprints) == 1201 and known_fingerprints["/b/1199"] == fingerprints[-1]


def test_a_file_that_is_not_a_database_is_refused_with_a_clear_message(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("not a database, but quite long enough to be looked at" * 50)
    with pytest.raises(LedgerError, match=r"is corrupt: .* restore it from a backup"):
        Ledger(tmp_path / "ledger.db")


def test_an_unreachable_server_is_refused_without_the_password() -> None:
    pytest.importorskip("psycopg", reason="needs the extra `postgres`")
    with pytest.raises(LedgerError) as refusal:
        Ledger("postgresql://vita:secret@127.0.0.1:9/vita")
    assert "secret" not in str(refusal.value) and "127.0.0.1" in str(refusal.value)


def test_an_invalid_address_is_refused() -> None:
    with pytest.raises((LedgerError, MissingExtra)):
        Ledger("nonsense://x")


def test_a_ledger_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    import sqlite3

    Ledger(tmp_path / "ledger.db").close()
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        database.execute("update alembic_version set version_num = '9999'")
    database.close()
    with pytest.raises(LedgerError, match="written by a newer Vita"):
        Ledger(tmp_path / "ledger.db")
