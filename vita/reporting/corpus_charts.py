"""Charts of a corpus for its report: documents that each rule dropped, sources, languages and lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vita.reporting.charts import COLOURS, Span, histogram, span_chart
from vita.reporting.page import Figure
from vita.reporting.wording import size

BLUE, ORANGE, GREEN = COLOURS[:3]
MOST_ROWS = 12
"""Maximum number of rows of a chart; the smallest rows are added up."""


def corpus_figures(report: Mapping[str, Any], sizes: np.ndarray) -> dict[str, list[Figure]]:
    """Return the charts of each section of a corpus report; `sizes` are the bytes of each training document."""
    figures = {"Documents": [_waterfall(report)]}
    sources = {name: row["train"]["bytes"] for name, row in report["sources"].items()}
    if len(sources) > 1:
        figures["Sources"] = [_bars("corpus-sources", sources, "Text of each source in the training documents.")]
    languages = {name: row["corpus"]["bytes"] for name, row in report.get("languages", {}).items()}
    if len([count for count in languages.values() if count]) > 1:
        figures["Languages"] = [_bars("corpus-languages", languages, "Text of each language in the corpus.")]
    if len(sizes) > 1:
        svg = histogram(np.log10(np.maximum(sizes, 1)).tolist(), x="log10 of the bytes of a training document")
        figures["Bytes"] = [Figure("corpus-lengths", svg, "Lengths of the training documents.")]
    return figures


def _waterfall(report: Mapping[str, Any]) -> Figure:
    """The documents that were read, those that each rule dropped, and those that remain."""
    documents = report["documents"]
    dropped = {reason: row["documents"] for reason, row in report["dropped"].items()}
    total = documents["train"] + documents["held_out"] + sum(dropped.values())
    rows = {"read": [Span(0, total, f"{total:,}", BLUE)]}
    left = total
    rules = [reason.rpartition(".")[2] for reason in dropped]
    for reason, count in _largest(dropped).items():
        rule = reason.rpartition(".")[2]
        name = rule if rules.count(rule) == 1 else reason
        rows[name.replace("_", " ")] = [Span(left - count, left, f"{count:,}", ORANGE)]
        left -= count
    rows["held out"] = [Span(left - documents["held_out"], left, f"{documents['held_out']:,}", GREEN)]
    rows["training"] = [Span(0, documents["train"], f"{documents['train']:,}", GREEN)]
    caption = "Documents that were read, documents that each rule dropped, and documents that remain."
    return Figure("corpus-waterfall", span_chart(rows, _ticks(total, f"{total:,} documents")), caption)


def _bars(name: str, values: Mapping[str, int], caption: str) -> Figure:
    largest = _largest({key: value for key, value in values.items() if value})
    rows: dict[str, Sequence[Span]] = {
        key: [Span(0, value, size(value), BLUE)] for key, value in largest.items()
    }  # fmt: skip
    longest = max(largest.values())
    return Figure(name, span_chart(rows, _ticks(longest, size(longest))), caption)


def _largest(values: Mapping[str, int]) -> dict[str, int]:
    """Return the largest values in descending order, and the sum of the others."""
    ordered = sorted(values.items(), key=lambda item: (-item[1], item[0]))
    rows = dict(ordered[:MOST_ROWS])
    if others := ordered[MOST_ROWS:]:
        rows[f"{len(others)} others"] = sum(count for _, count in others)
    return rows


def _ticks(longest: float, label: str) -> list[tuple[float, str]]:
    return [(0, "0"), (longest, label)]
