"""The documents of a training step, and the steps that read a document.

    training = training_rows(model, store, ledger, find_stage=stage, folder=folder)
    training.documents_by_row(step)              # list[list[RowDocument]], one list per row
    training.uses("wiki/Cat", source=None)       # (step, row, tokens)

Batches are a pure function of the step, the data and the settings, so nothing is recorded while training: the stage
computes the rows again from the recorded run, with the functions that read and order them in training.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from vita.data.tokens.loader import RowUse, TokenStream
from vita.data.tokens.row_documents import RowDocument
from vita.data.tokens.shards import DocumentSpan
from vita.rights.recorded_settings import recorded_erasures, row_settings
from vita.rights.row_documents import RowSource, Selection, StageRows
from vita.rights.text_rows import TextRows, pretraining_rows, spans_of
from vita.spine.config import build
from vita.spine.errors import ConfigError, DataError
from vita.spine.ledger import Ledger, Run
from vita.spine.stage import Stage
from vita.spine.store import Store
from vita.train.run_files import METRICS

METRICS_FILE = f"report/{METRICS}"


@dataclass(frozen=True)
class TrainingRows:
    """The rows of a training run, by step; the rows of its parts follow one another in a batch."""

    parts: tuple[RowSource, ...]
    steps: int
    """Number of the last step of the run."""
    first: int = 0
    """Number of steps that another run made before, whose checkpoint this run started from."""

    def documents_by_row(self, step: int) -> list[list[RowDocument]]:
        """Return the documents of each row of a step, counted from 0."""
        return [row for part in self.parts for row in part.documents_by_row(step)]

    def uses(self, document: str, *, source: str | None = None) -> list[RowUse]:
        """Return the rows that contain the document, in order; steps and rows are counted from 0."""
        return self.uses_of(lambda name, id: id == document and source in (None, name))

    def uses_of(self, fits: Selection) -> list[RowUse]:
        """Return the rows that contain documents that fit, in order."""
        row_uses, first_row = list[RowUse](), 0
        for part in self.parts:
            for use in part.uses(fits, steps=self.steps):
                if use.step >= self.first:
                    row_uses.append(use._replace(row=first_row + use.row))
            first_row += part.rows
        return sorted(row_uses)

    def token_streams(self) -> list[TokenStream]:
        """Return the token streams of the rows."""
        return [part.shards for part in self.parts if isinstance(part, TextRows)]

    def steps_with(self, fits: Callable[[DocumentSpan], bool]) -> Int64[np.ndarray, "S"]:
        """Return the steps that read documents of its token streams that fit, in order; quick for many documents."""
        steps = [
            part.loader.steps_with(spans_of(part.shards, fits), steps=self.steps, first=self.first)
            for part in self.parts
            if isinstance(part, TextRows)
        ]
        return np.unique(np.concatenate(steps)) if steps else np.zeros(0, np.int64)

    def sources_of(self, document: str) -> set[str]:
        """Return the sources with a document of this id."""
        return {source for part in self.parts for source in part.sources_of(document)}


def training_rows(
    model: str, store: Store, ledger: Ledger, *, find_stage: Callable[[str], Stage], folder: Path
) -> TrainingRows:
    """Return the rows on which a stage trained a model; raise a `DataError` for models that no stage trained.

    `find_stage` returns the declaration of a stage by its name. Tokens that are computed again are written to `folder`
    and must stay there while the rows are used.
    """
    runs = ledger.find(artifact=model, state="done")
    for run in reversed(runs):
        if (rows := rows_of_run(run, store, ledger, find_stage=find_stage, folder=folder)) is not None:
            return rows
    made_by = ", ".join(dict.fromkeys(run.stage for run in runs)) or "no recorded run"
    hint = "`vita trace MODEL` shows the models that it was made from; `vita trace-document` covers all stages"
    raise DataError(model[:12], expected="a model of a training stage", got=f"an artifact of {made_by}", hint=hint)


def rows_of_run(
    run: Run, store: Store, ledger: Ledger, *, find_stage: Callable[[str], Stage], folder: Path
) -> TrainingRows | None:
    """Return the rows of a finished run, or None for a stage without training rows."""
    parts = _parts_of_run(run, store, ledger, find_stage, folder)
    if parts is None:
        return None
    first, last = _first_and_last_step(run.artifact or "", store)
    return TrainingRows(parts, last, first)


def _parts_of_run(
    run: Run, store: Store, ledger: Ledger, find_stage: Callable[[str], Stage], folder: Path
) -> tuple[RowSource, ...] | None:
    """Return the parts of the batches of a run, or None for a stage without training rows."""
    if run.stage == "pretrain":  # its tokens are in the store, so that models of all versions can be listed
        return (pretraining_rows(run, store, ledger),)
    try:
        stage = find_stage(run.stage)
    except ConfigError:  # of a package that is not installed, or of an earlier release
        return None
    return None if stage.training_rows is None else _rows_of_stage(run, stage, store, ledger, folder)


def _rows_of_stage(run: Run, stage: Stage, store: Store, ledger: Ledger, folder: Path) -> tuple[RowSource, ...]:
    """Return the rows that the stage computes again from the recorded settings and the inputs of the run."""
    assert stage.training_rows is not None
    where = f"{run.life}/{run.step}"
    if run.version != stage.version:
        expected, got = f"a run of version {stage.version} of the stage `{stage.name}`", f"version {run.version}"
        hint = "list its steps with the release of Vita that trained it"
        raise DataError(where, "another version can order the rows differently", expected=expected, got=got, hint=hint)
    config = build(stage.config, row_settings(run, ledger), where=where)
    kinds = {slot.name: slot.kind for slot in stage.slots}
    inputs = stage.inputs(**{slot: store.open(digest, kinds[slot]) for slot, digest in ledger.inputs(run.id).items()})
    with recorded_erasures(run, ledger):
        rows: StageRows = stage.training_rows(config, inputs, folder)
    recorded = store.manifest(run.artifact or "").facts
    for name, count in rows.counts.items():
        if recorded.get(name, count) != count:
            raise DataError(where, expected=f"the {recorded[name]:,} {name} of the run", got=f"{count:,}")
    return rows.parts


def _first_and_last_step(model: str, store: Store) -> tuple[int, int]:
    """Return the steps done before the run and at its end, from the metrics that every training stage stores.

    The first is not 0 if the run started from the checkpoint of another one; the last is not the planned number of
    steps if a rule ended the run.
    """
    manifest = store.manifest(model)
    if METRICS_FILE not in manifest.files:
        return 0, int(manifest.facts["steps"])
    lines = store.read(model, METRICS_FILE).splitlines()
    first, last = json.loads(lines[0]), json.loads(lines[-1])
    # The first row is an evaluation before the first step, or the first step itself, which has a learning rate.
    return int(first["step"]) - ("learning_rate" in first), int(last["step"])
