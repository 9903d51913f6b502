"""The first screen of the life page: releases, key figures, origin, gates, answers, the loss curve and the timeline."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vita.cards import provenance, reader, wording
from vita.cards.life_page.results import latest_verdicts
from vita.cards.life_record import LifeRecord, StepRecord
from vita.reporting.charts import Span, span_chart
from vita.reporting.page import Block, Figure, Paragraph, Table
from vita.reporting.svg import BLUE, BROWN, COLOURS, GREY
from vita.reporting.training_report import LOSS_CHARTS, metric_figure
from vita.spine.plain_text import counted
from vita.stats.intervals import Interval

_KEY_FIGURES: Mapping[str, str] = {
    "heldout/bits_per_byte": "bits per byte",
    "world/held_out/accuracy": "accuracy",
    "instructions/prompt_strict": "instructions",
    "redteam/attack_success_rate": "attack success",
    "redteam/over_refusal": "over-refusal",
    "failed_requests": "failed requests",
}
"""End of a figure's name -> its label among the key figures."""
PHASES: Mapping[str, tuple[str, ...]] = {
    "data": ("curate", "tokenize"),
    "base model": ("adopt", "design", "initialize", "pretrain", "adapt"),
    "tuning": ("sft", "reward", "rlhf", "dpo"),
    "assurance": ("test", "review", "redteam"),
    "release": ("release",),
    "operation": ("pilot", "canary", "refine", "retire"),
}
"""Phase of the lifecycle -> its stages."""
_PHASE_COLOURS = dict(zip(PHASES, (*COLOURS[:4], BROWN, BLUE), strict=True))


@dataclass(frozen=True)
class ReleasedVersion:
    """A release with its model and the answers to "why was it released" and "how was it taken out of service"."""

    label: str
    step: str
    model: str
    state: str
    released: str
    gate: str
    """The last verdict of the gate, such as "release: pass, 3 of 3 criteria"."""
    out_of_service: str
    """The date and the reason; empty while the version may serve."""


def releases(record: LifeRecord) -> Iterator[ReleasedVersion]:
    """Yield the released versions, oldest first."""
    verdicts = {row["artifact"]: row for row in latest_verdicts(record)}
    for step in record.steps_of_kind("release"):
        model = str(step.facts.get("model") or step.inputs.get("model", ""))
        yield ReleasedVersion(
            label=f"{step.facts.get('name', record.name)}:{step.facts.get('version', '?')}",
            step=record.label(model),
            model=model,
            state=record.state(model),
            released=wording.moment(step.run.ended if step.run else None),
            gate=_verdict_text(verdicts.get(model), record.name),
            out_of_service=_out_of_service(record, model),
        )


def key_figures(record: LifeRecord) -> Iterator[tuple[str, str, str]]:
    """Yield the label, value and note of the most important numbers."""
    if models := record.models:
        yield "newest model", models[-1].name, record.state(models[-1].digest)
    if parameters := _last_fact(record, "parameters"):
        yield "parameters", wording.count(parameters), ""
    if tokens := _last_fact(record, "tokens", stage="pretrain"):
        yield "training tokens", wording.count(tokens), "pretraining"
    for ending, label in _KEY_FIGURES.items():
        for step, _, figures in reversed(record.measured()):
            name = next((name for name in figures if f"/{name}".endswith(f"/{ending}")), None)
            if name and math.isfinite(figures[name].value):
                interval = figures[name]
                text = wording.percent(interval.value) if wording.is_share(name, interval) else f"{interval.value:.3f}"
                yield label, text, step.name
                break
    yield "working time", wording.duration(sum(step.seconds for step in record.steps)), f"{len(record.steps)} steps"


def origin(record: LifeRecord) -> Iterator[tuple[str, str]]:
    """Yield each training step that the newest model depends on, with the data it was trained on."""
    if not record.models:
        return
    artifacts = provenance.lineage(record.ledger, record.store, record.models[-1].digest)
    data = provenance.data(record.store, artifacts)
    for step in dict.fromkeys(source.step for source in data):
        sources = [source for source in data if source.step == step]
        documents = sum(source.documents or 0 for source in sources)
        amount = f"{documents:,} documents" if documents else sources[0].amount
        names = sorted({source.source for source in sources})
        origins = ", ".join(names[:3]) + (f" and {len(names) - 3} more sources" if len(names) > 3 else "")
        yield step.removeprefix(f"{record.name}/"), f"{amount} from {origins}"


def criteria(record: LifeRecord) -> Iterator[tuple[str, str, str, str]]:
    """Yield the gate, criterion, measured value and verdict of the last decisions."""
    for row in latest_verdicts(record):
        gate = row["gate"].removeprefix(f"{record.name}/")
        for result in row["findings"]:
            figure = result["name"].partition(":")[2]
            criterion = wording.figure_name(figure) + result["criterion"].removeprefix(result["name"])
            measured = wording.figure_text("", Interval.from_json(result["value"])) if result.get("value") else ""
            yield gate, criterion, measured or result["reason"], result["verdict"]


