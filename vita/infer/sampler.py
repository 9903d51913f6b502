"""Sampling: the choice of each next token by the settings of its request.

Every request has its own random generator, seeded by its own seed: it gets the same answer alone and in a batch.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vita.infer.sampling import Sampling
from vita.nn.wide_floats import widest_float

# B row, V vocabulary

Variant = Literal["greedy", "sampled", "filtered"]
"""The computation of a choice: the most likely token, or a drawn one, without or with top-k and top-p."""

LOWEST_TEMPERATURE = 1e-6
"""Below it only the most likely token remains, and float32 would divide by nearly zero."""
UNLIMITED = 2**62
"""Value of top-k for all tokens, which is exact in float64."""


class Controls(NamedTuple):
    """The settings and the random number of each row."""

    greedy: Bool[Tensor, "B"]
    temperature: Float[Tensor, "B 1"]
    top_k: Int[Tensor, "B 1"]
    top_p: Float[Tensor, "B 1"]
    uniform: Float[Tensor, "B 1"]

    @classmethod
    def unpacked(cls, values: Float[Tensor, "B 5"]) -> Controls:
        """Return the controls of a tensor of `Sampler.packed_controls`."""
        greedy, temperature, top_k, top_p, uniform = values.split(1, dim=1)
        return cls(greedy[:, 0] > 0, temperature.float(), top_k.long(), top_p.float(), uniform)


class Sampler:
    """Samples tokens for a batch of requests, each with its own settings and random generator."""

    def __init__(
        self, requests: Sequence[Sampling], *, device: str | torch.device = "cpu", tokens: int | None = None
    ) -> None:
        """`tokens` is the size of the tokenizer: the spare rows of a larger embedding are never chosen."""
        self.requests, self.tokens = list(requests), tokens
        self._device = device
        self._numbers = [_RandomNumbers(request.seed) for request in requests]
        self._current = False
        self._last_requests: tuple[tuple[int, ...], Tensor] | None = None

    def __call__(self, logits: Float[Tensor, "B V"]) -> tuple[Int[Tensor, "B"], Float[Tensor, "B"]]:
        """Choose the next token of the first B requests; also the model's own log-probability, before temperature."""
        result = self.choose(logits, [(row, 0) for row in range(len(logits))])
        for row in range(len(logits)):
            self.advance(row, 1)
        return result

    def choose(
        self, logits: Float[Tensor, "B V"], places: Sequence[tuple[int, int]]
    ) -> tuple[Int[Tensor, "B"], Float[Tensor, "B"]]:
        """Choose a token by each row of logits, without advancing the generators; also the log-probabilities.

        The places are the request of each row and the number of tokens between its last token and this one.
        """
        if not self._current:
            self._prepare()
        variant, controls = self.variant(places), None
        if variant != "greedy":
            requests = self._requests_on_device(places)
            uniform = torch.tensor(self._uniform(places), dtype=widest_float(self._device), device=self._device)
            controls = Controls(
                self._greedy[requests],
                self._temperature[requests],
                self._top_k[requests],
                self._top_p[requests],
                uniform[:, None],
            )
        return choices(logits.float(), controls, variant=variant, tokens=self.tokens)

    def variant(self, places: Sequence[tuple[int, int]]) -> Variant:
        """Return the computation that the requests of these places need."""
        if not any(self.requests[request].temperature > 0 for request, _ in places):
            return "greedy"
        has_filters = any(request.top_k or request.top_p < 1 for request in self.requests)
        return "filtered" if has_filters else "sampled"

    def packed_controls(self, places: Sequence[tuple[int, int]], rows: int) -> Float[Tensor, "B 5"]:
        """Return the controls of some places as a tensor on the host, for `rows` rows of which the last are greedy."""
        values = [
            [
                settings.temperature == 0,
                max(settings.temperature, LOWEST_TEMPERATURE),
                settings.top_k or UNLIMITED,
                settings.top_p,
                uniform,
            ]
            for settings, uniform in zip((self.requests[row] for row, _ in places), self._uniform(places), strict=True)
        ]
        unused = [[1, 1, UNLIMITED, 1, 0]] * (rows - len(values))
        return torch.tensor(values + unused, dtype=torch.float64)

    def _uniform(self, places: Sequence[tuple[int, int]]) -> list[float]:
        return [self._numbers[request].ahead(offset) for request, offset in places]

    def advance(self, row: int, tokens: int) -> None:
        """Advance the generator of a request by the random numbers of as many tokens."""
        self._numbers[row].advance(tokens)

    def put(self, row: int, sampler: Sampler) -> None:
        """Continue a row with the request and the generator of `sampler`, which has a single row."""
        self.requests[row], self._numbers[row] = sampler.requests[0], sampler._numbers[0]
        self._current = False

    def move(self, source: int, target: int) -> None:
        """Exchange the requests of two rows."""
        requests, numbers = self.requests, self._numbers
        requests[source], requests[target] = requests[target], requests[source]
        numbers[source], numbers[target] = numbers[target], numbers[source]
        self._current = False

    def _prepare(self) -> None:
        requests = self.requests
        self._greedy = self._column([request.temperature == 0 for request in requests]).squeeze(-1)
        self._temperature = self._column([max(request.temperature, LOWEST_TEMPERATURE) for request in requests])
        self._top_k = self._column([request.top_k or UNLIMITED for request in requests])
        self._top_p = self._column([request.top_p for request in requests])
        self._current = True

    def _requests_on_device(self, places: Sequence[tuple[int, int]]) -> Int[Tensor, "B"]:
        """Return the request of each place; the tensor is kept, because most steps have the places of the last one."""
        requests = tuple(request for request, _ in places)
        if self._last_requests is None or self._last_requests[0] != requests:
            self._last_requests = requests, torch.tensor(requests, device=self._device)
        return self._last_requests[1]

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=self._device)[:, None]


