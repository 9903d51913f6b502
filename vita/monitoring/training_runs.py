"""The training runs of a store and their state: metrics, samples, skipped steps and messages.

    run = find_run(ledger, store, "my/pretrain")
    state = run_state(run, store)
    state["step"], state["figures"]["loss"], state["skipped"]

A running or interrupted run is read from its scratch folder and the event log of its life, a finished one from its
artifact.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vita.spine import machine
from vita.spine.config import nearest
from vita.spine.errors import StoreError
from vita.spine.ledger import Ledger, Run
from vita.spine.store import Store
from vita.train.run_control import is_paused
from vita.train.run_files import json_lines, read_metrics, read_samples

LOG_BYTES = 2_000_000
"""Bytes at the end of an event log that are read."""
MOST_NOTES, MOST_SKIPPED = 12, 50
TILES = (
    "loss", "heldout_loss", "heldout_bits_per_byte", "learning_rate", "gradient_norm", "tokens_per_second", "mfu",
    "memory_bytes",
)  # fmt: skip
"""Metrics whose last values are shown as key figures."""


@dataclass(frozen=True)
class TrainingRunFiles:
    """A training run: its entry in the ledger, and the folder with its files."""

    run: Run
    folder: Path
    """The scratch folder, or the report folder of the artifact of a finished run."""

    @property
    def name(self) -> str:
        return f"{self.run.life}/{self.run.step}"

    @property
    def state(self) -> str:
        """The state: running, paused, stopped, failed, killed or done."""
        if self.run.state == "running":
            if machine.still_alive(self.run.place, self.run.process) is False:
                return "killed"
            return "paused" if is_paused(self.folder) else "running"
        return {"abandoned": "killed"}.get(self.run.state, self.run.state)


def training_runs(ledger: Ledger, store: Store, stages: frozenset[str]) -> list[TrainingRunFiles]:
    """Return the newest run of each step of the stages with a training loop, newest first."""
    newest: dict[tuple[str, str], Run] = {}
    for run in ledger.find():
        if run.stage in stages:
            newest[run.life, run.step] = run
    runs = sorted(newest.values(), key=lambda run: run.began, reverse=True)
    return [TrainingRunFiles(run, _folder(run, store)) for run in runs]


def find_run(ledger: Ledger, store: Store, name: str) -> TrainingRunFiles:
    """Return the newest run of a step, `LIFE/STEP`; raise a `StoreError` if there is none."""
    life, _, step = name.rpartition("/")
    runs = ledger.find(life=life, step=step) if life else []
    if not runs:
        names = sorted({f"{run.life}/{run.step}" for run in ledger.find()})
        close = nearest(name, names)
        hint = f"did you mean `{close}`?" if close else "`vita runs` lists the training runs"
        raise StoreError(name, "is not a run, LIFE/STEP", hint=hint)
    return TrainingRunFiles(runs[-1], _folder(runs[-1], store))


def _folder(run: Run, store: Store) -> Path:
    if run.state == "done" and run.artifact and store.has(run.artifact):
        report = store.root / "folders" / run.artifact / "report"
        if report.is_dir():
            return report
    return store.root / "scratch" / run.key


def run_state(files: TrainingRunFiles, store: Store) -> dict[str, Any]:
    """Return the state of a run as plain values, without its curves."""
    rows, log = read_metrics(files.folder), list(_log(files.run, store))
    progress = next((event for event in reversed(log) if event.get("event") == "progress"), {})
    last_step = rows[-1]["step"] if rows else 0
    state = files.state
    total = progress.get("total")
    figures: dict[str, float] = {}
    for row in rows:
        figures |= {name: row[name] for name in TILES if isinstance(row.get(name), (int, float))}
    for name in TILES:
        if name not in figures and isinstance((files.run.record or {}).get(name), (int, float)):
            figures[name] = (files.run.record or {})[name]
    skipped = [{"step": row["step"], "reason": row["skip_reason"]} for row in rows if "skip_reason" in row]
    ended = files.run.ended or (files.run.beat if state == "killed" else time.time())
    return {
        "run": files.name, "stage": files.run.stage, "state": state, "problem": files.run.problem,
        "step": last_step, "steps": total, "seconds": round(ended - files.run.began, 1),
        "seconds_left": progress.get("seconds_left") if state == "running" else None,
        "figures": {name: figures[name] for name in TILES if name in figures},
        "skipped_steps": len(skipped), "skipped": skipped[-MOST_SKIPPED:],
        "samples": read_samples(files.folder),
        "notes": [
            {"at": event["at"], "level": event.get("level", "info"), "text": event.get("text", "")}
            for event in log if event.get("event") == "note" and event.get("level") != "detail"
        ][-MOST_NOTES:],
    }  # fmt: skip


def _log(run: Run, store: Store) -> Iterator[Mapping[str, Any]]:
    """Yield the events of a run from the end of the log of its life."""
    path = store.root / "events" / f"{run.life}.jsonl"
    until = run.ended or float("inf")
    for event in json_lines(path, last_bytes=LOG_BYTES):
        if event.get("life_step") == run.step and run.began - 1 <= event.get("at", 0) <= until + 1:
            yield event
