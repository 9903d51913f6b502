"""The fastest matrix product this machine does right now: what utilisation is measured against."""

from __future__ import annotations

import time

import torch

SIZES = (512, 1024, 2048)
"""Square products of these sizes are tried; which is the fastest depends on caches and memory."""


def matmul_peak(dtype: torch.dtype, *, device: str = "cpu", seconds: float = 0.1) -> float:
    """Operations a second of the best square product, each size repeated for `seconds` after a first one."""
    best = 0.0
    for size in SIZES:
        left = torch.ones(size, size, dtype=dtype, device=device)
        out = torch.empty_like(left)
        _timed(left, out)
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            best = max(best, 2 * size**3 / _timed(left, out))
    return best


def _timed(left: torch.Tensor, out: torch.Tensor) -> float:
    _finish(left)
    began = time.perf_counter()
    torch.mm(left, left, out=out)
    _finish(out)
    return time.perf_counter() - began


def _finish(tensor: torch.Tensor) -> None:
    """A CUDA product is only queued when `mm` returns."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
