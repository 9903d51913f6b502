"""Batching of concurrent requests to a model that reads whole texts, in a thread of its own.

    scheduler = TextScheduler(TextModel.open(folder), rows=32, queue=64)
    futures = scheduler.submit([TextRequest(encoded, "embedding")])
    futures[0].result()

The texts that wait are computed together, in the order of their arrival, up to a number of rows and of tokens with
padding. The last bits of a result depend on the other texts of its batch.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from torch import Tensor

from vita.infer.request import SchedulerClosed
from vita.infer.request_queue import RequestQueue
from vita.infer.text_model import Task, TextModel, TextRequest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Job:
    """A text that waits for its result."""

    request: TextRequest
    arrived: float
    result: Future[Tensor] = field(default_factory=Future)


class TextScheduler(RequestQueue):
    """Computes texts with one model; every method may be called from any thread."""

    unit = "texts"
    batch_invariant = False
    """The last bits of a result depend on the other texts of its batch."""
    cache_usage = 0.0
    """There is no KV cache."""

    def __init__(
        self,
        model: TextModel,
        *,
        rows: int = 32,
        queue: int = 64,
        clock: Callable[[], float] = time.monotonic,
        on_start: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """At most `rows` texts are computed together, and `queue` more may wait.

        `on_start` is called with the seconds that a text has waited.
        """
        self.engine, self.rows, self.queue, self._clock, self.on_start = model, rows, queue, clock, on_start
        self.context = model.max_tokens
        self._waiting: deque[_Job] = deque()
        self._change = threading.Condition(threading.RLock())
        self._running = 0
        self._closed = self._draining = False
        self._thread = threading.Thread(target=self._work, name="vita-text-scheduler", daemon=True)
        self._thread.start()

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of the model."""
        return self.engine.tasks

    def submit(self, requests: Sequence[TextRequest]) -> list[Future[Tensor]]:
        """Queue all texts or none; raise `QueueFull` or `SchedulerClosed`."""
        jobs = [_Job(request, self._clock()) for request in requests]
        with self._change:
            self._check_room(len(jobs))
            self._waiting.extend(jobs)
            self._change.notify()
        return [job.result for job in jobs]

    def check_room(self, seats: int) -> None:
        """Raise `QueueFull` or `SchedulerClosed` before any work, where `submit` would raise them."""
        with self._change:
            self._check_room(seats)

    @property
    def running(self) -> int:
        """Number of texts that are being computed."""
        return self._running

    @property
    def in_flight(self) -> int:
        """Number of texts without a result."""
        return self._running + len(self._waiting)

    def drain(self) -> None:
        """Refuse new requests; the accepted requests are answered."""
        with self._change:
            self._draining = True

    def close(self, *, seconds: float = 10.0) -> None:
        """Stop; texts that are not computed yet fail with `SchedulerClosed`."""
        with self._change:
            self._closed = self._draining = True
            self._change.notify()
        self._thread.join(seconds)

    def _check_room(self, seats: int) -> None:
        # A request with more texts than places is accepted if no other is in progress.
        self._check_seats(seats if self.in_flight else 0)

    # -- the thread

    def _work(self) -> None:
        try:
            while self._wait_for_work():
                if batch := self._next_batch():
                    self._compute(batch)
        finally:  # after any end of the thread, no caller waits
            with self._change:
                self._closed = self._draining = True
                waiting, self._waiting = list(self._waiting), deque()
            for job in waiting:
                if job.result.set_running_or_notify_cancel():
                    job.result.set_exception(SchedulerClosed("the server was shut down"))

    def _wait_for_work(self) -> bool:
        """Return True when there is work, False when the scheduler is closed."""
        with self._change:
            while not (self._closed or self._waiting):
                self._change.wait()
            return not self._closed

    def _next_batch(self) -> list[_Job]:
        """Return the texts of the next pass, without those that were cancelled."""
        batch: list[_Job] = []
        longest = 0
        with self._change:
            while self._waiting and len(batch) < self.rows:
                longest = max(longest, len(self._waiting[0].request.text.ids))
                if batch and longest * (len(batch) + 1) > self.engine.tokens_at_once:
                    break
                job = self._waiting.popleft()
                if job.result.set_running_or_notify_cancel():
                    batch.append(job)
            self._running = len(batch)
        return batch

    def _compute(self, batch: Sequence[_Job]) -> None:
        try:
            for job in batch:
                self.on_start(self._clock() - job.arrived)
            results = self.engine.compute_batch([job.request for job in batch])
        except Exception as error:
            log.exception("a batch of texts failed; its requests fail")
            for job in batch:
                job.result.set_exception(error)
        else:
            for job, result in zip(batch, results, strict=True):
                job.result.set_result(result)
        finally:
            with self._change:
                self._running = 0
