"""HellaSwag: the correct one of four endings (Zellers et al. 2019). Fields `{query, choices, gold}`."""

from __future__ import annotations

from vita.data.sources.benchmark_rows import BenchmarkRow
from vita.evals.task import TASKS, MultipleChoice, choice


@TASKS.add("hellaswag")
def hellaswag(row: BenchmarkRow) -> MultipleChoice:
    """The correct ending of a scene."""
    return choice(row, delimiter=" ")
