"""A pool of worker processes that yields results in the order of the jobs.

    with WorkerPool(workers=8) as pool:
        for result in pool.in_order(work, jobs, watch=print): ...

The workers exit when the parent process ends, even if it was killed, so that no worker continues to write files.
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
from typing import Any, Protocol, TypeVar

from vita.spine.errors import DataError
from vita.spine.garbage_collection import collect_rarely

J = TypeVar("J")
A = TypeVar("A")

Tick = Callable[[int], None]
"""Called by a job with the number of items processed since the last call."""

_PAUSE_SECONDS = 0.1
_PRELOADED_MODULES = ["vita.cli", "vita.data.curation.passes"]


class Pool(Protocol):
    """A pool that runs jobs and yields their results in the order of the jobs."""

    def in_order(self, work: Callable[[J, Tick], A], jobs: Sequence[J], *, watch: Tick) -> Iterator[A]: ...


class WorkerPool:
    """A pool of processes that run jobs; with one worker, jobs run in this process."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._counter: Any = None

    def __enter__(self) -> WorkerPool:
        if self.workers > 1:
            # A fork of this process would copy the locks of other threads. The fork server has one thread, and imports
            # the modules of the jobs once for all workers.
            server = multiprocessing.get_context("forkserver")
            server.set_forkserver_preload(_PRELOADED_MODULES)
            self._counter = server.Value("q", 0)
            self._pool = ProcessPoolExecutor(
                self.workers, mp_context=server, initializer=_initialize_worker, initargs=(self._counter,)
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def in_order(self, work: Callable[[J, Tick], A], jobs: Sequence[J], *, watch: Tick) -> Iterator[A]:
        """Yield `work(job, tick)` for every job; `watch` receives the total number of processed items meanwhile."""
        if self._pool is None:
            progress = _Sum(watch)
            yield from (work(job, progress) for job in jobs)
            return
        start_count = self._counter.value
        futures: deque[Future[A]] = deque()
        remaining = iter(jobs)
        try:
            while True:
                # A short queue keeps all workers busy and limits the number of finished results in memory.
                while len(futures) < 2 * self.workers and (job := next(remaining, None)) is not None:
                    futures.append(self._pool.submit(_run_job, work, job))
                if not futures:
                    return
                while not futures[0].done():
                    time.sleep(_PAUSE_SECONDS)
                    watch(self._counter.value - start_count)
                yield futures.popleft().result()
        except BrokenProcessPool:
            problem = "was killed, most likely because memory ran out"
            raise DataError("a worker process", problem, hint="try again with VITA_THREADS=1") from None


class _Sum:
    def __init__(self, watch: Tick) -> None:
        self._watch, self._done = watch, 0

    def __call__(self, count: int) -> None:
        self._done += count
        self._watch(self._done)


# -- inside a worker process

_counter: Any = None


def _initialize_worker(counter: Any) -> None:
    global _counter
    _counter = counter
    collect_rarely()
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the process group: exit without a traceback
        signal.signal(number, signal.SIG_DFL)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_job(work: Callable[[J, Tick], A], job: J) -> A:
    return work(job, _tick)


def _tick(count: int) -> None:
    with _counter.get_lock():
        _counter.value += count
