"""A generation request, the events that report its progress, and its state while it is computed."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vita.infer.batch_adapters import BatchAdapter
from vita.infer.completion import CompletionBuilder, Finish
from vita.infer.grammars import Constraint
from vita.infer.prompts import PromptState
from vita.infer.sampler import Sampler
from vita.infer.sampling import Sampling

# V vocabulary

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GenerationRequest:
    """A prompt, and what is to be computed for it."""

    prompt: Sequence[int]
    sampling: Sampling = field(default_factory=Sampling)
    answers: int = 1
    """Number of answers; 0 to read the prompt only. Answer 0 has the seed of `sampling`, the others derived seeds."""
    top: int | None = None
    """Number of most likely tokens that are reported for each position."""
    biases: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these tokens."""
    presence: float = 0.0
    """Subtracted from the logit of every token that the answer contains already."""
    frequency: float = 0.0
    """Subtracted from the logit of a token for each time that the answer contains it."""
    repetition: float = 1.0
    """Divides the positive logits, and multiplies the negative ones, of tokens in the prompt and the answer (Keskar et
    al. 2019)."""
    min_p: float = 0.0
    """Smallest probability of a sampled token, relative to that of the most likely token."""
    constraint: Constraint | None = None
    """The grammar of the answers, at its start."""
    visible: frozenset[int] = frozenset()
    """Special tokens whose names belong to the text of an answer, such as those around a call."""
    prompt_logprobs: bool = False
    """Report the log-probabilities of the prompt's tokens."""
    embedding: bool = False
    """Report the prompt's embedding: the mean of the last layer's output, of length 1."""

    @property
    def seats(self) -> int:
        """Number of places that the request takes in the queue."""
        return max(1, self.answers)


# -- events


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token, the model's own log-probability of it, and the most likely tokens at its position."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class PromptEvent:
    """The prompt was read."""

    at: float
    scores: tuple[TokenScore, ...] | None
    """Scores of every token of the prompt but the first, if requested."""
    embedding: tuple[float, ...] | None
    reused_tokens: int = 0
    """Tokens of the prompt that were read for an earlier request."""


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """An answer has one more token."""

    at: float
    answer: int
    score: TokenScore
    text: str
    """The text that became final; it may be empty."""
    finish: Finish | Literal["content_filter"] | None
    """`content_filter` if another program computes the answer and withholds the rest."""
    stop: str | None = None
    """The stop text that ended the answer."""


@dataclass(frozen=True, slots=True)
class FinishedEvent:
    """The request is finished; the last event."""

    at: float
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class FailedEvent:
    """The request failed; the last event."""

    at: float
    error: Exception


Event = PromptEvent | TokenEvent | FinishedEvent | FailedEvent
Listener = Callable[[Event], None]


class QueueFull(Exception):
    """The queue is full; the request was not accepted."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class SchedulerClosed(Exception):
    """No new requests are accepted."""


# -- state


class Job:
    """A request that was submitted."""

    def __init__(
        self,
        request: GenerationRequest,
        builders: list[CompletionBuilder],
        listener: Listener,
        *,
        at: float,
        adapter: BatchAdapter | None = None,
    ) -> None:
        self.request, self.builders, self.arrived, self.adapter = request, builders, at, adapter
        self.started: float | None = None
        """Time at which the reading of the prompt began."""
        self.cancelled = False
        keep_all = request.prompt_logprobs or request.embedding
        self.prompt = PromptState(request.prompt, keep_all=keep_all, adapter=adapter)
        self.num_begun = 0
        """Answers that have begun."""
        self.num_unfinished = len(builders)
        """Answers that have not ended."""
        self.num_drafted = self.num_accepted = 0
        """Draft tokens that were verified, and those that the model chose, too."""
        self.over = False
        self._listener = listener

    def cancel(self) -> None:
        """Cancel the request at the next step; no effect if it has ended."""
        self.cancelled = True

    def report(self, event: Event) -> None:
        """Call the listener; nothing after the last event. A listener that raises cancels its request."""
        if self.over:
            return
        self.over = isinstance(event, (FinishedEvent, FailedEvent))
        try:
            self._listener(event)
        except Exception:
            log.warning("a listener failed; its request is cancelled", exc_info=True)
            self.cancelled = True


class ActiveAnswer:
    """One answer of a job while it is generated."""

    def __init__(self, job: Job, index: int, sampler: Sampler) -> None:
        self.job, self.index, self.sampler = job, index, sampler
        self.builder = job.builders[index]
        self.text = list(self.builder.prompt)
        """The tokens of the prompt and of the answer."""
        request = job.request
        self.constraint = request.constraint and request.constraint.copy()
        self.adjusts_logits = bool(
            request.biases or request.presence or request.frequency or request.repetition != 1 or request.min_p
            or self.constraint
        )  # fmt: skip
        self._counts: Counter[int] = Counter()

    @property
    def last_token(self) -> int:
        """The last token of the text."""
        return self.text[-1]

    def accepted(self, token: int) -> int:
        """Return the token that is appended: `token`, or another one if the grammar needs it before the limit."""
        return token if self.constraint is None else self.constraint.accept(token, remaining=self.builder.remaining)

    def append(self, score: TokenScore) -> None:
        """Append a token."""
        self.builder.append(score.id, score.logprob)
        self.text.append(score.id)
        if self.job.request.presence or self.job.request.frequency:
            self._counts[score.id] += 1

    def adjusted(self, logits: Float[Tensor, "V"]) -> Float[Tensor, "V"]:
        """Logits - count x frequency - (count > 0) x presence + bias, as in OpenAI's API, of the allowed tokens."""
        if not self.adjusts_logits:
            return logits
        request, adjusted = self.job.request, logits.clone()
        if request.repetition != 1:
            seen = torch.tensor(sorted(set(self.text)), device=logits.device)
            scores = adjusted[seen]
            adjusted[seen] = torch.where(scores > 0, scores / request.repetition, scores * request.repetition)
        for token, count in self._counts.items():
            adjusted[token] -= count * request.frequency + request.presence
        for token, bias in request.biases.items():
            adjusted[token] += bias
        if self.constraint is not None:
            allowed = torch.from_numpy(self.constraint.allowed()).to(logits.device)
            adjusted[: len(allowed)].masked_fill_(~allowed, float("-inf"))
            adjusted[len(allowed) :] = float("-inf")
        if request.min_p and request.sampling.temperature:
            # p / p_max >= min_p after the temperature T is logit >= largest logit + T ln(min_p).
            least = adjusted.max() + request.sampling.temperature * math.log(request.min_p)
            adjusted = adjusted.masked_fill(adjusted < least, float("-inf"))
        return adjusted
