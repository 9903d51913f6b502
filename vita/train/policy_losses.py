"""Policy-gradient losses: pure functions of log-probabilities and advantages, per token.

    terms = clipped(logprobs, old, advantages, mask, low=0.2, high=0.28)     # a loss for each token
    loss = (token_weights(mask, aggregation="dapo") * terms.loss).sum()      # average over tokens and completions

`mask` marks the tokens that the policy sampled: a completion with its end token. Tokens outside of the mask (padding,
other speakers) have no influence. Losses are minimized.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vita.nn.transformer import OutputHead
from vita.train.choices import Aggregation, Importance

# B answer (row), T its token, N tokens of all answers, D width, V vocabulary


class TokenLoss(NamedTuple):
    """Loss, ratio and clip indicator of each token."""

    loss: Float[Tensor, "B T"]
    ratio: Float[Tensor, "B T"]
    """Importance ratio: current over old probability."""
    clipped: Bool[Tensor, "B T"]
    """True if the loss is clipped, so that the token has no gradient."""


def ratios(
    logprobs: Float[Tensor, "B T"], old: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, importance: Importance
) -> Float[Tensor, "B T"]:
    """Return the importance ratios exp(logprobs - old); 1 outside of the mask."""
    log_ratio = torch.where(mask, logprobs - old, 0)
    if importance == "token":
        return log_ratio.exp()
    total = log_ratio.sum(1, keepdim=True)
    if importance == "sequence":
        total = total / mask.sum(1, keepdim=True).clamp(min=1)
    return total.exp().expand_as(log_ratio)


def clipped(
    logprobs: Float[Tensor, "B T"],
    old: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    low: float = 0.2,
    high: float = 0.2,
    dual: float | None = None,
    importance: Importance = "token",
) -> TokenLoss:
    """Compute -min(w A, clip(w, 1 - low, 1 + high) A) (Schulman et al. 2017, eq. 7; a higher `high` as in DAPO).

    `dual` is the dual clip: it limits the loss for negative advantages to -dual x A (Ye et al. 2020, eq. 5).
    """
    ratio = ratios(logprobs, old, mask, importance=importance)
    unclipped_loss, clipped_loss = -ratio * advantages, -ratio.clamp(1 - low, 1 + high) * advantages
    loss = torch.maximum(unclipped_loss, clipped_loss)
    is_clipped = clipped_loss > unclipped_loss
    if dual is not None:
        bound = -dual * advantages
        exceeds_bound = (advantages < 0) & (loss > bound)
        loss, is_clipped = torch.where(exceeds_bound, bound, loss), is_clipped | exceeds_bound
    return _masked_terms(loss, ratio, is_clipped, mask)


def cispo(
    logprobs: Float[Tensor, "B T"],
    old: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    high: float = 5.0,
    importance: Importance = "token",
) -> TokenLoss:
    """Compute -min(w, high) A log p with a detached weight: clipped tokens keep a gradient (MiniMax 2025, eq. 4).

    `high` is the maximum weight, not its distance from 1.
    """
    ratio = ratios(logprobs, old, mask, importance=importance)
    loss = -ratio.clamp(max=high).detach() * advantages * logprobs
    return _masked_terms(loss, ratio, (ratio > high) & (advantages > 0), mask)


def plain(
    logprobs: Float[Tensor, "B T"],
    old: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
) -> TokenLoss:
    """Compute -A log p: REINFORCE (Williams 1992); correct only for on-policy samples."""
    ratio = ratios(logprobs, old, mask, importance="token")
    return _masked_terms(-advantages * logprobs, ratio, torch.zeros_like(mask), mask)


def value_loss(
    values: Float[Tensor, "B T"],
    old: Float[Tensor, "B T"],
    returns: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    clip: float | None = 0.2,
) -> Float[Tensor, "B T"]:
    """Compute 0.5 max((V - R)^2, (V clipped to old +- clip - R)^2): the clipped value loss of PPO."""
    loss = (values - returns) ** 2
    if clip is not None:
        clipped_values = torch.minimum(torch.maximum(values, old - clip), old + clip)
        loss = torch.maximum(loss, (clipped_values - returns) ** 2)
    return torch.where(mask, 0.5 * loss, 0)


def divergence(
    logprobs: Float[Tensor, "B T"],
    old: Float[Tensor, "B T"],
    reference: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    corrected: bool = True,
) -> Float[Tensor, "B T"]:
    """Estimate the KL divergence per token with k3; `corrected` weights it by the ratio for off-policy gradients.

    The weight is always per token, also if the policy loss uses ratios of sequences (DeepSeek-V3.2, eq. 8).
    """
    log_ratio = torch.where(mask, reference - logprobs, 0)
    kl = log_ratio.exp() - log_ratio - 1
    return kl * ratios(logprobs, old, mask, importance="token") if corrected else kl


def token_weights(
    mask: Bool[Tensor, "B T"], *, aggregation: Aggregation, max_tokens: int | None = None, answers: int | None = None
) -> Float[Tensor, "B T"]:
    """Return the weight of each token's loss in the step; the loss of the step is the weighted sum.

    The weights cover all completions of a step, so that the size of micro-batches has no influence. A row without
    tokens (an excluded truncated completion) has no weight; `answers` is the number of completions (default: rows).

    grpo: mean over completions of their token means, which favours short good and long bad completions. dapo and bnpo:
    mean over all tokens. dr_grpo: sum over tokens / (completions x `max_tokens`, the maximum completion length). luspo:
    mean over completions of their token sums.
    """
    inside = mask.float()
    rows = answers or len(mask)
    if aggregation == "grpo":
        return inside / inside.sum(1, keepdim=True).clamp(min=1) / rows
    if aggregation == "dr_grpo":
        return inside / (rows * (max_tokens or mask.shape[1]))
    if aggregation == "luspo":
        return inside / rows
    return inside / inside.sum().clamp(min=1)


def without_truncated(mask: Bool[Tensor, "B T"], ended: Bool[Tensor, "B"]) -> Bool[Tensor, "B T"]:
    """Mask truncated completions, whose quality is unknown (Yu et al. 2025, "DAPO", sec. 3.4)."""
    return mask & ended[:, None]


class TokenLogprobs(NamedTuple):
    """Log-probability and entropy of each token."""

    logprobs: Float[Tensor, "N"]
    entropy: Float[Tensor, "N"]
    """Entropy of the predicted distribution, in nats."""


def token_logprobs(
    hidden: Float[Tensor, "N D"], head: OutputHead, tokens: Int[Tensor, "N"], *, chunk_logits: int = 2**22
) -> TokenLogprobs:
    """Compute the log-probability of each token at temperature 1, and the entropy.

    About `chunk_logits` logits are in memory at a time; several chunks are recomputed in the backward pass.
    """
    size = max(1, chunk_logits // len(head.weight))
    pieces = list(zip(hidden.split(size), tokens.split(size), strict=True))
    if len(pieces) == 1:
        return _chunk_logprobs(hidden, head, tokens)
    chunks = [
        checkpoint(_chunk_logprobs, hidden_chunk, head, token_chunk, use_reentrant=False)
        for hidden_chunk, token_chunk in pieces
    ]
    return TokenLogprobs(*(torch.cat(column) for column in zip(*chunks, strict=True)))


def _chunk_logprobs(hidden: Float[Tensor, "N D"], head: OutputHead, tokens: Int[Tensor, "N"]) -> TokenLogprobs:
    logs = head.logits(hidden).float().log_softmax(-1)
    return TokenLogprobs(logs.gather(1, tokens[:, None])[:, 0], -(logs.exp() * logs).sum(-1))


def _masked_terms(
    loss: Float[Tensor, "B T"], ratio: Float[Tensor, "B T"], is_clipped: Bool[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> TokenLoss:
    return TokenLoss(torch.where(mask, loss, 0), ratio, is_clipped & mask)
