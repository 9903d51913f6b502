"""Jobs in several processes, their answers in the order of the jobs.

    with Crew(workers=8) as crew:
        for answer in crew.in_order(work, jobs, watch=print): ...

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

_PAUSE_SECONDS = 0.1


class Crew:
    """Processes that work off jobs; one worker is this process itself."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._counter: Any = None

    def __enter__(self) -> Crew:
        if self.workers > 1:
            spawn = multiprocessing.get_context("spawn")  # a fork would copy the locks of other threads
            self._counter = spawn.Value("q", 0)
            self._pool = ProcessPoolExecutor(
                self.workers, mp_context=spawn, initializer=_join, initargs=(self._counter,)
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def in_order(self, work: Callable[[J, Tick], A], jobs: Sequence[J], *, watch: Tick) -> Iterator[A]:
        """`work(job, tick)` of every job; `watch` hears how many things are done in all, while it goes on."""
        if self._pool is None:
            done = _Sum(watch)
            yield from (work(job, done) for job in jobs)
            return
        before = self._counter.value
        waiting: deque[Future[A]] = deque()
        left = iter(jobs)
        try:
            while True:
                # A few jobs ahead keep everyone busy, and no more answers than that wait for their turn.
                while len(waiting) < 2 * self.workers and (job := next(left, None)) is not None:
                    waiting.append(self._pool.submit(_work, work, job))
                if not waiting:
                    return
                while not waiting[0].done():
                    time.sleep(_PAUSE_SECONDS)
                    watch(self._counter.value - before)
                yield waiting.popleft().result()
        except BrokenProcessPool:
            problem = "was ended from outside, most likely for want of memory"
            raise DataError("a worker process", problem, hint="try again with VITA_THREADS=1") from None


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
    for number in (signal.SIGINT, signal.SIGTERM):  # a signal to the group reaches every process; no traceback here
        signal.signal(number, signal.SIG_DFL)
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
