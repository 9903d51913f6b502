"""Each step on the life page: what it did, its main result, charts, figures and settings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from xml.etree import ElementTree

from vita.cards import reader, wording
from vita.cards.life_record import UNREADABLE, LifeRecord, StepRecord
from vita.data.curation.report import NO_LICENCE
from vita.reporting.charts import bar_chart, interval_chart
from vita.reporting.page import Block, Details, Figure, Paragraph, Table
from vita.spine.plain_text import counted
from vita.stats.intervals import Interval

_SECONDARY = ("learning_rate", "gradient_norm", "activations", "weights")
"""Charts that are shown among the details."""
_SVG_TAGS = {"svg", "g", "title", "line", "circle", "rect", "polyline", "path", "text"}
_MOST_FIGURES = 40


def steps(record: LifeRecord) -> Iterator[Details]:
    """Yield a collapsible section for each step, in the order of the life."""
    for number, step in enumerate(record.steps, 1):
        try:
            blocks = list(_blocks(record, step))
            headline = wording.headline(step, record.figures.get(step.digest))
        except UNREADABLE as error:
            blocks, headline = [Paragraph(f"The rest of this step cannot be read: {error}")], ""
        time = f"{wording.duration(step.seconds)}" if step.seconds else ""
        note = "; ".join(part for part in (headline, time) if part)
        yield Details(f"{number}. {wording.title(step)}", blocks, note)


def _blocks(record: LifeRecord, step: StepRecord) -> Iterator[Block]:
    figures = record.figures.get(step.digest, {})
    yield Paragraph(f"{wording.sentence(step)} {_inputs(record, step)}".strip())
    if step.stale_inputs:
        names = ", ".join(step.stale_inputs)
        yield Paragraph(f"It used an earlier artifact of {names}, which ran again afterwards.")
    if step.stage == "curate":
        yield from _corpus(step)
    if step.stage == "pretrain":
        yield from _plan(record, step)
    yield from _before_after(step, figures)
    charts = list(_stored_charts(record, step))
    yield from (chart for chart in charts if not chart.name.endswith(_SECONDARY))
    details = [*(chart for chart in charts if chart.name.endswith(_SECONDARY)), *_tables(step, figures)]
    if details:
        yield Details("Figures and settings", details)


def _inputs(record: LifeRecord, step: StepRecord) -> str:
    """Return a sentence about the model, release or feedback that the step used."""
    slots = ("model", "release", "feedback")
    names = " and ".join(record.label(digest) for slot, digest in step.inputs.items() if slot in slots)
    form = {"model": "It started from {}.", "reward": "It started from {}.", "report": "It measured {}."}
    return form.get(step.kind, "It was made from {}.").format(names) if names else ""


def _corpus(step: StepRecord) -> Iterator[Block]:
    sources = dict(step.facts.get("sources") or {})
    if sources:
        rows = [(name, counts["bytes"], wording.size(counts["bytes"])) for name, counts in sources.items()]
        rows.sort(key=lambda row: -row[1])
        yield Figure(f"{step.name}-sources", bar_chart(rows[:16]), "Training text by source.")
    if licences := dict(step.facts.get("licences") or {}):
        parts = "; ".join(licence_phrase(name, counts["documents"]) for name, counts in licences.items())
        yield Paragraph(f"Licences: {parts}.")


def licence_phrase(licence: str, documents: int) -> str:
    """Return the number of documents under a licence: `3 documents under CC0-1.0`."""
    number = counted(documents, "document")
    return f"{number} without a stated licence" if licence == NO_LICENCE else f"{number} under {licence}"


def _plan(record: LifeRecord, step: StepRecord) -> Iterator[Block]:
    from vita.design.plan_vs_actual import plan_vs_actual

    planned = next((other for other in record.steps if other.digest == step.inputs.get("blueprint")), None)
    blueprint = reader.as_json(record.store, planned.digest, "blueprint.json") if planned else None
    if planned and blueprint:
        rows = [(row.figure, row.predicted, row.actual, row.error)
                for row in plan_vs_actual(blueprint, planned.record, facts=step.facts, record=step.record)]  # fmt: skip
        yield Table(("figure", "predicted", "actual", "error"), rows, note="The plan compared with the actual run.")


def _before_after(step: StepRecord, figures: Mapping[str, Interval]) -> Iterator[Figure]:
    """Yield charts of the figures that were measured before and after the step."""
    names = [name.removesuffix("/before") for name in figures if name.endswith("/before") and ":" not in name]
    pairs = {name: (figures[f"{name}/before"], figures[f"{name}/after"])
             for name in names if f"{name}/after" in figures}  # fmt: skip
    shares = {name for name, pair in pairs.items() if all(wording.is_share(name, interval) for interval in pair)}
    groups = [shares, *({name} for name in pairs if name not in shares)]
    for group in filter(None, groups):
        label = "share" if group is shares else wording.figure_name(min(group))
        rows = {wording.figure_name(name): pairs[name] for name in pairs if name in group}
        chart = interval_chart(rows, unit=label, series=("before", "after"))
        caption = f"{label.capitalize()} before and after, on the same prompts, with 95% intervals."
        yield Figure(f"{step.name}-{label}", chart, caption)


def _stored_charts(record: LifeRecord, step: StepRecord) -> Iterator[Figure]:
    """Yield the charts in the report of a training run, the loss first."""
    if step.kind not in ("model", "reward"):
        return
    files = record.store.manifest(step.digest).files
    for name in sorted(files, key=lambda name: (not name.endswith("/loss.svg"), name)):
        match = re.fullmatch(r"report/(?:figures/)?([\w-]+)\.svg", name)
        if match:
            svg = record.store.read(step.digest, name).decode("utf-8")
            if _is_harmless(svg):
                yield Figure(f"{step.name}-{match[1]}", svg, match[1].replace("_", " ").capitalize())


def _is_harmless(svg: str) -> bool:
    """Return True if an SVG has only shapes and text; an artifact may come from an untrusted source."""
    if "<!" in svg or "<?" in svg:  # XML and HTML end declarations and processing instructions at different places
        return False
    try:
        elements = list(ElementTree.fromstring(svg).iter())
    except ElementTree.ParseError:
        return False
    return all(
        str(element.tag).rpartition("}")[2] in _SVG_TAGS
        and not any(_may_load(key.lower(), text.lower()) for key, text in element.attrib.items())
        for element in elements
    )


def _may_load(attribute: str, value: str) -> bool:
    """Return True if an attribute may run a script or load an address; a backslash may hide `url(` in a style."""
    return attribute.startswith("on") or "href" in attribute or "url(" in value or "\\" in value or "@" in value


def _tables(step: StepRecord, figures: Mapping[str, Interval]) -> Iterator[Table]:
    """Yield the tables of figures, or of facts without figures, and of settings."""
    rows = [
        (wording.figure_name(name), wording.figure_text(name, interval), f"{interval.n:,}")
        for name, interval in figures.items()
        if ":" not in name
    ]
    if rows:
        more = f"{len(rows) - _MOST_FIGURES} more are in its report." if len(rows) > _MOST_FIGURES else ""
        yield Table(("figure", "value (95% interval)", "n"), rows[:_MOST_FIGURES], note=more)
    facts = [(name.replace("_", " "), wording.value(fact)) for name, fact in step.facts.items() if name not in figures]
    if facts and not rows:
        yield Table(("fact", "value"), [row for row in facts if len(row[1]) < 300])
    settings = [(name, wording.value(setting)[:300]) for name, setting in step.config.items()
                if setting not in (None, [], {})]  # fmt: skip
    if settings:
        yield Table(("setting", "value"), settings)
