"""The queue of a replica whose answers another program computes, with the interface of `vita.infer.scheduler`.

    scheduler = RemoteScheduler(engine, program, rows=16, queue=64)
    job = scheduler.submit_all([(GenerationRequest(prompt), listener)])[0]
    job.cancel()

At most `rows` answers are requested from the program at the same time. The requests run in the event loop of a thread.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

from vita.infer.completion import CompletionBuilder
from vita.infer.request import (
    FailedEvent,
    FinishedEvent,
    GenerationRequest,
    Job,
    Listener,
    PromptEvent,
    SchedulerClosed,
    TokenEvent,
    TokenScore,
)
from vita.infer.request_queue import RequestQueue
from vita.server.backends.constrained_answers import ConstrainedAnswer
from vita.server.backends.engine_client import (
    AnswerRequest,
    EngineEnd,
    EngineMisconfigured,
    EngineRefusal,
    EngineToken,
    EngineUnavailable,
)
from vita.server.backends.programs import RunningProgram
from vita.server.backends.remote_engine import RemoteEngine
from vita.spine.errors import ModelError

log = logging.getLogger(__name__)
T = TypeVar("T")
EXIT_SECONDS = 2.0
"""Time in which a replica ends when its program has died; its connections break, and other replicas take over."""
FIRST_PAUSE, MAX_PAUSE = 0.25, 2.0
"""First and longest pause before a request is sent again to an endpoint, in seconds; it doubles each time."""


class RemoteJob(Job):
    """A request that was submitted, and the task that works on it."""

    def __init__(
        self, request: GenerationRequest, builders: list[CompletionBuilder], listener: Listener, *, at: float
    ) -> None:
        super().__init__(request, builders, listener, at=at)
        self.cancel_task: Callable[[], None] = lambda: None

    def cancel(self) -> None:
        super().cancel()
        self.cancel_task()


class RemoteScheduler(RequestQueue):
    """Answers requests with a program; every method may be called from any thread."""

    batch_invariant = False
    """The bits of an answer of another program may depend on other requests."""
    cache_usage = 0.0
    """The program does not state it."""

    def __init__(
        self,
        engine: RemoteEngine,
        program: RunningProgram,
        *,
        rows: int = 16,
        queue: int = 64,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine = engine.with_context(program.context)
        self.program, self.rows, self.queue, self.clock = program, rows, queue, clock
        self.client = program.client
        self.context = self.engine.model.architecture.context
        self._lock = threading.Lock()
        self._seats = self._running = 0
        self._draining = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._free_rows = asyncio.Semaphore(rows)
        self._thread = threading.Thread(target=self._loop.run_forever, name="vita-remote-scheduler", daemon=True)
        self._thread.start()

    # -- for callers

    def submit_all(self, requests: Sequence[tuple[GenerationRequest, Listener]]) -> list[Job]:
        """Queue all requests or none."""
        jobs = [
            RemoteJob(request, self.engine.new_completions(request), listener, at=self.clock())
            for request, listener in requests
        ]
        seats = sum(job.request.seats for job in jobs)
        with self._lock:
            self._check_seats(seats)
            self._seats += seats
        for job in jobs:
            self._loop.call_soon_threadsafe(self._start, job)
        return list(jobs)

    def check_room(self, seats: int) -> None:
        """Raise `QueueFull` or `SchedulerClosed` before any work, where `submit_all` would raise them."""
        with self._lock:
            self._check_seats(seats)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the event loop of the scheduler and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def run_until_closed(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the event loop of the scheduler until it is closed."""
        self._loop.call_soon_threadsafe(self._keep, work)

    async def why_unavailable(self) -> str:
        """Return the reason why the program accepts no requests, "" if it does."""
        probe = asyncio.run_coroutine_threadsafe(self.program.why_unavailable(), self._loop)
        return await asyncio.wrap_future(probe)

    @property
    def running(self) -> int:
        """Number of answers that the program computes."""
        return self._running

    @property
    def in_flight(self) -> int:
        """Number of answers that have not ended."""
        return self._seats

    def drain(self) -> None:
        """Refuse new requests; the accepted requests are answered."""
        with self._lock:
            self._draining = True

    def close(self, *, seconds: float = 10.0) -> None:
        """Stop; requests that are not answered yet fail with `SchedulerClosed`."""
        self.drain()
        try:
            if self._thread.is_alive():
                asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(seconds)
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join(seconds)
                if not self._thread.is_alive():
                    self._loop.close()
        finally:
            self.program.stop()

    # -- the thread

    async def _end(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.client.close()

    def _start(self, job: RemoteJob) -> None:
        task = self._keep(self._answer(job))
        # A task that is cancelled before its first step runs none of its code, so that its end is handled here.
        task.add_done_callback(lambda task: self._end_job(job, task))

        def cancel() -> None:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(task.cancel)

        job.cancel_task = cancel
        if job.cancelled:
            task.cancel()

    def _end_job(self, job: RemoteJob, task: asyncio.Task[None]) -> None:
        """Free the places of a request and report its end: `FinishedEvent` or `FailedEvent`."""
        with self._lock:
            self._seats -= job.request.seats
        now = self.clock()
        if not task.cancelled():
            error = task.exception()
            job.report(FinishedEvent(now) if error is None else FailedEvent(now, _failure(error)))
        elif job.cancelled or not self._draining:
            job.report(FinishedEvent(now, cancelled=True))
        else:
            job.report(FailedEvent(now, SchedulerClosed("the server was shut down")))

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that ends at the latest with the scheduler."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _answer(self, job: RemoteJob) -> None:
        """Compute all answers of a request, or its embedding."""
        job.started = self.clock()
        if not job.builders:
            embedding = await self._retried(lambda: self._embed(job)) if job.request.embedding else None
            job.report(PromptEvent(self.clock(), None, embedding))
            return
        streams = [
            self._retried(partial(self._stream, job, index), builder=builder)
            for index, builder in enumerate(job.builders)
        ]
        tasks = [asyncio.create_task(stream) for stream in streams]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _embed(self, job: RemoteJob) -> tuple[float, ...]:
        return tuple(await self.client.embed(job.request.prompt))

    async def _retried(
        self, work: Callable[[], Coroutine[Any, Any, T]], *, builder: CompletionBuilder | None = None
    ) -> T:
        """Run the requests of one answer; while an endpoint is not available, run them again for `retry_seconds`.

        An answer of which `builder` has tokens is not repeated: another attempt could generate other tokens.
        """
        deadline, pause = self.clock() + self.program.settings.retry_seconds, FIRST_PAUSE
        while True:
            try:
                return await self._within_rows(work)
            except EngineUnavailable as error:
                wait = max(pause, error.retry_after or 0.0)
                if self.clock() + wait > deadline or (builder is not None and builder.ids):
                    raise
            await asyncio.sleep(wait)
            pause = min(2 * pause, MAX_PAUSE)

    async def _within_rows(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run the requests of one answer when a row is free."""
        await self._free_rows.acquire()
        self._running += 1
        try:
            return await (self._checked(work()) if self.program.process is None else self._explained(work()))
        finally:
            self._running -= 1
            self._free_rows.release()

    async def _checked(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a request of an endpoint; an error that may concern all requests is a reason to check the endpoint."""
        try:
            return await work
        except (EngineUnavailable, EngineMisconfigured):
            self.program.is_suspect = True
            raise

    async def _explained(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a request of a program on this machine; raises `SchedulerClosed` if the program is not available."""
        try:
            return await work
        except EngineUnavailable as error:
            await asyncio.sleep(EXIT_SECONDS)
            raise SchedulerClosed(f"the program is not available: {error}") from None
        except EngineRefusal:
            raise
        except ModelError:
            if problem := await self.program.why_unavailable():
                raise SchedulerClosed(f"the program is not available: {problem}") from None
            raise

    async def _stream(self, job: RemoteJob, index: int) -> None:
        """Report the tokens of one answer until it ends."""
        builder, request = job.builders[index], job.request
        async with aclosing(self._tokens(request, builder)) as tokens:
            async for token in tokens:
                if job.num_begun == 0:
                    job.num_begun = 1
                    job.report(PromptEvent(self.clock(), None, None))
                if isinstance(token, EngineEnd):
                    self._report_end(job, index, token)
                    return
                self._check(token.score)
                builder.append(token.score.id, token.score.logprob, data=token.data)
                job.report(TokenEvent(self.clock(), index, token.score, builder.new_text, builder.finish, builder.stop))
                if builder.finish:
                    return
        raise ModelError("backend", "the program ends the answer without a reason")

    def _tokens(
        self, request: GenerationRequest, builder: CompletionBuilder
    ) -> AsyncGenerator[EngineToken | EngineEnd]:
        """Return the tokens of one answer, which follow the grammar of the request if it has one."""
        answer = AnswerRequest.of(request, builder.sampling, limit=builder.remaining)
        if request.constraint is None:
            return self.client.answer(answer)
        vocabulary = self.engine.model.architecture.vocabulary
        return ConstrainedAnswer(self.client, answer, request.constraint.copy(), vocabulary=vocabulary).tokens()

    def _report_end(self, job: RemoteJob, index: int, end: EngineEnd) -> None:
        """Report an end that no token states: the program does not return the token that ended the answer."""
        builder = job.builders[index]
        builder.append(self.engine.tokenizer.end_of_turn, float("nan"), data=b"")
        score = TokenScore(self.engine.tokenizer.end_of_turn, float("nan"))
        job.report(TokenEvent(self.clock(), index, score, builder.new_text, end.finish, builder.stop))

    def _check(self, score: TokenScore) -> None:
        for token in (score.id, *(candidate for candidate, _ in score.top)):
            if not 0 <= token < self.engine.model.architecture.vocabulary:
                raise ModelError("backend", f"the program returns the token id {token}, which the model does not have")


def _failure(error: BaseException) -> Exception:
    """Return the error of a task that its client sees."""
    return error if isinstance(error, Exception) else SchedulerClosed(f"the work ended with {type(error).__name__}")
