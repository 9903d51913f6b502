"""The largest micro-batch that fits in the memory of the device, found by measuring.

Forward and backward passes of growing micro-batches run until the next one would not fit. The size does not change the
loss, which is a sum over all micro-batches of a step, except for the rounding of the sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from vita.spine.errors import ConfigError

MAX_MICRO_TOKENS = 65536
"""Tokens above which a larger micro-batch is not faster (measured with 124M parameters on an H200)."""
USABLE = 0.85
"""Fraction of the available memory that a micro-batch may use; the rest is for fragmentation and larger steps."""


class MemoryMeter(Protocol):
    """Measures the memory of a computation."""

    @property
    def available(self) -> int:
        """Bytes that this process may use, including those in use now."""
        ...

    def peak(self, function: Callable[[], None]) -> int | None:
        """Call `function` and return the most bytes in use meanwhile; None if the memory was not sufficient."""
        ...


class CudaMemoryMeter:
    """Measures the memory of a CUDA device with the statistics of PyTorch's allocator."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)

    @property
    def available(self) -> int:
        free, _ = torch.cuda.mem_get_info(self.device)
        return free + torch.cuda.memory_reserved(self.device)

    def peak(self, function: Callable[[], None]) -> int | None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        try:
            function()
            torch.cuda.synchronize(self.device)
        except torch.OutOfMemoryError:
            return None
        finally:
            torch.cuda.empty_cache()
        return torch.cuda.max_memory_allocated(self.device)


def memory_meter(device: str) -> MemoryMeter | None:
    """Return the meter of a device; None for a device whose memory is not limited in advance, such as a CPU."""
    return CudaMemoryMeter(device) if torch.device(device).type == "cuda" else None


def largest_micro_batch(
    rows: int,
    *,
    tokens_per_row: int,
    meter: MemoryMeter,
    run: Callable[[int], None],
    max_tokens: int = MAX_MICRO_TOKENS,
) -> int:
    """Return the largest number of rows, a divisor of `rows`, whose forward and backward pass fits in memory.

    `run` computes the passes of a micro-batch of some rows. Sizes are at least doubled until one does not fit, or would
    not fit by extrapolation; those between the last two are then bisected. Raise `ConfigError` if a single row does not
    fit.
    """
    sizes = [size for size in range(1, rows + 1) if rows % size == 0]
    sizes = [size for size in sizes if size == 1 or size * tokens_per_row <= max_tokens]
    limit = USABLE * meter.available
    peaks: dict[int, int] = {}

    def fits(size: int) -> bool:
        if len(peaks) > 1 and _extrapolated(peaks, size) > limit:
            return False
        peak = meter.peak(lambda: run(size))
        if peak is not None:
            peaks[size] = peak
        return peak is not None and peak <= limit

    if not fits(sizes[0]):
        problem = f"a row of {tokens_per_row:,} tokens does not fit in the memory of the device"
        hint = "set `recompute_activations: true`, or use shorter rows or a smaller model"
        raise ConfigError("micro_batch_tokens", problem, hint=hint)
    low, high = 0, len(sizes)  # sizes[low] fits; sizes[high] does not, or does not exist
    while (following := _index_of_double(sizes, low)) is not None and following < high:
        if fits(sizes[following]):
            low = following
        else:
            high = following
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(sizes[middle]) else (low, middle)
    return sizes[low]


def _index_of_double(sizes: list[int], index: int) -> int | None:
    """Return the index of the first size that is at least twice as large."""
    return next((later for later in range(index + 1, len(sizes)) if sizes[later] >= 2 * sizes[index]), None)


def _extrapolated(peaks: dict[int, int], size: int) -> float:
    """Return the bytes of a size by a line through the two largest measured sizes."""
    (small, low), (large, high) = sorted(peaks.items())[-2:]
    return high + (high - low) * (size - large) / (large - small)