def choices(
    logits: Float[Tensor, "B V"], controls: Controls | None, *, variant: Variant, tokens: int | None
) -> tuple[Int[Tensor, "B"], Float[Tensor, "B"]]:
    """Choose one of the first `tokens` tokens by each row of logits; also the log-probabilities of the choices.

    `controls` are needed unless all rows are greedy.
    """
    allowed = logits[:, :tokens]
    chosen = allowed.argmax(-1)
    if variant != "greedy":
        assert controls is not None, "drawing needs controls"
        chosen = torch.where(controls.greedy, chosen, _draw(allowed, controls, filters=variant == "filtered"))
    logprobs = logits.gather(-1, chosen[:, None]).squeeze(-1) - logits.logsumexp(-1)
    return chosen, logprobs


def _draw(logits: Float[Tensor, "B V"], controls: Controls, *, filters: bool) -> Int[Tensor, "B"]:
    """Draw one token per row: the position of a uniform number in the cumulative probabilities, in order of ids.

    Summed in float64: in float32 the tail of a large vocabulary would be lost, and with it equality of batches.
    """
    scaled = (logits - logits.amax(-1, keepdim=True)) / controls.temperature
    if filters:
        mask = allowed_tokens(scaled, top_k=controls.top_k, top_p=controls.top_p)
        scaled = scaled.masked_fill(~mask, float("-inf"))
    cumulative = scaled.softmax(-1).to(controls.uniform.dtype).cumsum(-1)
    tokens = torch.searchsorted(cumulative, controls.uniform * cumulative[:, -1:], right=True)
    return tokens.squeeze(-1).clamp_(max=logits.shape[-1] - 1)


class _RandomNumbers:
    """The random numbers of a request, one for each token, which can be read before they are used."""

    def __init__(self, seed: int) -> None:
        self._generator = random.Random(seed)
        self._next: list[float] = []

    def ahead(self, offset: int) -> float:
        """Return the number of the token `offset` places after the next one."""
        while len(self._next) <= offset:
            self._next.append(self._generator.random())
        return self._next[offset]

    def advance(self, tokens: int) -> None:
        """Skip the numbers of as many tokens."""
        self.ahead(tokens - 1)
        del self._next[:tokens]


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
