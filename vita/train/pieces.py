"""Sizes of the pieces in which a training step is computed, and the memory that a piece of logits takes.

A step is cut into micro-batches of whole rows, and the loss of a micro-batch into chunks of positions, so that the
logits of all positions are never held at once. The forecast of memory and the trainer read the same functions.
"""

from __future__ import annotations

import math

MICRO_TOKENS = 16384
"""Tokens that go through the model at once, unless a setting says otherwise."""
LOGIT_BYTES = 64 * 2**20
"""Bytes of logits, in the numbers that matrices are multiplied in, that are computed at once."""


def rows_at_once(rows: int, *, tokens_per_row: int, micro_tokens: int = MICRO_TOKENS) -> int:
    """Rows in a micro-batch: the largest divisor of `rows` that keeps to `micro_tokens`; at least one."""
    most = max(1, micro_tokens // max(1, tokens_per_row))
    return next(size for size in range(min(rows, most), 0, -1) if rows % size == 0)


def positions_at_once(positions: int, *, vocabulary: int, number_bytes: int) -> int:
    """Positions in a chunk of the loss: as few even chunks as keep the logits within `LOGIT_BYTES`."""
    if not positions:
        return 1
    most = max(1, LOGIT_BYTES // (vocabulary * number_bytes))
    return math.ceil(positions / math.ceil(positions / most))


def logit_memory(positions: int, *, vocabulary: int, number_bytes: int = 4) -> int:
    """Bytes of the largest set of logit-sized tensors held at once while the loss of `positions` is computed.

    In float32 these are the logits and their exponentials. In bfloat16 they are the logits, their float32 copy, the
    exponentials in float32 and their rounded copy.
    """
    held = 8 if number_bytes == 4 else 2 * number_bytes + 8
    return positions_at_once(positions, vocabulary=vocabulary, number_bytes=number_bytes) * vocabulary * held
