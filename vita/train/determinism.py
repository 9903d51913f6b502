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
def summation_order(determinism: Determinism) -> Iterator[None]:
    """Use deterministic algorithms in the block if `determinism` is `exact`."""
    if determinism == "fast":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    memory: Any = torch.utils.deterministic
    filling, memory.fill_uninitialized_memory = memory.fill_uninitialized_memory, False
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        memory.fill_uninitialized_memory = filling
