"""Sampling: the choice of each next token by the settings of its request.

Every request has its own random generator, seeded by its own seed: it gets the same answer alone and in a batch.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vita.infer.sampling import Sampling

# B row, V vocabulary


class Sampler:
    """Samples tokens for a batch of requests, each with its own settings and random generator."""

    def __init__(
        self, requests: Sequence[Sampling], *, device: str | torch.device = "cpu", tokens: int | None = None
    ) -> None:
        """`tokens` is the size of the tokenizer: the spare rows of a larger embedding are never chosen."""
        self.requests, self.tokens = list(requests), tokens
        self._device = device
        self._generators = [random.Random(request.seed) for request in requests]
        self._current = False

    def __call__(self, logits: Float[Tensor, "B V"]) -> tuple[Int[Tensor, "B"], Float[Tensor, "B"]]:
        """Choose a token in each of the first B rows; also the model's own log-probability, before temperature."""
        if not self._current:
            self._prepare()
        logits = logits.float()
        allowed = logits[:, : self.tokens]
        chosen = allowed.argmax(-1)
        greedy = self._greedy[: len(logits)]
        if not greedy.all():
            chosen = torch.where(greedy, chosen, self._draw(allowed))
        logprobs = logits.gather(-1, chosen[:, None]).squeeze(-1) - logits.logsumexp(-1)
        return chosen, logprobs

    def put(self, row: int, sampler: Sampler) -> None:
        """Continue a row with the request and the generator of `sampler`, which has a single row."""
        self.requests[row], self._generators[row] = sampler.requests[0], sampler._generators[0]
        self._current = False

    def move(self, source: int, target: int) -> None:
        """Exchange the requests of two rows."""
        requests, generators = self.requests, self._generators
        requests[source], requests[target] = requests[target], requests[source]
        generators[source], generators[target] = generators[target], generators[source]
        self._current = False

    def _prepare(self) -> None:
        requests = self.requests
        self._greedy = self._column([request.temperature == 0 for request in requests]).squeeze(-1)
        # Below a millionth only the most likely token remains, and float32 would divide by nearly zero.
        self._temperature = self._column([max(request.temperature, 1e-6) for request in requests])
        self._top_k = self._column([request.top_k or 2**62 for request in requests])
        self._top_p = self._column([request.top_p for request in requests])
        self._filters = any(request.top_k or request.top_p < 1 for request in requests)
        self._current = True

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=self._device)[:, None]

    def _draw(self, logits: Float[Tensor, "B V"]) -> Int[Tensor, "B"]:
        """Draw one token per row: the position of a uniform number in the cumulative probabilities, in order of ids.

        Summed in float64: in float32 the tail of a large vocabulary would be lost, and with it equality of batches.
        """
        rows = len(logits)
        scaled = (logits - logits.amax(-1, keepdim=True)) / self._temperature[:rows]
        if self._filters:
            mask = allowed_tokens(scaled, top_k=self._top_k[:rows], top_p=self._top_p[:rows])
            scaled = scaled.masked_fill(~mask, float("-inf"))
        exact = torch.float32 if scaled.device.type == "mps" else torch.float64  # mps has no float64
        cumulative = scaled.softmax(-1).to(exact).cumsum(-1)
        numbers = [[generator.random()] for generator in self._generators[:rows]]
        uniform = torch.tensor(numbers, dtype=exact, device=self._device)
        tokens = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
        return tokens.squeeze(-1).clamp_(max=logits.shape[-1] - 1)


def allowed_tokens(
    logits: Float[Tensor, "B V"], *, top_k: Int[Tensor, "B 1"], top_p: Float[Tensor, "B 1"]
) -> Bool[Tensor, "B V"]:
    """Return the tokens among the k most likely whose more likely ones, of these k, sum to less than p.

    The most likely token is always allowed.
    """
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    within = torch.arange(logits.shape[-1], device=logits.device) < top_k
    probabilities = ordered.masked_fill(~within, float("-inf")).softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    mask = within & ((before < top_p) | (top_p >= 1))
    mask[:, 0] = True
    return torch.zeros_like(mask).scatter(-1, order, mask)
