"""Modules of the meta device get memory, and shared parameters stay shared."""

from __future__ import annotations

import torch
from torch import nn

from vita.nn.meta_device import allocate


def test_parameters_and_buffers_get_memory_and_stay_shared() -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(3, 4, dtype=torch.bfloat16), nn.BatchNorm1d(4), nn.Linear(3, 4))
        module[2].weight = module[0].weight
        module[2].bias.requires_grad_(False)
    allocate(module, "cpu")
    assert {tensor.device.type for tensor in (*module.parameters(), *module.buffers())} == {"cpu"}
    assert module[2].weight is module[0].weight
    assert module[0].weight.dtype == torch.bfloat16 and module[0].weight.shape == (4, 3)
    assert module[0].bias.requires_grad and not module[2].bias.requires_grad
    assert module[1].num_batches_tracked.dtype == torch.int64
