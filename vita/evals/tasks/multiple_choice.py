"""Any file of queries with choices, for tasks that have no module of their own (COPA, OpenBookQA, BoolQ, ...)."""

from __future__ import annotations

from vita.data.sources.benchmark_rows import BenchmarkRow
from vita.evals.task import TASKS, MultipleChoice, choice


@TASKS.add("multiple_choice")
def multiple_choice(row: BenchmarkRow) -> MultipleChoice:
    """The correct choice for the query. Fields `{query, choices, gold}`, joined by a space."""
    return choice(row, delimiter=" ")
