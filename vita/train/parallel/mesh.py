"""The mesh of the processes that train together, with named axes.

    with joined(machine, ParallelSettings(tensor=2)) as world:
        rows = loader.batch(step, rank=world.rank, world_size=world.size)
        total = world.total(sums)

Start the processes with torchrun, which sets rank and world size. `rank` and `size` are the coordinates of the data:
processes that divide a model or a row (axes `tensor` and `context`) read the same rows and have the same rank. With one
process the functions do nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vita.spine.machine import Machine
from vita.spine.ranks import shared_store
from vita.train.parallel.boxes import Box, TensorLayout
from vita.train.parallel.settings import AXES, DATA_AXES, SHARDED_AXES, ParallelSettings, axis_sizes

_groups = itertools.count()
"""Counter of the process groups of this process, which separates their keys in the store."""
SINGLE: dict[str, int] = dict.fromkeys(AXES, 1)


class ProcessMesh:
    """The processes that train together, and the position of this one; by default a single process."""

    def __init__(
        self, *, device: str = "cpu", process: int = 0, sizes: Mapping[str, int] = SINGLE, connected: bool = True
    ) -> None:
        """`process` is the rank of this process; without `connected` the mesh only describes a layout."""
        self.device, self.process, self.sizes = device, process, dict(sizes)
        self.processes = math.prod(self.sizes.values())
        self.coordinates = self.coordinates_of(process)
        self._meshes = self._device_meshes() if self.processes > 1 and connected else {}

    @property
    def rank(self) -> int:
        """Index of the rows of this process among those of a step."""
        return self._index(self.coordinates, DATA_AXES)

    @property
    def size(self) -> int:
        """Number of processes that read different rows."""
        return math.prod(self.sizes[axis] for axis in DATA_AXES)

    @property
    def leads(self) -> bool:
        """True in the process that writes (process 0)."""
        return self.process == 0

    @property
    def shards(self) -> int:
        """Number of processes over which FSDP shards a parameter."""
        return math.prod(self.sizes[axis] for axis in SHARDED_AXES)

    @property
    def uses_fsdp(self) -> bool:
        """True if parameters are sharded, or gradients summed over processes."""
        return self.shards * self.sizes["replicate"] > 1

    def coordinates_of(self, process: int) -> dict[str, int]:
        """Return the position of a process on each axis."""
        coordinates: dict[str, int] = {}
        for axis in reversed(AXES):
            process, coordinates[axis] = divmod(process, self.sizes[axis])
        return coordinates

    def box(self, layout: TensorLayout) -> Box:
        """Return the part of a tensor that this process holds."""
        return layout.box(self.coordinates, self.sizes)

    @cached_property
    def all_coordinates(self) -> list[dict[str, int]]:
        """The positions of all processes."""
        return [self.coordinates_of(process) for process in range(self.processes)]

    def group(self, name: str) -> Any:
        """Return the process group of an axis, or of the joined axes `rows`, `fsdp` or `expert_fsdp`."""
        return self._meshes[name][name].get_group()

    def sharding_mesh(self, name: str) -> Any:
        """Return the mesh over which FSDP shards (`fsdp` or `expert_fsdp`), with the replicas if there are any."""
        mesh = self._meshes[name]
        return mesh["replicate", name] if self.sizes["replicate"] > 1 else mesh[name]

    def group_name(self, name: str) -> str:
        """Return the name of a process group, for functional collectives; empty if the mesh is not connected."""
        return self.group(name).group_name if self._meshes else ""

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over all processes that compute different tokens (all-reduce)."""
        if self.uses_fsdp:
            torch.distributed.all_reduce(values, group=self.group("rows"))
        return values

    def total_along(self, values: Tensor, name: str) -> Tensor:
        """Return the sum over the processes of an axis or a group of axes (all-reduce)."""
        torch.distributed.all_reduce(values, group=self.group(name))
        return values

    def any(self, condition: bool) -> bool:
        """Return True in all processes if `condition` is true in any of them."""
        if self.processes == 1:
            return condition
        vote = torch.tensor(float(condition), device=self.device)
        torch.distributed.all_reduce(vote)
        return bool(vote.item())

    def from_leader(self, value: int) -> int:
        """Return the value of the leading process in all processes."""
        if self.processes == 1:
            return value
        number = torch.tensor(value if self.leads else 0, dtype=torch.int64, device=self.device)
        torch.distributed.all_reduce(number)
        return int(number.item())

    def wait(self) -> None:
        """Wait until all processes reach this point (barrier)."""
        if self.processes > 1:
            torch.distributed.barrier()

    def _index(self, coordinates: Mapping[str, int], axes: Sequence[str]) -> int:
        index = 0
        for axis in axes:
            index = index * self.sizes[axis] + coordinates[axis]
        return index

    def _device_meshes(self) -> dict[str, Any]:
        """Return the device mesh of each axis and of the joined axes; all processes create them in the same order."""
        from torch.distributed.device_mesh import init_device_mesh

        replicate, expert, shard, context, tensor = (self.sizes[axis] for axis in AXES)
        views = {
            AXES: (replicate, expert, shard, context, tensor),
            ("rows", "tensor"): (self.processes // tensor, tensor),
            ("replicate", "fsdp", "tensor"): (replicate, expert * shard * context, tensor),
            ("replicate", "expert", "expert_fsdp", "tensor"): (replicate, expert, shard * context, tensor),
        }
        meshes: dict[str, Any] = {}
        for names, sizes in views.items():
            mesh = init_device_mesh(torch.device(self.device).type, sizes, mesh_dim_names=names)
            meshes |= {name: mesh for name in names if name not in meshes}
        return meshes


def gather(tensor: Tensor, layout: TensorLayout, world: ProcessMesh) -> Tensor:
    """Return the full tensor of a local part, in all processes; they must call it together.

    The first holder of each part contributes it. Bytes are summed, because a sum of numbers loses the sign of zeros.
    """
    if not layout.axes or world.processes == 1:
        return tensor
    full = torch.zeros(layout.shape, dtype=tensor.dtype, device=tensor.device)
    if is_first_holder(layout, world):
        world.box(layout).of(full).copy_(tensor)
    torch.distributed.all_reduce(full.view(-1).view(torch.uint8))
    return full


def is_first_holder(layout: TensorLayout, world: ProcessMesh) -> bool:
    """Return True in the first of the processes that hold the same part of a tensor."""
    return all(position == 0 for axis, position in world.coordinates.items() if axis not in layout.axes)


def local_shard(tensor: Tensor) -> Tensor:
    """Return the local part of a tensor that FSDP shards, which shares its memory."""
    part = getattr(tensor, "to_local", None)
    return tensor if part is None else part()


@contextmanager
def joined(machine: Machine, settings: ParallelSettings | None = None) -> Iterator[ProcessMesh]:
    """Join the process group of the machine; leave it at the end."""
    sizes = axis_sizes(settings or ParallelSettings(), machine.world_size)
    if machine.world_size == 1:
        yield ProcessMesh(device=machine.device)
        return
    device = f"cuda:{machine.local_rank}" if machine.device == "cuda" else machine.device
    if machine.device == "cuda":
        torch.cuda.set_device(machine.local_rank)
    owns_group = not torch.distributed.is_initialized()
    if owns_group:
        torch.distributed.init_process_group(
            "nccl" if machine.device == "cuda" else "gloo",
            store=shared_store(machine, f"group-{next(_groups)}"),
            rank=machine.rank,
            world_size=machine.world_size,
        )
    try:
        yield ProcessMesh(device=device, process=machine.rank, sizes=sizes)
        if owns_group:
            torch.distributed.barrier()  # gloo aborts a process whose peer leaves during its last communication
    finally:
        if owns_group:
            torch.distributed.destroy_process_group()


def holders(layout: TensorLayout, world: ProcessMesh) -> dict[Box, list[int]]:
    """Return the processes that hold each part of a tensor, without empty parts."""
    result: dict[Box, list[int]] = {}
    for process, coordinates in enumerate(world.all_coordinates):
        box = layout.box(coordinates, world.sizes)
        if box.numel:
            result.setdefault(box, []).append(process)
    return result
