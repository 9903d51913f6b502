"""Removal of scratch folders and logs that are no longer needed.

    for leftover in leftovers(store, ledger, days=14): leftover.path, leftover.size, leftover.reason
    remove(leftover, ledger)

A scratch folder is kept while a live process uses it, and for `days` after its run ended without an artifact, so that
the run can resume.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from vita.spine import machine
from vita.spine.ledger import Ledger, Run, runs
from vita.spine.store import TEMPORARY, Store

DAY = 86_400.0
_GONE = "gone-"
"""Name prefix of scratch folders that are being removed."""


@dataclass(frozen=True)
class Leftover:
    """A file or folder that is no longer needed."""

    path: Path
    size: int
    reason: str
    key: str | None = None
    """The run that it belonged to."""


def leftovers(store: Store, ledger: Ledger, *, days: float, log_days: float | None = None) -> Iterator[Leftover]:
    """Yield scratch folders, logs and corrupt objects that can be removed; logs only if `log_days` is set."""
    now = time.time()
    for path in sorted((store.root / "scratch").iterdir()):
        if reason := _removal_reason(path, ledger, now=now, days=days):
            key = None if path.name.startswith((TEMPORARY, _GONE)) else path.name
            yield Leftover(path, _size(path), reason, key)
    corrupt = [*(store.root / "objects").glob("*/*.corrupt-*"), *(store.root / "artifacts").glob("*.corrupt")]
    for path in sorted(corrupt):
        if _age(path, now) > days * DAY:
            yield Leftover(path, _size(path), "corrupt, and moved out of use")
    if log_days is None:
        return
    for path in sorted((store.root / "events").glob("*.jsonl*")):
        if _age(path, now) > log_days * DAY:
            yield Leftover(path, _size(path), "a log without recent entries")


def remove(leftover: Leftover, ledger: Ledger) -> bool:
    """Remove a leftover; return False if it has come into use again in the meantime."""
    path = leftover.path
    if leftover.key is not None:
        # Renamed inside the exclusive transaction that also guards claims: a run that starts now finds no folder.
        with ledger.exclusive(f"run {leftover.key}") as database:
            query = sa.select(runs).where(runs.c.key == leftover.key, runs.c.state == "running")
            if any(_may_live(Run(**row)) for row in database.execute(query).mappings()):
                return False
            renamed = path.with_name(f"{_GONE}{uuid.uuid4().hex[:12]}")
            try:
                path.rename(renamed)
            except FileNotFoundError:
                return False
        path = renamed
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    return True


def clean_scratch(store: Store, ledger: Ledger, *, days: float) -> int:
    """Remove the scratch folders that can be removed; return their number."""
    return sum(remove(leftover, ledger) for leftover in leftovers(store, ledger, days=days))


# -- helpers


def _removal_reason(path: Path, ledger: Ledger, *, now: float, days: float) -> str | None:
    """Return the reason why a scratch folder is not needed, or None if it may be needed."""
    old = _age(path, now) > days * DAY
    if path.name.startswith(_GONE):
        return "its removal was interrupted"
    if path.name.startswith(TEMPORARY):
        # The process may run on another machine that shares the store: then only its age counts.
        number, started = path.name.split("-")[-3:-1]
        if machine.still_alive(machine.owner()[0], f"{number}:{started}"):
            return None
        return "left by a command that has ended" if old or _age(path, now) > DAY else None
    key_runs = ledger.find(key=path.name)
    if not key_runs:
        return "no run of this store has this key" if old else None
    last = key_runs[-1]
    if last.state == "running" and _may_live(last):
        return None
    if last.state == "done":
        return "its run is done" if _age(path, now) > DAY else None
    ended = max(last.ended or 0.0, last.beat, now - _age(path, now))
    return f"its run was {last.state} more than {days:g} days ago" if now - ended > days * DAY else None


def _may_live(run: Run) -> bool:
    alive = machine.still_alive(run.place, run.process)
    return alive if alive is not None else time.time() - run.beat < DAY


def _age(path: Path, now: float) -> float:
    """Seconds since the newest change in a file or folder."""
    try:
        newest = path.stat().st_mtime
        for child in path.rglob("*") if path.is_dir() else ():
            newest = max(newest, child.stat().st_mtime)
    except FileNotFoundError:
        return 0.0
    return now - newest


def _size(path: Path) -> int:
    try:
        if not path.is_dir():
            return path.stat().st_size
        return sum(child.stat().st_size for child in path.rglob("*") if child.is_file() and not child.is_symlink())
    except FileNotFoundError:
        return 0
