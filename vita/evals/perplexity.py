"""Perplexity and bits per byte of whole documents, with one record per document.

The first token of a document is conditioned on the token that begins every document. One longer than the model's
context is read in windows of `context` tokens; each predicts `stride` new ones (the first, all of its own), so with
the default, stride = context, a window's first token sees one token before it. These are the rolling windows of
lm-evaluation-harness, and the numbers agree with its `bits_per_byte`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vita.data.records import Document
from vita.evals.scorer import Encode, Pair, Scorer
from vita.stats.intervals import Interval, bootstrap_ratio


@dataclass(frozen=True, slots=True)
class DocumentScore:
    """The information content of one document under the model."""

    id: str
    source: str
    bytes: int
    tokens: int
    bits: float

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "source": self.source,
            "bytes": self.bytes,
            "tokens": self.tokens,
            "bits": round(self.bits, 4),
        }


def score_documents(
    scorer: Scorer,
    documents: Iterable[Document],
    *,
    encode: Encode,
    prefix: int,
    context: int,
    stride: int | None = None,
    windows_at_once: int = 512,
) -> Iterator[DocumentScore]:
    """Yield a score per document, in order; a document without text is skipped, because it has no bytes to predict.

    `prefix` is the token that begins every document.
    """
    waiting: list[tuple[Document, int, int]] = []
    pairs: list[Pair] = []

    def scored() -> Iterator[DocumentScore]:
        bits = [bits_of(score.logprob) for score in scorer.score(pairs)]
        start = 0
        for document, tokens, count in waiting:
            total_bits = math.fsum(bits[start : start + count])
            start += count
            yield DocumentScore(document.id, document.source, len(document.text.encode()), tokens, total_bits)
        waiting.clear()
        pairs.clear()

    for document in documents:
        if not document.text:
            continue
        ids = encode(document.text)
        document_windows = list(windows(ids, prefix=prefix, context=context, stride=stride))
        waiting.append((document, len(ids), len(document_windows)))
        pairs.extend(document_windows)
        if len(pairs) >= windows_at_once:
            yield from scored()
    if pairs:
        yield from scored()


def windows(ids: Sequence[int], *, prefix: int, context: int, stride: int | None = None) -> Iterator[Pair]:
    """Yield pairs that score every token once; the last window has full length and so has a longer context."""
    ids, stride = list(ids), context if stride is None else min(stride, context)
    done = min(context, len(ids))
    if done:
        yield [prefix], ids[:done]
    while done < len(ids):
        stop = min(done + stride, len(ids))
        yield ids[stop - context - 1 : done], ids[done:stop]
        done = stop


def bits_of(logprob: float) -> float:
    """Return the information in bits of a natural log-probability."""
    return -logprob / math.log(2)


def loss(scores: Sequence[DocumentScore], *, seed: int = 0) -> Interval:
    """Return the mean cross-entropy in nats per token. The interval resamples documents."""
    bits = bootstrap_ratio([score.bits for score in scores], [score.tokens for score in scores], seed=seed)
    nats = math.log(2)
    return Interval(bits.value * nats, bits.low * nats, bits.high * nats, bits.n)


def bits_per_byte(scores: Sequence[DocumentScore], *, seed: int = 0) -> Interval:
    """Return the bits per UTF-8 byte; comparable between tokenizers. The interval resamples documents."""
    return bootstrap_ratio([score.bits for score in scores], [score.bytes for score in scores], seed=seed)


def perplexity(scores: Sequence[DocumentScore], *, seed: int = 0) -> Interval:
    """Return 2 to the power of the bits per token; comparable only between models with the same tokenizer."""
    bits = bootstrap_ratio([score.bits for score in scores], [score.tokens for score in scores], seed=seed)
    return Interval(_power(bits.value), _power(bits.low), _power(bits.high), bits.n)


def by_source(scores: Sequence[DocumentScore]) -> dict[str, list[DocumentScore]]:
    """Return the scores of each source, sorted by name."""
    sources = sorted({score.source for score in scores})
    return {source: [score for score in scores if score.source == source] for source in sources}


def _power(bits: float) -> float:
    return 2.0**bits if bits < 1000 else math.inf
