"""The adapters of a batch: which rows of a forward pass belong to which adapter, and how many rows are computed for it.

A product must have a batch-invariant number of rows (`vita.infer.batch_invariance`). The products of an adapter are
therefore computed in widths that were measured with this adapter, whatever the width of the pass is.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from vita.infer.batch_invariance import BatchWidths
from vita.nn.adapters.pass_rows import BASE, PassRows, adapters_of, one_adapter

MAX_PADDING = 4
"""Maximum number of computed rows, relative to the least number, at which adapters get the same number of rows."""


@dataclass(frozen=True, eq=False)
class BatchAdapter:
    """An adapter whose requests are computed in the batch of its base model."""

    index: int
    """Its number in the model (`vita.nn.adapters.batched`)."""
    step_widths: BatchWidths
    """Numbers of rows that are computed for it in a decoding step."""
    pack_widths: BatchWidths
    """Numbers of tokens that are computed for it in a pack of short prompts."""
    salt: bytes
    """Part of the names of its blocks in the prefix cache."""
    has_prefixes: bool = True
    """True if the prefix cache stores the beginnings of its prompts."""


def computed_alone(adapter: BatchAdapter | None) -> AbstractContextManager[None]:
    """Compute all rows of the passes in the block with one adapter, or with the base."""
    return one_adapter(BASE if adapter is None else adapter.index)


def computed_together(
    adapters: Mapping[int, BatchAdapter | None],
    width: int,
    *,
    packed: bool = False,
    device: torch.device | str = "cpu",
) -> AbstractContextManager[None]:
    """Compute a pass of `width` rows in the block, each row with its adapter.

    `adapters` are those of the rows that are used; the others are padding. `packed` is True for a pack of prompts.
    """
    by_adapter: dict[BatchAdapter, list[int]] = {}
    for row, adapter in adapters.items():
        if adapter is not None:
            by_adapter.setdefault(adapter, []).append(row)
    if not by_adapter:
        return adapters_of(None)
    if len(by_adapter) == 1:
        ((adapter, rows),) = by_adapter.items()
        if len(rows) == len(adapters) and _widths(adapter, packed=packed).smallest(width) == width:
            return one_adapter(adapter.index)
    groups: list[tuple[BatchAdapter, list[int], int]] = []
    for adapter, rows in by_adapter.items():
        groups += _groups(adapter, rows, _widths(adapter, packed=packed))
    largest = max(size for *_, size in groups)
    if len(groups) * largest <= MAX_PADDING * sum(size for *_, size in groups):
        groups = [
            (adapter, rows, largest if _widths(adapter, packed=packed).smallest(largest) == largest else size)
            for adapter, rows, size in groups
        ]
    rows_of_adapters = [(adapter.index, rows, size) for adapter, rows, size in groups]
    return adapters_of(PassRows.of(width, rows_of_adapters, device=device))


def _widths(adapter: BatchAdapter, *, packed: bool) -> BatchWidths:
    return adapter.pack_widths if packed else adapter.step_widths


def _groups(adapter: BatchAdapter, rows: list[int], widths: BatchWidths) -> list[tuple[BatchAdapter, list[int], int]]:
    """Return the rows of an adapter as one group, or as several if no width holds all rows."""
    size = widths.smallest(len(rows))
    if size is not None:
        return [(adapter, rows, size)]
    middle = len(rows) // 2
    return [group for half in (rows[:middle], rows[middle:]) for group in _groups(adapter, half, widths)]
