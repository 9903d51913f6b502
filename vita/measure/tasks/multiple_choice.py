"""Any file of queries with choices, for tasks that have no module of their own (COPA, OpenBookQA, BoolQ, ...)."""

from __future__ import annotations

from vita.measure.task import TASKS, Choice, Fields, choice


@TASKS.add("multiple_choice")
def multiple_choice(row: Fields) -> Choice:
    """Which choice follows the query? Fieldss `{query, choices, gold}`, joined by a space."""
    return choice(row, delimiter=" ")
