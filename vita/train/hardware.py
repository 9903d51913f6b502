"""The hardware of a training process: precision, peak of matrix products, and memory.

Precision: bfloat16 if the device has units for it, otherwise float32. The choice depends on the capabilities that the
processor reports, not on timings, so that a restart makes the same choice. Master weights, optimizer state and sums are
always float32.

Peak: the fastest matrix product of the device is the denominator of model FLOPs utilization (MFU). It is measured, so
that MFU needs no table of devices and has the same meaning on all of them. The value of a datasheet is higher (an H200
reaches about 785 of 989 TFLOP/s in bfloat16).

Memory: glibc returns each large block to the system at once. A training step frees and allocates the same hundreds of
megabytes again, and the kernel zeroes them page by page. On a virtual machine this can cost more than the arithmetic.
"""

from __future__ import annotations

import ctypes
import platform
import resource
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from vita.spine.errors import ConfigError
from vita.train import microbatches
from vita.train.choices import PrecisionChoice


@dataclass(frozen=True)
class Precision:
    """The dtype of matmuls, and the reason for it."""

    dtype: torch.dtype
    why: str
    float8: bool = False
    """The products of the layers are in float8."""

    @property
    def name(self) -> str:
        return "float8" if self.float8 else str(self.dtype).removeprefix("torch.")


def choose_precision(device: str, choice: PrecisionChoice = "auto") -> Precision:
    """Return the chosen precision, or the fast one of this device."""
    if choice != "auto":
        if choice not in ("bfloat16", "float32", "float8"):
            raise ConfigError("precision", expected="auto, bfloat16, float32 or float8", got=choice)
        if choice == "float8":
            _check_float8(device)
            return Precision(torch.bfloat16, "as set", float8=True)
        return Precision(getattr(torch, choice), "as set")
    kind = torch.device(device).type
    if kind == "cuda":
        major, minor = torch.cuda.get_device_capability()
        return _either(major >= 8, f"CUDA device of capability {major}.{minor}")
    if kind == "cpu":
        can = torch.cpu.get_capabilities()
        units = [name for name in ("amx_bf16", "avx512_bf16") if can.get(name)]
        return _either(bool(units), f"CPU with {' and '.join(units)}" if units else "CPU without bfloat16 units")
    return _either(False, f"device {kind}")


def _check_float8(device: str) -> None:
    """Refuse a GPU without units for float8; a CPU computes the same products slowly."""
    kind = torch.device(device).type
    if kind == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        got = "capability {}.{}".format(*torch.cuda.get_device_capability())
        raise ConfigError("precision", expected="a GPU of capability 8.9 or higher for float8", got=got)
    if kind not in ("cuda", "cpu"):
        raise ConfigError("precision", expected="a CUDA device or a CPU for float8", got=kind)


def _either(fast: bool, why: str) -> Precision:
    return Precision(torch.bfloat16 if fast else torch.float32, why)


# -- the fastest matrix product

SIZES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192), "mps": (2048, 4096)}
"""Sizes of the square products by type of device. An accelerator reaches its peak only with large ones: on an H200
2048 x 2048 gives 455 TFLOP/s and 8192 x 8192 gives 785."""
LONGEST_PRODUCT = 0.5
"""Maximum seconds of a product; larger sizes are skipped on a slow device."""


def measured_peak(dtype: torch.dtype, *, device: str = "cpu") -> float:
    """Return `matmul_peak`, measured once in a process for a number of threads."""
    return _measured_peak(dtype, device, torch.get_num_threads())


@cache
def _measured_peak(dtype: torch.dtype, device: str, threads: int) -> float:
    return matmul_peak(dtype, device=device)


def matmul_peak(dtype: torch.dtype, *, device: str = "cpu", seconds: float = 0.1) -> float:
    """Measure the operations per second of the fastest square product: the best of several timings of each size.

    Each size is warmed up and then timed for `seconds` and at least three times. On an accelerator a timing covers
    several queued products, so that the launch time is not included.
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
            break  # with a large model in memory, the larger sizes may not fit
    if kind == "cuda":
        torch.cuda.empty_cache()
    return best


def _seconds_per_product(size: int, dtype: torch.dtype, *, device: str, seconds: float) -> float:
    chance = torch.Generator(device).manual_seed(0)
    # Random numbers, because a GPU multiplies constants at a higher clock rate: fewer bits change.
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
    """Return the seconds per product over `count` consecutive products."""
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


# -- memory

LOGIT_SHARE = 128
"""A chunk of logits takes at most this part of the memory of a GPU; its loss needs six times as much in bfloat16."""

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # the names of malloc.h
_STEP = 64 * 2**20


def keep_freed_memory() -> bool:
    """Allocate blocks of any size from a heap that never shrinks; return False without glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, 2**31 - 1), mallopt(_TOP_PAD, _STEP)])


def logit_bytes(device: torch.device) -> int:
    """Return the maximum bytes of a chunk of logits in the loss, in the matmul dtype.

    On a GPU it is a share of its memory, for few large kernels instead of many small ones.
    """
    if device.type != "cuda":
        return microbatches.LOGIT_BYTES
    return max(microbatches.LOGIT_BYTES, torch.cuda.get_device_properties(device).total_memory // LOGIT_SHARE)


def reset_peak_memory(device: str) -> None:
    """Start a new measurement of `peak_memory`, so that a stage does not report the peak of an earlier one."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        _CLEAR.write_text("5")  # Linux: resets the peak resident set size (proc(5))
    except OSError:
        return  # other systems keep one peak for the lifetime of the process


def memory_in_use(device: str) -> int:
    """Return the bytes in use now: of the accelerator's memory, or on a CPU resident ones; 0 if unknown."""
    if torch.device(device).type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
    except (OSError, StopIteration, ValueError):
        return 0


def peak_memory(device: str) -> int:
    """The most bytes held since `reset_peak_memory`: of the accelerator's memory, or on a CPU resident ones."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration, ValueError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
