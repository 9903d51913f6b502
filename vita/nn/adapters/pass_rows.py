"""The adapter of each row in a forward pass.

    rows = PassRows(4, groups=(RowGroup.of(1, [3], padded=2), RowGroup.of(2, [1, 2], padded=2)))    # row 0: the base
    with adapters_of(rows):
        hidden = model.hidden(ids)

A row is one token of the pass: the rows of [B, T] token ids are those of the flattened ids. Modules with several
adapters (`vita.nn.adapters.batched`) read `current_rows()`. The rows belong to the thread that computes the pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

# N rows of an adapter, P rows with padding

BASE = 0
"""The index of rows without an adapter."""


@dataclass(frozen=True)
class RowGroup:
    """The rows of one adapter."""

    adapter: int
    rows: Int[Tensor, "N"]
    padded: Int[Tensor, "P"]
    """The same rows, followed by repetitions of the first one, which give a product of a fixed shape."""

    @classmethod
    def of(cls, adapter: int, rows: Sequence[int], *, padded: int, device: torch.device | str = "cpu") -> RowGroup:
        """Return a group in which `padded` rows are computed."""
        indices = torch.tensor([*rows, *[rows[0]] * (padded - len(rows))], device=device)
        return cls(adapter, indices[: len(rows)], indices)


@dataclass(frozen=True)
class PassRows:
    """The adapters of a pass: one for all rows, or groups of rows; rows in no group belong to the base."""

    count: int
    """Number of rows."""
    uniform: int | None = None
    """The adapter of all rows; None if they have several, or some belong to the base."""
    groups: tuple[RowGroup, ...] = ()


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
