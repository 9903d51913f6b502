"""The loss by position: bits per token in ranges of positions of long documents.

A model that uses its whole context predicts later tokens better, because they have more preceding text. Beyond the
context of its training the loss rises. Every document is read once, from its beginning, cut to `length` tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from vita.data.records import Document
from vita.evals.scorer import Encode, Pair
from vita.reporting.charts import line_chart
from vita.reporting.page import Figure
from vita.stats.intervals import Interval, bootstrap_ratio

FIRST_RANGE = 32
"""Tokens of the first range of positions; each further range doubles the length."""


class TokenScores(Protocol):
    """The log-probabilities of the tokens of a text."""

    @property
    def logprobs(self) -> tuple[float, ...]: ...


class TokenScorer(Protocol):
    """A scorer of the tokens of pairs, for example `vita.infer.engine.Engine`."""

    def score(self, pairs: Sequence[Pair], /) -> Sequence[TokenScores]: ...


@dataclass(frozen=True, slots=True)
class PositionScores:
    """The bits of a document in each range of positions."""

    id: str
    tokens: Mapping[str, int]
    bits: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        bits = {name: round(value, 4) for name, value in self.bits.items()}
        return {"id": self.id, "tokens": dict(self.tokens), "bits": bits}


def position_ranges(length: int) -> list[range]:
    """Return the ranges of positions of a text: 0 to 31, 32 to 63, 64 to 127, ..., up to `length`."""
    bounds = [0, FIRST_RANGE]
    while bounds[-1] < length:
        bounds.append(2 * bounds[-1])
    bounds = [*(bound for bound in bounds if bound < length), length]
    return [range(start, stop) for start, stop in pairwise(bounds)]


def range_name(positions: range) -> str:
    """Return the name of a range: `64-127`."""
    return f"{positions.start}-{positions.stop - 1}"


def long_documents(
    documents: Iterable[Document], *, encode: Encode, length: int, limit: int
) -> list[tuple[str, list[int]]]:
    """Return name and token ids of up to `limit` documents with at least `length` tokens, cut to `length`."""
    texts: list[tuple[str, list[int]]] = []
    for document in documents:
        if len(texts) == limit:
            break
        ids = encode(document.text) if len(document.text) >= length / MOST_TOKENS_PER_CHARACTER else []
        if len(ids) >= length:
            texts.append((document.id, ids[:length]))
    return texts


MOST_TOKENS_PER_CHARACTER = 4
"""Upper bound of tokens per character (one per byte of UTF-8): shorter texts need not be encoded."""


def score_positions(
    scorer: TokenScorer, texts: Sequence[tuple[str, list[int]]], *, prefix: int, at_once: int = 4
) -> list[PositionScores]:
    """Return the scores of each text; `prefix` is the token that begins every document."""
    results: list[PositionScores] = []
    for start in range(0, len(texts), at_once):
        part = texts[start : start + at_once]
        for (name, _), score in zip(part, scorer.score([([prefix], ids) for _, ids in part]), strict=True):
            bits = [-logprob / math.log(2) for logprob in score.logprobs]
            ranges = position_ranges(len(bits))
            tokens = {range_name(positions): len(positions) for positions in ranges}
            sums = {range_name(positions): math.fsum(bits[positions.start : positions.stop]) for positions in ranges}
            results.append(PositionScores(name, tokens, sums))
    return results


def bits_by_position(scores: Sequence[PositionScores], *, seed: int = 0) -> dict[str, Interval]:
    """Return the bits per token of each range of positions; the interval resamples documents."""
    names = list(dict.fromkeys(name for score in scores for name in score.tokens))
    return {
        name: bootstrap_ratio(
            [score.bits.get(name, 0.0) for score in scores], [score.tokens.get(name, 0) for score in scores], seed=seed
        )
        for name in names
    }


def position_chart(intervals: Mapping[str, Mapping[str, Interval]]) -> Figure:
    """Return a chart of the bits per token of each model at the end of each range, on a logarithmic axis."""
    lines = {
        model: [(math.log2(int(name.partition("-")[2]) + 1), interval.value) for name, interval in ranges.items()]
        for model, ranges in intervals.items()
    }
    caption = "Bits per token in each range of positions. The horizontal axis is the binary logarithm of its end."
    return Figure("positions", line_chart(lines, x="log2(position)", y="bits per token"), caption)
