"""The rows of training batches with the documents in them.

    source.documents_by_row(step)        # list[list[RowDocument]]
    source.uses(fits, steps=100)         # RowUse(step, row, tokens) of the documents that fit

    def training_rows(config: Config, inputs: Inputs, folder: Path) -> StageRows: ...       # of a training stage

A stage returns its rows with the functions that read and order them in training, so that a listing cannot differ from
training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from vita.data.tokens.loader import RowUse
from vita.data.tokens.row_documents import RowDocument

Selection = Callable[[str, str], bool]
"""A function of (source, id) that returns True for the documents to look for."""


class RowSource(Protocol):
    """Rows of one kind of data; each step reads `rows` of them."""

    @property
    def rows(self) -> int: ...
    def documents_by_row(self, step: int) -> list[list[RowDocument]]: ...
    def uses(self, fits: Selection, *, steps: int) -> Iterator[RowUse]: ...
    def sources_of(self, document: str) -> set[str]: ...


@dataclass(frozen=True)
class StageRows:
    """The rows of a training stage, computed again from its settings and inputs."""

    parts: tuple[RowSource, ...]
    """The parts of a batch, whose rows follow one another."""
    counts: Mapping[str, int]
    """Numbers of records by their names in the facts of the model; they must be those of the run."""
