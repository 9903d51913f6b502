"""What measuring needs of a model and of a tokenizer, so that any engine or a fake in a test will do."""

from __future__ import annotations

from collections.abc import Sequence
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


@runtime_checkable
class Encoder(Protocol):
    """Turns text into ids; `vita.data.tokenizer.Tokenizer` is one."""

    @property
    def document(self) -> int:
        """The token that begins every document."""
        ...

    def encode(self, text: str) -> list[int]: ...
