"""The order of sums in a training step: `exact` gives the same bits in every run, `fast` may not.

On a GPU some kernels add with atomic operations, whose order differs from run to run. `exact` replaces them by kernels
with a fixed order, so that a resumed run has the same bytes. `fast` permits them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from vita.train.choices import Determinism


@contextmanager
def summation_order(determinism: Determinism, *, compiled: bool) -> Iterator[None]:
    """Use deterministic algorithms in the block if `determinism` is `exact`.

    For compiled models this includes the compiler, whose import takes a second of CPU time.
    """
    if determinism == "fast":
        yield
        return
    before = torch.get_deterministic_debug_mode()
    memory: Any = torch.utils.deterministic
    filling, memory.fill_uninitialized_memory = memory.fill_uninitialized_memory, False
    if compiled:
        torch.use_deterministic_algorithms(True, warn_only=True)
    else:
        torch.set_deterministic_debug_mode("warn")
    try:
        yield
    finally:
        if compiled:
            torch.use_deterministic_algorithms(False)  # also that of the compiler
        torch.set_deterministic_debug_mode(before)
        memory.fill_uninitialized_memory = filling
