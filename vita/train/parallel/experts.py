"""Expert parallelism: each process holds some experts of each layer, and computes them for the tokens of all processes.

Tokens are sent to the process of their expert and back, in two all-to-all exchanges per layer and pass. The processes
read different rows; all other parameters are sharded over them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vita.nn.adapters.attach import adapter_of
from vita.nn.experts import ExpertStack
from vita.nn.grouped import Groups
from vita.nn.transformer import Transformer
from vita.spine.errors import ConfigError
from vita.train.parallel.boxes import AxisSlice
from vita.train.parallel.collectives import exchange_parts, exchange_rows
from vita.train.parallel.mesh import ProcessMesh
from vita.train.parallel.tensor import DividedParameters, slice_parameter

# P pairs of token and expert of this process, R pairs received for its experts, C processes of the axis, L experts of a
# process, E experts, D width

AXIS = "expert"


def divide_experts(model: Transformer, world: ProcessMesh) -> DividedParameters:
    """Reduce the experts of a model to those of this process, in place, and add the communication."""
    count, index = world.sizes[AXIS], world.coordinates[AXIS]
    divided = DividedParameters({})
    if count == 1:
        return divided
    _check(model, count)
    for name, module in model.named_modules():
        if not isinstance(module, ExpertStack):
            continue
        module.__class__ = DividedExpertStack
        assert isinstance(module, DividedExpertStack)
        module.group, module.processes = world.group_name(AXIS), count
        for part in ("gate_proj", "up_proj", "down_proj") if module.gated else ("up_proj", "down_proj"):
            slice_parameter(module.get_submodule(part), "weight", 0, index=index, count=count)
            divided.slices[f"{name}.{part}.weight"] = (AxisSlice(0, AXIS),)
    return divided


class DividedExpertStack(ExpertStack):
    """The experts of a process."""

    group: str
    processes: int

    def forward(self, inputs: Float[Tensor, "P D"], groups: Groups) -> Float[Tensor, "P D"]:
        """Compute the outputs for tokens that are sorted by expert, with the experts of all processes."""
        loads = groups.loads.view(self.processes, -1)
        received_loads = exchange_parts(loads, self.group)
        sent, received = loads.sum(1).tolist(), received_loads.sum(1).tolist()
        rows = exchange_rows(inputs, self.group, sent=sent, received=received)
        local = _group_received(received_loads)
        outputs = local.collect(super().forward(local.dispatch(rows), local)).squeeze(1)
        return exchange_rows(outputs, self.group, sent=received, received=sent)


def _group_received(loads: Int[Tensor, "C L"]) -> Groups:
    """Return the groups of rows that are sorted by process and then by expert."""
    experts = torch.arange(loads.shape[1], device=loads.device).repeat(len(loads))
    order = experts.repeat_interleave(loads.flatten()).argsort(stable=True)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order), device=order.device)
    return Groups(order, inverse, loads.sum(0), 1)


def _check(model: Transformer, count: int) -> None:
    experts, where = model.architecture.experts, "parallel.expert"
    if experts is None:
        raise ConfigError(where, "the model has no experts", hint="leave `expert` out, or use `shard`")
    if experts.count % count:
        raise ConfigError(where, expected=f"a divisor of the {experts.count} experts of a layer", got=count)
    if adapter_of(model) is not None:
        raise ConfigError(
            where, "a model with an adapter cannot be divided", hint="use `shard`, or set `adapter: none`"
        )
