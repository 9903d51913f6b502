"""The course of a life: what happened in each step, what was made of what, and what it cost."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from xml.etree import ElementTree

from vita.cards import life_charts, reader, wording
from vita.cards.life_charts import STATE_COLOURS, Node
from vita.cards.life_record import UNREADABLE, LifeRecord, StepRecord
from vita.data.curation.report import NO_LICENCE
from vita.reporting.page import Block, Figure, Fold, Heading, Paragraph, Table
from vita.stats.intervals import Interval

_MINOR = ("learning_rate", "gradient_norm", "activations", "weights")
"""Pictures for whoever wants to know more."""
_TAGS = {"svg", "g", "title", "line", "circle", "rect", "polyline", "path", "text"}
_LANES = ("data and plans", "models", "what was measured", "service and after")
_LANE = {"model": 1, "reward": 1, "report": 2, "release": 3, "feedback": 3, "archive": 3}
_MOST_FIGURES = 40


def steps(record: LifeRecord) -> Iterator[Block]:
    """Each step in its order."""
    for number, step in enumerate(record.steps, 1):
        yield Heading(f"{number}. {wording.title(step)}")
        try:
            yield from list(_step(record, step))
        except UNREADABLE as error:
            yield Paragraph(f"The rest of this step cannot be told: {error}")


def lineage(record: LifeRecord) -> Iterator[Block]:
    """The family of artifacts."""
    steps = record.steps
    names = record.step_names
    nodes = {
        step.name: Node(
            step.name,
            _LANE.get(step.kind, 0),
            STATE_COLOURS[record.state(step.digest)] if step.kind == "model" else _colour(step.kind),
            tuple(dict.fromkeys(names[taken] for taken in step.inputs.values() if taken in names)),
        )
        for step in steps
    }
    if len(nodes) > 1:
        caption = "From top to bottom in the order of the life; lines lead from what was taken to what was made of it."
        yield Figure("lineage", life_charts.lineage(nodes, lanes=_LANES), caption)
    rows = [(step.name, step.kind, step.digest[:16]) for step in steps]
    yield Fold("Digests", [Table(("step", "kind", "digest"), rows, note=f"More: vita trace {record.name}/STEP")])


def work(record: LifeRecord) -> Iterator[Block]:
    """Time by step, and the machine."""
    steps = [step for step in record.steps if step.run]
    if not steps:
        return
    rows = [(step.name, step.seconds, wording.duration(step.seconds)) for step in steps]
    yield Figure("work", life_charts.bars(rows), "How long each step worked.")
    flops = sum(step.facts.get("flops", 0) for step in steps if step.stage == "design")
    machines = {_machine(step) for step in steps if step.record.get("machine")}
    said = [f"All of it: {wording.duration(sum(step.seconds for step in steps))}."]
    if flops:
        said.append(f"The plan for pretraining: {flops:.3g} floating-point operations.")
    if machines:
        said.append(f"Machine: {'; '.join(sorted(machines))}.")
    yield Paragraph(" ".join([*said, "Energy and money were not measured."]))
    columns = ("step", "began (UTC)", "time", "tokens a second", "share of the machine's peak", "interrupted")
    yield Fold("More figures", [Table(columns, [_worked(step) for step in steps])])


def _step(record: LifeRecord, step: StepRecord) -> Iterator[Block]:
    figures = record.figures.get(step.digest, {})
    yield Paragraph(f"{wording.sentence(step)} {_of_what(record, step)}".strip())
    headline = wording.headline(step, figures)
    if headline:
        took = f" It took {wording.duration(step.seconds)}." if step.seconds else ""
        yield Paragraph(f"{headline[:1].upper()}{headline[1:]}.{took}")
    if step.older:
        yield Paragraph(f"It was made from an earlier answer of {', '.join(step.older)}, which ran again since.")
    if step.stage == "curate":
        yield from _corpus(step)
    if step.stage == "pretrain":
        yield from _plan(record, step)
    if pairs := _pairs(figures):
        yield from _before_after(step, pairs)
    drawn = list(_drawn(record, step))
    yield from (figure for figure in drawn if not figure.name.endswith(_MINOR))
    yield from _details(step, figures, [figure for figure in drawn if figure.name.endswith(_MINOR)])


def _of_what(record: LifeRecord, step: StepRecord) -> str:
    slots = ("model", "release", "feedback")
    names = " and ".join(record.label(taken) for slot, taken in step.inputs.items() if slot in slots)
    form = {"model": "It began from {}.", "reward": "It began from {}.", "report": "This is about {}."}
    return form.get(step.kind, "It was made from {}.").format(names) if names else ""


def _corpus(step: StepRecord) -> Iterator[Block]:
    sources = dict(step.facts.get("sources") or {})
    if sources:
        rows = [(name, own["bytes"], wording.size(own["bytes"])) for name, own in sources.items()]
        rows.sort(key=lambda row: -row[1])
        yield Figure(f"{step.name}-sources", life_charts.bars(rows[:16]), "What it was given to read, by source.")
    licences = dict(step.facts.get("licences") or {})
    if licences:
        parts = "; ".join(_licence_phrase(name, counts["documents"]) for name, counts in licences.items())
        yield Paragraph(f"Licences: {parts}.")


def _licence_phrase(licence: str, documents: int) -> str:
    number = f"{documents:,} document{'' if documents == 1 else 's'}"
    return f"{number} without a stated licence" if licence == NO_LICENCE else f"{number} under {licence}"


def _plan(record: LifeRecord, step: StepRecord) -> Iterator[Block]:
    from vita.design.plan_vs_actual import plan_vs_actual

    planned = next((one for one in record.steps if one.digest == step.inputs.get("blueprint")), None)
    blueprint = reader.as_json(record.store, planned.digest, "blueprint.json") if planned else None
    if planned and blueprint:
        rows = [(one.figure, one.foretold, one.came, one.off)
                for one in plan_vs_actual(blueprint, planned.record, facts=step.facts, record=step.record)]  # fmt: skip
        yield Table(("figure", "foretold", "came", "off"), rows, note="What the plan foretold, and what came.")


def _pairs(figures: Mapping[str, Interval]) -> dict[str, tuple[Interval, Interval]]:
    """What was measured before and after the step, by its name."""
    return {
        name.removesuffix("/before"): (one, figures[f"{name.removesuffix('/before')}/after"])
        for name, one in figures.items()
        if name.endswith("/before") and ":" not in name and f"{name.removesuffix('/before')}/after" in figures
    }


def _before_after(step: StepRecord, pairs: Mapping[str, tuple[Interval, Interval]]) -> Iterator[Block]:
    shares = {name: pair for name, pair in pairs.items() if all(wording.is_share(name, one) for one in pair)}
    rows = [(wording.figure_name(name), *pair) for name, pair in shares.items()]
    if rows:
        picture = life_charts.before_after(rows, unit="share")
        yield Figure(f"{step.name}-shares", picture, "Before and after, on the same prompts, with 95% intervals.")
    for name, pair in pairs.items():
        if name not in shares:
            label = wording.figure_name(name)
            picture = life_charts.before_after([("", *pair)], unit=label)
            yield Figure(f"{step.name}-{name.replace('/', '-')}", picture, f"{label.capitalize()}, before and after.")


def _drawn(record: LifeRecord, step: StepRecord) -> Iterator[Figure]:
    """The pictures that a training run drew of itself."""
    if step.kind not in ("model", "reward"):
        return
    for name in sorted(record.store.manifest(step.digest).files, key=_order):
        found = re.fullmatch(r"report/(?:figures/)?([\w-]+)\.svg", name)
        if found:
            svg = record.store.read(step.digest, name).decode("utf-8")
            if _is_harmless(svg):
                label = found[1].replace("_", " ").capitalize()
                yield Figure(f"{step.name}-{found[1]}", svg, f"{label}, on the way.")


def _order(name: str) -> tuple[bool, str]:
    return not name.endswith("/loss.svg"), name


def _is_harmless(svg: str) -> bool:
    """Whether a picture holds strokes and text alone: an artifact may come from outside."""
    if "<!" in svg or "<?" in svg:  # XML and HTML end declarations and processing instructions at different places
        return False
    try:
        elements = list(ElementTree.fromstring(svg).iter())
    except ElementTree.ParseError:
        return False
    return all(
        str(one.tag).rpartition("}")[2] in _TAGS
        and not any(_may_load(key.lower(), text.lower()) for key, text in one.attrib.items())
        for one in elements
    )


def _may_load(attribute: str, value: str) -> bool:
    """Whether an attribute may run a script or load an address; a backslash may hide `url(` in a style."""
    return attribute.startswith("on") or "href" in attribute or "url(" in value or "\\" in value or "@" in value


def _details(step: StepRecord, figures: Mapping[str, Interval], minor: list[Figure]) -> Iterator[Block]:
    blocks: list[Block] = list(minor)
    shown = {name: one for name, one in figures.items() if ":" not in name}
    if shown:
        rows = [(wording.figure_name(name), wording.said(name, one), f"{one.n:,}") for name, one in shown.items()]
        left = f"{len(rows) - _MOST_FIGURES} more are in its report." if len(rows) > _MOST_FIGURES else ""
        blocks.append(Table(("figure", "value (95% interval)", "n"), rows[:_MOST_FIGURES], note=left))
    facts = [
        (name.replace("_", " "), wording.value(value)) for name, value in step.facts.items() if name not in figures
    ]
    if facts and not shown:
        blocks.append(Table(("fact", "value"), [row for row in facts if len(row[1]) < 300]))
    settings = [(name, wording.value(value)) for name, value in step.config.items() if value not in (None, [], {})]
    if settings:
        blocks.append(Table(("setting", "value"), [(name, said[:300]) for name, said in settings]))
    if blocks:
        yield Fold("Figures and settings", blocks)


def _colour(kind: str) -> str:
    return {"report": life_charts.PURPLE, "release": life_charts.GREEN, "archive": life_charts.PURPLE}.get(
        kind, life_charts.GREY
    )


def _machine(step: StepRecord) -> str:
    own = step.record["machine"]
    return ", ".join(f"{name} {own[name]}" for name in ("system", "processor", "device", "threads") if name in own)


def _worked(step: StepRecord) -> tuple[str, ...]:
    record = step.record
    return (
        step.name,
        wording.moment(step.run.began if step.run else None),
        wording.duration(step.seconds),
        f"{record['tokens_per_second']:,.0f}" if record.get("tokens_per_second") else "",
        wording.percent(record["mfu"]) if record.get("mfu") else "",
        f"{step.stops}" if step.stops else "",
    )
