"""All measurements of the same weights, in any model folder, test, step or life.

    history = measurements(ledger, store, model)
    first_measured(history)["world/held_out/accuracy"]        # time of the first measurement of this figure

A criterion must not be changed after its figure is known. A gate therefore needs the time of the first measurement of a
figure of these weights, which are identified by the bytes of their files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vita.gates.policy import ReportEvidence
from vita.gates.weights import same_weights
from vita.reporting.figures import read_report
from vita.spine.errors import DataError, StoreError
from vita.spine.ledger import Ledger, Run
from vita.spine.store import Store

_MEASURING_STAGES = ("test", "redteam", "canary")
"""Stages whose reports contain figures; a lost or unreadable report may have measured any figure."""


@dataclass(frozen=True)
class Measurement:
    """A report on the weights."""

    step: str
    """The step of the run: `life/step`."""
    evidence: ReportEvidence
    figures: frozenset[str] | None
    """The figures of the report; None if it was removed from the store or cannot be read."""


def measurements(ledger: Ledger, store: Store, model: str) -> list[Measurement]:
    """Return the reports on the weights of a model, oldest first."""
    models = same_weights(ledger, store, model)
    runs = {run.id: run for digest in models for run in ledger.users(digest) if run.artifact}
    candidates = (_measurement(store, run, frozenset(models)) for run in runs.values())
    return sorted(
        (measurement for measurement in candidates if measurement is not None),
        key=lambda measurement: measurement.evidence.began,
    )


def first_measured(history: Iterable[Measurement]) -> dict[str, float]:
    """Return figure -> time of its first measurement; the empty name stands for all figures."""
    first: dict[str, float] = {}
    for measurement in history:
        for name in ("",) if measurement.figures is None else measurement.figures:
            first[name] = min(measurement.evidence.began, first.get(name, math.inf))
    return first


def _measurement(store: Store, run: Run, models: frozenset[str]) -> Measurement | None:
    assert run.artifact is not None
    step = f"{run.life}/{run.step}"
    try:
        if store.manifest(run.artifact).kind != "report":
            return None
        folder = store.open(run.artifact).path
    except StoreError:
        lost = ReportEvidence(Path(), run.artifact, run.began, version=run.version)
        return Measurement(step, lost, None) if run.stage in _MEASURING_STAGES else None
    evidence = ReportEvidence(folder, run.artifact, run.began, version=run.version)
    try:
        report = read_report(folder)
    except DataError:
        return Measurement(step, evidence, None) if run.stage in _MEASURING_STAGES else None
    return Measurement(step, evidence, frozenset(report.named())) if report.model in models else None
