"""The layout of the processes of a training run.

This module is imported without PyTorch.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from vita.spine.config import Settings
from vita.spine.errors import ConfigError

AXES = ("replicate", "expert", "shard", "context", "tensor")
"""Axes of the mesh, from the slowest to the fastest rank; processes of the last ones should share a machine."""
DATA_AXES = ("replicate", "expert", "shard")
"""Axes whose processes read different rows."""
SHARDED_AXES = ("expert", "shard", "context")
"""Axes over which FSDP shards the parameters."""

Size = Annotated[int, Field(ge=1)]


class ParallelSettings(Settings):
    """Numbers of processes along the axes of the mesh; their product is the number of processes."""

    replicate: Size = 1
    """Copies of the sharded model (HSDP). Gradients are summed over them."""
    shard: Size | Literal["auto"] = "auto"
    """Processes that shard weights, gradients and optimizer state (FSDP). `auto` takes all that other axes leave."""
    tensor: Size = 1
    """Processes that divide the heads, the feed-forward networks and the vocabulary of a model (tensor parallelism)."""
    context: Size = 1
    """Processes that divide the tokens of a row (context parallelism)."""
    expert: Size = 1
    """Processes that divide the experts of a mixture (expert parallelism); they read different rows."""


def axis_sizes(settings: ParallelSettings, processes: int) -> dict[str, int]:
    """Return the number of processes along each axis; raise `ConfigError` if the product is not `processes`."""
    sizes = {axis: size for axis in AXES if isinstance(size := getattr(settings, axis), int)}
    product = math.prod(sizes.values())
    if settings.shard == "auto" and processes % product == 0:
        return {axis: sizes.get(axis, processes // product) for axis in AXES}
    if settings.shard != "auto" and product == processes:
        return {axis: sizes[axis] for axis in AXES}
    described = " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size > 1) or "1"
    kind = "a multiple of" if settings.shard == "auto" else "exactly"
    raise ConfigError(
        "parallel",
        expected=f"{kind} {product} processes ({described})",
        got=processes,
        hint="start this number of processes with `torchrun --nproc-per-node`, or change `parallel`",
    )