def released_answers(record: LifeRecord) -> Iterator[Table]:
    """Yield one table: the questions of the life and the answers of the released versions, else of the newest model."""
    steps = [step for step in record.models if step.digest in record.answers]
    released = {release.model for release in releases(record)}
    versions = [step for step in steps if step.digest in released][-2:] or steps[-1:]
    if versions and record.questions:
        answers = [record.answers[step.digest] for step in versions]
        rows = [
            (question, *(wording.one_line(column[index]) if index < len(column) else "" for column in answers))
            for index, question in enumerate(record.questions)
        ]
        yield Table(("question", *(step.name for step in versions)), rows)


def all_answers(record: LifeRecord) -> Iterator[Block]:
    """Yield each question with the answers of all models; without questions, the samples of test reports."""
    answers = {
        question: [
            (step.name, wording.one_line(record.answers[step.digest][index], limit=300))
            for step in record.models
            if index < len(record.answers.get(step.digest, ()))
        ]
        for index, question in enumerate(record.questions)
    }
    for question, rows in (answers if any(answers.values()) else _samples(record)).items():
        yield Paragraph(question)
        yield Table(("version", "answer"), rows)


def overview_charts(record: LifeRecord) -> Iterator[Block]:
    """Yield the loss curve of pretraining, or of the last training, and the timeline of the steps."""
    trained = [step for step in record.steps if step.kind == "model"]
    for step in sorted(trained, key=lambda step: step.stage != "pretrain"):
        figure = metric_figure(reader.curve(record.store, step.digest), LOSS_CHARTS[0])
        if figure:
            yield Figure("loss", figure.svg, f"Loss of the step {step.name}, and on held-out text.")
            break
    if timeline := _timeline(record):
        caption = "Steps by phase over the working time; a pointer on a bar shows its step."
        yield Figure("timeline", span_chart(timeline, _time_ticks(record)), caption)


def _timeline(record: LifeRecord) -> dict[str, list[Span]]:
    """Return phase -> its steps as spans, one after another in the order of the life."""
    rows: dict[str, list[Span]] = {}
    second = 0.0
    for step in record.steps:
        phase = next((phase for phase, stages in PHASES.items() if step.stage in stages), "other")
        span = Span(second, second + step.seconds, step.name, _PHASE_COLOURS.get(phase, GREY))
        rows.setdefault(phase, []).append(span)
        second += step.seconds
    return {phase: rows[phase] for phase in (*PHASES, "other") if phase in rows} if second else {}


def _time_ticks(record: LifeRecord) -> list[tuple[float, str]]:
    total = sum(step.seconds for step in record.steps)
    return [(total * part / 4, wording.duration(total * part / 4)) for part in range(5)]


def _samples(record: LifeRecord) -> dict[str, list[tuple[str, str]]]:
    """Return prompt -> the greedy completion of each model, from the test reports."""
    samples: dict[str, list[tuple[str, str]]] = {}
    for digest, model in record.measured_models.items():
        for report in record.reports[digest]:
            for sample in report.details.get("samples", ()):
                if sample.get("how") == "greedy":
                    row = (record.label(model), wording.one_line(sample["text"], limit=300))
                    samples.setdefault(sample["prompt"], []).append(row)
    return dict(list(samples.items())[:8])


def _verdict_text(row: Mapping[str, Any] | None, life: str) -> str:
    if row is None:
        return "no gate has decided on it"
    passed = sum(result["verdict"] == "pass" for result in row["findings"])
    gate, verdict = row["gate"].removeprefix(f"{life}/"), row["verdict"].replace("_", " ")
    return f"{gate}: {verdict}, {passed} of {counted(len(row['findings']), 'criterion', 'criteria')}"


def _out_of_service(record: LifeRecord, model: str) -> str:
    moves = [move for move in record.moves.get(model, ()) if move.state in ("deprecated", "retired")]
    if not moves:
        return ""
    successor = moves[-1].details.get("successor")
    archive = ", in a signed archive" if moves[-1].details.get("archive") else ""
    text = f"{moves[-1].state} {wording.moment(moves[-1].at)} UTC{archive}: {moves[-1].why}"
    return text + (f"; successor: {record.label(str(successor))}" if successor else "")


def _last_fact(record: LifeRecord, name: str, *, stage: str = "") -> Any:
    steps: list[StepRecord] = [step for step in record.steps if not stage or step.stage == stage]
    return next((step.facts[name] for step in reversed(steps) if name in step.facts), None)
