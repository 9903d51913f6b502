"""What moves a policy towards answers that were better than expected: pure losses of log-probabilities, token by token.

    terms = clipped(logprobs, old, advantages, mask, low=0.2, high=0.28)     # a loss for each token
    loss = (token_weights(mask, how="dapo") * terms.loss).sum()              # how tokens and answers are averaged

`mask` marks the tokens that a policy chose: an answer with the token that ended it, nothing after. What stands outside
of it, padding or another's words, has no influence. Losses are to be made small.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vita.train.choices import Aggregation, Importance

# B answer (row), T its token, N tokens of all answers, D width, V vocabulary


class TokenLoss(NamedTuple):
    """Of each token."""

    loss: Float[Tensor, "B T"]
    ratio: Float[Tensor, "B T"]
    """Probability now over probability then."""
    clipped: Bool[Tensor, "B T"]
    """Whether the clip decided, so that the token has no gradient."""


def ratios(
    logprobs: Float[Tensor, "B T"], old: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, importance: Importance
) -> Float[Tensor, "B T"]:
    """exp(now - then); 1 outside of the mask, whatever stands there."""
    off = torch.where(mask, logprobs - old, 0)
    if importance == "token":
        return off.exp()
    total = off.sum(1, keepdim=True)
    if importance == "sequence":
        total = total / mask.sum(1, keepdim=True).clamp(min=1)
    return total.exp().expand_as(off)


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
    """-min(w A, clip(w, 1 - low, 1 + high) A) (Schulman et al. 2017, eq. 7; a higher `high` as in DAPO).

    `dual` bounds what a bad answer that became likely may cost: at most -dual x A (Ye et al. 2020, eq. 5).
    """
    ratio = ratios(logprobs, old, mask, importance=importance)
    free, held = -ratio * advantages, -ratio.clamp(1 - low, 1 + high) * advantages
    loss = torch.maximum(free, held)
    stopped = held > free
    if dual is not None:
        bound = -dual * advantages
        too_much = (advantages < 0) & (loss > bound)
        loss, stopped = torch.where(too_much, bound, loss), stopped | too_much
    return _inside(loss, ratio, stopped, mask)


def cispo(
    logprobs: Float[Tensor, "B T"],
    old: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    high: float = 5.0,
    importance: Importance = "token",
) -> TokenLoss:
    """-min(w, high) A log p, with the weight held fast: a clipped token still teaches (MiniMax 2025, eq. 4).

    `high` is the largest weight itself, not its distance from 1.
    """
    ratio = ratios(logprobs, old, mask, importance=importance)
    loss = -ratio.clamp(max=high).detach() * advantages * logprobs
    return _inside(loss, ratio, (ratio > high) & (advantages > 0), mask)


def plain(
    logprobs: Float[Tensor, "B T"],
    old: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
) -> TokenLoss:
    """-A log p: REINFORCE (Williams 1992). Right only for samples of the policy as it is."""
    ratio = ratios(logprobs, old, mask, importance="token")
    return _inside(-advantages * logprobs, ratio, torch.zeros_like(mask), mask)


def value_loss(
    values: Float[Tensor, "B T"],
    old: Float[Tensor, "B T"],
    returns: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    clip: float | None = 0.2,
) -> Float[Tensor, "B T"]:
    """0.5 max((V - R)^2, (V clipped to old +- clip - R)^2): a critic that changes no faster than the policy may."""
    loss = (values - returns) ** 2
    if clip is not None:
        near = torch.minimum(torch.maximum(values, old - clip), old + clip)
        loss = torch.maximum(loss, (near - returns) ** 2)
    return torch.where(mask, 0.5 * loss, 0)


def divergence(
    logprobs: Float[Tensor, "B T"],
    old: Float[Tensor, "B T"],
    reference: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    corrected: bool = True,
) -> Float[Tensor, "B T"]:
    """k3 of each token; `corrected` by its own ratio, so that it has the gradient of the divergence off-policy too.

    The weight is always the token's, also where the policy's own loss weighs whole answers (DeepSeek-V3.2, eq. 8).
    """
    off = torch.where(mask, reference - logprobs, 0)
    found = off.exp() - off - 1
    return found * ratios(logprobs, old, mask, importance="token") if corrected else found


def token_weights(
    mask: Bool[Tensor, "B T"], *, how: Aggregation, longest: int | None = None, answers: int | None = None
) -> Float[Tensor, "B T"]:
    """What each token's loss counts in the whole step; the step's loss is the weighted sum.

    They are made for all answers of a step before it is cut in pieces, so that cutting changes nothing. A row without
    tokens (a truncated answer that is left out) is in no token count; `answers` is the number of rows otherwise.

    grpo: mean over answers of their tokens' means, which favours short good and long bad answers. dapo and bnpo: mean
    over all tokens. dr_grpo: sum over tokens, by `longest` (the most an answer may have) for each answer. luspo: mean
    over answers of their tokens' sums.
    """
    inside = mask.float()
    rows = answers or len(mask)
    if how == "grpo":
        return inside / inside.sum(1, keepdim=True).clamp(min=1) / rows
    if how == "dr_grpo":
        return inside / (rows * (longest or mask.shape[1]))
    if how == "luspo":
        return inside / rows
    return inside / inside.sum().clamp(min=1)


def without_truncated(mask: Bool[Tensor, "B T"], ended: Bool[Tensor, "B"]) -> Bool[Tensor, "B T"]:
    """Leaves out answers that did not end: whether they were good cannot be told (Yu et al. 2025, "DAPO", sec. 3.4)."""
    return mask & ended[:, None]


class TokenLogprobs(NamedTuple):
    """Of each chosen token."""

    logprobs: Float[Tensor, "N"]
    entropy: Float[Tensor, "N"]
    """Of the distribution that it was chosen from, in nats."""


def chosen(
    hidden: Float[Tensor, "N D"], head: Float[Tensor, "V D"], tokens: Int[Tensor, "N"], *, at_once: int = 2**22
) -> TokenLogprobs:
    """Log-probability of each token at temperature 1, and the entropy there.

    About `at_once` logits are held at a time; where there are more they are made anew on the way back.
    """
    size = max(1, at_once // len(head))
    parts = list(zip(hidden.split(size), tokens.split(size), strict=True))
    if len(parts) == 1:
        return _chosen(hidden, head, tokens)
    found = [checkpoint(_chosen, some, head, aims, use_reentrant=False) for some, aims in parts]
    return TokenLogprobs(*(torch.cat(column) for column in zip(*found, strict=True)))


def _chosen(hidden: Float[Tensor, "N D"], head: Float[Tensor, "V D"], tokens: Int[Tensor, "N"]) -> TokenLogprobs:
    logs = F.linear(hidden, head.to(hidden.dtype)).float().log_softmax(-1)
    return TokenLogprobs(logs.gather(1, tokens[:, None])[:, 0], -(logs.exp() * logs).sum(-1))


def _inside(
    loss: Float[Tensor, "B T"], ratio: Float[Tensor, "B T"], stopped: Bool[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> TokenLoss:
    return TokenLoss(torch.where(mask, loss, 0), ratio, stopped & mask)
