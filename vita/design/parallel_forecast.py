"""Memory and communication of a layout of processes, without starting them.

    forecast = forecast_layout(architecture, ParallelSettings(tensor=2), workload, processes=8)
    forecast.memory["weights"], forecast.communication["gather weights"]      # bytes of the largest process

The model is divided on the meta device as in training, so weights, gradients and optimizer state are exact. Activations
are those of `tuning_memory`, which `tensor` does not reduce here: an upper bound. Communication is the number of bytes
that a process sends per optimizer step with ring algorithms: (n - 1) / n of the result for a gather or a reduce-scatter
over n processes, and twice that for an all-reduce. Tokens are assumed to be spread evenly over the experts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from vita.design.tuning_memory import ADAMW_BYTES, GRADIENT_BYTES, MASTER_BYTES, meta_model, tuning_memory
from vita.nn.architecture import Architecture
from vita.spine.errors import ConfigError
from vita.train.microbatches import logit_memory, micro_batch_size
from vita.train.optim import parameter_role
from vita.train.orthogonalization import sent_numbers
from vita.train.parallel.boxes import TensorLayout
from vita.train.parallel.experts import divide_experts
from vita.train.parallel.mesh import ProcessMesh
from vita.train.parallel.settings import ParallelSettings, axis_sizes
from vita.train.parallel.sharding import parameter_layouts
from vita.train.parallel.tensor import divide_tensors

MOMENTUM_BYTES = 4
"""Bytes of the state of Muon per parameter."""


@dataclass(frozen=True)
class Workload:
    """The batch of an optimizer step."""

    rows: int
    """Rows of all processes."""
    row_length: int
    micro_batch_tokens: int
    number_bytes: int = 2
    """Bytes of the numbers of matrix products."""
    muon: bool = True


@dataclass(frozen=True)
class LayoutForecast:
    """The forecast for the process with the most memory."""

    sizes: dict[str, int]
    """Number of processes along each axis."""
    micro_batches: int
    memory: dict[str, int]
    """Bytes by purpose, and their sum in `total`."""
    communication: dict[str, int]
    """Bytes that a process sends per step by purpose, and their sum in `total`."""


def forecast_layout(
    architecture: Architecture, settings: ParallelSettings, workload: Workload, *, processes: int
) -> LayoutForecast:
    """Forecast memory and communication; raise `ConfigError` for a layout that cannot divide the model or the batch."""
    sizes = axis_sizes(settings, processes)
    worlds = [ProcessMesh(process=process, sizes=sizes, connected=False) for process in range(processes)]
    world = worlds[0]
    if workload.rows % world.size or workload.row_length % sizes["context"]:
        expected = f"rows that are a multiple of {world.size}, of a length that is a multiple of {sizes['context']}"
        raise ConfigError("parallel", expected=expected, got=f"{workload.rows} x {workload.row_length}")
    model = meta_model(architecture, None)
    slices = divide_experts(model, world).joined(divide_tensors(model, world)).slices
    layouts = parameter_layouts(model, slices, world)
    local = {name: max(each.box(layout).numel for each in worlds) for name, layout in layouts.items()}
    gathered = {name: parameter.numel() for name, parameter in model.named_parameters()}
    rows = workload.rows // world.size
    length = workload.row_length // sizes["context"]
    micro_rows = micro_batch_size(rows, tokens_per_row=length, micro_tokens=workload.micro_batch_tokens)
    micro_batches, micro_tokens = rows // micro_rows, micro_rows * length
    matrices = {name for name, weight in model.named_parameters() if parameter_role(name, weight) == "matrices"}
    numbers = workload.number_bytes
    accumulates = micro_batches > 1 and world.uses_fsdp
    memory = {
        "weights": MASTER_BYTES * sum(local.values()),
        # Several micro-batches accumulate complete gradients, which are reduced after the last one.
        "gradients": GRADIENT_BYTES * sum((gathered if accumulates else local).values()),
        "optimizer": sum(
            (MOMENTUM_BYTES if workload.muon and name in matrices else ADAMW_BYTES) * size
            for name, size in local.items()
        ),
        "gathered weights": numbers * _largest_units(gathered) if world.uses_fsdp else 0,
        "activations": tuning_memory(meta_model(architecture, None), tokens=micro_tokens, number_bytes=numbers)[
            "activations"
        ],
        "logits": logit_memory(
            micro_tokens, vocabulary=architecture.vocabulary // _vocabulary_parts(layouts, sizes), number_bytes=numbers
        ),
    }
    communication = _communication(architecture, workload, world, layouts, gathered, micro_batches=micro_batches)
    if workload.muon:
        names = [name for name in layouts if name in matrices]
        communication["orthogonalization"] = numbers * max(
            (sent_numbers([layouts[name] for name in names], each) for each in worlds), default=0
        )
    return LayoutForecast(
        sizes,
        micro_batches,
        {**memory, "total": sum(memory.values())},
        {**communication, "total": sum(communication.values())},
    )


def _communication(
    architecture: Architecture,
    workload: Workload,
    world: ProcessMesh,
    layouts: Mapping[str, TensorLayout],
    gathered: Mapping[str, int],
    *,
    micro_batches: int,
) -> dict[str, int]:
    """Return the bytes that a process sends per step, without those of the optimizer."""
    sizes, numbers = world.sizes, workload.number_bytes
    tokens = workload.rows // world.size * workload.row_length // sizes["context"]
    states = tokens * architecture.width * numbers
    result = dict.fromkeys(("gather weights", "reduce gradients", "tensor", "context", "expert"), 0.0)
    for name, layout in layouts.items():
        shards = math.prod(sizes[axis] for axis in layout.sharded)
        gathers = 2 if ".layers." in name else 1  # in the forward and in the backward pass; the rest stays gathered
        result["gather weights"] += micro_batches * gathers * numbers * gathered[name] * _share(shards)
        result["reduce gradients"] += GRADIENT_BYTES * gathered[name] * _share(shards)
        if layout.sharded:
            result["reduce gradients"] += 2 * GRADIENT_BYTES * gathered[name] / shards * _share(sizes["replicate"])
    experts = architecture.experts
    mixtures = sum(architecture.has_experts(layer) for layer in range(architecture.layers))
    pairs = states * experts.active if experts else 0
    passes = 2 * architecture.layers + 2 * (architecture.layers - mixtures)  # attention and dense feed-forward
    shared = 2 * mixtures if experts and experts.shared else 0
    result["tensor"] = 2 * _share(sizes["tensor"]) * ((passes + shared + 2) * states + 2 * mixtures * pairs)
    heads = 2 * architecture.kv_heads / sizes["tensor"] * architecture.head_dim
    keys = architecture.layers * heads * tokens * sizes["context"] * numbers
    result["context"] = 2 * keys * _share(sizes["context"])
    result["expert"] = 4 * mixtures * pairs * _share(sizes["expert"])
    return {purpose: round(size) for purpose, size in result.items()}


def _share(processes: int) -> float:
    """Return the share of a result that comes from other processes."""
    return (processes - 1) / processes


def _largest_units(gathered: Mapping[str, int]) -> int:
    """Return the numbers of two layers, one of which is gathered in advance, and of all other parameters."""
    units: dict[str, int] = {}
    for name, size in gathered.items():
        unit = name.split(".")[2] if ".layers." in name else ""
        units[unit] = units.get(unit, 0) + size
    rest = units.pop("", 0)
    return rest + sum(sorted(units.values())[-2:])


def _vocabulary_parts(layouts: Mapping[str, TensorLayout], sizes: Mapping[str, int]) -> int:
    return math.prod(sizes[part.axis] for part in layouts["model.embed_tokens.weight"].slices)
