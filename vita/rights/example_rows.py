"""Rows of one training example each: a pair of answers, a labelled text, a pair of texts, or a prompt.

order = partial(step_items, rows=config.batch_size, size=len(pairs), seed=config.seed)
rows = ExampleRows([pair.documents() for pair in pairs], order, config.batch_size)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vita.data.tokens.loader import RowUse
from vita.data.tokens.row_documents import RowDocument
from vita.rights.row_documents import Selection


@dataclass(frozen=True)
class ExampleRows:
    """The rows of all steps; a row is one example."""

    documents: Sequence[Sequence[RowDocument]]
    """The documents of each example, in the order of the training set."""
    order: Callable[[int], list[int]]
    """Returns the example of each row of a step, counted from 0."""
    rows: int
    """Maximum number of rows of a step."""

    def documents_by_row(self, step: int) -> list[list[RowDocument]]:
        """Return the documents of each row of a step."""
        return [list(self.documents[number]) for number in self.order(step)]

    def uses(self, fits: Selection, *, steps: int) -> Iterator[RowUse]:
        """Yield the rows that contain documents that fit."""
        tokens = [sum(part.tokens for part in parts if fits(part.source, part.id)) for parts in self.documents]
        if not any(tokens):
            return
        for step in range(steps):
            for row, number in enumerate(self.order(step)):
                if tokens[number]:
                    yield RowUse(step, row, tokens[number])

    def sources_of(self, document: str) -> set[str]:
        """Return the sources with a document of this id."""
        return {part.source for parts in self.documents for part in parts if part.id == document}
