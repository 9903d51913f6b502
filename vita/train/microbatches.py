"""Sizes of micro-batches and loss chunks, and the memory of a chunk of logits.

A step is split into micro-batches of whole rows, and the loss of a micro-batch into chunks of positions, so that the
logits of all positions are never in memory. The memory prediction and the trainer use the same functions.
"""

from __future__ import annotations

import math

MICRO_TOKENS = 16384
"""Default number of tokens per micro-batch."""
LOGIT_BYTES = 64 * 2**20
"""Maximum bytes of a chunk of logits on a CPU, in the matmul dtype."""


def micro_batch_size(rows: int, *, tokens_per_row: int, micro_tokens: int = MICRO_TOKENS) -> int:
    """Return the rows of a micro-batch: the largest divisor of `rows` within `micro_tokens`; at least one."""
    max_rows = max(1, micro_tokens // max(1, tokens_per_row))
    return next(size for size in range(min(rows, max_rows), 0, -1) if rows % size == 0)


def loss_chunk_size(positions: int, *, vocabulary: int, number_bytes: int, logit_bytes: int | None = None) -> int:
    """Return the positions of a loss chunk: the fewest equal chunks whose logits fit in `logit_bytes`.

    The default of `logit_bytes` is `LOGIT_BYTES`.
    """
    if not positions:
        return 1
    max_positions = max(1, (logit_bytes or LOGIT_BYTES) // (vocabulary * number_bytes))
    return math.ceil(positions / math.ceil(positions / max_positions))


def logit_memory(positions: int, *, vocabulary: int, number_bytes: int = 4, logit_bytes: int | None = None) -> int:
    """Return the peak bytes of logit-sized tensors while the loss of `positions` is computed.

    In float32 these are the logits and their exponentials. In bfloat16 they are the logits, their float32 copy, the
    exponentials in float32 and their rounded copy.
    """
    bytes_per_logit = 8 if number_bytes == 4 else 2 * number_bytes + 8
    chunk = loss_chunk_size(positions, vocabulary=vocabulary, number_bytes=number_bytes, logit_bytes=logit_bytes)
    return chunk * vocabulary * bytes_per_logit
