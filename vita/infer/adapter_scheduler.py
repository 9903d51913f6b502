"""The requests of one adapter, which are computed in the batch of its base model.

    scheduler = Scheduler(engine)
    sharing = AdapterBatches(scheduler)
    adapter = sharing.add(adapter_engine, salt=digest, rows=16, queue=64)     # None if it needs a batch of its own
    adapter.submit(request, listener)                                        # as `Scheduler.submit`
    adapter.close()

Rows of all adapters and of the base advance in the same steps, over one KV cache. The limits of the adapter and those
of the scheduler apply both. The guarantee of `vita.infer.batch` holds: the bits of an answer do not depend on the other
requests, whatever their adapters are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from vita.infer.batch_adapters import BatchAdapter
from vita.infer.batch_invariance import MEASURED_LAYERS, decoding_widths
from vita.infer.engine import Engine
from vita.infer.prompts import PromptReader
from vita.infer.request import (
    GenerationRequest,
    Job,
    Listener,
    SchedulerClosed,
)
from vita.infer.request_queue import GenerationQueue
from vita.infer.scheduler import Scheduler
from vita.nn.adapters.batched import BatchedAdapters, computes_by_row, measured_layers

POLL_SECONDS = 0.005
"""Time between two looks at the requests of an adapter that is closed."""


class AdapterBatches:
    """The adapters that share the batch of one scheduler; used by one thread at a time."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._batched: BatchedAdapters | None = None
        self._last_index = 0

    def add(
        self, engine: Engine, *, salt: bytes, rows: int, queue: int, has_prefixes: bool = True
    ) -> AdapterScheduler | None:
        """Return the queue of an adapter; None if its answers cannot be computed in the batch of the base.

        The model of `engine` is a copy of the model of the scheduler with the adapter, which shares its frozen weights.
        """
        scheduler = self.scheduler
        if not _fits(scheduler.engine, engine):
            return None
        if self._batched is None:
            self._batched = BatchedAdapters(scheduler.engine.model)
            scheduler.compute_with(self._batched.model)
        self._last_index += 1
        index, batched = self._last_index, self._batched
        batched.add(index, engine.model)
        layers = measured_layers(batched.base, engine.model, least=MEASURED_LAYERS)
        required = scheduler.widths.required
        step_widths = decoding_widths(batched.model, scheduler.rows, adapter=index, layers=layers, invariant=required)
        pack_widths = PromptReader(batched.model, adapter=index, layers=layers, invariant=required).widths
        if scheduler.widths.invariant and not step_widths.invariant:
            batched.remove(index)
            return None
        adapter = BatchAdapter(index, step_widths, pack_widths, salt, has_prefixes)
        return AdapterScheduler(scheduler, batched, engine, adapter, rows=rows, queue=queue)


def _fits(base: Engine, adapted: Engine) -> bool:
    """Return True if the rows of an adapter can be computed together with those of its base."""
    return base.tokenizer.vocabulary == adapted.tokenizer.vocabulary and computes_by_row(base.model, adapted.model)


class AdapterScheduler(GenerationQueue):
    """The requests of one adapter, with the interface of a `Scheduler`."""

    def __init__(
        self,
        scheduler: Scheduler,
        batched: BatchedAdapters,
        engine: Engine,
        adapter: BatchAdapter,
        *,
        rows: int,
        queue: int,
    ) -> None:
        """At most `rows` + `queue` answers of the adapter may wait or be computed."""
        self.engine, self.adapter = engine, adapter
        self.rows, self.queue = min(rows, scheduler.rows), queue
        self.context, self.prefixes = scheduler.context, scheduler.prefixes
        self._scheduler, self._batched = scheduler, batched
        self._thread = scheduler._thread
        self._jobs: list[Job] = []
        self._change = threading.Lock()
        self._draining = False

    @property
    def draining(self) -> bool:
        """Return True if new requests are refused."""
        return self._draining or self._scheduler.draining

    @property
    def batch_invariant(self) -> bool:
        """Return True if the bits of an answer are independent of the other requests, as measured."""
        return self._scheduler.batch_invariant and self.adapter.step_widths.invariant

    @property
    def capacity(self) -> int:
        """Return the maximum number of answers that are computed or wait at the same time."""
        return min(self.rows + self.queue, self._scheduler.capacity)

    @property
    def running(self) -> int:
        """Number of answers of the adapter that are being generated."""
        return self._scheduler.num_running(self.adapter)

    @property
    def in_flight(self) -> int:
        """Number of answers of the adapter that have not ended."""
        return sum(max(1, job.num_unfinished) for job in list(self._jobs) if not job.over)

    @property
    def cache_usage(self) -> float:
        """Used share of the KV cache, which all adapters share, from 0 to 1."""
        return self._scheduler.cache_usage

    def submit_all(self, requests: Sequence[tuple[GenerationRequest, Listener]]) -> list[Job]:
        """Queue all requests or none."""
        scheduler = self._scheduler
        jobs = [
            Job(
                request,
                self.engine.new_completions(request),
                listener,
                at=scheduler.clock(),
                adapter=self.adapter,
            )
            for request, listener in requests
        ]
        with self._change:
            self._check_seats(sum(job.request.seats for job in jobs))
            scheduler.submit_jobs(jobs)
            self._jobs = [*(job for job in self._jobs if not job.over), *jobs]
        return jobs

    def check_room(self, seats: int) -> None:
        """Raise `QueueFull` or `SchedulerClosed` before any work, where `submit` would raise them."""
        self._check_seats(seats)
        self._scheduler.check_room(seats)

    def drain(self) -> None:
        """Refuse new requests; the accepted requests are answered."""
        self._draining = True

    def close(self, *, seconds: float = 10.0) -> None:
        """Remove the adapter from the batch; its requests that are not answered yet fail with `SchedulerClosed`."""
        self._draining = True
        deadline = time.monotonic() + seconds
        unfinished = [job for job in self._jobs if not job.over]
        if unfinished:
            self._scheduler.abandon(unfinished, SchedulerClosed("the adapter was removed"))
        while self._scheduler.alive and self.in_flight and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        if not self.in_flight:
            self._batched.remove(self.adapter.index)
            self._scheduler.forget(self.adapter)
