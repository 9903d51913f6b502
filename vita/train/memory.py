"""Keep freed memory in the process instead of handing it back to the system after every step.

glibc returns each large block at once, so a training step, which frees and asks for the same hundreds of megabytes
again, has them zeroed by the kernel page by page: on a virtual machine that can cost more than the arithmetic.
"""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # the names of malloc.h
_STEP = 64 * 2**20


def keep_freed_memory() -> bool:
    """From now on, blocks of any size come from a heap that never shrinks; False where there is no glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, 2**31 - 1), mallopt(_TOP_PAD, _STEP)])
