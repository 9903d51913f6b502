"""Many processes training one model: weights, gradients and optimizer state in shards (FSDP2).

Start it with torchrun; rank and number come from the machine. Everything that is written or compared is whole: `whole`
gathers a sharded tensor, `like` cuts a whole one as another is cut. With one process all of
this does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vita.spine.machine import Machine


class DataParallelGroup:
    """The processes that train together."""

    def __init__(self, *, rank: int = 0, size: int = 1, device: str = "cpu") -> None:
        self.rank, self.size, self.device = rank, size, device

    @property
    def leads(self) -> bool:
        """True in the one process that writes."""
        return self.rank == 0

    def shard(self, learner: nn.Module, layers: Iterator[nn.Module], *, dtype: torch.dtype) -> None:
        """Spread the parameters over the processes, one unit for each layer and one for the rest."""
        if self.size == 1:
            return
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

        mesh = init_device_mesh(torch.device(self.device).type, (self.size,))
        # Inputs stay as they are: rotary angles must not be rounded.
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for unit in [*layers, learner]:
            fully_shard(unit, mesh=mesh, mp_policy=policy)
            assert isinstance(unit, FSDPModule)
            # The loss is divided by the targets of all processes, so gradients are to be summed, not averaged.
            unit.set_gradient_divide_factor(1.0)
            unit.set_force_sum_reduction_for_comms(True)

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, the same in each."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
        return values

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            torch.distributed.barrier()


@contextmanager
def joined(machine: Machine) -> Iterator[DataParallelGroup]:
    """This process's place among those that train together."""
    if machine.world_size == 1:
        yield DataParallelGroup(device=machine.device)
        return
    device = f"cuda:{machine.local_rank}" if machine.device == "cuda" else machine.device
    if machine.device == "cuda":
        torch.cuda.set_device(machine.local_rank)
    own = not torch.distributed.is_initialized()
    if own:
        torch.distributed.init_process_group("nccl" if machine.device == "cuda" else "gloo")
    try:
        yield DataParallelGroup(rank=machine.rank, size=machine.world_size, device=device)
    finally:
        if own:
            torch.distributed.destroy_process_group()


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, gathered from every process where it is sharded."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, sharing its memory."""
    part = getattr(tensor, "to_local", None)
    return tensor if part is None else part()


def like(tensor: Tensor, sharded: Tensor) -> Tensor:
    """A whole tensor that every process has, cut as `sharded` is."""
    mesh = getattr(sharded, "device_mesh", None)
    if mesh is None:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, mesh, getattr(sharded, "placements", None), src_data_rank=None)
