"""The worker pool gives the results of one process in the same order and re-raises errors."""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Callable

import pytest

from vita.data.curation.worker_pool import WorkerPool
from vita.spine.errors import DataError, MissingExtra


def square(number: int, tick: Callable[[int], None]) -> int:
    time.sleep(0.02 * (number % 3))
    tick(1)
    if number == 99:
        raise DataError("a.txt, row 99", expected="a text", got=None, hint="mend it")
    if number == 98:
        os._exit(3)
    return number * number


@pytest.mark.parametrize("workers", [1, 2])
def test_results_are_in_the_order_of_the_jobs(workers: int) -> None:
    progress: list[int] = []
    with WorkerPool(workers) as pool:
        assert list(pool.in_order(square, range(12), watch=progress.append)) == [
            number * number for number in range(12)
        ]
        assert list(pool.in_order(square, [5], watch=progress.append)) == [25]
        assert progress == sorted(progress[:-1]) + progress[-1:] and max(progress) <= 12
        with pytest.raises(DataError, match=r"^a\.txt, row 99: expected a text, got None; mend it$"):
            list(pool.in_order(square, [1, 99, 2], watch=progress.append))


def test_a_killed_worker_is_a_clear_error() -> None:
    with WorkerPool(2) as pool, pytest.raises(DataError, match="a worker process: was killed"):
        list(pool.in_order(square, [98, 98], watch=lambda done: None))


def test_errors_are_pickled_with_all_fields() -> None:
    for error in (DataError("a", "b", hint="c"), DataError("a", expected="x", got=3), MissingExtra("a", "s3")):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), copy.where, copy.hint) == (type(error), str(error), error.where, error.hint)


def loaded_modules(name: str, tick: Callable[[int], None]) -> bool:
    return name in sys.modules


def test_the_server_of_the_workers_has_imported_the_modules_of_the_jobs() -> None:
    """Each worker would otherwise import them again; pandas is not among them."""
    names = ["vita.data.curation.filter_pass", "pandas"]
    with WorkerPool(2) as pool:
        assert list(pool.in_order(loaded_modules, names, watch=lambda done: None)) == [True, False]
