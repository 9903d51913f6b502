"""What measuring needs of a model and of a tokenizer, so that any engine or a fake in a test will do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

Pair = tuple[list[int], list[int]]
"""What is given and what is scored, as token ids; neither is empty."""


@runtime_checkable
class Score(Protocol):
    """The sum of the natural log-probabilities of what was scored, and whether greedy decoding would have said it."""

    @property
    def logprob(self) -> float: ...

    @property
    def greedy(self) -> bool: ...


@runtime_checkable
class Scorer(Protocol):
    """Scores pairs; `vita.infer.engine.Engine` is one. Sorting by length and batching are its affair."""

    def score(self, pairs: Sequence[Pair], /) -> Sequence[Score]: ...


Encode = Callable[[str], list[int]]
"""Plain text to token ids, nothing put before or after."""
