"""Optimizers by name, and the object that steps all of them: Muon for the layers' matrices, AdamW for the rest.

    optimizer = Optimizer(named, OptimizerConfig())            # named: parameter name -> tensor
    optimizer.step(lr_scale=1.0)                             # reads each parameter's .grad
    optimizer.state()                                       # "model.norm.weight/mean" -> tensor

The state is stored under the names of the parameters and with their full shapes, so that another number of processes
can load it. A rule is a class with a state that updates lists of tensors; a new optimizer is one class in this file.
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
from vita.spine.registry import Registry
from vita.train.parallel import full_tensor, local_shard, shard_like

ParameterRole = Literal["matrices", "embedding", "head", "scalars", "critic"]
"""Parameter groups: matrices of the layers (or their adapters), token embedding, output head, norms, and all parameters
of a critic."""


class OptimizerConfig(Settings):
    """Optimizers, learning rates and decay of the parameter groups."""

    matrices: str = "muon"
    """The rule for the layers' matrices: muon or adamw."""
    matrix_rate: float = Field(default=0.02, gt=0)
    """Peak learning rate of the layers' matrices; typical: 0.02 for muon, 1e-3 for adamw."""
    embedding_rate: float = Field(default=3e-3, gt=0)
    """Peak learning rate of the token embedding."""
    head_rate: float = Field(default=3e-3, gt=0)
    """Peak learning rate of the output head, if it is not tied to the embedding."""
    scalar_rate: float = Field(default=3e-3, gt=0)
    """Peak learning rate of the norms."""
    critic_rate: float = Field(default=3e-4, gt=0)
    """Peak learning rate of the critic, if there is one."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of the matrices, in units of the learning rate (Loshchilov & Hutter 2019)."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Momentum of muon."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of the first and second moment of adamw."""
    epsilon: float = Field(default=1e-10, gt=0)
    """Term in the denominator of adamw, which avoids a division by zero."""


class UpdateRule(Protocol):
    """An optimizer rule: updates weights from gradients."""

    @property
    def state(self) -> tuple[str, ...]:
        """Names of the buffers per weight, which have its shape and start at zero."""
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
        """Create the rule; `dtype` is the fast matmul type of the device."""
        ...


RULES = Registry[UpdateRuleFactory]("optimizer")


@dataclass
class ParameterGroup:
    """Parameters with the same rule and learning rate."""

    rule: UpdateRule
    rate: float
    weight_decay: float
    names: list[str] = field(default_factory=list)


