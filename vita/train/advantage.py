"""How much better an answer, or a token, was than expected: what a policy is pushed by.

Answers to one prompt stand next to each other in groups of `size`. A reward that is NaN was not given: its answer
takes no part in means and spreads, and its advantage is 0. Divergences from a reference are estimated here too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vita.train.choices import Scale

# N answers, B answer (row), T its token

EPSILON = 1e-4
"""Added to standard deviations, so that a group of nearly equal rewards is not blown up."""


def relative(rewards: Float[Tensor, "N"], *, size: int, scale: Scale = "group") -> Float[Tensor, "N"]:
    """(r - mean of the group) / (deviation + 1e-4): group-relative advantage (Shao et al. 2024, sec. 4.1.2).

    The deviation is the unbiased one of the group, or of the whole batch; `none` leaves it out, as a division by it
    favours prompts that are nearly always or nearly never solved (Liu et al. 2025, "Dr. GRPO").
    """
    known = ~rewards.isnan()
    groups = rewards.nan_to_num().unflatten(0, (-1, size))
    weights = known.to(rewards.dtype).unflatten(0, (-1, size))
    counts = weights.sum(1, keepdim=True).clamp(min=1)
    off = (groups - (groups * weights).sum(1, keepdim=True) / counts) * weights
    if scale == "group":
        off = off / (((off**2).sum(1, keepdim=True) / (counts - 1).clamp(min=1)).sqrt() + EPSILON)
    elif scale == "batch":
        given = rewards[known]
        off = off / ((given.std() if len(given) > 1 else given.new_zeros(())) + EPSILON)
    return off.flatten()


def leave_one_out(rewards: Float[Tensor, "N"], *, size: int) -> Float[Tensor, "N"]:
    """r - mean of the *others* in the group (Kool et al. 2019; Ahmadian et al. 2024, "RLOO").

    The baseline does not depend on the answer itself, so the gradient stays unbiased. It is `relative` without scale
    times G / (G - 1); an answer that is alone has no others, and keeps its reward.
    """
    known = (~rewards.isnan()).unflatten(0, (-1, size))
    groups = rewards.nan_to_num().unflatten(0, (-1, size))
    others = (known.sum(1, keepdim=True) - 1).clamp(min=1)
    baseline = (groups.sum(1, keepdim=True) - groups) / others
    return torch.where(known, groups - baseline, 0).flatten()


def flat_groups(rewards: Float[Tensor, "N"], *, size: int, tolerance: float = 1e-6) -> Bool[Tensor, "G"]:
    """Which groups have no spread: all their answers got the same reward, so nothing can be learnt from them."""
    groups = rewards.unflatten(0, (-1, size))
    low, high = groups.nan_to_num(float("inf")).amin(1), groups.nan_to_num(float("-inf")).amax(1)
    return ~(high - low > tolerance)


class AdvantageEstimate(NamedTuple):
    """Of each token."""

    advantages: Float[Tensor, "B T"]
    returns: Float[Tensor, "B T"]
    """What the values should have been: advantage + value."""


def gae(
    rewards: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
) -> AdvantageEstimate:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16).

    d_t = r_t + gamma V_(t+1) - V_t and A_t = d_t + gamma lam A_(t+1), where t+1 is the next token in the mask; after
    the last nothing is to come. With lam = gamma = 1 and V = 0 it is the sum of the rewards to come.
    """
    later = torch.zeros_like(rewards[:, 0])
    ahead = torch.zeros_like(later)
    found: list[Tensor] = []
    for reward, value, inside in zip(
        rewards.unbind(1)[::-1], values.unbind(1)[::-1], mask.unbind(1)[::-1], strict=True
    ):
        advantage = reward + gamma * ahead - value + gamma * lam * later
        found.append(torch.where(inside, advantage, 0))
        later, ahead = torch.where(inside, advantage, later), torch.where(inside, value, ahead)
    advantages = torch.stack(found[::-1], dim=1)
    return AdvantageEstimate(advantages, torch.where(mask, advantages + values, 0))


def whitened(values: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Mean 0 and unbiased variance 1 over the mask, 0 outside of it; the mean is taken away, not added back."""
    inside = values[mask]
    if len(inside) < 2:
        return torch.zeros_like(values)
    return torch.where(mask, (values - inside.mean()) * (inside.var() + 1e-8).rsqrt(), 0)


def shaped(
    scores: Float[Tensor, "B"],
    divergence: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    kl: float,
) -> Float[Tensor, "B T"]:
    """Each token's reward: -kl x divergence, and the score at the answer's own last token (Ziegler et al. 2019, eq. 2).

    Not at the padding after it, where a value of nothing would be its baseline. An empty answer gets nothing.
    """
    places = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, places, -1).amax(1, keepdim=True)
    return torch.where(mask, -kl * divergence + torch.where(places == last, scores[:, None], 0), 0)


# -- divergence from a reference, of one token, from the log-probabilities of the token taken (Schulman 2020)


def k1(policy: Float[Tensor, "*N"], reference: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """log p - log q: right on average, and often negative."""
    return policy - reference


def k3(policy: Float[Tensor, "*N"], reference: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """q/p - 1 - log(q/p): right on average, and never negative."""
    off = reference - policy
    return off.exp() - off - 1
