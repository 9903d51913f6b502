"""Memory of a training process: its peak while a stage runs, and keeping freed blocks instead of returning them.

glibc returns each large block at once, so a training step, which frees and asks for the same hundreds of megabytes
again, has them zeroed by the kernel page by page: on a virtual machine that can cost more than the arithmetic.
"""

from __future__ import annotations

import ctypes
import platform
import resource
import sys
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # the names of malloc.h
_STEP = 64 * 2**20


def keep_freed_memory() -> bool:
    """From now on, blocks of any size come from a heap that never shrinks; False where there is no glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, 2**31 - 1), mallopt(_TOP_PAD, _STEP)])


def reset_peak_memory(device: str) -> None:
    """Start a new measurement of `peak_memory`, so that a stage does not report the peak of an earlier one."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        _CLEAR.write_text("5")  # Linux: resets the peak resident set size (proc(5))
    except OSError:
        return  # elsewhere the system keeps one peak for the whole life of the process


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
