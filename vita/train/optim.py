"""Optimizers by name, and the object that steps all of them: Muon for the layers' matrices, AdamW for the rest.

    optimizer = Optimizer(named, OptimizerConfig())            # named: parameter name -> tensor
    optimizer.step(lr_scale=1.0)                             # reads each parameter's .grad
    optimizer.state()                                       # "model.norm.weight/mean" -> tensor

The state is stored under the names of the parameters and with their full shapes, so that another number of processes
can load it. A rule is a class with a state that updates lists of tensors; a new optimizer is one class in this file.
"""

from __future__ import annotations

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
from vita.train.orthogonalization import Orthogonalizer
from vita.train.parallel.boxes import TensorLayout
from vita.train.parallel.mesh import ProcessMesh, local_shard

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
    """An optimizer rule: updates the local parts of weights from those of gradients."""

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
    def __call__(
        self, settings: OptimizerConfig, layouts: Sequence[TensorLayout], *, dtype: torch.dtype, world: ProcessMesh
    ) -> UpdateRule:
        """Create the rule; `dtype` is the fast matmul type, `layouts` the division of the weights among `world`."""
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
    """Update the named parameters, each group with its rule and learning rate.

    State and updates are those of the local parts of the parameters, which `layouts` describes.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        settings: OptimizerConfig,
        *,
        dtype: torch.dtype = torch.bfloat16,
        layouts: Mapping[str, TensorLayout] | None = None,
        world: ProcessMesh | None = None,
    ) -> None:
        self.parameters, self.settings, self.steps = dict(parameters), settings, 0
        full = {name: TensorLayout(tuple(parameter.shape)) for name, parameter in self.parameters.items()}
        self.groups = _groups(self.parameters, settings, layouts or full, dtype=dtype, world=world or ProcessMesh())
        self.buffers: dict[str, dict[str, Tensor]] = {
            name: {key: torch.zeros_like(local_shard(self.parameters[name]).detach()) for key in group.rule.state}
            for group in self.groups.values()
            for name in group.names
        }

    @torch.no_grad()
    def step(self, *, lr_scale: float = 1.0) -> None:
        """Update all parameters from their gradients, with `lr_scale` times the peak rates."""
        self.steps += 1
        for group in self.groups.values():
            weights = [local_shard(self.parameters[name]) for name in group.names]
            gradients = [_gradient(name, self.parameters[name]) for name in group.names]
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
            tensor.copy_(state[name])
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
    parameters: Mapping[str, Tensor],
    settings: OptimizerConfig,
    layouts: Mapping[str, TensorLayout],
    *,
    dtype: torch.dtype,
    world: ProcessMesh,
) -> dict[ParameterRole, ParameterGroup]:
    names: dict[ParameterRole, list[str]] = {"matrices": [], "embedding": [], "head": [], "scalars": [], "critic": []}
    for name, parameter in parameters.items():
        names[parameter_role(name, parameter)].append(name)
    matrix_layouts = [layouts[name] for name in names["matrices"]]
    matrix_rule = RULES[settings.matrices](settings, matrix_layouts, dtype=dtype, world=world)
    adamw_rule = RULES["adamw"](settings, (), dtype=dtype, world=world)
    groups: dict[ParameterRole, ParameterGroup] = {
        "matrices": ParameterGroup(matrix_rule, settings.matrix_rate, settings.weight_decay, names["matrices"]),
        "embedding": ParameterGroup(adamw_rule, settings.embedding_rate, 0.0, names["embedding"]),
        "head": ParameterGroup(adamw_rule, settings.head_rate, 0.0, names["head"]),
        "scalars": ParameterGroup(adamw_rule, settings.scalar_rate, 0.0, names["scalars"]),
        "critic": ParameterGroup(adamw_rule, settings.critic_rate, 0.0, names["critic"]),
    }
    return {role: group for role, group in groups.items() if group.names}


def _gradient(name: str, weight: Tensor) -> Tensor:
    assert weight.grad is not None, f"{name} has no gradient: the loss does not depend on it"
    return local_shard(weight.grad)


# -- rules


@RULES.add("adamw")
class AdamW:
    """AdamW (Loshchilov & Hutter 2019, alg. 2)."""

    state: tuple[str, ...] = ("mean", "square")

    def __init__(
        self, settings: OptimizerConfig, layouts: Sequence[TensorLayout], *, dtype: torch.dtype, world: ProcessMesh
    ) -> None:
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
        # Filled on the device: a copy from the host would wait for it.
        counts = [*torch.full((len(weights),), float(step - 1), device=weights[0].device).unbind()]
        adamw(
            [*weights],
            [*gradients],
            [*state["mean"]],
            [*state["square"]],
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
    batched matmuls instead of many small ones. Stacked matrices of experts are orthogonalized one by one. Several
    processes divide the matrices among them. The step of a tall matrix is larger by sqrt(rows / columns).
    """

    state: tuple[str, ...] = ("momentum",)

    def __init__(
        self, settings: OptimizerConfig, layouts: Sequence[TensorLayout], *, dtype: torch.dtype, world: ProcessMesh
    ) -> None:
        self.momentum, self.shapes = settings.momentum, [layout.shape for layout in layouts]
        self.orthogonalizer = Orthogonalizer(layouts, world, dtype=dtype)

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
        updates = self.orthogonalizer.orthogonalize(directions)
        for shape, weight, update in zip(self.shapes, weights, updates, strict=True):
            shape_scale = max(1.0, shape[-2] / shape[-1]) ** 0.5
            weight.add_(update.to(weight.dtype), alpha=-rate * shape_scale)
