"""ARC, easy set: school science questions (Clark et al. 2018). Fields `{query, choices, gold}`."""

from __future__ import annotations

from vita.data.sources.benchmark_rows import BenchmarkRow
from vita.evals.task import TASKS, MultipleChoice, choice


@TASKS.add("arc_easy")
@TASKS.add("arc_challenge")
def arc(row: BenchmarkRow) -> MultipleChoice:
    """The correct answer to a school science question."""
    return choice(row, delimiter="\nAnswer: ")
