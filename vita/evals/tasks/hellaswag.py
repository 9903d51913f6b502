"""HellaSwag: which of four endings follows (Zellers et al. 2019). Fieldss `{query, choices, gold}`."""

from __future__ import annotations

from vita.data.sources.benchmark_rows import Fields
from vita.evals.task import TASKS, Choice, choice


@TASKS.add("hellaswag")
def hellaswag(row: Fields) -> Choice:
    """Which ending follows a scene?"""
    return choice(row, delimiter=" ")
