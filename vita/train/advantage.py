"""Advantages and returns for reinforcement learning, and estimators of the KL divergence.

Completions of one prompt are adjacent, in groups of `size`. A NaN reward is missing: its completion is excluded from
means and deviations, and its advantage is 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vita.train.choices import Scale

# N answers, B answer (row), T its token

EPSILON = 1e-4
"""Added to standard deviations, so that nearly equal rewards are not amplified."""


def group_relative_advantage(rewards: Float[Tensor, "N"], *, size: int, scale: Scale = "group") -> Float[Tensor, "N"]:
    """Return (r - mean of the group) / (deviation + 1e-4): group-relative advantage (Shao et al. 2024, sec. 4.1.2).

    The deviation is the unbiased one of the group, or of the batch. `none` omits it, because the division favours
    prompts that are nearly always or nearly never solved (Liu et al. 2025, "Dr. GRPO").
    """
    valid = ~rewards.isnan()
    groups = rewards.nan_to_num().unflatten(0, (-1, size))
    weights = valid.to(rewards.dtype).unflatten(0, (-1, size))
    counts = weights.sum(1, keepdim=True).clamp(min=1)
    centered = (groups - (groups * weights).sum(1, keepdim=True) / counts) * weights
    if scale == "group":
        centered = centered / (((centered**2).sum(1, keepdim=True) / (counts - 1).clamp(min=1)).sqrt() + EPSILON)
    elif scale == "batch":
        valid_rewards = rewards[valid]
        centered = centered / (
            (valid_rewards.std() if len(valid_rewards) > 1 else valid_rewards.new_zeros(())) + EPSILON
        )
    return centered.flatten()


def rloo_advantage(rewards: Float[Tensor, "N"], *, size: int) -> Float[Tensor, "N"]:
    """Return r - mean of the *other* completions in the group (Kool et al. 2019; Ahmadian et al. 2024, "RLOO").

    The baseline does not depend on the completion itself, so the gradient is unbiased. It equals
    `group_relative_advantage` without scale times G / (G - 1); a single completion keeps its reward.
    """
    valid = (~rewards.isnan()).unflatten(0, (-1, size))
    groups = rewards.nan_to_num().unflatten(0, (-1, size))
    num_others = (valid.sum(1, keepdim=True) - 1).clamp(min=1)
    baseline = (groups.sum(1, keepdim=True) - groups) / num_others
    return torch.where(valid, groups - baseline, 0).flatten()


def zero_variance_groups(rewards: Float[Tensor, "N"], *, size: int, tolerance: float = 1e-6) -> Bool[Tensor, "G"]:
    """Return True for groups with zero variance: all completions have the same reward, so there is no gradient."""
    groups = rewards.unflatten(0, (-1, size))
    low, high = groups.nan_to_num(float("inf")).amin(1), groups.nan_to_num(float("-inf")).amax(1)
    return ~(high - low > tolerance)


class AdvantageEstimate(NamedTuple):
    """Advantage and return of each token."""

    advantages: Float[Tensor, "B T"]
    returns: Float[Tensor, "B T"]
    """Targets of the value function: advantage + value."""


def gae(
    rewards: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
) -> AdvantageEstimate:
    """Compute generalized advantage estimation (Schulman et al. 2016, eq. 16).

    d_t = r_t + gamma V_(t+1) - V_t and A_t = d_t + gamma lam A_(t+1), where t+1 is the next token in the mask; both
    are 0 after the last token. With lam = gamma = 1 and V = 0 it is the sum of future rewards.
    """
    next_advantage = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(next_advantage)
    reversed_advantages: list[Tensor] = []
    for reward, value, inside in zip(
        rewards.unbind(1)[::-1], values.unbind(1)[::-1], mask.unbind(1)[::-1], strict=True
    ):
        advantage = reward + gamma * next_value - value + gamma * lam * next_advantage
        reversed_advantages.append(torch.where(inside, advantage, 0))
        next_advantage, next_value = (
            torch.where(inside, advantage, next_advantage),
            torch.where(inside, value, next_value),
        )
    advantages = torch.stack(reversed_advantages[::-1], dim=1)
    return AdvantageEstimate(advantages, torch.where(mask, advantages + values, 0))


def whiten(values: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Normalize to mean 0 and unbiased variance 1 over the mask; 0 outside of it."""
    inside = values[mask]
    if len(inside) < 2:
        return torch.zeros_like(values)
    return torch.where(mask, (values - inside.mean()) * (inside.var() + 1e-8).rsqrt(), 0)


def per_token_rewards(
    scores: Float[Tensor, "B"],
    divergence: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    kl: float,
) -> Float[Tensor, "B T"]:
    """Return the reward per token: -kl x divergence, plus the score at the last token (Ziegler et al. 2019, eq. 2).

    The score is added at the last real token, not at a padding position. An empty completion gets no reward.
    """
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, positions, -1).amax(1, keepdim=True)
    return torch.where(mask, -kl * divergence + torch.where(positions == last, scores[:, None], 0), 0)


# -- estimators of the KL divergence from a reference, from the log-probabilities of the sampled token (Schulman 2020)


def k1(policy: Float[Tensor, "*N"], reference: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """log p - log q: unbiased, and often negative."""
    return policy - reference


def k3(policy: Float[Tensor, "*N"], reference: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """q/p - 1 - log(q/p): unbiased, and never negative."""
    log_ratio = reference - policy
    return log_ratio.exp() - log_ratio - 1
