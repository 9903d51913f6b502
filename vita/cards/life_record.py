"""The record of a life: its steps in order, their reports, the states of its models, and its answers, read once.

    record = read_life_record(ledger, store, "cat")
    [step.name for step in record.steps]     # ["design", "curate", "tokenize", ...]

The summary of `vita live`, the life page and the model card read their facts from this record. A step that never ran is
absent; records that cannot be read are listed in `gaps`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vita.cards import reader
from vita.gates.services import served_models
from vita.reporting.figures import ReportContent, stored_reports
from vita.spine.errors import StoreError, VitaError
from vita.spine.ledger import Ledger, Run, StateTransition
from vita.spine.store import Store
from vita.stats.intervals import Interval

UNREADABLE = (VitaError, OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
"""Errors that a damaged or unfamiliar record may raise; the reader of a life lists them and continues."""
_LIFE_RECORDED = "lived"


@dataclass(frozen=True)
class StepRecord:
    """One step of a life as it ran: the artifact that it made, its run and its inputs."""

    name: str
    digest: str
    kind: str
    facts: Mapping[str, Any]
    run: Run | None
    inputs: Mapping[str, str]
    """Slot -> digest of the artifact that filled it."""
    failed_attempts: int = 0
    """Runs that failed, were stopped or were killed before the step was done."""
    stale_inputs: tuple[str, ...] = ()
    """Input steps that have run again since, so that this step used an earlier result of theirs."""

    @property
    def stage(self) -> str:
        return self.run.stage if self.run else ""

    @property
    def config(self) -> Mapping[str, Any]:
        return self.run.config if self.run else {}

    @property
    def record(self) -> Mapping[str, Any]:
        return (self.run.record if self.run else None) or {}

    @property
    def seconds(self) -> float:
        """Working time of the step; 0 where none was recorded."""
        return float(self.record.get("seconds") or (self.run.seconds if self.run else None) or 0)


_COPIES = ("release", "archive")
"""Kinds of artifact that hold a copy of a model's reports; the figures belong to the steps that measured them."""


@dataclass(frozen=True)
class LifeRecord:
    """A life and everything recorded about it."""

    ledger: Ledger
    store: Store
    name: str
    about: str
    steps: tuple[StepRecord, ...]
    questions: tuple[str, ...] = ()
    answers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Model digest -> its answer to each question."""
    reports: Mapping[str, Sequence[ReportContent]] = field(default_factory=dict)
    """Artifact digest -> the content of its reports."""
    figures: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    """Artifact digest -> the figures of its reports."""
    measured_models: Mapping[str, str] = field(default_factory=dict)
    """Report digest -> the model that it measured."""
    moves: Mapping[str, list[StateTransition]] = field(default_factory=dict)
    """Model digest -> its changes of state."""
    served: frozenset[str] = frozenset()
    """Models that a running service serves."""
    gaps: tuple[str, ...] = ()
    """Sentences about what could not be read."""

    @property
    def step_names(self) -> dict[str, str]:
        """Artifact digest -> name of the step that made it."""
        return {step.digest: step.name for step in reversed(self.steps)}

    @property
    def models(self) -> list[StepRecord]:
        """The step of each model, oldest first; a model that two steps made appears once."""
        models: dict[str, StepRecord] = {}
        for step in self.steps_of_kind("model"):
            models.setdefault(step.digest, step)
        return list(models.values())

    def steps_of_kind(self, kind: str) -> list[StepRecord]:
        """Return the steps whose artifact has this kind."""
        return [step for step in self.steps if step.kind == kind]

    def label(self, digest: str) -> str:
        """Return the name of the step that made an artifact, else the beginning of its digest."""
        return self.step_names.get(digest, digest[:12])

    def state(self, digest: str) -> str:
        """Return the state of a model: `serving` only while a service serves it."""
        moves = self.moves.get(digest)
        state = moves[-1].state if moves else "candidate"
        if state in ("approved", "serving"):
            return "serving" if digest in self.served else "approved"
        return state

    def measured(self) -> list[tuple[StepRecord, str, Mapping[str, Interval]]]:
        """Return (step with figures, digest of the measured model, figures) in the order of the life."""
        return [
            (step, self.measured_models.get(step.digest, step.digest), self.figures[step.digest])
            for step in self.steps
            if self.figures.get(step.digest)
        ]


def remember(
    ledger: Ledger,
    life: str,
    *,
    about: str,
    steps: Sequence[str],
    questions: Sequence[str] = (),
    answers: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Record what the ledger cannot derive: the order of the steps in the life's file, and the models' answers."""
    plain_answers = {digest: list(texts) for digest, texts in (answers or {}).items()}
    data = {"about": about, "steps": list(steps), "questions": list(questions), "answers": plain_answers}
    if _remembered(ledger, life) != data:
        ledger.log(_LIFE_RECORDED, life, **data)


