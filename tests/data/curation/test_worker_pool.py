"""Processes give the answers that one process gives, in the same order, and hand on its errors."""

from __future__ import annotations

import os
import pickle
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
def test_answers_come_in_the_order_of_the_jobs(workers: int) -> None:
    heard: list[int] = []
    with WorkerPool(workers) as crew:
        assert list(crew.in_order(square, range(12), watch=heard.append)) == [number * number for number in range(12)]
        assert list(crew.in_order(square, [5], watch=heard.append)) == [25]
        assert heard == sorted(heard[:-1]) + heard[-1:] and max(heard) <= 12
        with pytest.raises(DataError, match=r"^a\.txt, row 99: expected a text, got None; mend it$"):
            list(crew.in_order(square, [1, 99, 2], watch=heard.append))


def test_a_worker_that_is_killed_is_one_clear_line() -> None:
    with WorkerPool(2) as crew, pytest.raises(DataError, match="a worker process: was killed"):
        list(crew.in_order(square, [98, 98], watch=lambda done: None))


def test_errors_cross_to_another_process_whole() -> None:
    for error in (DataError("a", "b", hint="c"), DataError("a", expected="x", got=3), MissingExtra("a", "s3")):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), copy.where, copy.hint) == (type(error), str(error), error.where, error.hint)
