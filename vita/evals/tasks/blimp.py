"""BLiMP: pairs of sentences, one of them ungrammatical (Warstadt et al. 2020); useful at any size of model."""

from __future__ import annotations

from vita.data.sources.benchmark_rows import BenchmarkRow
from vita.evals.task import TASKS, MultipleChoice


@TASKS.add("blimp")
def blimp(row: BenchmarkRow) -> MultipleChoice:
    """The grammatical sentence of a pair must be the likelier one. Items are grouped by field of grammar."""
    pair = ("", row.text("sentence_good")), ("", row.text("sentence_bad"))
    return MultipleChoice(
        pair, gold=0, id=f"{row.get('UID', '')}-{row.get('pairID', '')}".strip("-"), group=str(row.get("field", ""))
    )
