"""The first screen of the life page: releases, key figures, origin, gates, answers, the loss curve and the timeline."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from vita.cards import provenance, reader
from vita.cards.life_page.sections import latest_verdicts
from vita.cards.life_record import LifeRecord, StepRecord
from vita.reporting.catalogue import KEY_FIGURES, PHASES
from vita.reporting.charts import COLOURS, GREY, Span, span_chart
from vita.reporting.page import Figure, curve_figures
from vita.reporting.wording import count, duration, is_share, moment, one_line, percent, words
from vita.spine.ledger import StateTransition
from vita.spine.plain_text import counted

_PHASE_COLOURS = dict(zip(PHASES, (*COLOURS, COLOURS[0]), strict=True))


def releases(record: LifeRecord) -> Iterator[dict[str, str]]:
    """Yield the released versions, oldest first: why each was released, and how it was taken out of service."""
    verdicts = {row["artifact"]: row for row in latest_verdicts(record)}
    for step in record.steps_of_kind("release"):
        model = str(step.facts.get("model") or step.inputs.get("model", ""))
        ends = [move for move in record.moves.get(model, ()) if move.state in ("deprecated", "retired")]
        yield {
            "label": f"{step.facts.get('name', record.name)}:{step.facts.get('version', '?')}",
            "step": record.label(model),
            "model": model,
            "state": record.state(model),
            "released": moment(step.run.ended if step.run else None),
            "gate": _verdict_text(verdicts.get(model), record.name),
            "out_of_service": _end_text(record, ends[-1]) if ends else "",
        }


def key_figures(record: LifeRecord) -> Iterator[tuple[str, str, str]]:
    """Yield the label, value and note of the most important numbers."""
    if models := record.models:
        yield "newest model", models[-1].name, record.state(models[-1].digest)
    if parameters := _last_fact(record, "parameters"):
        yield "parameters", count(parameters), ""
    if tokens := _last_fact(record, "tokens", stage="pretrain"):
        yield "training tokens", count(tokens), "pretraining"
    for ending, label in KEY_FIGURES.items():
        for step, _, figures in reversed(record.measured()):
            name = next((name for name in figures if f"/{name}".endswith(f"/{ending}")), None)
            if name and math.isfinite(figures[name].value):
                interval = figures[name]
                text = percent(interval.value) if is_share(name, interval) else f"{interval.value:.3f}"
                yield label, text, step.name
                break
    yield "working time", duration(sum(step.seconds for step in record.steps)), f"{len(record.steps)} steps"


def origin(record: LifeRecord) -> Iterator[Any]:
    """Yield the training steps that the newest model depends on, with the data of each of them."""
    models = [step.digest for step in record.models[-1:]]
    artifacts = provenance.lineage(record.ledger, record.store, models[0]) if models else []
    steps: dict[str, list[provenance.TrainingData]] = {}
    for source in provenance.data(record.store, artifacts):
        steps.setdefault(source.step.removeprefix(f"{record.name}/"), []).append(source)
    for step, sources in steps.items():
        documents = sum(source.documents or 0 for source in sources)
        names = sorted({source.source for source in sources})
        more = f" and {len(names) - 3} more sources" if len(names) > 3 else ""
        amount = f"{documents:,} documents" if documents else sources[0].amount
        yield {"step": step, "data": f"{amount} from {', '.join(names[:3])}{more}"}
    if not steps:
        yield "No source is recorded."


def released_answers(record: LifeRecord) -> Iterator[dict[str, str]]:
    """Yield each question of the life with the answers of the released versions, else of the newest model."""
    steps = [step for step in record.models if step.digest in record.answers]
    released = {release["model"] for release in releases(record)}
    versions = [step for step in steps if step.digest in released][-2:] or steps[-1:]
    names = [f"{record.name}/{step.name}" for step in versions]
    answers = zip_longest(record.questions, *(record.answers[step.digest] for step in versions), fillvalue="")
    for question, *texts in answers if versions else ():
        yield {"question": question, **dict(zip(names, map(one_line, texts), strict=True))}


def all_answers(record: LifeRecord) -> Iterator[Any]:
    """Yield each question with the answers of all models."""
    models = {step.name: record.answers[step.digest] for step in record.models if step.digest in record.answers}
    for index, question in enumerate(record.questions if models else ()):
        rows = [{"version": name, "answer": texts[index]} for name, texts in models.items() if index < len(texts)]
        yield from (question, rows)


def loss_chart(record: LifeRecord) -> Iterator[Figure]:
    """Yield the loss curve of pretraining, or of the last training."""
    trained = [step for step in record.steps if step.kind == "model"]
    for step in sorted(trained, key=lambda step: step.stage != "pretrain"):
        for figure in curve_figures(reader.curve(record.store, step.digest)):
            if figure.name == "loss":
                yield Figure("loss", figure.svg, f"Loss of the step {step.name}, and on held-out text.")
                return


def timeline(record: LifeRecord) -> Iterator[Figure]:
    """Yield the steps as spans by phase, one after another in the order of the life."""
    rows: dict[str, list[Span]] = {phase: [] for phase in (*PHASES, "other")}
    second = 0.0
    for step in record.steps:
        phase = next((phase for phase, stages in PHASES.items() if step.stage in stages), "other")
        rows[phase].append(Span(second, second + step.seconds, step.name, _PHASE_COLOURS.get(phase, GREY)))
        second += step.seconds
    if second:
        ticks = [(second * part / 4, duration(second * part / 4)) for part in range(5)]
        chart = span_chart({phase: spans for phase, spans in rows.items() if spans}, ticks)
        yield Figure("timeline", chart, "Steps by phase over the working time; a pointer on a bar shows its step.")


def _verdict_text(row: Mapping[str, Any] | None, life: str) -> str:
    if row is None:
        return "no gate has decided on it"
    passed = sum(result["verdict"] == "pass" for result in row["findings"])
    gate, verdict = row["gate"].removeprefix(f"{life}/"), words(row["verdict"])
    return f"{gate}: {verdict}, {passed} of {counted(len(row['findings']), 'criterion', 'criteria')}"


def _end_text(record: LifeRecord, move: StateTransition) -> str:
    archive = ", in a signed archive" if move.details.get("archive") else ""
    successor = f"; successor: {record.label(str(name))}" if (name := move.details.get("successor")) else ""
    return f"{move.state} {moment(move.at)} UTC{archive}: {move.why}{successor}"


def _last_fact(record: LifeRecord, name: str, *, stage: str = "") -> Any:
    steps: list[StepRecord] = [step for step in record.steps if not stage or step.stage == stage]
    return next((step.facts[name] for step in reversed(steps) if name in step.facts), None)
