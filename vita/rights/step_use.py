"""The use of documents by the steps of training runs, whose rows are computed again.

steps = RunSteps(store, ledger, find_stage=stage)
steps.use(run, {("wiki", "Cat")})       # StepUse("not reached", "not trained on it: none of 4 steps read it")
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from vita.rights.training_steps import TrainingRows, rows_of_run
from vita.spine.errors import VitaError
from vita.spine.ledger import Ledger, Run
from vita.spine.plain_text import counted
from vita.spine.stage import Stage
from vita.spine.store import Store

Records = Collection[tuple[str, str]]
"""The (source, id) of records; an empty source stands for any source."""


class StepUse(NamedTuple):
    """The use of documents by a run, and its explanation."""

    use: str
    explanation: str


class RunSteps:
    """The use of documents by training runs; the rows of a run are computed once for the same documents."""

    def __init__(self, store: Store, ledger: Ledger, *, find_stage: Callable[[str], Stage]) -> None:
        """`find_stage` returns the declaration of a stage by its name."""
        self._store, self._ledger, self._find_stage = store, ledger, find_stage
        self._uses: dict[tuple[int, frozenset[tuple[str, str]]], StepUse | None] = {}

    def use(self, run: Run, records: Records) -> StepUse | None:
        """Return the use of these records of its data by a run; None for a stage without training rows.

        Where the steps that read them are not known, they count as trained on, and the explanation says so.
        """
        key = (run.id, frozenset(records))
        if key not in self._uses:
            self._uses[key] = self._compute(run, key[1])
        return self._uses[key]

    def _compute(self, run: Run, records: frozenset[tuple[str, str]]) -> StepUse | None:
        try:
            with self._store.temporary("rows") as folder:
                training = rows_of_run(run, self._store, self._ledger, find_stage=self._find_stage, folder=folder)
                return None if training is None else _use_of_rows(training, records)
        except (VitaError, OSError, KeyError) as error:
            problem = error.problem or str(error) if isinstance(error, VitaError) else str(error)
            return StepUse("trained on", f"in its training data; the steps that read it are not known ({problem})")


def _use_of_rows(training: TrainingRows, records: frozenset[tuple[str, str]]) -> StepUse:
    steps = {row.step for row in training.uses_of(lambda source, id: not records.isdisjoint({(source, id), ("", id)}))}
    count = training.steps - training.first
    if steps:
        return StepUse("trained on", f"trained on it in {len(steps):,} of {counted(count, 'step')}")
    if any(source in ("", *training.sources_of(id)) and training.sources_of(id) for source, id in records):
        return StepUse("not reached", f"not trained on it: none of {counted(count, 'step')} read it")
    return StepUse("trained on", "in its training data; none of its rows has this id, so the steps are not known")
