"""The page of a test report: tables with intervals, pictures, samples, and how it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vita.evals import perplexity, samples, world_knowledge
from vita.evals.ifeval import Followed
from vita.evals.results import Figures, Findings, Metrics
from vita.reporting.charts import histogram, intervals
from vita.reporting.figures import REPORT_FILE
from vita.reporting.page import Block, Figure, Page, Paragraph, Section, Table
from vita.stats.intervals import Comparison, RatioComparison
from vita.stats.paired import Versus

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
        *_instruction_section(found, figures),
        *_edge_section(found, figures),
        *_versus_section(found.versus),
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
    goes_on = ", ".join(f"{name} {count}" for name, count in world_knowledge.continuations(found.known).items())
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


def _instruction_section(found: Findings, figures: Figures) -> list[Section]:
    if not found.followed:
        return []
    rows = [(_words(name), str(one)) for name, one in figures["instructions"]["instructions"].items()]
    kinds = [
        (name, str(own["strict"]), str(own["loose"]), str(own["strict"].n))
        for name, own in figures["instruction kinds"].items()
    ]
    missed = [
        (one.item.id, _short(one.item.prompt), _short(one.answer), ", ".join(_not_followed(one)))
        for one in found.followed
        if not all(one.strict)
    ]
    blocks: list[Block] = [
        Table(("of", "share"), rows, note=_FOLLOWING),
        Table(("instruction", "strict", "loose", "n"), kinds),
    ]
    if missed:
        note = f"{len(missed)} of {len(found.followed)} prompts; the first {min(len(missed), _LISTED)} are shown."
        blocks.append(Table(("item", "prompt", "answer", "not followed"), missed[:_LISTED], note=note))
    return [Section("Instructions", blocks)]


def _not_followed(one: Followed) -> list[str]:
    pairs = zip(one.item.instructions, one.strict, strict=True)
    return [own.id + (" (not checked)" if verdict is None else "") for own, verdict in pairs if not verdict]


_FOLLOWING = (
    "prompt: all instructions of a prompt are followed; instruction: each by itself, its range over whole prompts. "
    "loose: also without the first line, the last line and asterisks. unchecked: a program could not tell (the "
    "language of a short text); it counts as not followed. unanswered: the prompt left no room in the context."
)


def _edge_section(found: Findings, figures: Figures) -> list[Section]:
    if not found.met:
        return []
    rows = [(_words(name), str(one), str(one.n)) for name, one in figures["edges"]["edges"].items()]
    cases = [
        (
            one.id,
            _short(one.prompt, limit=60),
            one.finish,
            _short(one.answer, limit=60),
            ", ".join(_words(name) for name, held in one.held.items() if not held) or "all held",
        )
        for one in found.met
    ]
    return [
        Section(
            "Edge cases",
            [
                Table(("what must hold", "share", "n"), rows, note=_EDGES),
                Table(("case", "sent", "end", "answer", "what did not hold"), cases),
            ],
        )
    ]


_EDGES = (
    "no crash: an answer or a clear refusal; refused: what is too long; stops: by itself, within 128 tokens; no loop: "
    "less than half of the answer's 4-grams are repeated; no leak: no special token and no role shows; text stays "
    "text: names of special tokens that a user writes do not become special tokens."
)


def _versus_section(found: Versus | None) -> list[Section]:
    if found is None:
        return []
    rows = [
        (name, *(f"{one.difference}", f"{one.only_first}", f"{one.only_second}"), *_told(one, higher_is_better=True))
        for name, one in found.tasks.items()
    ]
    texts = [
        (name, f"{one.first:.4f}", f"{one.second:.4f}", f"{one.difference}", *_told(one, higher_is_better=False))
        for name, one in found.texts.items()
    ]
    columns = ("p (Holm)", "MDE80", "n", "verdict")
    blocks: list[Block] = []
    if rows:
        blocks.append(Table(("measure", "change", "lost", "gained", *columns), rows, note=_VERSUS))
    if texts:
        blocks.append(Table(("text", "bits per byte before", "after", "change", *columns), texts))
    if found.flips:
        flips = [
            (
                f"{one.task} {one.id}",
                f"{one.metric}: {'gained' if one.gained else 'lost'}",
                *(_short(text, limit=80) for text in (one.prompt, one.before, one.after)),
            )
            for one in found.flips
        ]
        note = f"{len(flips)} flips; the first {min(len(flips), _LISTED)} are shown, all are in {REPORT_FILE}."
        blocks.append(Table(("item", "verdict", "prompt", "before", "after"), flips[:_LISTED], note=note))
    return [Section("Beside the parent version", blocks)]


_VERSUS = (
    "Only items that both versions answered. p: exact McNemar test of the items on which they differ (texts: paired "
    "bootstrap over documents), corrected for the number of rows (Holm). MDE80: the smallest true change that so many "
    "items would show in 80 of 100 such comparisons, before that correction."
)


def _told(one: Comparison | RatioComparison, *, higher_is_better: bool) -> tuple[str, ...]:
    better = (one.difference.value > 0) == higher_is_better
    verdict = ("better" if better else "worse") if one.p_value < 0.05 else "no difference shown"
    smallest = f"{one.mde80:.3f}" if one.mde80 == one.mde80 else ""
    return f"{one.p_value:.3g}", smallest, str(one.n), verdict


_LISTED = 40


def _words(name: str) -> str:
    return name.replace("_", " ")


def _short(text: str, *, limit: int = 120) -> str:
    """A line of a text; what cannot be seen (and might steer a terminal or turn a line round) is spelled out."""
    bare = " ".join(text.split())
    seen = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in bare)
    return seen if len(seen) <= limit else seen[: limit - 3] + "..."
