"""Rare garbage collection for work that creates many objects and few cycles, such as documents and imports."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_THRESHOLDS = (50_000, 20, 100)
"""Objects, and collections of the younger generation, before the next garbage collection of each generation."""


def collect_rarely() -> None:
    """Collect garbage rarely from now on."""
    gc.set_threshold(*_THRESHOLDS)


@contextmanager
def rare_garbage_collection() -> Iterator[None]:
    """Collect garbage rarely inside the context: collections took 7% of the time of small documents."""
    thresholds = gc.get_threshold()
    collect_rarely()
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


def exempt_present_objects() -> None:
    """Exempt the objects that exist from all later collections, such as modules and classes, which stay in use."""
    gc.freeze()
