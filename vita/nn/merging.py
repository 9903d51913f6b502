"""Merging of models: functions of their weights, tensor by tensor.

    merged = average([first, second], weights=[0.5, 0.5])
    merged = task_arithmetic(base, [first, second], weights=[1.0, 1.0])

Weights are mappings from names to tensors, with equal names and shapes. Sums are computed in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

State = Mapping[str, Tensor]
PARALLEL = 1e-4
"""Angle in radians below which spherical interpolation is linear."""


def average(states: Sequence[State], *, weights: Sequence[float]) -> dict[str, Tensor]:
    """Return the weighted mean (model soup, Wortsman et al. 2022, eq. 1)."""
    total = sum(weights)
    return {
        name: sum((state[name].float() * (weight / total) for state, weight in zip(states, weights, strict=True)),
                  start=torch.zeros(()))
        for name in states[0]
    }  # fmt: skip


def slerp(first: State, second: State, *, position: float) -> dict[str, Tensor]:
    """Return the spherical interpolation of each tensor (Shoemake 1985): 0 is the first model, 1 the second.

    Tensors are interpolated along the great circle between their directions. Where they are almost parallel, or one of
    them is 0, the interpolation is linear.
    """
    return {name: _slerp(first[name].float(), second[name].float(), position) for name in first}


def _slerp(first: Tensor, second: Tensor, position: float) -> Tensor:
    norms = first.norm() * second.norm()
    cosine = (first * second).sum() / norms if norms > 0 else torch.ones(())
    angle = torch.arccos(cosine.clamp(-1, 1))
    if angle < PARALLEL or torch.pi - angle < PARALLEL:
        return torch.lerp(first, second, position)
    sine = torch.sin(angle)
    return torch.sin((1 - position) * angle) / sine * first + torch.sin(position * angle) / sine * second


def task_arithmetic(base: State, states: Sequence[State], *, weights: Sequence[float]) -> dict[str, Tensor]:
    """Return base + sum of weight x (model - base) (Ilharco et al. 2023, eq. 1)."""
    merged: dict[str, Tensor] = {}
    for name, start in base.items():
        merged[name] = start.float().clone()
        for state, weight in zip(states, weights, strict=True):
            merged[name] += weight * (state[name].float() - start.float())
    return merged


def ties(base: State, states: Sequence[State], *, weights: Sequence[float], density: float) -> dict[str, Tensor]:
    """Return base + the merged task vectors of TIES (Yadav et al. 2023, alg. 1).

    Of each task vector the largest `density` share is kept. The sign with the larger total is elected for each number,
    and the values with this sign are averaged.
    """
    merged: dict[str, Tensor] = {}
    for name, start in base.items():
        pairs = zip(states, weights, strict=True)
        deltas = torch.stack(
            [weight * _trimmed(state[name].float() - start.float(), density) for state, weight in pairs]
        )
        agrees = torch.sign(deltas) == torch.sign(deltas.sum(0))
        agrees &= deltas != 0
        merged[name] = start.float() + (deltas * agrees).sum(0) / agrees.sum(0).clamp(min=1)
    return merged


def _trimmed(delta: Tensor, density: float) -> Tensor:
    """Return the values of largest magnitude, and 0 elsewhere."""
    count = max(1, round(density * delta.numel()))
    if count >= delta.numel():
        return delta
    threshold = delta.abs().flatten().kthvalue(delta.numel() - count + 1).values
    return torch.where(delta.abs() >= threshold, delta, 0.0)
