"""The documents of a training step, and the steps that read a document.

    training = training_rows(model, store, ledger, find_stage=stage, folder=folder)
    training.documents_by_row(step)              # list[list[RowDocument]], one list per row
    training.uses("wiki/Cat", source=None)       # (step, row, tokens)

Batches are a pure function of the step, the data and the settings, so nothing is recorded while training: the rows are
computed again from the recorded run. `pretrain` reads token sets; the other stages read their sources again. Stages
whose rows are single examples declare `training_rows`, which reads and orders the examples as their training does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vita.data.record_rights import Rights
from vita.data.tokens.loader import Loader, RowUse, StepLoader
from vita.data.tokens.mixture import MixturePhase
from vita.data.tokens.mixture_loader import make_loader
from vita.data.tokens.replay import replayed_rows
from vita.data.tokens.row_documents import RowDocument
from vita.data.tokens.shards import DocumentSpan, Shards
from vita.rights.dialogue_rows import dialogue_rows
from vita.rights.domain_rows import domain_rows
from vita.rights.example_rows import ExampleRows
from vita.rights.recorded_settings import recorded_erasures, row_settings
from vita.rights.row_documents import RowSource, Selection
from vita.spine.config import build
from vita.spine.errors import ConfigError, DataError, VitaError
from vita.spine.ledger import Ledger, Run
from vita.spine.renamed_settings import recorded_value
from vita.spine.stage import Stage
from vita.spine.store import Store
from vita.train.run_files import METRICS

METRICS_FILE = f"report/{METRICS}"


@dataclass(frozen=True)
class TextRows:
    """The rows of a token stream."""

    shards: Shards
    loader: StepLoader

    @property
    def rows(self) -> int:
        return self.loader.rows

    def documents_by_row(self, step: int) -> list[list[RowDocument]]:
        """Return the documents in the inputs of each row of a step."""
        return [[_row_document(span) for span in spans] for spans in self.loader.documents_by_row(step)]

    def uses(self, fits: Selection, *, steps: int) -> Iterator[RowUse]:
        """Yield the rows that contain tokens of documents that fit."""
        spans = spans_of(self.shards, lambda span: fits(span.source, span.id))
        return self.loader.uses(spans, steps=steps)

    def sources_of(self, document: str) -> set[str]:
        """Return the sources with a document of this id."""
        return {span.source for span in spans_of(self.shards, lambda span: span.id == document)}


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
        row_uses, first_row = list[RowUse](), 0
        for part in self.parts:
            for use in part.uses(lambda name, id: id == document and source in (None, name), steps=self.steps):
                if use.step >= self.first:
                    row_uses.append(use._replace(row=first_row + use.row))
            first_row += part.rows
        return sorted(row_uses)

    def sources_of(self, document: str) -> set[str]:
        """Return the sources with a document of this id."""
        return {source for part in self.parts for source in part.sources_of(document)}


def spans_of(shards: Shards, fits: Callable[[DocumentSpan], bool]) -> list[DocumentSpan]:
    """Return the parts of a token stream whose documents fit."""
    return [span for span in shards.documents_between(0, shards.tokens) if fits(span)] if shards.tokens else []


def training_rows(
    model: str, store: Store, ledger: Ledger, *, find_stage: Callable[[str], Stage], folder: Path
) -> TrainingRows:
    """Return the rows on which a stage trained a model; raise a `DataError` for models that no stage trained.

    `find_stage` returns the declaration of a stage by its name. Tokens that are computed again are written to `folder`
    and must stay there while the rows are used.
    """
    runs = ledger.find(artifact=model, state="done")
    for run in reversed(runs):
        if (parts := _rows_of_run(run, store, ledger, find_stage, folder)) is not None:
            first, last = _first_and_last_step(model, store)
            return TrainingRows(parts, last, first)
    made_by = ", ".join(dict.fromkeys(run.stage for run in runs)) or "no recorded run"
    hint = "`vita trace MODEL` shows the models that it was made from; `vita trace-document` covers all stages"
    raise DataError(model[:12], expected="a model of a training stage", got=f"a model of {made_by}", hint=hint)


def _rows_of_run(
    run: Run, store: Store, ledger: Ledger, find_stage: Callable[[str], Stage], folder: Path
) -> tuple[RowSource, ...] | None:
    """Return the parts of the batches of a run, or None for a stage without training rows."""
    if run.stage in _TEXT_STAGES:
        return _TEXT_STAGES[run.stage](run, store, ledger, folder)
    try:
        stage = find_stage(run.stage)
    except ConfigError:  # of a package that is not installed, or of an earlier release
        return None
    return None if stage.training_rows is None else (_example_rows(run, stage, store, ledger),)


def _example_rows(run: Run, stage: Stage, store: Store, ledger: Ledger) -> ExampleRows:
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
        rows: ExampleRows = stage.training_rows(config, inputs)
    recorded = store.manifest(run.artifact or "").facts.get(rows.unit)
    if recorded is not None and recorded != len(rows.documents):
        raise DataError(where, expected=f"the {recorded:,} {rows.unit} of the run", got=f"{len(rows.documents):,}")
    return rows


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


def _of_pretraining(run: Run, store: Store, ledger: Ledger, folder: Path) -> tuple[RowSource, ...]:
    return (pretraining_rows(run, store, ledger),)


def _of_adaptation(run: Run, store: Store, ledger: Ledger, folder: Path) -> tuple[RowSource, ...]:
    domain = domain_rows(run, store, ledger, folder=folder)
    text = TextRows(domain.shards, domain.loader)
    return (text, *_replay(run, store, ledger, rows=domain.replayed, context=domain.loader.context))


def _of_dialogues(run: Run, store: Store, ledger: Ledger, folder: Path) -> tuple[RowSource, ...]:
    batch_size = int(recorded_value(run.config, "batch_size"))
    replayed = replayed_rows(float(run.config.get("replay", 0.0)), rows=batch_size, where="sft")
    dialogues = dialogue_rows(run, store, ledger, rows=batch_size - replayed)
    return (dialogues, *_replay(run, store, ledger, rows=replayed, context=dialogues.packing.context - 1))


_TEXT_STAGES = {"pretrain": _of_pretraining, "adapt": _of_adaptation, "sft": _of_dialogues}
"""Stage -> function that computes the parts of its batches, for batches with rows of text."""


def _replay(run: Run, store: Store, ledger: Ledger, *, rows: int, context: int) -> tuple[TextRows, ...]:
    """Return the rows of replayed pretraining text."""
    if not rows:
        return ()
    shards = Shards.open(store.open(ledger.inputs(run.id)["tokens"]).path / "train")
    return (TextRows(shards, Loader(shards, context=context, rows=rows, seed=int(run.config["seed"]))),)


def pretraining_rows(run: Run, store: Store, ledger: Ledger) -> TextRows:
    """Return the rows of a run of `pretrain`; raise a `DataError` if its tokens or its plan are not in the store."""
    try:
        inputs = ledger.inputs(run.id)
        shards = Shards.open(store.open(inputs["tokens"]).path / "train")
        plan: dict[str, Any] = json.loads(store.read(inputs["blueprint"], "blueprint.json"))["training"]
        rows = int(recorded_value(run.config, "batch_size") or plan["rows"])
        steps = int(recorded_value(run.config, "steps") or plan["schedule"]["steps"])
        mixture = [build(MixturePhase, phase, where="mixture") for phase in run.config.get("mixture", ())]
        seed = int(run.config["seed"])
        loader = make_loader(shards, mixture, context=int(plan["context"]), rows=rows, steps=steps, seed=seed)
        return TextRows(shards, loader)
    except (VitaError, KeyError, ValueError, TypeError) as error:
        where = f"{run.life}/{run.step}"
        raise DataError(where, f"its steps cannot be computed: {error}", hint="restore its tokens") from None


def _row_document(span: DocumentSpan) -> RowDocument:
    rights = Rights(span.licence, span.robots, span.opt_out, span.consent)
    return RowDocument(span.id, span.source, rights, span.stop - span.start)
