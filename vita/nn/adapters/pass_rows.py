"""The adapter of each row in a forward pass.

    rows = PassRows.of(4, [(1, [3], 2), (2, [1, 2], 2)])      # row 0 belongs to the base
    with adapters_of(rows):
        hidden = model.hidden(ids)

A row is one token of the pass: the rows of [B, T] token ids are those of the flattened ids. Modules with several
adapters (`vita.nn.adapters.batched`) read `current_rows()`. The rows belong to the thread that computes the pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

# K adapters, P rows that are computed for each

BASE = 0
"""The index of rows without an adapter."""


@dataclass
class RowBlock:
    """The rows of several adapters, the same number for each."""

    adapters: tuple[int, ...]
    rows: Int[Tensor, "K P"]
    """The rows of each adapter; the first one is repeated up to P. Equal rows have equal results."""
    _selected: tuple[Tensor, Tensor] | None = field(default=None, repr=False)

    def select(self, states: Tensor, by_row: Tensor) -> Tensor:
        """Return the rows of the block, [K, P, ...]; `by_row` is a view of `states` with one entry per row.

        The last result is stored, because several modules have the same input.
        """
        if self._selected is None or self._selected[0] is not states:
            selected = by_row.index_select(0, self.rows.view(-1)).view(*self.rows.shape, *by_row.shape[1:])
            self._selected = states, selected
        return self._selected[1]


@dataclass(frozen=True)
class PassRows:
    """The adapters of a pass: one for all rows, or blocks of rows; rows in no block belong to the base."""

    count: int
    """Number of rows."""
    uniform: int | None = None
    """The adapter of all rows; None if they have several, or some belong to the base."""
    blocks: tuple[RowBlock, ...] = ()

    @classmethod
    def of(
        cls, count: int, groups: Sequence[tuple[int, Sequence[int], int]], *, device: torch.device | str = "cpu"
    ) -> PassRows:
        """Return the rows of a pass of `count` rows.

        `groups` are adapters, each with its rows and with the number of rows that is computed for it.
        """
        sizes: dict[int, list[tuple[int, list[int]]]] = {}
        for adapter, rows, size in groups:
            sizes.setdefault(size, []).append((adapter, [*rows, *[rows[0]] * (size - len(rows))]))
        blocks = [
            RowBlock(tuple(adapter for adapter, _ in block), torch.tensor([rows for _, rows in block], device=device))
            for block in sizes.values()
        ]
        return cls(count, blocks=tuple(blocks))


_CURRENT: ContextVar[PassRows | None] = ContextVar("adapter rows", default=None)


def current_rows() -> PassRows | None:
    """Return the adapters of the pass of this thread; None if all rows belong to the base."""
    return _CURRENT.get()


@contextmanager
def adapters_of(rows: PassRows | None) -> Iterator[None]:
    """Compute the passes in the block with these adapters."""
    token = _CURRENT.set(rows)
    try:
        yield
    finally:
        _CURRENT.reset(token)


@contextmanager
def one_adapter(adapter: int) -> Iterator[None]:
    """Compute all rows of the passes in the block with one adapter, or with the base."""
    with adapters_of(PassRows(0, uniform=adapter) if adapter != BASE else None):
        yield
