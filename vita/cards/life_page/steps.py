"""Each step on the life page: what it did, its main result, its report, curves, facts and settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vita.cards import reader, wording
from vita.cards.life_record import UNREADABLE, LifeRecord, StepRecord
from vita.reporting.page import Details, curve_figures, report_sections, settings_table
from vita.reporting.wording import duration


def steps(record: LifeRecord) -> Iterator[Details]:
    """Yield a collapsible section for each step, in the order of the life."""
    for number, step in enumerate(record.steps, 1):
        try:
            content = list(_content(record, step))
            headline = wording.headline(step, record.figures.get(step.digest))
        except UNREADABLE as error:
            content, headline = [f"The rest of this step cannot be read: {error}"], ""
        note = "; ".join(filter(None, (headline, duration(step.seconds) if step.seconds else "")))
        yield Details(f"{number}. {wording.title(step)}", content, note)


def _content(record: LifeRecord, step: StepRecord) -> Iterator[Any]:
    yield f"{wording.sentence(step)} {_inputs(record, step)}".strip()
    if step.stale_inputs:
        yield f"It used an earlier artifact of {', '.join(step.stale_inputs)}, which ran again afterwards."
    yield _plan(record, step)
    curves = curve_figures(reader.curve(record.store, step.digest)) if step.kind in ("model", "reward") else []
    yield [figure for figure in curves if figure.name == "loss"]
    for report in record.reports.get(step.digest, ()):
        yield from (Details(title, content) for title, content in report_sections(report).items() if content)
    settings = {name: value for name, value in step.config.items() if value not in (None, [], {})}
    facts = {name: value for name, value in step.facts.items() if name not in record.figures.get(step.digest, {})}
    more = {"Training curves": [figure for figure in curves if figure.name != "loss"], "Facts": facts}
    yield from (Details(title, content) for title, content in more.items() if content)
    if settings:
        yield Details("Settings of the stage", settings_table(settings))


def _inputs(record: LifeRecord, step: StepRecord) -> str:
    """Return a sentence about the model, release or feedback that the step used."""
    slots = ("model", "release", "feedback")
    names = " and ".join(record.label(digest) for slot, digest in step.inputs.items() if slot in slots)
    form = {"model": "It started from {}.", "reward": "It started from {}.", "report": "It measured {}."}
    return form.get(step.kind, "It was made from {}.").format(names) if names else ""


def _plan(record: LifeRecord, step: StepRecord) -> list[dict[str, Any]]:
    """Return the plan compared with the actual run, for pretraining."""
    from vita.design.plan_vs_actual import plan_vs_actual

    planned = next((other for other in record.steps if other.digest == step.inputs.get("blueprint")), None)
    blueprint = reader.as_json(record.store, planned.digest, "blueprint.json") if planned else None
    if step.stage != "pretrain" or not planned or not blueprint:
        return []
    return [vars(row) for row in plan_vs_actual(blueprint, planned.record, facts=step.facts, record=step.record)]
