"""Data-parallel training with several processes: sharded weights, gradients and optimizer state (FSDP2).

Start the processes with torchrun, which sets rank and world size. Tensors that are saved or compared are complete:
`full_tensor` gathers a sharded tensor, `shard_like` shards a full tensor like another one. With one process these
functions do nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vita.spine.machine import Machine


class DataParallelGroup:
    """The group of processes that train together."""

    def __init__(self, *, rank: int = 0, size: int = 1, device: str = "cpu") -> None:
        self.rank, self.size, self.device = rank, size, device

    @property
    def leads(self) -> bool:
        """True in the process that writes (rank 0)."""
        return self.rank == 0

    def shard(self, learner: nn.Module, layers: Iterator[nn.Module], *, dtype: torch.dtype) -> None:
        """Shard the parameters over the processes, one FSDP unit per layer and one for the rest."""
        if self.size == 1:
            return
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

        mesh = init_device_mesh(torch.device(self.device).type, (self.size,))
        # Inputs are not cast: rotary angles must not be rounded.
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for unit in [*layers, learner]:
            fully_shard(unit, mesh=mesh, mp_policy=policy)
            assert isinstance(unit, FSDPModule)
            # The loss is divided by the targets of all processes, so gradients must be summed, not averaged.
            unit.set_gradient_divide_factor(1.0)
            unit.set_force_sum_reduction_for_comms(True)

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over all processes (all-reduce)."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
        return values

    def wait(self) -> None:
        """Wait until all processes reach this point (barrier)."""
        if self.size > 1:
            torch.distributed.barrier()


@contextmanager
def joined(machine: Machine) -> Iterator[DataParallelGroup]:
    """Join the process group of the machine; leave it at the end."""
    if machine.world_size == 1:
        yield DataParallelGroup(device=machine.device)
        return
    device = f"cuda:{machine.local_rank}" if machine.device == "cuda" else machine.device
    if machine.device == "cuda":
        torch.cuda.set_device(machine.local_rank)
    owns_group = not torch.distributed.is_initialized()
    if owns_group:
        torch.distributed.init_process_group("nccl" if machine.device == "cuda" else "gloo")
    try:
        yield DataParallelGroup(rank=machine.rank, size=machine.world_size, device=device)
        if owns_group:
            torch.distributed.barrier()  # gloo aborts a process whose peer leaves during its last communication
    finally:
        if owns_group:
            torch.distributed.destroy_process_group()


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the full tensor, gathered from all processes if it is sharded."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def local_shard(tensor: Tensor) -> Tensor:
    """Return the local shard of a tensor, which shares its memory."""
    part = getattr(tensor, "to_local", None)
    return tensor if part is None else part()


def shard_like(tensor: Tensor, sharded: Tensor) -> Tensor:
    """Shard a full tensor, which every process has, like `sharded`."""
    mesh = getattr(sharded, "device_mesh", None)
    if mesh is None:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, mesh, getattr(sharded, "placements", None), src_data_rank=None)