class Optimizer:
    """Update the named parameters, each group with its rule and learning rate."""

    def __init__(
        self, parameters: Mapping[str, Tensor], settings: OptimizerConfig, *, dtype: torch.dtype = torch.bfloat16
    ) -> None:
        self.parameters, self.settings, self.steps = dict(parameters), settings, 0
        self.groups = _groups(self.parameters, settings, dtype)
        self.buffers: dict[str, dict[str, Tensor]] = {
            name: {key: torch.zeros_like(self.parameters[name]) for key in group.rule.state}
            for group in self.groups.values()
            for name in group.names
        }

    @torch.no_grad()
    def step(self, *, lr_scale: float = 1.0) -> None:
        """Update all parameters from their gradients, with `lr_scale` times the peak rates."""
        self.steps += 1
        for group in self.groups.values():
            weights = [self.parameters[name] for name in group.names]
            gradients = [_gradient(name, weight) for name, weight in zip(group.names, weights, strict=True)]
            state = {key: [self.buffers[name][key] for name in group.names] for key in group.rule.state}
            decay = group.weight_decay
            group.rule.update(
                weights, gradients, state, rate=group.rate * lr_scale, weight_decay=decay, step=self.steps
            )

    def clear_gradients(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Return the optimizer state: `parameter/buffer` -> tensor."""
        return {f"{name}/{key}": tensor for name, buffers in self.buffers.items() for key, tensor in buffers.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor], *, steps: int) -> None:
        """Load a state; raise `StoreError` if its parameters or rules differ."""
        current = self.state()
        if current.keys() != state.keys():
            mismatched_key = sorted(current.keys() ^ state.keys())[0]
            raise StoreError("checkpoint", f"its optimizer state does not fit this run: `{mismatched_key}`")
        for name, tensor in current.items():
            if tensor.shape != state[name].shape:
                raise StoreError(f"checkpoint: {name}", expected=str(tuple(tensor.shape)), got=tuple(state[name].shape))
            tensor.copy_(shard_like(state[name].to(tensor.device), tensor))
        self.steps = steps


def parameter_role(name: str, parameter: Tensor) -> ParameterRole:
    """Return the group of a parameter, by its name and shape."""
    if name.startswith("critic."):
        return "critic"
    if ".lora_" in name:
        return "matrices"
    if parameter.ndim < 2:
        return "scalars"
    if any(table in name for table in ("embed_tokens", "embed_positions", "embed_types")):
        return "embedding"
    return "head" if name.startswith(("lm_head", "score")) else "matrices"


def _groups(
    parameters: Mapping[str, Tensor], settings: OptimizerConfig, dtype: torch.dtype
) -> dict[ParameterRole, ParameterGroup]:
    adamw_rule = RULES["adamw"](settings, dtype=dtype)
    groups: dict[ParameterRole, ParameterGroup] = {
        "matrices": ParameterGroup(
            RULES[settings.matrices](settings, dtype=dtype), settings.matrix_rate, settings.weight_decay
        ),
        "embedding": ParameterGroup(adamw_rule, settings.embedding_rate, 0.0),
        "head": ParameterGroup(adamw_rule, settings.head_rate, 0.0),
        "scalars": ParameterGroup(adamw_rule, settings.scalar_rate, 0.0),
        "critic": ParameterGroup(adamw_rule, settings.critic_rate, 0.0),
    }
    for name, parameter in parameters.items():
        groups[parameter_role(name, parameter)].names.append(name)
    return {part: group for part, group in groups.items() if group.names}


def _gradient(name: str, weight: Tensor) -> Tensor:
    assert weight.grad is not None, f"{name} has no gradient: the loss does not depend on it"
    return weight.grad


# -- rules


@RULES.add("adamw")
class AdamW:
    """AdamW (Loshchilov & Hutter 2019, alg. 2)."""

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
        # PyTorch's kernel increments the step before its use, and needs one step tensor per weight.
        counts = [torch.tensor(float(step - 1), device=weight.device) for weight in weights]
        adamw(
            [local_shard(weight) for weight in weights],
            [local_shard(gradient) for gradient in gradients],
            [local_shard(mean) for mean in state["mean"]],
            [local_shard(square) for square in state["square"]],
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
    """Muon: momentum, orthogonalized before the update (Jordan et al. 2024).

    It equals `torch.optim.Muon`, but matrices of equal (or transposed) shape are orthogonalized together: a few large
    batched matmuls instead of many small ones. Stacked matrices of experts are orthogonalized one by one. The step of a
    tall matrix is larger by sqrt(rows / columns).
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
        directions: list[Tensor] = []
        for weight, gradient, momentum in zip(weights, gradients, state["momentum"], strict=True):
            momentum.lerp_(gradient, 1 - self.momentum)
            directions.append(gradient.lerp(momentum, self.momentum))  # Nesterov momentum
            weight.mul_(1 - rate * weight_decay)
        for indices in _indices_by_shape(directions).values():
            full_matrices = [full_tensor(directions[index]) for index in indices]
            wide_matrices = [matrix if _is_wide(matrix) else matrix.mT for matrix in full_matrices]
            batches = [matrix.reshape(-1, *matrix.shape[-2:]) for matrix in wide_matrices]  # several: one per expert
            updates = orthogonal(torch.cat(batches), dtype=self.dtype).split([len(batch) for batch in batches])
            for index, batch in zip(indices, updates, strict=True):
                weight = weights[index]
                direction = batch if weight.ndim == 3 else batch[0]
                update = direction if _is_wide(weight) else direction.mT
                shape_scale = max(1.0, weight.shape[-2] / weight.shape[-1]) ** 0.5
                weight.add_(shard_like(update.to(weight.dtype), weight), alpha=-rate * shape_scale)


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration that increases small singular values fastest (Jordan et al. 2024)."""


def orthogonal(matrices: Tensor, *, dtype: torch.dtype, iterations: int = 5) -> Tensor:
    """Orthogonalize each [rows, columns] matrix: singular values become about one (0.7 to 1.2), vectors stay.

    x <- a x + b (x x') x + c (x x')^2 x, starting with x scaled to norm one; rows should not exceed columns.
    """
    a, b, c = NEWTON_SCHULZ
    result = matrices.to(dtype)
    result = result / result.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(iterations):
        gram = result @ result.mT
        result = torch.baddbmm(result, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), result, beta=a)
    return result


def _indices_by_shape(tensors: Sequence[Tensor]) -> dict[tuple[int, ...], list[int]]:
    """Group the indices of the tensors by the shape of their matrices, with transposed shapes together."""
    indices_by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, tensor in enumerate(tensors):
        indices_by_shape[tuple(sorted(tensor.shape[-2:]))].append(index)
    return indices_by_shape


def _is_wide(matrix: Tensor) -> bool:
    return matrix.shape[-2] <= matrix.shape[-1]
