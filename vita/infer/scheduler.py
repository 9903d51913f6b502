"""Continuous batching for a server: requests join and leave between two steps, in a thread of their own.

    scheduler = Scheduler(engine, rows=16, queue=64)
    request = GenerationRequest(prompt, Sampling(seed=7), answers=2)
    job = scheduler.submit(request, listener)    # PromptEvent, TokenEvent, FinishedEvent or FailedEvent
    job.cancel()

The scheduler holds the queue, its limits and the thread; `vita.infer.batch` computes, and states the guarantee that an
answer does not depend on the other requests.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence

import torch

from vita.infer.batch import GenerationBatch
from vita.infer.batch_adapters import BatchAdapter
from vita.infer.batch_invariance import decoding_widths
from vita.infer.drafts import Drafter
from vita.infer.engine import Engine
from vita.infer.fair_queue import FairQueue
from vita.infer.prefix_cache import PrefixCache, block_length
from vita.infer.prompts import PromptReader
from vita.infer.request import (
    FailedEvent,
    FinishedEvent,
    GenerationRequest,
    Job,
    Listener,
    QueueFull,
    SchedulerClosed,
)
from vita.infer.request_queue import GenerationQueue
from vita.nn.transformer import Transformer

log = logging.getLogger(__name__)

STEP_TOKENS = 512
"""Tokens of prompts that are read between two steps, so that a long prompt does not delay the other answers much."""


class Scheduler(GenerationQueue):
    """Answers requests with one engine; every method may be called from any thread."""

    def __init__(
        self,
        engine: Engine,
        *,
        rows: int = 16,
        queue: int = 64,
        queue_tokens: int | None = None,
        prefix_bytes: int = 0,
        drafter: Drafter | None = None,
        batch_invariance: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`rows` answers advance together; `queue` more may wait, with `queue_tokens` tokens of prompts.

        `prefix_bytes` is the memory for keys and values of the beginnings of prompts. A `drafter` saves steps.
        Without `batch_invariance`, steps compute no padding, and the last bits of answers depend on other requests.
        """
        self.widths = decoding_widths(engine.model, rows, invariant=batch_invariance)
        self.engine, self.rows, self.queue, self.clock = engine, self.widths.most_rows(rows), queue, clock
        self.model = engine.model
        """The model that computes the batch: that of the engine, or a copy with adapters that shares its weights."""
        self.prefixes = PrefixCache(prefix_bytes, length=block_length(engine.device))
        self.drafter = drafter
        self._reader = PromptReader(engine.model, self.prefixes, invariant=batch_invariance)
        self.context = engine.model.architecture.context
        self.queue_tokens = queue_tokens or max(queue, 2) * self.context // 2
        self._waiting = FairQueue()
        self._abandoned: deque[tuple[Job, Exception]] = deque()
        self._change = threading.Condition()
        self._seats = 0
        self._closed = self._draining = False
        self._reset()
        self._thread = threading.Thread(target=self._work, name="vita-scheduler", daemon=True)
        self._thread.start()

    # -- for callers

    def submit_all(self, requests: Sequence[tuple[GenerationRequest, Listener]]) -> list[Job]:
        """Queue all requests or none."""
        jobs = [
            Job(request, self.engine.new_completions(request), listener, at=self.clock())
            for request, listener in requests
        ]
        self.submit_jobs(jobs)
        return jobs

    def submit_jobs(self, jobs: Sequence[Job]) -> None:
        """Queue all jobs or none; their prompts were checked when their builders were created."""
        seats = sum(job.request.seats for job in jobs)
        with self._change:
            self._check_room(seats, sum(len(job.request.prompt) for job in jobs))
            self._waiting.extend(jobs)
            self._seats += seats
            self._change.notify()

    def compute_with(self, model: Transformer) -> None:
        """Compute the next steps with a copy of the model that shares its weights and has adapters."""
        self.model = self._reader.model = self._batch.model = model

    def abandon(self, jobs: Iterable[Job], error: Exception) -> None:
        """Let jobs fail before the next step."""
        with self._change:
            self._abandoned.extend((job, error) for job in jobs)
            self._change.notify()

    def forget(self, adapter: BatchAdapter) -> None:
        """Forget an adapter that gets no more requests."""
        with self._change:
            self._waiting.forget(adapter)

    def num_running(self, adapter: BatchAdapter | None) -> int:
        """Return the number of answers of an adapter that are being generated."""
        return sum(answer.job.adapter is adapter for answer in list(self._batch.answers.values()))

    def check_room(self, seats: int) -> None:
        """Raise `QueueFull` or `SchedulerClosed` before any work, where `submit` would raise them."""
        with self._change:
            self._check_room(seats, 0)

    @property
    def batch_invariant(self) -> bool:
        """Return True if the bits of an answer are independent of the other requests, as measured."""
        return self.widths.invariant

    @property
    def verifies_drafts(self) -> bool:
        """Return True if drafts of the drafter are verified, which is possible without changing bits of answers."""
        return self._batch.verifies_drafts

    @property
    def running(self) -> int:
        """Number of answers that are being generated."""
        return len(self._batch.answers)

    @property
    def in_flight(self) -> int:
        """Number of answers that have not ended."""
        return self._seats

    @property
    def cache_usage(self) -> float:
        """Used share of the KV cache, from 0 to 1."""
        return sum(self._batch.cache.lengths.copy().values()) / (self.rows * self.context)

    def drain(self) -> None:
        """Refuse new requests; the accepted requests are answered."""
        with self._change:
            self._draining = True

    def close(self, *, seconds: float = 10.0) -> None:
        """Stop; requests that are not answered yet fail with `SchedulerClosed`."""
        with self._change:
            self._closed = self._draining = True
            self._change.notify()
        self._thread.join(seconds)

    def _check_room(self, seats: int, tokens: int) -> None:
        self._check_seats(seats)
        waiting_tokens = sum(len(job.request.prompt) for job in self._waiting)
        if waiting_tokens and waiting_tokens + tokens > self.queue_tokens:
            message = f"{waiting_tokens} tokens of prompts are waiting, of at most {self.queue_tokens}"
            raise QueueFull("tokens", message)

    # -- the thread

    @torch.inference_mode()
    def _work(self) -> None:
        try:
            while self._wait_for_work():
                try:
                    self._advance()
                except Exception as error:
                    log.exception("a step failed; its requests fail")
                    jobs = self._batch.jobs
                    self._reset()
                    for job in jobs:
                        self._batch.end(job, FailedEvent(self.clock(), error))
        finally:  # after any end of the thread, no caller waits
            with self._change:
                self._closed = self._draining = True
                jobs = [*self._waiting, *self._batch.jobs]
            for job in jobs:
                job.report(FailedEvent(self.clock(), SchedulerClosed("the server was shut down")))

    def _wait_for_work(self) -> bool:
        """Return True when there is work, False when the scheduler is closed."""
        with self._change:
            while not (self._closed or self._waiting or self._abandoned or self._batch.busy):
                self._change.wait()
            return not self._closed

    def _reset(self) -> None:
        self._batch = GenerationBatch(
            self.model,
            rows=self.rows,
            widths=self.widths,
            tokens=self.engine.tokenizer.vocabulary,
            reader=self._reader,
            drafter=self.drafter,
            clock=self.clock,
            release=self._release,
        )

    def _advance(self) -> None:
        self._drop_cancelled()
        self._batch.admit(self._next_job, tokens=STEP_TOKENS, other_job=self._other_job)
        self._batch.step()

    def _drop_cancelled(self) -> None:
        with self._change:
            cancelled = self._waiting.remove(lambda job: job.cancelled)
            abandoned = dict(self._abandoned)
            self._abandoned.clear()
            self._waiting.remove(lambda job: job in abandoned)
        for job in cancelled:
            self._batch.end(job, FinishedEvent(self.clock(), cancelled=True))
        for job, error in abandoned.items():
            self._batch.end(job, FailedEvent(self.clock(), error))
        self._batch.drop_cancelled()

    def _next_job(self) -> Job | None:
        with self._change:
            return self._waiting.pop()

    def _other_job(self, adapters: Container[BatchAdapter | None]) -> Job | None:
        with self._change:
            return self._waiting.pop(without=adapters)

    def _release(self, answers: int) -> None:
        with self._change:
            self._seats -= answers
