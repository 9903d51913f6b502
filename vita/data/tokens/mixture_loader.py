"""The loader of a mixture: each row has tokens of one source, and the source of each row follows from the mixture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from vita.data.tokens.loader import Batch, Loader, StepLoader
from vita.data.tokens.mixture import MixturePhase, plan_quotas
from vita.data.tokens.shards import DocumentSpan, Shards
from vita.data.tokens.source_tokens import SourceTokens, document_sources
from vita.spine.errors import ConfigError


def make_loader(
    shards: Shards, mixture: Sequence[MixturePhase], *, context: int, rows: int, steps: int, seed: int
) -> StepLoader:
    """Return the loader of a run with `steps` planned steps; without a mixture, all tokens are one stream."""
    if not mixture:
        return Loader(shards, context=context, rows=rows, seed=seed)
    return MixtureLoader(shards, mixture, context=context, rows=rows, steps=steps, seed=seed)


class MixtureLoader(StepLoader):
    """Serves rows of several sources in exact numbers.

    The rows of a source are evenly spaced within a phase. Each source is read as by a `Loader` of its own: all blocks
    of an epoch in random order before the next epoch, also across phases.
    """

    def __init__(
        self, shards: Shards, mixture: Sequence[MixturePhase], *, context: int, rows: int, steps: int, seed: int
    ) -> None:
        names, codes = document_sources(shards)
        self.streams = {name: SourceTokens(shards, np.flatnonzero(codes == code)) for code, name in enumerate(names)}
        self._loaders = [
            Loader(stream, context=context, rows=1, seed=seed) for stream in self.streams.values()
        ]  # fmt: skip
        super().__init__(context=context, rows=rows, blocks=sum(loader.blocks for loader in self._loaders))
        sizes = {name: stream.tokens for name, stream in self.streams.items()}
        self.quotas = plan_quotas(mixture, sizes, context=context, rows=rows, steps=steps)
        self._source_of = np.concatenate([interleave(quota) for quota in self.quotas])
        """Sequence -> index of its source."""
        self._number_of = _numbers_within(self._source_of, len(names))
        """Sequence -> its number among those of its source."""

    def batch_at(self, sequence: int, count: int) -> Batch:
        self._check(sequence + count)
        rows = [
            self._loaders[self._source_of[at]].batch_at(int(self._number_of[at]), 1).ids
            for at in range(sequence, sequence + count)
        ]
        return Batch(np.concatenate(rows))

    def documents_at(self, sequence: int, count: int) -> list[DocumentSpan]:
        self._check(sequence + count)
        return [
            span
            for at in range(sequence, sequence + count)
            for span in self._loaders[self._source_of[at]].documents_at(int(self._number_of[at]), 1)
        ]

    def tokens_at(self, spans: Sequence[DocumentSpan], sequence: int, count: int) -> Int64[np.ndarray, "count"]:
        tokens = np.zeros(count, np.int64)
        for loader, positions, where, first in self._parts(spans, sequence, count):
            tokens[where] = loader.tokens_at(positions, first, len(where))
        return tokens

    def contains_any(self, spans: Sequence[DocumentSpan], sequence: int, count: int) -> Bool[np.ndarray, "count"]:
        is_inside = np.zeros(count, np.bool_)
        for loader, positions, where, first in self._parts(spans, sequence, count):
            is_inside[where] = loader.contains_any(positions, first, len(where))
        return is_inside

    def _parts(
        self, spans: Sequence[DocumentSpan], sequence: int, count: int
    ) -> Iterator[tuple[Loader, list[DocumentSpan], Int64[np.ndarray, "P"], int]]:
        """Yield the loader of each source of the spans, its spans, its sequences, and the number of the first."""
        self._check(sequence + count)
        sources, numbers = self._source_of[sequence : sequence + count], self._number_of[sequence : sequence + count]
        for index, ((name, stream), loader) in enumerate(zip(self.streams.items(), self._loaders, strict=True)):
            positions = stream.positions_of([span for span in spans if span.source == name])
            where = np.flatnonzero(sources == index)
            if positions and len(where):
                yield loader, positions, where, int(numbers[where[0]])

    def realized(self, steps: int) -> list[dict[str, Any]]:
        """Return the tokens, share and epochs of each source in the first `steps` steps.

        With several phases, the planned share of each phase follows.
        """
        counts = np.bincount(self._source_of[: steps * self.rows], minlength=len(self._loaders))
        shares = self.quotas / np.maximum(self.quotas.sum(1, keepdims=True), 1)
        return [
            {
                "source": name,
                "available_tokens": stream.tokens,
                "tokens": int(count) * self.context,
                "share": round(int(count) / max(int(counts.sum()), 1), 6),
                "epochs": round(int(count) * self.context / stream.tokens, 4),
                **_phase_shares(shares[:, index]),
            }
            for index, ((name, stream), count) in enumerate(zip(self.streams.items(), counts, strict=True))
        ]

    def _check(self, stop: int) -> None:
        if stop > len(self._source_of):
            raise ConfigError("loader", expected=f"a step of the {len(self._source_of) // self.rows} planned ones")


def _phase_shares(shares: Float64[np.ndarray, "phases"]) -> dict[str, float]:
    if len(shares) == 1:
        return {}
    return {f"share_in_phase_{number}": round(float(share), 6) for number, share in enumerate(shares, 1)}


def interleave(quota: Int64[np.ndarray, "S"]) -> Int64[np.ndarray, "P"]:
    """Return the source of each sequence, with `quota` sequences of each source that are evenly spaced."""
    sources = np.repeat(np.arange(len(quota)), quota)
    positions = np.concatenate([(np.arange(count) + 0.5) / count for count in quota if count] or [np.zeros(0)])
    return sources[np.lexsort((sources, positions))]


def _numbers_within(sources: Int64[np.ndarray, "P"], count: int) -> Int64[np.ndarray, "P"]:
    """Return how often the source of each sequence occurred before."""
    numbers = np.empty(len(sources), np.int64)
    for source in range(count):
        where = np.flatnonzero(sources == source)
        numbers[where] = np.arange(len(where))
    return numbers
