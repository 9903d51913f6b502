"""A request on its way, its answers while they grow, and the log-probabilities that are told of their tokens.

`vita.infer.scheduler` carries them on; nothing here touches a row of its batch.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vita.infer.engine import Request
from vita.infer.request import Ask, Ended, Event, Failed, Listener, Scored
from vita.infer.sampler import Sampler
from vita.nn.cache import Cache
from vita.spine.errors import ModelError

# T position, V vocabulary

log = logging.getLogger(__name__)


class Job:
    """A request on its way."""

    def __init__(self, ask: Ask, requests: list[Request], listener: Listener, *, at: float) -> None:
        self.ask, self.arrived = ask, at
        self.started: float | None = None
        """When its prompt began to be read."""
        self.cancelled = False
        self._listener = listener
        self.requests = requests
        self.placed = 0
        """Answers that have begun."""
        self.left = len(requests)
        """Answers that have not ended."""
        self.cache: Cache | None = None
        """Of the prompt, as far as it is read."""
        self.hidden: list[Tensor] = []
        """The prompt's last layer: all of it where its scores or its embedding are wanted, else the last position."""
        self.over = False

    def cancel(self) -> None:
        """Ends it at the next step; harmless when it has ended."""
        self.cancelled = True

    def tell(self, event: Event) -> None:
        """Tells the listener; after the end nothing more, and one that fails loses its request."""
        if self.over:
            return
        self.over = isinstance(event, (Ended, Failed))
        try:
            self._listener(event)
        except Exception:
            log.warning("a listener failed; its request is cancelled", exc_info=True)
            self.cancelled = True


class Answer:
    """One answer of a job while it grows."""

    def __init__(self, job: Job, index: int, request: Request, sampler: Sampler) -> None:
        self.job, self.index, self.request, self.sampler = job, index, request, sampler
        self.last = 0
        self.row: int | None = None
        ask = job.ask
        self.adjusts = bool(ask.biases or ask.presence or ask.frequency)
        self._said: Counter[int] = Counter()

    def take(self, token: int) -> None:
        self.last = token
        if self.job.ask.presence or self.job.ask.frequency:
            self._said[token] += 1

    def adjusted(self, logits: Float[Tensor, "V"]) -> Float[Tensor, "V"]:
        """Logits - count x frequency - (count > 0) x presence + bias, as in OpenAI's API."""
        if not self.adjusts:
            return logits
        ask, changed = self.job.ask, logits.clone()
        for token, count in self._said.items():
            changed[token] -= count * ask.frequency + ask.presence
        for token, bias in ask.biases.items():
            changed[token] += bias
        return changed


def scored(logits: Float[Tensor, "T V"], tokens: Sequence[int], *, top: int | None) -> list[Scored]:
    """Log-probabilities of `tokens`; that of the likeliest is the very number that `top` tells."""
    values = logits - logits.logsumexp(-1, keepdim=True)
    own = values.gather(-1, torch.tensor(list(tokens), device=values.device)[:, None])[:, 0]
    if not own.isfinite().all():
        raise not_numbers()
    if not top:
        return [Scored(token, logprob) for token, logprob in zip(tokens, own.tolist(), strict=True)]
    best, ids = values.topk(min(top, values.shape[-1]), dim=-1)
    tops = [tuple(zip(*pair, strict=True)) for pair in zip(ids.tolist(), best.tolist(), strict=True)]
    return [Scored(*one) for one in zip(tokens, own.tolist(), tops, strict=True)]


def not_numbers() -> ModelError:
    return ModelError("generate", "the model's logits are not numbers", hint="its weights may hold NaN")
