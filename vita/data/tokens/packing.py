"""Packing of whole dialogues of different lengths into rows of `context` tokens, with little padding.

    packing = PackedDataset(encoded, context=512, pad=tokenizer.pad)
    packing.batch(step, rows=16, seed=0)        # PackedRows(ids, learn, documents, positions)

Best-fit decreasing: dialogues from longest to shortest are put into the fullest row with enough space. `documents` and
`positions` separate the dialogues of a row, so that the loss equals that of each dialogue alone.
"""

from __future__ import annotations

import bisect
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64

from vita.data.tokens.dialogue_encoding import EncodedDialogue
from vita.data.tokens.permutation import shuffled
from vita.data.tokens.truncation import fit
from vita.spine.errors import ConfigError, DataError


@dataclass(frozen=True)
class PackedRows:
    """Rows of whole dialogues."""

    ids: Int64[np.ndarray, "rows context"]
    learn: Bool[np.ndarray, "rows context"]
    """Tokens that are targets of the position before them; never the first of a dialogue."""
    documents: Int64[np.ndarray, "rows context"]
    """A number for each dialogue of a row, from 0; the filling has a number of its own."""
    positions: Int64[np.ndarray, "rows context"]
    """Counted from 0 in each dialogue."""


class PackedDataset:
    """Encoded dialogues in packed rows.

    A dialogue longer than `context` keeps its beginning, or is dropped where `too_long` says so; one without a
    token to learn is dropped. `truncated` counts the first, `dropped` the others by their reason (see `fitting`).
    """

    def __init__(
        self,
        dialogues: Iterable[EncodedDialogue],
        *,
        context: int,
        pad: int,
        too_long: Literal["truncate", "drop"] = "truncate",
    ) -> None:
        if context < 2:
            raise ConfigError("packing.context", expected="at least 2", got=context)
        self.context, self.pad = context, pad
        self.truncated = 0
        self.dropped: Counter[str] = Counter()
        self._ids: list[np.ndarray] = []
        self._learn: list[np.ndarray] = []
        self.used: list[int] = []
        """Input index of each dialogue that is used."""
        for index, dialogue in enumerate(dialogues):
            if self._take(dialogue, drop=too_long == "drop"):
                self.used.append(index)
        if not self._ids:
            lost = ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.items())) or "none were given"
            raise DataError("packing", f"no dialogue is left to learn from in {context} tokens ({lost})")
        self.rows: list[list[int]] = best_fit_decreasing([len(ids) for ids in self._ids], context=context)
        """The kept dialogues of each row."""

    @property
    def dialogues(self) -> int:
        """Return the number of dialogues that are used."""
        return len(self._ids)

    @cached_property
    def tokens(self) -> int:
        """Return the number of tokens of all dialogues, without padding."""
        return sum(map(len, self._ids))

    @cached_property
    def filled(self) -> float:
        """Return the share of the rows that contains dialogues."""
        return self.tokens / (len(self.rows) * self.context)

    @cached_property
    def targets(self) -> int:
        """Return the number of learned tokens in an epoch."""
        return int(self._row_targets.sum())

    def batch(self, step: int, *, rows: int, seed: int, rank: int = 0, world_size: int = 1) -> PackedRows:
        """Return the rows of `rank` in `step`, with `rows` per step over all ranks; each epoch has its own order."""
        if rows < 1 or rows % world_size:
            raise ConfigError("packing.rows", expected=f"a multiple of the {world_size} processes", got=rows)
        count = rows // world_size
        return self.take(self.order(step * rows + rank * count, count, seed=seed))

    def order(self, sequence: int, count: int, *, seed: int) -> list[int]:
        """Return the rows from number `sequence` on, counted from the beginning of training."""
        runs = shuffled(sequence, count, size=len(self.rows), seed=seed)
        return [row for _, rows in runs for row in rows.tolist()]

    def items(self, row: int) -> list[tuple[int, int]]:
        """Return the input index and the number of tokens of each dialogue in a row."""
        return [(self.used[dialogue], len(self._ids[dialogue])) for dialogue in self.rows[row]]

    def targets_in(self, step: int, *, rows: int, seed: int) -> int:
        """Return the number of learned tokens in `step` over all processes, by which its loss is divided."""
        return int(self._row_targets[self.order(step * rows, rows, seed=seed)].sum())

    def take(self, chosen: Sequence[int]) -> PackedRows:
        """Return the rows with these numbers."""
        shape = (len(chosen), self.context)
        ids, learn = np.full(shape, self.pad, dtype=np.int64), np.zeros(shape, dtype=bool)
        documents, positions = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        for row, number in enumerate(chosen):
            at = 0
            for document, dialogue in enumerate(self.rows[number]):
                part = slice(at, at + len(self._ids[dialogue]))
                ids[row, part], learn[row, part] = self._ids[dialogue], self._learn[dialogue]
                documents[row, part], positions[row, part] = document, np.arange(part.stop - at)
                at = part.stop
            documents[row, at:], positions[row, at:] = len(self.rows[number]), np.arange(self.context - at)
        return PackedRows(ids, learn, documents, positions)

    @cached_property
    def _row_targets(self) -> np.ndarray:
        return np.array([sum(int(self._learn[item].sum()) for item in row) for row in self.rows])

    def _take(self, dialogue: EncodedDialogue, *, drop: bool) -> bool:
        fitted = fit(dialogue, length=self.context, on_long="drop" if drop else "truncate")
        if isinstance(fitted, str):
            self.dropped[fitted] += 1
            return False
        learn = np.array(fitted.learn, dtype=bool)
        learn[:1] = False  # nothing comes before the first token
        self.truncated += len(dialogue.ids) > self.context
        self._ids.append(np.array(fitted.ids, dtype=np.int32))
        self._learn.append(learn)
        return True


def best_fit_decreasing(lengths: Sequence[int], *, context: int) -> list[list[int]]:
    """Pack items into rows, longest first; each goes into the row where it leaves the least room."""
    rows: list[list[int]] = []
    with_room: dict[int, deque[int]] = {}
    rooms: list[int] = []  # the keys of `with_room`, in order
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        length = lengths[item]
        assert 0 < length <= context, "what is longer was truncated or dropped"
        position = bisect.bisect_left(rooms, length)
        if position == len(rooms):
            room, row = context, len(rows)
            rows.append([])
        else:
            room = rooms[position]
            row = with_room[room].popleft()
            if not with_room[room]:
                del with_room[room], rooms[position]
        rows[row].append(item)
        if room - length:
            if room - length not in with_room:
                with_room[room - length] = deque()
                bisect.insort(rooms, room - length)
            with_room[room - length].append(row)
    return rows
