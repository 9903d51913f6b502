"""The page of a test report: tables with intervals, pictures, samples, and how it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vita.measure import knowledge, perplexity, samples
from vita.measure.findings import Figures, Findings, Metrics
from vita.measure.plots import histogram, intervals
from vita.measure.report import Block, Figure, Page, Paragraph, Section, Table

_METHOD = (
    "A document's first token is predicted from the token that begins every document; bits per byte divide the sum "
    "over all tokens by the bytes of the text in UTF-8. Longer documents are read in windows of the model's context.",
    "Ranges of text resample whole documents 1,000 times; shares carry Wilson's interval, the perplexity of single "
    "words Student's.",
)


def page(found: Findings, *, method: Sequence[str]) -> Page:
    """The whole report; `method` says in sentences how it was measured."""
    figures = found.figures()
    sections = [
        *_text_section(found, figures),
        *_task_section(found, figures),
        *_world_section(found, figures),
        Section("Samples", samples.as_blocks(found.continuations)),
        Section("How this was measured", [Paragraph(text) for text in (*_METHOD, *method)]),
    ]
    lead = "Ranges in brackets hold the truth in 95 of 100 such measurements. Every item is in items.jsonl.zst."
    return Page("Test report", lead, [section for section in sections if section.blocks])


def _text_section(found: Findings, figures: Figures) -> list[Section]:
    if not found.texts:
        return []
    blocks: list[Block] = [
        Table(("text", "bits per byte", "perplexity", "documents", "bytes"), _text_rows(figures["texts"], found.texts))
    ]
    if len(found.sources) > len(found.texts):
        rows = _text_rows(figures["sources"], found.sources)
        blocks.append(Table(("source", "bits per byte", "perplexity", "documents", "bytes"), rows))
        dots = [(name, own["bits_per_byte"], None) for name, own in figures["sources"].items()]
        blocks.append(
            Figure("bits_per_byte", intervals(dots, unit="bits per byte"), "Bits per byte by source; less is better")
        )
    every = [score.bits / score.bytes for scores in found.texts.values() for score in scores]
    blocks.append(Figure("documents", histogram(every, x="bits per byte"), "Documents by their bits per byte"))
    return [Section("Held-out text", blocks)]


def _text_rows(
    figures: Mapping[str, Metrics], scores: Mapping[str, list[perplexity.DocumentScore]]
) -> list[tuple[str, ...]]:
    return [
        (
            name,
            str(own["bits_per_byte"]),
            str(own["perplexity"]),
            f"{len(scores[name]):,}",
            f"{sum(score.bytes for score in scores[name]):,}",
        )
        for name, own in figures.items()
    ]


def _task_section(found: Findings, figures: Figures) -> list[Section]:
    if not found.tasks:
        return []
    chances = {name: sum(one.chance for one in own) / len(own) for name, own in found.tasks.items()}
    metrics = ("acc", "acc_norm", "acc_bytes")
    rows = []
    for name, own in figures["tasks"].items():
        cells = [str(own[metric]) if metric in own else "" for metric in metrics]
        cut = sum(one.cut for one in found.tasks[name])
        chance = f"{chances[name]:.3f}" if chances[name] else ""
        rows.append((name, *cells, chance, f"{len(found.tasks[name]):,}", f"{cut:,}"))
    blocks: list[Block] = [Table(("task", *metrics, "chance", "items", "cut"), rows, note=_METRICS)]
    best = [(name, own.get("acc_norm", own["acc"]), chances[name] or None) for name, own in figures["tasks"].items()]
    blocks.append(
        Figure(
            "tasks", intervals(best, unit="accuracy"), "Accuracy (acc_norm where there is one); upright lines: chance"
        )
    )
    if words := [(name, str(own["perplexity"])) for name, own in figures["tasks"].items() if "perplexity" in own]:
        blocks.append(Table(("task", "perplexity of the right word"), words))
    if figures["groups"]:
        groups = [(name, str(own["acc"])) for name, own in figures["groups"].items()]
        blocks.append(Table(("group", "acc"), groups))
    return [Section("Likelihood tasks", blocks)]


_METRICS = (
    "acc: the likeliest option is right; acc_norm and acc_bytes: after dividing by its length in characters or bytes. "
    "Lambada's acc: greedy decoding says exactly the word. cut: items whose context did not fit."
)


def _world_section(found: Findings, figures: Figures) -> list[Section]:
    if not found.known:
        return []
    own = figures["world"]["world"]
    rows = [
        (name.replace("_", " ").replace("/", ": "), str(interval), f"{interval.n}") for name, interval in own.items()
    ]
    goes_on = ", ".join(f"{name} {count}" for name, count in knowledge.continuations(found.known).items())
    shown = [
        (one.question.prompt, _short(one.answer), "yes" if one.judgement.right else "no") for one in found.known[:12]
    ]
    return [
        Section(
            "The embedded world",
            [
                Table(
                    ("things", "share", "n"), rows, note=f"Right means kind and property. Texts go on with: {goes_on}."
                ),
                Figure(
                    "world",
                    intervals([(name, interval, None) for name, interval in own.items()], unit="share"),
                    "Answers about things of the world; never_asked are those whose questions no text answers",
                ),
                Table(("question", "answer", "right"), shown),
            ],
        )
    ]


def _short(text: str, *, limit: int = 120) -> str:
    bare = " ".join(text.split())
    return bare if len(bare) <= limit else bare[: limit - 3] + "..."
