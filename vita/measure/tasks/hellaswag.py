"""HellaSwag: which of four endings follows (Zellers et al. 2019). Rows `{query, choices, gold}`."""

from __future__ import annotations

from vita.measure.task import TASKS, Choice, Row, choice


@TASKS.add("hellaswag")
def hellaswag(row: Row) -> Choice:
    """Which ending follows a scene?"""
    return choice(row, delimiter=" ")
