"""The interface that evaluations need of a model and of a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

Pair = tuple[list[int], list[int]]
"""The token ids of the context and of the scored continuation; neither is empty."""


@runtime_checkable
class ContinuationScore(Protocol):
    """The summed natural log-probability of a continuation; `greedy` is True if greedy decoding would produce it."""

    @property
    def logprob(self) -> float: ...

    @property
    def greedy(self) -> bool: ...


@runtime_checkable
class Scorer(Protocol):
    """A scorer of pairs, for example `vita.infer.engine.Engine`. It sorts by length and batches on its own."""

    def score(self, pairs: Sequence[Pair], /) -> Sequence[ContinuationScore]: ...


Encode = Callable[[str], list[int]]
"""A function from plain text to token ids, without added special tokens."""
