"""What is asked of the scheduler, and what it tells of each request on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from vita.infer.engine import Finish
from vita.infer.sampling import Sampling


@dataclass(frozen=True)
class Ask:
    """A prompt, and what is wanted of it."""

    prompt: Sequence[int]
    sampling: Sampling = field(default_factory=Sampling)
    answers: int = 1
    """How many; 0 to read the prompt only. Answer 0 has the seed of `sampling`, the others seeds derived from it."""
    top: int | None = None
    """So many of the likeliest tokens are told at each place."""
    biases: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these tokens."""
    presence: float = 0.0
    """Taken from the logit of every token that the answer holds already."""
    frequency: float = 0.0
    """Taken from the logit of a token for each time that the answer holds it."""
    prompt_logprobs: bool = False
    """Whether the prompt's own log-probabilities are told."""
    embedding: bool = False
    """Whether the prompt's embedding is told: the mean of the last layer's output, of length 1."""

    @property
    def seats(self) -> int:
        """How much of the queue it takes."""
        return max(1, self.answers)


# -- what is told


@dataclass(frozen=True, slots=True)
class Scored:
    """A token, the model's own log-probability of it, and the likeliest ones at its place."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Read:
    """The prompt was read."""

    at: float
    scores: tuple[Scored, ...] | None
    """Of every token of the prompt but the first, when asked for."""
    embedding: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class Piece:
    """An answer has one token more."""

    at: float
    answer: int
    scored: Scored
    text: str
    """What became certain of the text; it may be nothing."""
    finish: Finish | None


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing more comes."""

    at: float
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """Nothing more comes, by a fault."""

    at: float
    error: Exception


Event = Read | Piece | Ended | Failed
Listener = Callable[[Event], None]


class Full(Exception):
    """The queue is full; nothing was done."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Closed(Exception):
    """No new requests are taken."""
