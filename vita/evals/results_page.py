"""The page of an evaluation report: tables with intervals, charts, samples, and the method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vita.evals import perplexity, samples, world_knowledge
from vita.evals.ifeval import IFEvalResult
from vita.evals.results import EvalResults, Figures, Metrics
from vita.reporting import REPORT_FILE
from vita.reporting.charts import histogram, interval_chart
from vita.reporting.page import Block, Figure, Paragraph, ReportPage, Section, Table, interval_table
from vita.stats.intervals import Comparison, RatioComparison
from vita.stats.paired import PairedComparison

_METHOD = (
    "A document's first token is predicted from the token that begins every document. Bits per byte are the sum "
    "over all tokens divided by the bytes of the text in UTF-8. Long documents are read in windows of the context.",
    "Intervals of texts resample whole documents 1,000 times. Shares have Wilson intervals, and the perplexity of "
    "single words has a Student interval.",
)


def page(results: EvalResults, *, method: Sequence[str]) -> ReportPage:
    """Return the page of the report; `method` describes the measurement in sentences."""
    figures = results.figures()
    sections = [
        *_text_section(results, figures),
        *_task_section(results, figures),
        *_world_section(results, figures),
        *_instruction_section(results, figures),
        *_edge_section(results, figures),
        *_versus_section(results.versus),
        Section("Samples", samples.as_blocks(results.continuations)),
        Section("Method", [Paragraph(text) for text in (*_METHOD, *method)]),
    ]
    lead = "Brackets show 95% confidence intervals. Every item is in items.jsonl.zst."
    return ReportPage("Test report", lead, [section for section in sections if section.blocks])


def _text_section(results: EvalResults, figures: Figures) -> list[Section]:
    if not results.texts:
        return []
    blocks: list[Block] = [
        Table(
            ("text", "bits per byte", "perplexity", "documents", "bytes"), _text_rows(figures["texts"], results.texts)
        )
    ]
    if len(results.sources) > len(results.texts):
        rows = _text_rows(figures["sources"], results.sources)
        blocks.append(Table(("source", "bits per byte", "perplexity", "documents", "bytes"), rows))
        dots = {name: metrics["bits_per_byte"] for name, metrics in figures["sources"].items()}
        blocks.append(
            Figure(
                "bits_per_byte", interval_chart(dots, unit="bits per byte"), "Bits per byte by source; lower is better"
            )
        )
    document_bits = [score.bits / score.bytes for scores in results.texts.values() for score in scores]
    blocks.append(Figure("documents", histogram(document_bits, x="bits per byte"), "Documents by their bits per byte"))
    return [Section("Held-out text", blocks)]


def _text_rows(
    figures: Mapping[str, Metrics], scores: Mapping[str, list[perplexity.DocumentScore]]
) -> list[tuple[str, ...]]:
    return [
        (
            name,
            str(metrics["bits_per_byte"]),
            str(metrics["perplexity"]),
            f"{len(scores[name]):,}",
            f"{sum(score.bytes for score in scores[name]):,}",
        )
        for name, metrics in figures.items()
    ]


def _task_section(results: EvalResults, figures: Figures) -> list[Section]:
    if not results.tasks:
        return []
    chances = {
        name: sum(outcome.chance for outcome in outcomes) / len(outcomes) for name, outcomes in results.tasks.items()
    }
    metric_names = ("acc", "acc_norm", "acc_bytes")
    rows = []
    for name, values in figures["tasks"].items():
        cells = [str(values[metric]) if metric in values else "" for metric in metric_names]
        cut = sum(outcome.cut for outcome in results.tasks[name])
        chance = f"{chances[name]:.3f}" if chances[name] else ""
        rows.append((name, *cells, chance, f"{len(results.tasks[name]):,}", f"{cut:,}"))
    blocks: list[Block] = [Table(("task", *metric_names, "chance", "items", "cut"), rows, note=_METRICS)]
    best = {name: values.get("acc_norm", values["acc"]) for name, values in figures["tasks"].items()}
    marks = {name: chance for name, chance in chances.items() if chance}
    blocks.append(
        Figure(
            "tasks",
            interval_chart(best, unit="accuracy", marks=marks),
            "Accuracy (acc_norm where available); vertical lines: chance",
        )
    )
    if words := [
        (name, str(values["perplexity"])) for name, values in figures["tasks"].items() if "perplexity" in values
    ]:
        blocks.append(Table(("task", "perplexity of the correct word"), words))
    if figures["groups"]:
        groups = [(name, str(values["acc"])) for name, values in figures["groups"].items()]
        blocks.append(Table(("group", "acc"), groups))
    return [Section("Likelihood tasks", blocks)]


_METRICS = (
    "acc: the likeliest option is correct; acc_norm and acc_bytes: normalized by its length in characters or bytes. "
    "Lambada's acc: greedy decoding produces exactly the word. cut: items whose context was truncated."
)


def _world_section(results: EvalResults, figures: Figures) -> list[Section]:
    if not results.answers:
        return []
    world_figures = figures["world"]["world"]
    continuation_counts = ", ".join(
        f"{name} {count}" for name, count in world_knowledge.continuations(results.answers).items()
    )
    examples = [
        (answer.question.prompt, _shorten(answer.answer), "yes" if answer.judgement.right else "no")
        for answer in results.answers[:12]
    ]
    return [
        Section(
            "The built-in world",
            [
                interval_table(
                    world_figures,
                    note=f"A correct answer has the category and a property. Completions: {continuation_counts}.",
                ),
                Figure(
                    "world",
                    interval_chart(world_figures, unit="share"),
                    "Answers about the world; no training text asks or answers the held-out questions",
                ),
                Table(("question", "answer", "correct"), examples),
            ],
        )
    ]


def _instruction_section(results: EvalResults, figures: Figures) -> list[Section]:
    if not results.followed:
        return []
    kinds = [
        (name, str(accuracies["strict"]), str(accuracies["loose"]), str(accuracies["strict"].n))
        for name, accuracies in figures["instruction kinds"].items()
    ]
    missed = [
        (
            missed_result.item.id,
            _shorten(missed_result.item.prompt),
            _shorten(missed_result.answer),
            ", ".join(_not_followed(missed_result)),
        )
        for missed_result in results.followed
        if not all(missed_result.strict)
    ]
    blocks: list[Block] = [
        interval_table(figures["instructions"]["instructions"], note=_FOLLOWING),
        Table(("instruction", "strict", "loose", "n"), kinds),
    ]
    if missed:
        note = f"{len(missed)} of {len(results.followed)} prompts; the first {min(len(missed), _LISTED)} are shown."
        blocks.append(Table(("item", "prompt", "answer", "not followed"), missed[:_LISTED], note=note))
    return [Section("Instructions", blocks)]


def _not_followed(result: IFEvalResult) -> list[str]:
    pairs = zip(result.item.instructions, result.strict, strict=True)
    return [
        instruction.id + (" (not checked)" if verdict is None else "") for instruction, verdict in pairs if not verdict
    ]


_FOLLOWING = (
    "prompt: all instructions of a prompt are followed; instruction: each counted separately, with an interval over "
    "prompts. loose: also without the first line, the last line and asterisks. unchecked: a program could not decide "
    "(the language of a short text); it counts as not followed. unanswered: the prompt left no room in the context."
)


def _edge_section(results: EvalResults, figures: Figures) -> list[Section]:
    if not results.met:
        return []
    cases = [
        (
            case.id,
            _shorten(case.prompt, limit=60),
            case.finish,
            _shorten(case.answer, limit=60),
            ", ".join(_words(name) for name, passed in case.verdicts.items() if not passed) or "none",
        )
        for case in results.met
    ]
    return [
        Section(
            "Edge cases",
            [
                interval_table(figures["edge_cases"]["edge_cases"], name="check", note=_EDGES),
                Table(("case", "prompt", "finish reason", "answer", "failed checks"), cases),
            ],
        )
    ]


_EDGES = (
    "no crash: an answer or a clear refusal; refused: a prompt that is too long; stops: within 128 tokens; no loop: "
    "less than half of the answer's 4-grams are repeated; no leak: no special token and no role in the answer; "
    "special tokens as text: names of special tokens that a user writes do not become special tokens."
)


def _versus_section(comparison: PairedComparison | None) -> list[Section]:
    if comparison is None:
        return []
    rows = [
        (
            name,
            *(f"{task.difference}", f"{task.only_first}", f"{task.only_second}"),
            *_significance_cells(task, higher_is_better=True),
        )
        for name, task in comparison.tasks.items()
    ]
    texts = [
        (
            name,
            f"{scores.first:.4f}",
            f"{scores.second:.4f}",
            f"{scores.difference}",
            *_significance_cells(scores, higher_is_better=False),
        )
        for name, scores in comparison.texts.items()
    ]
    columns = ("p (Holm)", "MDE80", "n", "verdict")
    blocks: list[Block] = []
    if rows:
        blocks.append(Table(("measure", "change", "lost", "gained", *columns), rows, note=_VERSUS))
    if texts:
        blocks.append(Table(("text", "bits per byte before", "after", "change", *columns), texts))
    if comparison.flips:
        flips = [
            (
                f"{flip.task} {flip.id}",
                f"{flip.metric}: {'gained' if flip.gained else 'lost'}",
                *(_shorten(text, limit=80) for text in (flip.prompt, flip.before, flip.after)),
            )
            for flip in comparison.flips
        ]
        note = f"{len(flips)} flips; the first {min(len(flips), _LISTED)} are shown, all are in {REPORT_FILE}."
        blocks.append(Table(("item", "verdict", "prompt", "before", "after"), flips[:_LISTED], note=note))
    return [Section("Comparison with the parent version", blocks)]


_VERSUS = (
    "Only items that both versions answered. p: exact McNemar test of the items on which they differ (texts: paired "
    "bootstrap over documents), corrected for the number of rows (Holm). MDE80: the minimum detectable effect at 80% "
    "power with this number of items, before the correction."
)


def _significance_cells(comparison: Comparison | RatioComparison, *, higher_is_better: bool) -> tuple[str, ...]:
    better = (comparison.difference.value > 0) == higher_is_better
    verdict = ("better" if better else "worse") if comparison.p_value < 0.05 else "no difference shown"
    smallest = f"{comparison.mde80:.3f}" if comparison.mde80 == comparison.mde80 else ""
    return f"{comparison.p_value:.3g}", smallest, str(comparison.n), verdict


_LISTED = 40


def _words(name: str) -> str:
    return name.replace("_", " ")


def _shorten(text: str, *, limit: int = 120) -> str:
    """Return a text as one short line; characters that are not printable (such as terminal controls) are escaped."""
    bare = " ".join(text.split())
    printable = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in bare
    )
    return printable if len(printable) <= limit else printable[: limit - 3] + "..."
