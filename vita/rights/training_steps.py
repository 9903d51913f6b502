"""The documents of a training step, and the steps that read a document.

    training = training_rows(model, store, ledger, folder=folder)
    training.documents_by_row(step)              # list[list[RowDocument]], one list per row
    training.uses("wiki/Cat", source=None)       # (step, row, tokens)

Batches are a pure function of the step, the data and the settings, so nothing is recorded while training: the rows are
computed again from the recorded run. `pretrain` reads token sets; `adapt` and `sft` read their sources again.
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
from vita.data.tokens.shards import DocumentSpan, Shards
from vita.rights.dialogue_rows import dialogue_rows
from vita.rights.domain_rows import domain_rows
from vita.rights.row_documents import RowDocument, RowSource, Selection
from vita.spine.config import build
from vita.spine.errors import DataError, VitaError
from vita.spine.ledger import Ledger, Run
from vita.spine.renamed_settings import recorded_value
from vita.spine.store import Store


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
    """Number of steps of the run."""

    def documents_by_row(self, step: int) -> list[list[RowDocument]]:
        """Return the documents of each row of a step, counted from 0."""
        return [row for part in self.parts for row in part.documents_by_row(step)]

    def uses(self, document: str, *, source: str | None = None) -> list[RowUse]:
        """Return the rows that contain the document, in order; steps and rows are counted from 0."""
        row_uses, first_row = list[RowUse](), 0
        for part in self.parts:
            for use in part.uses(lambda name, id: id == document and source in (None, name), steps=self.steps):
                row_uses.append(use._replace(row=first_row + use.row))
            first_row += part.rows
        return sorted(row_uses)

    def sources_of(self, document: str) -> set[str]:
        """Return the sources with a document of this id."""
        return {source for part in self.parts for source in part.sources_of(document)}


def spans_of(shards: Shards, fits: Callable[[DocumentSpan], bool]) -> list[DocumentSpan]:
    """Return the parts of a token stream whose documents fit."""
    return [span for span in shards.documents_between(0, shards.tokens) if fits(span)] if shards.tokens else []


def training_rows(model: str, store: Store, ledger: Ledger, *, folder: Path) -> TrainingRows:
    """Return the rows on which a stage trained a model; raise a `DataError` for models of other stages.

    Tokens that are computed again are written to `folder` and must stay there while the rows are used.
    """
    runs = ledger.find(artifact=model, state="done")
    run = next((run for run in reversed(runs) if run.stage in _STAGES), None)
    if run is None:
        made_by = ", ".join(dict.fromkeys(run.stage for run in runs)) or "no recorded run"
        hint = "`vita trace MODEL` shows the models that it was made from; `vita trace-document` covers all stages"
        raise DataError(model[:12], expected=f"a model of {', '.join(_STAGES)}", got=f"a model of {made_by}", hint=hint)
    return TrainingRows(_STAGES[run.stage](run, store, ledger, folder), int(store.manifest(model).facts["steps"]))


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


_STAGES = {"pretrain": _of_pretraining, "adapt": _of_adaptation, "sft": _of_dialogues}
"""Stage -> function that computes the parts of its batches."""


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
