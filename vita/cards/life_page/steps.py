"""The course of a life: what happened in each step, what was made of what, and what it cost."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from xml.etree import ElementTree

from vita.cards import life_charts, reader, wording
from vita.cards.life_charts import STATE_COLOURS, Node
from vita.cards.life_page.life_facts import Material
from vita.cards.life_record import UNREADABLE, Chapter
from vita.data.curation.report import NO_LICENCE
from vita.reporting.page import Block, Figure, Fold, Heading, Paragraph, Table
from vita.stats.intervals import Interval

_MINOR = ("learning_rate", "gradient_norm", "activations", "weights")
"""Pictures for whoever wants to know more."""
_TAGS = {"svg", "g", "title", "line", "circle", "rect", "polyline", "path", "text"}
_LANES = ("data and plans", "models", "what was measured", "service and after")
_LANE = {"model": 1, "reward": 1, "report": 2, "release": 3, "feedback": 3, "archive": 3}
_MOST_FIGURES = 40


def steps(material: Material) -> Iterator[Block]:
    """Each step in its order."""
    for number, chapter in enumerate(material.chronicle.chapters, 1):
        yield Heading(f"{number}. {wording.title(chapter)}")
        try:
            yield from list(_step(material, chapter))
        except UNREADABLE as error:
            yield Paragraph(f"The rest of this step cannot be told: {error}")


def lineage(material: Material) -> Iterator[Block]:
    """The family of artifacts."""
    chapters = material.chronicle.chapters
    names = material.chronicle.names
    nodes = {
        chapter.name: Node(
            chapter.name,
            _LANE.get(chapter.kind, 0),
            STATE_COLOURS[material.state(chapter.digest)] if chapter.kind == "model" else _colour(chapter.kind),
            tuple(dict.fromkeys(names[taken] for taken in chapter.inputs.values() if taken in names)),
        )
        for chapter in chapters
    }
    if len(nodes) > 1:
        caption = "From top to bottom in the order of the life; lines lead from what was taken to what was made of it."
        yield Figure("lineage", life_charts.lineage(nodes, lanes=_LANES), caption)
    rows = [(chapter.name, chapter.kind, chapter.digest[:16]) for chapter in chapters]
    yield Fold(
        "Digests", [Table(("step", "kind", "digest"), rows, note=f"More: vita trace {material.chronicle.life}/STEP")]
    )


def work(material: Material) -> Iterator[Block]:
    """Time by step, and the machine."""
    chapters = [chapter for chapter in material.chronicle.chapters if chapter.run]
    if not chapters:
        return
    rows = [(chapter.name, chapter.seconds, wording.duration(chapter.seconds)) for chapter in chapters]
    yield Figure("work", life_charts.bars(rows), "How long each step worked.")
    flops = sum(chapter.facts.get("flops", 0) for chapter in chapters if chapter.stage == "design")
    machines = {_machine(chapter) for chapter in chapters if chapter.record.get("machine")}
    said = [f"All of it: {wording.duration(sum(chapter.seconds for chapter in chapters))}."]
    if flops:
        said.append(f"The plan for pretraining: {flops:.3g} floating-point operations.")
    if machines:
        said.append(f"Machine: {'; '.join(sorted(machines))}.")
    yield Paragraph(" ".join([*said, "Energy and money were not measured."]))
    columns = ("step", "began (UTC)", "time", "tokens a second", "share of the machine's peak", "interrupted")
    yield Fold("More figures", [Table(columns, [_worked(chapter) for chapter in chapters])])


def _step(material: Material, chapter: Chapter) -> Iterator[Block]:
    figures = material.figures.get(chapter.digest, {})
    yield Paragraph(f"{wording.sentence(chapter)} {_of_what(material, chapter)}".strip())
    headline = wording.headline(chapter, figures)
    if headline:
        took = f" It took {wording.duration(chapter.seconds)}." if chapter.seconds else ""
        yield Paragraph(f"{headline[:1].upper()}{headline[1:]}.{took}")
    if chapter.older:
        yield Paragraph(f"It was made from an earlier answer of {', '.join(chapter.older)}, which ran again since.")
    if chapter.stage == "curate":
        yield from _corpus(chapter)
    if chapter.stage == "pretrain":
        yield from _plan(material, chapter)
    if pairs := _pairs(figures):
        yield from _before_after(chapter, pairs)
    drawn = list(_drawn(material, chapter))
    yield from (figure for figure in drawn if not figure.name.endswith(_MINOR))
    yield from _details(chapter, figures, [figure for figure in drawn if figure.name.endswith(_MINOR)])


def _of_what(material: Material, chapter: Chapter) -> str:
    slots = ("model", "release", "feedback")
    names = " and ".join(material.name(taken) for slot, taken in chapter.inputs.items() if slot in slots)
    form = {"model": "It began from {}.", "reward": "It began from {}.", "report": "This is about {}."}
    return form.get(chapter.kind, "It was made from {}.").format(names) if names else ""


def _corpus(chapter: Chapter) -> Iterator[Block]:
    sources = dict(chapter.facts.get("sources") or {})
    if sources:
        rows = [(name, own["bytes"], wording.size(own["bytes"])) for name, own in sources.items()]
        rows.sort(key=lambda row: -row[1])
        yield Figure(f"{chapter.name}-sources", life_charts.bars(rows[:16]), "What it was given to read, by source.")
    licences = dict(chapter.facts.get("licences") or {})
    if licences:
        parts = "; ".join(_licence_phrase(name, counts["documents"]) for name, counts in licences.items())
        yield Paragraph(f"Licences: {parts}.")


def _licence_phrase(licence: str, documents: int) -> str:
    number = f"{documents:,} document{'' if documents == 1 else 's'}"
    return f"{number} without a stated licence" if licence == NO_LICENCE else f"{number} under {licence}"


def _plan(material: Material, chapter: Chapter) -> Iterator[Block]:
    from vita.design.plan_vs_actual import reckon

    planned = next((one for one in material.chronicle.chapters if one.digest == chapter.inputs.get("blueprint")), None)
    blueprint = reader.as_json(material.store, planned.digest, "blueprint.json") if planned else None
    if planned and blueprint:
        rows = [(one.figure, one.foretold, one.came, one.off)
                for one in reckon(blueprint, planned.record, facts=chapter.facts, record=chapter.record)]  # fmt: skip
        yield Table(("figure", "foretold", "came", "off"), rows, note="What the plan foretold, and what came.")


def _pairs(figures: Mapping[str, Interval]) -> dict[str, tuple[Interval, Interval]]:
    """What was measured before and after the step, by its name."""
    return {
        name.removesuffix("/before"): (one, figures[f"{name.removesuffix('/before')}/after"])
        for name, one in figures.items()
        if name.endswith("/before") and ":" not in name and f"{name.removesuffix('/before')}/after" in figures
    }


def _before_after(chapter: Chapter, pairs: Mapping[str, tuple[Interval, Interval]]) -> Iterator[Block]:
    shares = {name: pair for name, pair in pairs.items() if all(wording.is_share(name, one) for one in pair)}
    rows = [(wording.figure_name(name), *pair) for name, pair in shares.items()]
    if rows:
        picture = life_charts.before_after(rows, unit="share")
        yield Figure(f"{chapter.name}-shares", picture, "Before and after, on the same prompts, with 95% intervals.")
    for name, pair in pairs.items():
        if name not in shares:
            label = wording.figure_name(name)
            picture = life_charts.before_after([("", *pair)], unit=label)
            yield Figure(
                f"{chapter.name}-{name.replace('/', '-')}", picture, f"{label.capitalize()}, before and after."
            )


def _drawn(material: Material, chapter: Chapter) -> Iterator[Figure]:
    """The pictures that a training run drew of itself."""
    if chapter.kind not in ("model", "reward"):
        return
    for name in sorted(material.store.manifest(chapter.digest).files, key=_order):
        found = re.fullmatch(r"report/(?:figures/)?([\w-]+)\.svg", name)
        if found:
            svg = material.store.read(chapter.digest, name).decode("utf-8")
            if _is_harmless(svg):
                label = found[1].replace("_", " ").capitalize()
                yield Figure(f"{chapter.name}-{found[1]}", svg, f"{label}, on the way.")


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


def _details(chapter: Chapter, figures: Mapping[str, Interval], minor: list[Figure]) -> Iterator[Block]:
    blocks: list[Block] = list(minor)
    shown = {name: one for name, one in figures.items() if ":" not in name}
    if shown:
        rows = [(wording.figure_name(name), wording.said(name, one), f"{one.n:,}") for name, one in shown.items()]
        left = f"{len(rows) - _MOST_FIGURES} more are in its report." if len(rows) > _MOST_FIGURES else ""
        blocks.append(Table(("figure", "value (95% interval)", "n"), rows[:_MOST_FIGURES], note=left))
    facts = [
        (name.replace("_", " "), wording.value(value)) for name, value in chapter.facts.items() if name not in figures
    ]
    if facts and not shown:
        blocks.append(Table(("fact", "value"), [row for row in facts if len(row[1]) < 300]))
    settings = [(name, wording.value(value)) for name, value in chapter.config.items() if value not in (None, [], {})]
    if settings:
        blocks.append(Table(("setting", "value"), [(name, said[:300]) for name, said in settings]))
    if blocks:
        yield Fold("Figures and settings", blocks)


def _colour(kind: str) -> str:
    return {"report": life_charts.PURPLE, "release": life_charts.GREEN, "archive": life_charts.PURPLE}.get(
        kind, life_charts.GREY
    )


def _machine(chapter: Chapter) -> str:
    own = chapter.record["machine"]
    return ", ".join(f"{name} {own[name]}" for name in ("system", "processor", "device", "threads") if name in own)


def _worked(chapter: Chapter) -> tuple[str, ...]:
    record = chapter.record
    return (
        chapter.name,
        wording.moment(chapter.run.began if chapter.run else None),
        wording.duration(chapter.seconds),
        f"{record['tokens_per_second']:,.0f}" if record.get("tokens_per_second") else "",
        wording.percent(record["mfu"]) if record.get("mfu") else "",
        f"{chapter.stops}" if chapter.stops else "",
    )
