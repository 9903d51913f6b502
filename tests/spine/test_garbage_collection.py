"""Rare garbage collection ends with its context."""

from __future__ import annotations

import gc

from vita.spine.garbage_collection import rare_garbage_collection


def test_thresholds_are_restored_after_an_error() -> None:
    before = gc.get_threshold()
    try:
        with rare_garbage_collection():
            assert gc.get_threshold()[0] > before[0]
            raise ValueError
    except ValueError:
        pass
    assert gc.get_threshold() == before
