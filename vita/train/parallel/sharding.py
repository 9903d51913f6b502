"""Sharded weights, gradients and optimizer state (FSDP2), over one axis or with replicas (HSDP).

Each layer is a unit: its parameters are gathered before it computes and released afterwards. Under accumulation the
gradients of a step are reduced once, after its last micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vita.nn.experts import ExpertStack
from vita.nn.transformer import Transformer
from vita.nn.wide_floats import widened, widest_float
from vita.train.parallel.boxes import AxisSlice, TensorLayout
from vita.train.parallel.mesh import ProcessMesh, local_shard
from vita.train.parallel.settings import SHARDED_AXES

Slices = Mapping[str, Sequence[AxisSlice]]
"""Divisions of parameters by tensor and expert parallelism, by name."""


def parameter_layouts(model: Transformer, slices: Slices, world: ProcessMesh) -> dict[str, TensorLayout]:
    """Return the layouts of all parameters of a model that is sliced and not yet sharded."""
    layouts: dict[str, TensorLayout] = {}
    for name, parameter in model.named_parameters():
        parts, shape = tuple(slices.get(name, ())), [*parameter.shape]
        for part in parts:
            shape[part.dimension] *= world.sizes[part.axis]
        sliced = {part.axis for part in parts}
        sharded = tuple(axis for axis in SHARDED_AXES if axis not in sliced) if world.uses_fsdp else ()
        layouts[name] = TensorLayout(tuple(shape), parts, sharded)
    return layouts


def shard(learner: nn.Module, model: Transformer, world: ProcessMesh, *, dtype: torch.dtype) -> None:
    """Shard the parameters, one FSDP unit per layer and one for the rest; `dtype` is that of the computation."""
    if not world.uses_fsdp:
        return
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    # Inputs are not cast: rotary angles must not be rounded.
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    stacks = [part for part in model.modules() if isinstance(part, ExpertStack)] if world.sizes["expert"] > 1 else []
    units = [(stack, "expert_fsdp") for stack in stacks] + [(unit, "fsdp") for unit in [*model.model.layers, learner]]
    for unit, axis in units:
        fully_shard(unit, mesh=world.sharding_mesh(axis), mp_policy=policy)
        assert isinstance(unit, FSDPModule)
        # The loss is divided by the targets of all processes, so gradients must be summed, not averaged.
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)


@contextmanager
def gradient_reduction(learner: nn.Module, *, enabled: bool) -> Iterator[None]:
    """Reduce gradients over the processes in the backward pass of the block, or only accumulate them."""
    set_sync = getattr(learner, "set_requires_gradient_sync", None)
    if set_sync is not None:
        set_sync(enabled)
    yield


def gradient_norm(parameters: Mapping[str, Tensor], layouts: Mapping[str, TensorLayout], world: ProcessMesh) -> Tensor:
    """Return the norm of all gradients together, on their device; the parts of all processes count once."""
    norms: dict[bool, list[Tensor]] = {False: [], True: []}
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            norm = torch.linalg.vector_norm(local_shard(parameter.grad))
            norms["tensor" in layouts[name].axes].append(norm)
    if world.processes == 1:
        return _joined_norm(norms[False], world)
    total = torch.zeros((), dtype=widest_float(world.device), device=world.device)
    for divided, parts in norms.items():
        square = widened(_joined_norm(parts, world)) ** 2
        total += world.total_along(square, "tensor") if divided else square
    return world.total_along(total, "fsdp").sqrt()


def _joined_norm(norms: Sequence[Tensor], world: ProcessMesh) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(list(norms))) if norms else torch.zeros((), device=world.device)


def clip_gradients(parameters: Mapping[str, Tensor], *, norm: float, max_norm: float) -> None:
    """Scale all gradients so that their norm is at most `max_norm`."""
    scale = torch.clamp(max_norm / (torch.tensor(norm) + 1e-6), max=1.0).item()
    for parameter in parameters.values():
        if parameter.grad is not None:
            local_shard(parameter.grad).mul_(scale)
