"""Optimizers by name, and the one object that steps them all: Muon for the matrices within, AdamW for the rest.

    optimizer = Optimizer(named, OptimizerConfig())            # named: parameter name -> tensor
    optimizer.step(share=1.0)                               # reads each parameter's .grad
    optimizer.state()                                       # "model.norm.weight/mean" -> tensor

The state is kept under the parameters' own names and in their whole shapes, so that it can be read back by another
number of processes. A rule is a function of lists of tensors with a state of its own; adding one is one class here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor
from torch.optim.adamw import adamw

from vita.spine.config import Settings
from vita.spine.errors import StoreError
from vita.spine.parts import Parts
from vita.train.parallel import like, local, whole

Part = Literal["matrices", "embedding", "head", "scalars", "critic"]
"""The layers' matrices; what looks tokens up; what scores them; norms; all of a critic beside the model."""


class OptimizerConfig(Settings):
    """Rates and decays."""

    matrices: str = "muon"
    """The rule for the layers' matrices: muon or adamw."""
    matrix_rate: float = Field(default=0.02, gt=0)
    """Peak learning rate of the layers' matrices; typical: 0.02 for muon, 1e-3 for adamw."""
    embedding_rate: float = Field(default=3e-3, gt=0)
    """Peak learning rate of the token embedding."""
    head_rate: float = Field(default=3e-3, gt=0)
    """Peak learning rate of an output head of its own."""
    scalar_rate: float = Field(default=3e-3, gt=0)
    """Peak learning rate of the norms."""
    critic_rate: float = Field(default=3e-4, gt=0)
    """Peak learning rate of a critic, where there is one."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Pull of the layers' matrices towards zero, in units of the learning rate (Loshchilov & Hutter 2019)."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """How much of its past direction muon keeps."""
    betas: tuple[float, float] = (0.9, 0.95)
    """How much of their past the mean and the square of adamw keep."""
    epsilon: float = Field(default=1e-10, gt=0)
    """Keeps adamw from dividing by zero."""


class UpdateRule(Protocol):
    """How weights follow from gradients."""

    @property
    def state(self) -> tuple[str, ...]:
        """What is kept for each weight, in its shape and from zero on."""
        ...

    def update(
        self,
        weights: Sequence[Tensor],
        gradients: Sequence[Tensor],
        state: Mapping[str, Sequence[Tensor]],
        *,
        rate: float,
        weight_decay: float,
        step: int,
    ) -> None:
        """Change the weights in place; `step` counts from 1."""
        ...


class UpdateRuleFactory(Protocol):
    def __call__(self, settings: OptimizerConfig, *, dtype: torch.dtype) -> UpdateRule:
        """`dtype` is what this machine multiplies quickly."""
        ...


RULES = Parts[UpdateRuleFactory]("optimizer")


@dataclass
class ParameterGroup:
    """Parameters that share a rule and a rate."""

    rule: UpdateRule
    rate: float
    weight_decay: float
    names: list[str] = field(default_factory=list)


class Optimizer:
    """Steps the named parameters, each part by its rule and rate."""

    def __init__(
        self, parameters: Mapping[str, Tensor], settings: OptimizerConfig, *, dtype: torch.dtype = torch.bfloat16
    ) -> None:
        self.parameters, self.settings, self.steps = dict(parameters), settings, 0
        self.groups = _groups(self.parameters, settings, dtype)
        self.held: dict[str, dict[str, Tensor]] = {
            name: {key: torch.zeros_like(self.parameters[name]) for key in group.rule.state}
            for group in self.groups.values()
            for name in group.names
        }

    @torch.no_grad()
    def step(self, *, share: float = 1.0) -> None:
        """One update from the gradients, at `share` of the peak rates."""
        self.steps += 1
        for group in self.groups.values():
            weights = [self.parameters[name] for name in group.names]
            gradients = [_gradient(name, weight) for name, weight in zip(group.names, weights, strict=True)]
            state = {key: [self.held[name][key] for name in group.names] for key in group.rule.state}
            decay = group.weight_decay
            group.rule.update(weights, gradients, state, rate=group.rate * share, weight_decay=decay, step=self.steps)

    def clear_gradients(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """All that is kept, by `parameter/key`."""
        return {f"{name}/{key}": tensor for name, kept in self.held.items() for key, tensor in kept.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor], *, steps: int) -> None:
        """Take up a state again; one of other parameters or rules is refused."""
        own = self.state()
        if own.keys() != state.keys():
            odd = sorted(own.keys() ^ state.keys())[0]
            raise StoreError("checkpoint", f"its optimizer state does not fit this run: `{odd}`")
        for name, tensor in own.items():
            if tensor.shape != state[name].shape:
                raise StoreError(f"checkpoint: {name}", expected=str(tuple(tensor.shape)), got=tuple(state[name].shape))
            tensor.copy_(like(state[name].to(tensor.device), tensor))
        self.steps = steps


def part_of(name: str, parameter: Tensor) -> Part:
    """Which part of the model a parameter belongs to, by its name and shape."""
    if name.startswith("critic."):
        return "critic"
    if parameter.ndim < 2:
        return "scalars"
    if "embed_tokens" in name:
        return "embedding"
    return "head" if name.startswith(("lm_head", "score")) else "matrices"


def _groups(
    parameters: Mapping[str, Tensor], settings: OptimizerConfig, dtype: torch.dtype
) -> dict[Part, ParameterGroup]:
    other = RULES["adamw"](settings, dtype=dtype)
    groups: dict[Part, ParameterGroup] = {
        "matrices": ParameterGroup(
            RULES[settings.matrices](settings, dtype=dtype), settings.matrix_rate, settings.weight_decay
        ),
        "embedding": ParameterGroup(other, settings.embedding_rate, 0.0),
        "head": ParameterGroup(other, settings.head_rate, 0.0),
        "scalars": ParameterGroup(other, settings.scalar_rate, 0.0),
        "critic": ParameterGroup(other, settings.critic_rate, 0.0),
    }
    for name, parameter in parameters.items():
        groups[part_of(name, parameter)].names.append(name)
    return {part: group for part, group in groups.items() if group.names}


def _gradient(name: str, weight: Tensor) -> Tensor:
    assert weight.grad is not None, f"{name} took no part in the loss"
    return weight.grad


# -- rules


@RULES.add("adamw")
class AdamW:
    """Mean over root mean square of the gradients, both bias-corrected (Loshchilov & Hutter 2019, alg. 2)."""

    state: tuple[str, ...] = ("mean", "square")

    def __init__(self, settings: OptimizerConfig, *, dtype: torch.dtype) -> None:
        self.betas, self.epsilon = settings.betas, settings.epsilon

    def update(
        self,
        weights: Sequence[Tensor],
        gradients: Sequence[Tensor],
        state: Mapping[str, Sequence[Tensor]],
        *,
        rate: float,
        weight_decay: float,
        step: int,
    ) -> None:
        # PyTorch's kernel adds one to the count before it uses it, and wants a count for each weight.
        counts = [torch.tensor(float(step - 1), device=weight.device) for weight in weights]
        adamw(
            [local(weight) for weight in weights],
            [local(gradient) for gradient in gradients],
            [local(mean) for mean in state["mean"]],
            [local(square) for square in state["square"]],
            [],
            counts,
            fused=True,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=rate,
            weight_decay=weight_decay,
            eps=self.epsilon,
            maximize=False,
        )


@RULES.add("muon")
class Muon:
    """Momentum whose singular values are all made about one before it is applied (Jordan et al. 2024).

    The same as `torch.optim.Muon`, with matrices of like shape, also transposed ones, orthogonalised together: a few
    large batched products instead of many small ones. A tall matrix takes a larger step, by the root of rows/columns.
    """

    state: tuple[str, ...] = ("momentum",)

    def __init__(self, settings: OptimizerConfig, *, dtype: torch.dtype) -> None:
        self.momentum, self.dtype = settings.momentum, dtype

    def update(
        self,
        weights: Sequence[Tensor],
        gradients: Sequence[Tensor],
        state: Mapping[str, Sequence[Tensor]],
        *,
        rate: float,
        weight_decay: float,
        step: int,
    ) -> None:
        ahead: list[Tensor] = []
        for weight, gradient, momentum in zip(weights, gradients, state["momentum"], strict=True):
            momentum.lerp_(gradient, 1 - self.momentum)
            ahead.append(gradient.lerp(momentum, self.momentum))  # Nesterov's look ahead
            weight.mul_(1 - rate * weight_decay)
        for places in _alike(ahead).values():
            full = [whole(ahead[place]) for place in places]
            wide = [matrix if _is_wide(matrix) else matrix.mT for matrix in full]
            for place, direction in zip(places, orthogonal(torch.stack(wide), dtype=self.dtype), strict=True):
                weight = weights[place]
                turned = direction if _is_wide(weight) else direction.mT
                taller = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
                weight.add_(like(turned.to(weight.dtype), weight), alpha=-rate * taller)


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic whose iteration lifts small singular values fastest (Jordan et al. 2024)."""


def orthogonal(matrices: Tensor, *, dtype: torch.dtype, iterations: int = 5) -> Tensor:
    """Each [rows, columns] matrix with its singular values moved to about one (0.7 to 1.2), its vectors kept.

    x <- a x + b (x x') x + c (x x')^2 x, from x scaled to norm one; rows should not outnumber columns.
    """
    a, b, c = NEWTON_SCHULZ
    found = matrices.to(dtype)
    found = found / found.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(iterations):
        gram = found @ found.mT
        found = torch.baddbmm(found, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found


def _alike(tensors: Sequence[Tensor]) -> dict[tuple[int, ...], list[int]]:
    """Places of the tensors by shape, whichever way round."""
    found: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, tensor in enumerate(tensors):
        found[tuple(sorted(tensor.shape))].append(place)
    return found


def _is_wide(matrix: Tensor) -> bool:
    return matrix.shape[0] <= matrix.shape[1]
