"""LAMBADA: the last word of a passage (Paperno et al. 2016). Fields `{context, continuation}`."""

from __future__ import annotations

from vita.data.sources.benchmark_rows import BenchmarkRow
from vita.evals.task import TASKS, Cloze


@TASKS.add("lambada")
def lambada(row: BenchmarkRow) -> Cloze:
    """The last word of a passage, which a reader of the whole passage can guess."""
    return Cloze(row.text("context").rstrip(), " " + row.text("continuation").strip())
