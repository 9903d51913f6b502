"""The fastest matrix product that the device reaches: the denominator of model FLOPs utilization (MFU).

It is measured and not taken from a datasheet, so that MFU needs no table of devices and means the same on all of them:
the share of what a large matrix product reaches on this very device, at its present clock. A datasheet's figure is
higher (an H200 reaches about 785 of 989 TFLOP/s in bfloat16).
"""

from __future__ import annotations

import time

import torch

SIZES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192), "mps": (2048, 4096)}
"""Sizes of the square products by type of device. An accelerator reaches its peak only with large ones: on an H200
2048 x 2048 gives 455 TFLOP/s and 8192 x 8192 gives 785."""
LONGEST_PRODUCT = 0.5
"""Seconds; a size whose product would take longer is left out on a slow device."""


def matmul_peak(dtype: torch.dtype, *, device: str = "cpu", seconds: float = 0.1) -> float:
    """Operations per second of the fastest square product: the best of several timings of each size.

    Each size is warmed up first and then timed for `seconds` and at least three times. On an accelerator a timing
    covers several products in a queue, so that the time to launch them does not count.
    """
    kind = torch.device(device).type
    best = 0.0
    for size in SIZES.get(kind, SIZES["cpu"]):
        operations = 2 * size**3
        if best and operations / best > LONGEST_PRODUCT:
            break
        try:
            best = max(best, operations / _seconds_per_product(size, dtype, device=device, seconds=seconds))
        except torch.OutOfMemoryError:
            break  # beside a large model there may be no room for the larger sizes
    if kind == "cuda":
        torch.cuda.empty_cache()
    return best


def _seconds_per_product(size: int, dtype: torch.dtype, *, device: str, seconds: float) -> float:
    chance = torch.Generator(device).manual_seed(0)
    # Random numbers: a GPU multiplies constants at a higher clock, since fewer bits change.
    left, right = (torch.randn(size, size, device=device, generator=chance).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    queued = 1 if torch.device(device).type == "cpu" else 8
    _timed(left, right, out, count=3)
    timings: list[float] = []
    until = time.perf_counter() + seconds
    while len(timings) < 3 or time.perf_counter() < until:
        timings.append(_timed(left, right, out, count=queued))
    return min(timings)


def _timed(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor, *, count: int) -> float:
    """Seconds per product over `count` products in a row."""
    _finish(left)
    began = time.perf_counter()
    for _ in range(count):
        torch.mm(left, right, out=out)
    _finish(out)
    return (time.perf_counter() - began) / count


def _finish(tensor: torch.Tensor) -> None:
    """Wait for the device: a product on an accelerator is only queued when `mm` returns."""
    if tensor.device.type == "cuda":
        torch.cuda.synchronize(tensor.device)
    elif tensor.device.type == "mps":
        torch.mps.synchronize()
