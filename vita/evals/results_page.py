"""The parts of an evaluation report that only its page shows: rows about items, and sentences about the method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vita.data.records import ToolCall
from vita.evals import world_knowledge
from vita.evals.needle import needle_map
from vita.evals.position_loss import position_chart
from vita.evals.results import EvalResults
from vita.reporting.catalogue import GROUPS
from vita.reporting.charts import histogram
from vita.reporting.page import Figure
from vita.stats.intervals import Comparison, RatioComparison

_LISTED = 40
"""Largest number of missed prompts on the page."""
_METHOD = (
    "A document's first token is predicted from the token that begins every document. Long documents are read in "
    "windows of the context.",
    "Intervals of texts resample whole documents 1,000 times. Shares have Wilson intervals, and the perplexity of "
    "single words has a Student interval.",
)
_VERSUS = (
    "Only items that both versions answered. p: exact McNemar test of the items on which they differ (texts: paired "
    "bootstrap over documents), corrected for the number of rows (Holm). MDE80: the minimum detectable effect at 80% "
    "power with this number of items, before the correction."
)


def page_content(results: EvalResults, *, method: Sequence[str]) -> dict[str, Any]:
    """Return title -> rows; a title of a group of figures adds to its section. `method` describes the measurement."""
    document_bits = [score.bits / score.bytes for scores in results.texts.values() for score in scores]
    texts = {name: {"documents": len(scores), "bytes": sum(score.bytes for score in scores)}
             for name, scores in {**results.texts, **results.sources}.items()}  # fmt: skip
    tasks = {name: {"chance": sum(item.chance for item in items) / len(items), "items": len(items),
                    "cut": sum(item.cut for item in items)} for name, items in results.tasks.items()}  # fmt: skip
    chart = Figure("documents", histogram(document_bits, x="bits per byte"), "Documents by their bits per byte.")
    return {
        GROUPS["texts"]: [texts, *([chart] if document_bits else [])],
        GROUPS["tasks"]: [tasks, "cut: items whose context was truncated."] if tasks else [],
        GROUPS["world"]: _world(results),
        "Instructions": [
            {"item": missed.item.id, "prompt": missed.item.prompt, "answer": missed.answer, "not followed": [
                instruction.id + (" (not checked)" if verdict is None else "")
                for instruction, verdict in zip(missed.item.instructions, missed.strict, strict=True) if not verdict
            ]}
            for missed in results.followed if not all(missed.strict)
        ][:_LISTED],
        GROUPS["tool_calls"]: [
            {"item": missed.item.id, "prompt": missed.item.prompt[-1].content,
             "expected": _calls(missed.item.expected), "calls": _calls(missed.answer.calls) or missed.answer.content}
            for missed in results.tool_calls if missed.item.expected and not missed.exact_match
        ][:_LISTED],
        GROUPS["edge_cases"]: [
            {"case": case.id, "prompt": case.prompt, "finish reason": case.finish, "answer": case.answer,
             "failed checks": [name for name, passed in case.verdicts.items() if not passed] or "none"}
            for case in results.met
        ],
        **({GROUPS["positions"]: [position_chart(results.figures()["positions"])]} if results.positions else {}),
        **({GROUPS["needle"]: [needle_map(results.needles)]} if results.needles else {}),
        GROUPS["versus"]: _versus(results),
        "Method": [*_METHOD, *method],
    }  # fmt: skip


def _calls(calls: Sequence[ToolCall]) -> str:
    """Return calls as a text."""
    return "; ".join(f"{call.name}({call.arguments})" for call in calls)


def _world(results: EvalResults) -> list[Any]:
    if not results.answers:
        return []
    rows = [{"question": answer.question.prompt, "answer": answer.answer, "correct": answer.judgement.right}
            for answer in results.answers[:12]]  # fmt: skip
    return [{"completions": dict(world_knowledge.continuations(results.answers))}, rows]


def _versus(results: EvalResults) -> list[Any]:
    if not (comparison := results.versus):
        return []
    tasks = {
        name: {
            "change": str(task.difference),
            "lost": task.only_first,
            "gained": task.only_second,
            **_significance(task, higher_is_better=True),
        }
        for name, task in comparison.tasks.items()
    }
    texts = {
        name: {"before": text.first, "after": text.second, "change": str(text.difference),
               **_significance(text, higher_is_better=False)}
        for name, text in comparison.texts.items()
    }  # fmt: skip
    return [tasks, texts, _VERSUS]


def _significance(comparison: Comparison | RatioComparison, *, higher_is_better: bool) -> Mapping[str, Any]:
    better = (comparison.difference.value > 0) == higher_is_better
    verdict = ("better" if better else "worse") if comparison.p_value < 0.05 else "no difference shown"
    smallest = f"{comparison.mde80:.3f}" if comparison.mde80 == comparison.mde80 else ""
    return {"p (Holm)": comparison.p_value, "MDE80": smallest, "n": comparison.n, "verdict": verdict}
