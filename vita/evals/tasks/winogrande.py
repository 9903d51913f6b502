"""WinoGrande: pronoun resolution (Sakaguchi et al. 2019). Fields `{context_options, ...}`."""

from __future__ import annotations

from vita.data.sources.benchmark_rows import BenchmarkRow
from vita.evals.task import TASKS, MultipleChoice, schema


@TASKS.add("winogrande")
@TASKS.add("winograd")
def winogrande(row: BenchmarkRow) -> MultipleChoice:
    """The name that makes the rest of the sentence likelier."""
    return schema(row)
