"""Rows of a token stream: those of `pretrain`, `adapt`, and the replayed text of other stages.

rows = TextRows(shards, loader)
rows = pretraining_rows(run, store, ledger)         # of a recorded run of `pretrain`
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from vita.data.record_rights import Rights
from vita.data.tokens.loader import RowUse, StepLoader, TokenStream
from vita.data.tokens.mixture import MixturePhase
from vita.data.tokens.mixture_loader import make_loader
from vita.data.tokens.row_documents import RowDocument
from vita.data.tokens.shards import DocumentSpan, Shards
from vita.rights.row_documents import Selection
from vita.spine.config import build
from vita.spine.errors import DataError, VitaError
from vita.spine.ledger import Ledger, Run
from vita.spine.renamed_settings import recorded_value
from vita.spine.store import Store


@dataclass(frozen=True)
class TextRows:
    """The rows of a token stream."""

    shards: TokenStream
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


def spans_of(shards: TokenStream, fits: Callable[[DocumentSpan], bool]) -> list[DocumentSpan]:
    """Return the parts of a token stream whose documents fit."""
    return [span for span in shards.documents_between(0, shards.tokens) if fits(span)] if shards.tokens else []


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
