"""The use of documents by the steps of training runs, whose rows are computed again.

steps = RunSteps(store, ledger, find_stage=stage)
steps.use(run, {("wiki", "Cat")})       # StepUse("not reached", "not trained on it: none of 4 steps read it")
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from vita.data.tokens.shards import DocumentSpan
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

    def use_of_tokens(self, run: Run, token_set: str, fits: Callable[[DocumentSpan], bool]) -> StepUse | None:
        """Return the use by a run of the documents that fit in a token set of its inputs; None as for `use`.

        A stage whose settings do not use the token set, such as `sft` without `replay`, has the use `not used`.
        """

        def use_of(training: TrainingRows) -> StepUse:
            folder = self._store.open(token_set).path
            if not any(stream.folder.is_relative_to(folder) for stream in training.token_streams()):
                return StepUse("not used", "not trained on it: its settings do not use these tokens")
            return _use_of_steps(len(training.steps_with(fits)), training)

        return self._with_rows(run, use_of)

    def _compute(self, run: Run, records: frozenset[tuple[str, str]]) -> StepUse | None:
        return self._with_rows(run, lambda training: _use_of_rows(training, records))

    def _with_rows(self, run: Run, use_of: Callable[[TrainingRows], StepUse]) -> StepUse | None:
        try:
            with self._store.temporary("rows") as folder:
                training = rows_of_run(run, self._store, self._ledger, find_stage=self._find_stage, folder=folder)
                return None if training is None else use_of(training)
        except (VitaError, OSError, KeyError) as error:
            problem = error.problem or str(error) if isinstance(error, VitaError) else str(error)
            return StepUse("trained on", f"in its training data; the steps that read it are not known ({problem})")


def _use_of_rows(training: TrainingRows, records: frozenset[tuple[str, str]]) -> StepUse:
    steps = {row.step for row in training.uses_of(lambda source, id: not records.isdisjoint({(source, id), ("", id)}))}
    is_known = any(source in ("", *training.sources_of(id)) and training.sources_of(id) for source, id in records)
    if steps or is_known:
        return _use_of_steps(len(steps), training)
    return StepUse("trained on", "in its training data; none of its rows has this id, so the steps are not known")


def _use_of_steps(reading: int, training: TrainingRows) -> StepUse:
    """Return the use by a run of which `reading` steps read the documents."""
    count = counted(training.steps - training.first, "step")
    if reading:
        return StepUse("trained on", f"trained on it in {reading:,} of {count}")
    return StepUse("not reached", f"not trained on it: none of {count} read it")
