"""The packed rows of dialogues on which `sft` trained.

rows = DialogueRows(packing, records, rows=8, seed=0)
rows.documents_by_row(step)          # the dialogues of each row, with their licences
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vita.data.tokens.loader import RowUse
from vita.data.tokens.packing import PackedDataset
from vita.data.tokens.row_documents import RowDocument
from vita.rights.row_documents import Selection


@dataclass(frozen=True)
class DialogueRows:
    """Packed rows of dialogues."""

    packing: PackedDataset
    records: list[RowDocument]
    """The dialogue of each sequence of `packing`, in the order of its input."""
    rows: int
    seed: int

    def documents_by_row(self, step: int) -> list[list[RowDocument]]:
        """Return the dialogues of each row of a step."""
        numbers = self.packing.order(step * self.rows, self.rows, seed=self.seed)
        return [self._documents(number) for number in numbers]

    def uses(self, fits: Selection, *, steps: int) -> Iterator[RowUse]:
        """Yield the rows that contain dialogues that fit."""
        tokens = {
            number: sum(dialogue.tokens for dialogue in self._documents(number) if fits(dialogue.source, dialogue.id))
            for number in range(len(self.packing.rows))
        }
        for sequence, number in enumerate(self.packing.order(0, steps * self.rows, seed=self.seed)):
            if tokens[number]:
                yield RowUse(sequence // self.rows, sequence % self.rows, tokens[number])

    def sources_of(self, document: str) -> set[str]:
        """Return the sources with a dialogue of this id."""
        return {record.source for record in self.records if record.id == document}

    def _documents(self, number: int) -> list[RowDocument]:
        return [self.records[index]._replace(tokens=tokens) for index, tokens in self.packing.items(number)]
