"""Lineage and work on the life page: which artifact was made from which, and the time of each step."""

from __future__ import annotations

from collections.abc import Iterator

from vita.cards import wording
from vita.cards.life_page.service import STATE_COLOURS
from vita.cards.life_record import LifeRecord, StepRecord
from vita.reporting.charts import LineageNode, bar_chart, lineage_chart
from vita.reporting.page import Block, Details, Figure, Paragraph, Table
from vita.reporting.svg import GREEN, GREY, PURPLE

_LANES = ("data and plans", "models", "evaluations", "service")
_LANE = {"model": 1, "reward": 1, "report": 2, "release": 3, "feedback": 3, "archive": 3}
_KIND_COLOURS = {"report": PURPLE, "release": GREEN, "archive": PURPLE}


def lineage(record: LifeRecord) -> Iterator[Block]:
    """Yield the artifacts with lines to their inputs, and their digests."""
    names = record.step_names
    nodes = {
        step.name: LineageNode(
            step.name,
            _LANE.get(step.kind, 0),
            STATE_COLOURS[record.state(step.digest)] if step.kind == "model" else _KIND_COLOURS.get(step.kind, GREY),
            tuple(dict.fromkeys(names[digest] for digest in step.inputs.values() if digest in names)),
        )
        for step in record.steps
    }
    if len(nodes) > 1:
        caption = "Artifacts in the order of the life; a line leads from each input to the artifact made from it."
        yield Figure("lineage", lineage_chart(nodes, lanes=_LANES), caption)
    rows = [(step.name, step.kind, step.digest[:16]) for step in record.steps]
    yield Details("Digests", [Table(("step", "kind", "digest"), rows, f"More: vita trace {record.name}/STEP")])


def work(record: LifeRecord) -> Iterator[Block]:
    """Yield the working time of each step, and the machine."""
    steps = [step for step in record.steps if step.run]
    if not steps:
        return
    chart = bar_chart([(step.name, step.seconds, wording.duration(step.seconds)) for step in steps])
    yield Figure("work", chart, "Working time of each step.")
    flops = sum(step.facts.get("flops", 0) for step in steps if step.stage == "design")
    machines = sorted({_machine(step) for step in steps if step.record.get("machine")})
    sentences = [f"Total: {wording.duration(sum(step.seconds for step in steps))}."]
    sentences += [f"Planned FLOPs of pretraining: {flops:.3g}."] if flops else []
    sentences += [f"Machine: {'; '.join(machines)}."] if machines else []
    yield Paragraph(" ".join([*sentences, "Energy and cost were not measured."]))
    columns = ("step", "start (UTC)", "time", "tokens per second", "MFU", "interruptions")
    yield Details("Figures of each step", [Table(columns, [_work_row(step) for step in steps])])


def _machine(step: StepRecord) -> str:
    machine = step.record["machine"]
    parts = ("system", "processor", "device", "threads")
    return ", ".join(f"{name} {machine[name]}" for name in parts if name in machine)


def _work_row(step: StepRecord) -> tuple[str, ...]:
    record = step.record
    return (
        step.name,
        wording.moment(step.run.began if step.run else None),
        wording.duration(step.seconds),
        f"{record['tokens_per_second']:,.0f}" if record.get("tokens_per_second") else "",
        wording.percent(record["mfu"]) if record.get("mfu") else "",
        f"{step.failed_attempts}" if step.failed_attempts else "",
    )
