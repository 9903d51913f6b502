"""Learning from rewards as the loop knows it: a loss of a model and a batch of answers with their advantages.

A batch holds, for each answer: `ids` [B, T + 1], and over its targets [B, T] `mask` (tokens that the policy chose),
`old` and `reference` (their log-probabilities then, and under the model that it began from), `advantages`, `weights`
(what each token's loss counts in the whole step) and `share` (one over the number of tokens, for figures). With a
critic there are `values`, `returns` and `value_weights`. All sums are over the whole step already: `targets` is 1.
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
from vita.train.policy_losses import TokenLoss, chosen, cispo, clipped, divergence, plain, value_loss

# B answer (row), T its target


class PolicyLossConfig(Settings):
    """What the policy is moved by."""

    loss: Literal["clip", "cispo", "plain"] = "clip"
    """clip as in PPO, cispo, or plain: REINFORCE."""
    importance: Importance = "token"
    """What a ratio belongs to: a token, the mean of a whole answer (`sequence`), or its sum."""
    low: float = Field(default=0.2, gt=0, lt=1)
    """How far a ratio may fall below 1 before it counts no more."""
    high: float = Field(default=0.28, gt=0)
    """How far it may rise above 1; for cispo the largest weight itself."""
    dual: float | None = Field(default=None, gt=1)
    """What a bad answer that became likely may cost at most, as a multiple of its advantage."""
    kl: float = Field(default=0.0, ge=0)
    """Weight of the divergence (k3) from the model that it began from."""
    value_weight: float = Field(default=0.1, ge=0)
    """Weight of the critic's loss."""
    value_clip: float | None = Field(default=0.2, gt=0)
    """How far the critic may go from what it said, in one round."""


def objective(settings: PolicyLossConfig) -> Loss:
    """The loss; beside it come entropy, the mean distance of ratios from 1, and the share of clipped tokens."""

    def loss(model: Transformer, tensors: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        now = look(model, tensors["ids"], tensors["mask"])
        mask, share = tensors["mask"], tensors["share"]
        inputs = now.logprobs, tensors["old"], tensors["advantages"], mask
        terms = _terms(settings, inputs)
        per_token = terms.loss
        if settings.kl:
            reference = tensors["reference"]
            off = divergence(now.logprobs, tensors["old"], reference, mask)
            per_token = per_token + settings.kl * off
        total = (tensors["weights"] * per_token).sum()
        figures = {
            "entropy": (share * now.entropy).sum(),
            "ratio_off": (share * (terms.ratio - 1).abs()).sum(),
            "clip_fraction": (share * terms.clipped).sum(),
        }
        if "values" in tensors:
            assert isinstance(model, ActorCritic), "values are told by a critic"
            values = model.values(tensors["ids"][:, :-1])
            each = value_loss(values, tensors["values"], tensors["returns"], mask, clip=settings.value_clip)
            worth = (tensors["value_weights"] * each).sum()
            total = total + settings.value_weight * worth
            figures["value_loss"] = worth
        return total, {name: value.detach() for name, value in figures.items()}

    return loss


def _terms(settings: PolicyLossConfig, inputs: tuple[Tensor, Tensor, Tensor, Tensor]) -> TokenLoss:
    if settings.loss == "plain":
        return plain(*inputs)
    if settings.loss == "cispo":
        return cispo(*inputs, high=settings.high, importance=settings.importance)
    place = {"low": settings.low, "high": settings.high, "dual": settings.dual}
    return clipped(*inputs, **place, importance=settings.importance)


class TokenStats(NamedTuple):
    """Of each target; 0 outside of the mask."""

    logprobs: Float[Tensor, "B T"]
    entropy: Float[Tensor, "B T"]


def look(model: Transformer, ids: Int[Tensor, "B T1"], mask: Bool[Tensor, "B T"]) -> TokenStats:
    """Log-probability and entropy of the targets in the mask; the head is applied to nothing else."""
    hidden = model.hidden(ids[:, :-1])
    found = chosen(hidden[mask], model.head_weight, ids[:, 1:][mask])
    nothing = torch.zeros_like(mask, dtype=found.logprobs.dtype)
    return TokenStats(*(nothing.masked_scatter(mask, values) for values in found))


@torch.no_grad()
def look_at(model: Transformer, ids: Int[Tensor, "B T1"], mask: Bool[Tensor, "B T"], *, rows: int) -> TokenStats:
    """The same without a gradient, some rows at a time."""
    parts = [look(model, some, inside) for some, inside in zip(ids.split(rows), mask.split(rows), strict=True)]
    return TokenStats(*(torch.cat(column) for column in zip(*parts, strict=True)))


@torch.no_grad()
def values_at(model: ActorCritic, ids: Int[Tensor, "B T1"], *, rows: int) -> Float[Tensor, "B T"]:
    """What the critic expects before each target."""
    return torch.cat([model.values(some[:, :-1]) for some in ids.split(rows)])
