"""PIQA: everyday physics, which of two ways works (Bisk et al. 2020). Fieldss `{query, choices, gold}`."""

from __future__ import annotations

from vita.measure.task import TASKS, Choice, Fields, choice


@TASKS.add("piqa")
def piqa(row: Fields) -> Choice:
    """Which of two ways reaches the goal?"""
    return choice(row, delimiter="Answer: " if row.text("query").endswith("\n") else "\nAnswer: ")
