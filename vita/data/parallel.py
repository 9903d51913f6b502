"""Jobs in several processes, their answers in the order of the jobs.

The processes end with the one that started them, even when that is killed: none goes on writing behind its back.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from vita.spine.errors import DataError

J = TypeVar("J")
A = TypeVar("A")

Tick = Callable[[int], None]
"""Called by a job with the number of things done since its last call."""


def in_order(
    work: Callable[[J, Tick], A], jobs: Sequence[J], *, workers: int, watch: Tick, pause_seconds: float = 0.25
) -> Iterator[A]:
    """`work(job, tick)` of every job; `watch` gets the number of things done in all, while it goes on."""
    workers = min(workers, len(jobs))
    if workers <= 1:
        done = _Sum(watch)
        yield from (work(job, done) for job in jobs)
        return
    spawn = multiprocessing.get_context("spawn")  # a fork would copy the locks of other threads
    counter = spawn.Value("q", 0)
    pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=_join, initargs=(counter,))
    waiting: deque[Future[A]] = deque()
    left = iter(jobs)
    try:
        while True:
            while len(waiting) < 2 * workers and (job := next(left, None)) is not None:
                waiting.append(pool.submit(_work, work, job))
            if not waiting:
                return
            while not waiting[0].done():
                time.sleep(pause_seconds if counter.value else 0.02)
                watch(counter.value)
            answer = waiting.popleft().result()
            watch(counter.value)
            yield answer
    except BrokenProcessPool:
        raise DataError(
            "a worker process",
            "was ended from outside, mostly for want of memory",
            hint="try again with VITA_THREADS=1",
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Sum:
    def __init__(self, watch: Tick) -> None:
        self._watch, self._done = watch, 0

    def __call__(self, count: int) -> None:
        self._done += count
        self._watch(self._done)


# -- inside a worker process

_counter: Any = None


def _join(counter: Any) -> None:
    global _counter
    _counter = counter
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches every process; here it needs no traceback
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(work: Callable[[J, Tick], A], job: J) -> A:
    return work(job, _tick)


def _tick(count: int) -> None:
    with _counter.get_lock():
        _counter.value += count