def known_answers(ledger: Ledger, life: str, questions: Sequence[str]) -> dict[str, list[str]]:
    """Return model digest -> its recorded answers to exactly these questions."""
    data = _remembered(ledger, life)
    return dict(data.get("answers", {})) if data.get("questions") == list(questions) else {}


def read_life_record(ledger: Ledger, store: Store, life: str) -> LifeRecord:
    """Read everything recorded about a life; it has no steps where the ledger knows no life of that name."""
    data = _remembered(ledger, life)
    steps, gaps = _read_steps(ledger, store, life, order=data.get("steps", ()))
    reports, report_gaps = _read_reports(store, steps)
    moves: dict[str, list[StateTransition]] = {}
    served: frozenset[str] = frozenset()
    state_gaps: list[str] = []
    try:
        for move in ledger.moves():
            moves.setdefault(move.artifact, []).append(move)
        served = frozenset(served_models(ledger))
    except UNREADABLE as error:
        state_gaps.append(f"The states of the versions cannot be read: {error}")
    kinds = {step.digest: step.kind for step in steps}
    models = {digest: reader.model_in(contents) for digest, contents in reports.items() if kinds[digest] == "report"}
    return LifeRecord(
        ledger, store, life, data.get("about", ""), tuple(steps), tuple(data.get("questions", ())),
        data.get("answers", {}), reports,
        figures={digest: reader.figures_in(contents) for digest, contents in reports.items()},
        measured_models={digest: model for digest, model in models.items() if model},
        moves=moves, served=served, gaps=(*gaps, *report_gaps, *state_gaps),
    )  # fmt: skip


def _read_steps(ledger: Ledger, store: Store, life: str, *, order: Sequence[str]) -> tuple[list[StepRecord], list[str]]:
    """Return the steps in the order of the life's file, and sentences about those that are not among them."""
    history = [(name.removeprefix(f"{life}/"), digest) for name, digest in ledger.newest_names(f"{life}/")]
    current = dict(history)
    makers = {digest: step for step, digest in history}
    runs = ledger.find(life=life)
    steps: list[StepRecord] = []
    gaps: list[str] = []
    for name, digest in current.items():
        try:
            steps.append(_read_step(ledger, store, name, digest, runs=runs, current=current, makers=makers))
        except UNREADABLE as error:
            gaps.append(f"The step {name} cannot be read: {error}")
    positions = {name: index for index, name in enumerate(order)}
    if positions:
        if removed := [step.name for step in steps if step.name not in positions]:
            gaps.append(f"Steps that ran earlier and are no longer in the file of this life: {', '.join(removed)}.")
        steps = [step for step in steps if step.name in positions]
    steps.sort(key=lambda step: (positions.get(step.name, 0), step.run.began if step.run else 0))
    return steps, gaps


def _read_reports(store: Store, steps: Sequence[StepRecord]) -> tuple[dict[str, tuple[ReportContent, ...]], list[str]]:
    """Return artifact digest -> the content of its reports, and sentences about those that cannot be read."""
    reports: dict[str, tuple[ReportContent, ...]] = {}
    gaps: list[str] = []
    for step in steps:
        if step.kind == "missing":
            gaps.append(f"The artifact of the step {step.name} is no longer in the store.")
        elif step.kind not in _COPIES and step.digest not in reports:
            try:
                reports[step.digest] = tuple(stored_reports(store, step.digest))
            except UNREADABLE as error:
                gaps.append(f"The report of the step {step.name} cannot be read: {error}")
    return reports, gaps


def _read_step(
    ledger: Ledger, store: Store, name: str, digest: str, *,
    runs: Sequence[Run], current: Mapping[str, str], makers: Mapping[str, str],
) -> StepRecord:  # fmt: skip
    step_runs = [run for run in runs if run.step == name]
    done = [run for run in step_runs if run.artifact == digest and run.state == "done"]
    run = done[-1] if done else next(iter(reversed(ledger.find(artifact=digest, state="done"))), None)
    inputs = ledger.inputs(run.id) if run else {}
    stale_inputs = [makers[used] for used in inputs.values() if used in makers and current[makers[used]] != used]
    try:
        manifest = store.manifest(digest)
        kind, facts = manifest.kind, manifest.facts
    except StoreError:
        kind, facts = "missing", {}
    failed_attempts = sum(run.state in ("failed", "stopped", "abandoned") for run in step_runs)
    return StepRecord(name, digest, kind, facts, run, inputs, failed_attempts, tuple(dict.fromkeys(stale_inputs)))


def _remembered(ledger: Ledger, life: str) -> dict[str, Any]:
    events = [event["data"] for event in ledger.events(life) if event["event"] == _LIFE_RECORDED]
    return events[-1] if events else {}
