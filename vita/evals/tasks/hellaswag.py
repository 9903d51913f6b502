"""HellaSwag: the correct one of four endings (Zellers et al. 2019). Fields `{query, choices, gold}`."""

from __future__ import annotations

from vita.data.sources.benchmark_rows import BenchmarkRow
from vita.evals.task import TASKS, Choice, choice


@TASKS.add("hellaswag")
def hellaswag(row: BenchmarkRow) -> Choice:
    """The correct ending of a scene."""
    return choice(row, delimiter=" ")
