"""The reinforcement-learning objective of the training loop: a loss of a model and a batch of completions.

For each completion a batch contains `ids` [B, T + 1], and over its targets [B, T] `mask` (tokens that the policy
sampled), `old` and `reference` (log-probabilities at sampling time and under the reference model), `advantages`,
`weights` (weight of each token's loss in the step) and `share` (1 / number of tokens, for metrics). With a critic there
are `values`, `returns` and `value_weights`. All sums are over the whole step: `targets` is 1.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from vita.nn.critic import ActorCritic
from vita.nn.transformer import Transformer
from vita.spine.config import Settings
from vita.train.choices import Importance
from vita.train.losses import Loss, Tensors
from vita.train.policy_losses import TokenLoss, cispo, clipped, divergence, plain, token_logprobs, value_loss

# B answer (row), T its target


class PolicyLossConfig(Settings):
    """The loss of the policy and its coefficients."""

    loss: Literal["clip", "cispo", "plain"] = "clip"
    """clip as in PPO, cispo, or plain: REINFORCE."""
    importance: Importance = "token"
    """Unit of the importance ratio: each token, the mean over the completion (`sequence`), or its sum."""
    low: float = Field(default=0.2, gt=0, lt=1)
    """Lower clip range: ratios below 1 - low are clipped."""
    high: float = Field(default=0.28, gt=0)
    """Upper clip range: ratios above 1 + high are clipped; for cispo the maximum weight."""
    dual: float | None = Field(default=None, gt=1)
    """Dual clip: maximum loss for negative advantages, as a multiple of the advantage."""
    kl: float = Field(default=0.0, ge=0)
    """Weight of the KL divergence (k3) from the reference model."""
    value_weight: float = Field(default=0.1, ge=0)
    """Weight of the critic's loss."""
    value_clip: float | None = Field(default=0.2, gt=0)
    """Clip range of the critic's values around those of the rollout."""


def objective(settings: PolicyLossConfig) -> Loss:
    """Return the loss function; its metrics are entropy, mean distance of ratios from 1, and clipped share."""

    def loss(model: Transformer, tensors: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        current = compute_token_stats(model, tensors["ids"], tensors["mask"])
        mask, share = tensors["mask"], tensors["share"]
        inputs = current.logprobs, tensors["old"], tensors["advantages"], mask
        terms = _terms(settings, inputs)
        per_token = terms.loss
        if settings.kl:
            reference = tensors["reference"]
            kl = divergence(current.logprobs, tensors["old"], reference, mask)
            per_token = per_token + settings.kl * kl
        total = (tensors["weights"] * per_token).sum()
        figures = {
            "entropy": (share * current.entropy).sum(),
            "ratio_deviation": (share * (terms.ratio - 1).abs()).sum(),
            "clip_fraction": (share * terms.clipped).sum(),
        }
        if "values" in tensors:
            assert isinstance(model, ActorCritic), "values require a critic"
            values = model.values(tensors["ids"][:, :-1])
            value_losses = value_loss(values, tensors["values"], tensors["returns"], mask, clip=settings.value_clip)
            critic_loss = (tensors["value_weights"] * value_losses).sum()
            total = total + settings.value_weight * critic_loss
            figures["value_loss"] = critic_loss
        return total, {name: value.detach() for name, value in figures.items()}

    return loss


def _terms(settings: PolicyLossConfig, inputs: tuple[Tensor, Tensor, Tensor, Tensor]) -> TokenLoss:
    if settings.loss == "plain":
        return plain(*inputs)
    if settings.loss == "cispo":
        return cispo(*inputs, high=settings.high, importance=settings.importance)
    clip_bounds = {"low": settings.low, "high": settings.high, "dual": settings.dual}
    return clipped(*inputs, **clip_bounds, importance=settings.importance)


class TokenStats(NamedTuple):
    """Log-probability and entropy of each target; 0 outside of the mask."""

    logprobs: Float[Tensor, "B T"]
    entropy: Float[Tensor, "B T"]


def compute_token_stats(model: Transformer, ids: Int[Tensor, "B T1"], mask: Bool[Tensor, "B T"]) -> TokenStats:
    """Compute log-probability and entropy of the targets in the mask; the head is applied only to them."""
    hidden = model.hidden(ids[:, :-1])
    stats = token_logprobs(hidden[mask], model.head, ids[:, 1:][mask])
    zeros = torch.zeros_like(mask, dtype=stats.logprobs.dtype)
    return TokenStats(*(zeros.masked_scatter(mask, values) for values in stats))


@torch.no_grad()
def token_stats_in_chunks(
    model: Transformer, ids: Int[Tensor, "B T1"], mask: Bool[Tensor, "B T"], *, rows: int
) -> TokenStats:
    """Compute the token statistics without a gradient, `rows` rows at a time."""
    parts = [
        compute_token_stats(model, ids_chunk, mask_chunk)
        for ids_chunk, mask_chunk in zip(ids.split(rows), mask.split(rows), strict=True)
    ]
    return TokenStats(*(torch.cat(column) for column in zip(*parts, strict=True)))


@torch.no_grad()
def values_in_chunks(model: ActorCritic, ids: Int[Tensor, "B T1"], *, rows: int) -> Float[Tensor, "B T"]:
    """Return the value that the critic predicts before each target."""
    return torch.cat([model.values(ids_chunk[:, :-1]) for ids_chunk in ids.split(rows)])
