"""The pretraining data loader: batches are a pure function of the step, so that training can resume at any step.

The token stream is cut into blocks of `context` tokens, each with the next token as its last target. The last block
wraps around to the start of the stream, so that no token is omitted and none is padding. The order of the blocks and
the positions of the cuts differ between epochs. Step `s` takes the sequences from `start + s * rows` on; the order is
independent of the number of processes and of rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Int, Int64

from vita.data.tokens.permutation import Permutation, shuffled
from vita.data.tokens.shards import DocumentSpan
from vita.spine.errors import ConfigError, DataError

_SEQUENCES_AT_ONCE = 2**18


@dataclass(frozen=True)
class Batch:
    """Rows of `context + 1` tokens: all but the last are input, all but the first are targets."""

    ids: Int64[np.ndarray, "rows width"]


class RowUse(NamedTuple):
    """A row of a step that contains tokens of a document; steps and rows are counted from 0."""

    step: int
    row: int
    tokens: int


class TokenStream(Protocol):
    """A stream of tokens that knows its documents: `Shards`, or the documents of one source."""

    @property
    def folder(self) -> Path: ...
    @property
    def tokens(self) -> int: ...
    def read(self, start: int, stop: int) -> np.ndarray: ...
    def documents_between(self, start: int, stop: int) -> list[DocumentSpan]: ...


class StepLoader(ABC):
    """Serves rows of `context + 1` tokens, `rows` to an optimizer step over all processes, as a function of the step.

    `start` is the number of sequences that earlier training took; after a change of `rows` it says where to go on.
    """

    def __init__(self, *, context: int, rows: int, blocks: int, start: int = 0) -> None:
        if context < 1 or rows < 1 or start < 0:
            got = f"context {context}, rows {rows}, start {start}"
            raise ConfigError("loader", expected="context and rows of at least 1 and a start of at least 0", got=got)
        self.context, self.rows, self.start = context, rows, start
        self.blocks = blocks
        """Sequences in an epoch."""

    @property
    def steps_per_epoch(self) -> float:
        """Return the number of steps per epoch."""
        return self.blocks / self.rows

    def batch(self, step: int, *, rank: int = 0, world_size: int = 1) -> Batch:
        """Return the rows of `rank` in `step`; the rows of all ranks in order are those of the step."""
        return self.batch_at(*self._mine(step, rank, world_size))

    def documents(self, step: int) -> list[DocumentSpan]:
        """Return the part of each document in the inputs of a step, row by row."""
        return self.documents_at(*self._mine(step, 0, 1))

    def documents_by_row(self, step: int) -> list[list[DocumentSpan]]:
        """Return the part of each document in the inputs of each row of a step."""
        first, count = self._mine(step, 0, 1)
        return [self.documents_at(sequence, 1) for sequence in range(first, first + count)]

    def uses(self, spans: Sequence[DocumentSpan], *, steps: int) -> Iterator[RowUse]:
        """Yield the rows of the first `steps` steps whose inputs contain a token of one of the spans, in order."""
        for first in range(0, steps * self.rows, _SEQUENCES_AT_ONCE):
            count = min(_SEQUENCES_AT_ONCE, steps * self.rows - first)
            tokens = self.tokens_at(spans, self.start + first, count)
            for index in np.flatnonzero(tokens).tolist():
                step, row = divmod(first + index, self.rows)
                yield RowUse(step, row, int(tokens[index]))

    @abstractmethod
    def batch_at(self, sequence: int, count: int) -> Batch:
        """Return `count` sequences from `sequence` on, counted from the start of training."""

    @abstractmethod
    def documents_at(self, sequence: int, count: int) -> list[DocumentSpan]:
        """Return the part of each document in the inputs of `count` sequences, row by row."""

    @abstractmethod
    def tokens_at(self, spans: Sequence[DocumentSpan], sequence: int, count: int) -> Int64[np.ndarray, "count"]:
        """Return the number of tokens of the spans in the inputs of each of `count` sequences."""

    def steps_with(self, spans: Sequence[DocumentSpan], *, steps: int, first: int = 0) -> Int64[np.ndarray, "S"]:
        """Return the steps from `first` to `steps - 1` whose inputs contain a token of one of the spans, in order."""
        steps_by_part: list[Int64[np.ndarray, "P"]] = []
        for start in range(first * self.rows, steps * self.rows, _SEQUENCES_AT_ONCE):
            count = min(_SEQUENCES_AT_ONCE, steps * self.rows - start)
            rows = np.flatnonzero(self.contains_any(spans, self.start + start, count))
            steps_by_part.append(np.unique((start + rows) // self.rows))
        return np.unique(np.concatenate(steps_by_part)) if steps_by_part else np.zeros(0, np.int64)

    @abstractmethod
    def contains_any(self, spans: Sequence[DocumentSpan], sequence: int, count: int) -> Bool[np.ndarray, "count"]:
        """Return for each of `count` sequences if its inputs contain a token of one of the spans."""

    def _mine(self, step: int, rank: int, world_size: int) -> tuple[int, int]:
        if self.rows % world_size:
            raise ConfigError("loader.rows", expected=f"a multiple of the {world_size} processes", got=self.rows)
        count = self.rows // world_size
        return self.start + step * self.rows + rank * count, count


class Loader(StepLoader):
    """Serves the tokens of a stream in blocks, all of them once per epoch."""

    def __init__(self, shards: TokenStream, *, context: int, rows: int, seed: int, start: int = 0) -> None:
        super().__init__(context=context, rows=rows, blocks=-(-shards.tokens // max(context, 1)), start=start)
        if shards.tokens < 2:
            raise DataError(str(shards.folder), expected="at least 2 tokens to learn from", got=shards.tokens)
        self.shards, self.seed = shards, seed

    def batch_at(self, sequence: int, count: int) -> Batch:
        return Batch(np.stack([self._read(start) for start in self._starts(sequence, count).tolist()]))

    def documents_at(self, sequence: int, count: int) -> list[DocumentSpan]:
        spans: list[DocumentSpan] = []
        for start in self._starts(sequence, count).tolist():
            position, remaining = start, self.context
            while remaining:  # more than once where a block runs on at the beginning
                stop = min(position + remaining, self.shards.tokens)
                spans += self.shards.documents_between(position, stop)
                remaining, position = remaining - (stop - position), 0
        return spans

    def tokens_at(self, spans: Sequence[DocumentSpan], sequence: int, count: int) -> Int64[np.ndarray, "count"]:
        starts, total = self._starts(sequence, count), self.shards.tokens
        tokens = np.zeros(count, np.int64)
        for span in spans:
            # A row covers [start, start + context), and what runs over the end goes on at the beginning.
            for shift in range(0, self.context + total, total):
                begin = np.maximum(starts, span.start + shift)
                tokens += np.maximum(np.minimum(starts + self.context, span.stop + shift) - begin, 0)
        return tokens

    def contains_any(self, spans: Sequence[DocumentSpan], sequence: int, count: int) -> Bool[np.ndarray, "count"]:
        if not spans:
            return np.zeros(count, np.bool_)
        begins = np.sort(np.array([span.start for span in spans], np.int64))
        ends = np.sort(np.array([span.stop for span in spans], np.int64))  # spans do not overlap: the same order
        starts, total = self._starts(sequence, count), self.shards.tokens
        stops = starts + self.context
        index = np.minimum(np.searchsorted(ends, starts, side="right"), len(ends) - 1)
        is_inside = (begins[index] < stops) & (ends[index] > starts)
        return is_inside | (begins[0] < stops - total)  # what runs over the end goes on at the beginning

    def _starts(self, sequence: int, count: int) -> Int64[np.ndarray, "count"]:
        """Return the start of each sequence in the stream."""
        starts = [np.zeros(0, np.int64)]
        for epoch, blocks in shuffled(sequence, count, size=self.blocks, seed=self.seed):
            shift = _shift(self.seed, epoch) % self.context
            starts.append((blocks * self.context + shift) % self.shards.tokens)
        return np.concatenate(starts)

    def _read(self, start: int) -> np.ndarray:
        """Read `context + 1` tokens from `start` on, wrapping around at the end."""
        row = np.empty(self.context + 1, dtype=np.int64)
        at = 0
        while at < len(row):
            stop = min(start + len(row) - at, self.shards.tokens)
            row[at : at + stop - start] = self.shards.read(start, stop)
            at, start = at + stop - start, 0
        return row


def document_ids(ids: Int[np.ndarray, "rows width"], *, separator: int) -> Int[np.ndarray, "rows width"]:
    """Number the documents in each row, from 0 for the continued one; `separator` starts a new document."""
    return np.cumsum(ids == separator, axis=1)


def _shift(seed: int, epoch: int) -> int:
    """Return the shift of the block boundaries in an epoch; 0 in the first."""
    return int(Permutation(2**30, seed=seed, epoch=0)(np.array([epoch]))[0]) if epoch else 0
