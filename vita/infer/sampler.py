"""The choice of each next token by the settings of its request.

Every request has a source of chance of its own, seeded by its own seed: it gives the same answer alone and in a batch.
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
    """Chooses for a batch of requests, each with its own settings and chance."""

    def __init__(self, requests: Sequence[Sampling], *, device: str | torch.device = "cpu") -> None:
        self.requests = list(requests)
        self._device = device
        self._chances = [random.Random(request.seed) for request in requests]
        self._prepare()

    def __call__(self, logits: Float[Tensor, "B V"]) -> tuple[Int[Tensor, "B"], Float[Tensor, "B"]]:
        """The chosen tokens and the model's own log-probability of each, before temperature and filters."""
        logits = logits.float()
        chosen = logits.argmax(-1)
        if not self._greedy.all():
            chosen = torch.where(self._greedy, chosen, self._draw(logits))
        logprobs = logits.gather(-1, chosen[:, None]).squeeze(-1) - logits.logsumexp(-1)
        return chosen, logprobs

    def select(self, rows: Sequence[int]) -> None:
        """Goes on with these rows only."""
        self.requests = [self.requests[row] for row in rows]
        self._chances = [self._chances[row] for row in rows]
        self._prepare()

    def put(self, row: int, one: Sampler) -> None:
        """Lets a row go on where `one`, the sampler of a single request, has come to."""
        self.requests[row], self._chances[row] = one.requests[0], one._chances[0]
        self._prepare()

    def _prepare(self) -> None:
        requests = self.requests
        self._greedy = self._column([request.temperature == 0 for request in requests]).squeeze(-1)
        # Below a millionth only the likeliest is left, and fp32 would begin to divide by nothing.
        self._temperature = self._column([max(request.temperature, 1e-6) for request in requests])
        self._top_k = self._column([request.top_k or 2**62 for request in requests])
        self._top_p = self._column([request.top_p for request in requests])
        self._filters = any(request.top_k or request.top_p < 1 for request in requests)

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=self._device)[:, None]

    def _draw(self, logits: Float[Tensor, "B V"]) -> Int[Tensor, "B"]:
        """One token a row: where a uniform number falls among the cumulated probabilities, in the order of ids.

        Summed in fp64: in fp32 the tail of a large vocabulary would be lost, and with it equality between batches.
        """
        scaled = (logits - logits.amax(-1, keepdim=True)) / self._temperature
        if self._filters:
            scaled = scaled.masked_fill(~allowed(scaled, top_k=self._top_k, top_p=self._top_p), float("-inf"))
        exact = torch.float32 if scaled.device.type == "mps" else torch.float64  # mps knows no fp64
        cumulated = scaled.softmax(-1).to(exact).cumsum(-1)
        uniform = torch.tensor([[chance.random()] for chance in self._chances], dtype=exact, device=self._device)
        found = torch.searchsorted(cumulated, uniform * cumulated[:, -1:], right=True)
        return found.squeeze(-1).clamp_(max=logits.shape[-1] - 1)


def allowed(
    logits: Float[Tensor, "B V"], *, top_k: Int[Tensor, "B 1"], top_p: Float[Tensor, "B 1"]
) -> Bool[Tensor, "B V"]:
    """The tokens among the k likeliest whose likelier ones, within those k, sum to less than p; the first always."""
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    within = torch.arange(logits.shape[-1], device=logits.device) < top_k
    probabilities = ordered.masked_fill(~within, float("-inf")).softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    kept = within & ((before < top_p) | (top_p >= 1))
    kept[:, 0] = True
    return torch.zeros_like(kept).scatter(-1, order, kept)
