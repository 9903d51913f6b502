"""PIQA: everyday physics, the correct one of two solutions (Bisk et al. 2020). Fields `{query, choices, gold}`."""

from __future__ import annotations

from vita.data.sources.benchmark_rows import BenchmarkRow
from vita.evals.task import TASKS, MultipleChoice, choice


@TASKS.add("piqa")
def piqa(row: BenchmarkRow) -> MultipleChoice:
    """The correct one of two solutions."""
    return choice(row, delimiter="Answer: " if row.text("query").endswith("\n") else "\nAnswer: ")
