"""Loss on a stream of tokens in rows, as benchmarks of pretraining define it.

Row i has the tokens from i * length on; each of its `length` targets is predicted from the tokens before it in the row.
Rows continue over the beginnings of documents. Tokens at the end that do not fill a row are not scored.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vita.data.tokens.shards import Shards
from vita.data.tokens.tokenizer import Tokenizer
from vita.evals.perplexity import DocumentScore, bits_of
from vita.evals.scorer import Scorer
from vita.spine.errors import DataError

ROWS_AT_ONCE = 256


def row_count(shards: Shards, *, length: int) -> int:
    """Return the number of rows of `length` targets in the stream; raise `DataError` if there is none."""
    rows = (shards.tokens - 1) // length
    if rows < 1:
        raise DataError(str(shards.folder), expected=f"at least {length + 1} tokens", got=shards.tokens)
    return rows


def score_rows(scorer: Scorer, shards: Shards, tokenizer: Tokenizer, *, length: int) -> Iterator[DocumentScore]:
    """Yield the score of every row. Bytes are those of the targets, without special tokens."""
    sizes = np.array([len(tokenizer.token_bytes(token)) for token in range(shards.vocabulary)])
    sizes[sorted(tokenizer.special_ids)] = 0
    total = row_count(shards, length=length)
    for first in range(0, total, ROWS_AT_ONCE):
        count = min(ROWS_AT_ONCE, total - first)
        tokens = shards.read(first * length, (first + count) * length + 1).astype(np.int64)
        rows = np.lib.stride_tricks.sliding_window_view(tokens, length + 1)[::length]
        scores = scorer.score([([int(row[0])], row[1:].tolist()) for row in rows])
        for number, (row, score) in enumerate(zip(rows, scores, strict=True), first):
            yield DocumentScore(
                f"row {number}", "tokens", max(1, int(sizes[row[1:]].sum())), length, bits_of(score.logprob)
            )
