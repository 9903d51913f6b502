"""PIQA: everyday physics, which of two ways works (Bisk et al. 2020). Fieldss `{query, choices, gold}`."""

from __future__ import annotations

from vita.data.sources.benchmark_rows import Fields
from vita.evals.task import TASKS, Choice, choice


@TASKS.add("piqa")
def piqa(row: Fields) -> Choice:
    """Which of two ways reaches the goal?"""
    return choice(row, delimiter="Answer: " if row.text("query").endswith("\n") else "\nAnswer: ")
