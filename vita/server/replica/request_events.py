"""The events of a request: from the scheduler to the response, with its metrics and the disconnect of its client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress

from starlette.types import Message

from vita.infer.request import (
    Event,
    FailedEvent,
    FinishedEvent,
    GenerationRequest,
    Job,
    PromptEvent,
    QueueFull,
    SchedulerClosed,
    TokenEvent,
)
from vita.infer.scheduler import Scheduler
from vita.infer.schema_keywords import GrammarError
from vita.server.backends.engine_client import EngineRefusal, EngineUnavailable, PromptTooLong
from vita.server.errors import (
    ApiError,
    ClientLeft,
    backend_unavailable,
    internal,
    invalid,
    too_busy,
    unavailable,
)
from vita.server.replica.metrics import Metrics
from vita.spine.errors import DataError


class RequestEvents:
    """The events of the prompts of one request, until the last prompt has finished or the client disconnects."""

    def __init__(self, scheduler: Scheduler, metrics: Metrics, receive: Callable[[], Awaitable[Message]]) -> None:
        self._scheduler, self._metrics, self._receive = scheduler, metrics, receive
        self._arrivals: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._jobs: list[Job] = []
        self._finished: set[int] = set()
        self._last: dict[tuple[int, int], tuple[float, int]] = {}
        self.reused_tokens = 0
        """Tokens of the prompts that were read for earlier requests."""

    def begin(self, asks: Sequence[GenerationRequest]) -> None:
        """Submit all requests or none; raises the `ApiError` to return."""
        loop = asyncio.get_running_loop()

        def listener(index: int) -> Callable[[Event], None]:
            def put(event: Event) -> None:
                with suppress(RuntimeError):  # the event loop is closed, so there is no listener
                    loop.call_soon_threadsafe(self._arrivals.put_nowait, (index, event))

            return put

        try:
            self._jobs = self._scheduler.submit_all([(ask, listener(index)) for index, ask in enumerate(asks)])
        except (QueueFull, SchedulerClosed) as error:
            raise refusal(error, self._metrics) from None
        except DataError as error:
            raise invalid(str(error)) from None
        for ask in asks:
            self._metrics.add("prompt_tokens", len(ask.prompt))
            self._metrics.observe("request_prompt_tokens", len(ask.prompt))

    async def events(self) -> AsyncGenerator[tuple[int, Event]]:
        """Yield the index of a prompt and its event; cancels the work when the consumer or the client stops."""
        watch = asyncio.create_task(self._watch_client())
        remaining, end = len(self._jobs), "cancelled"
        try:
            while remaining:
                index, event = await self._arrivals.get()
                self._observe(index, event)
                if isinstance(event, FailedEvent):
                    end = "error"
                    raise _fault(event)
                if isinstance(event, FinishedEvent):
                    if event.cancelled and index not in self._finished:
                        raise ClientLeft
                    remaining -= 1
                    continue
                yield index, event
        finally:
            watch.cancel()
            if remaining:
                self.cancel()
                self._metrics.add("request_finished", remaining, label=end)
                self._metrics.add("requests_cancelled", int(end == "cancelled"))

    def cancel(self) -> None:
        """Cancel the work on all prompts."""
        for job in self._jobs:
            job.cancel()

    def finish_prompt(self, index: int) -> None:
        """Cancel the work on one prompt whose remaining events are not needed."""
        self._finished.add(index)
        self._jobs[index].cancel()

    async def _watch_client(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.cancel()

    def _observe(self, index: int, event: Event) -> None:
        """Update the metrics with an event."""
        metrics, job = self._metrics, self._jobs[index]
        if isinstance(event, PromptEvent) and job.started is not None:
            metrics.observe("request_queue_time_seconds", job.started - job.arrived)
            metrics.add("prefix_cache_queries", len(job.request.prompt))
            metrics.add("prefix_cache_hits", event.reused_tokens)
            self.reused_tokens += event.reused_tokens
        elif isinstance(event, TokenEvent):
            metrics.add("generation_tokens")
            previous, count = self._last.get((index, event.answer), (None, 0))
            if previous is None:
                metrics.observe("time_to_first_token_seconds", event.at - job.arrived)
            else:
                metrics.observe("inter_token_latency_seconds", event.at - previous)
            self._last[index, event.answer] = event.at, count + 1
            if event.finish:
                metrics.observe("request_generation_tokens", count + 1)
                metrics.observe("e2e_request_latency_seconds", event.at - job.arrived)
        elif isinstance(event, (FinishedEvent, FailedEvent)):
            metrics.add("draft_tokens", job.num_drafted)
            metrics.add("draft_tokens_accepted", job.num_accepted)


def refusal(error: QueueFull | SchedulerClosed, metrics: Metrics) -> ApiError:
    """Create the error for a request that the scheduler refuses."""
    if isinstance(error, QueueFull):
        metrics.add("admission_rejections", label=error.reason)
        return too_busy(f"The server is busy: {error}")
    metrics.add("admission_rejections", label="draining")
    return unavailable("The server is shutting down and accepts no new requests", code="draining")


def _fault(event: FailedEvent) -> ApiError:
    if isinstance(event.error, EngineUnavailable):
        return backend_unavailable(str(event.error), retry_after=event.error.retry_after)
    if isinstance(event.error, SchedulerClosed):
        return unavailable(f"The request could not be finished: {event.error}", code="draining")
    if isinstance(event.error, QueueFull):
        return too_busy(f"The server is busy: {event.error}")
    if isinstance(event.error, GrammarError):
        field = event.error.where
        return invalid(f"Invalid `{field}`: {event.error.problem}", field, code="unsupported_grammar")
    if isinstance(event.error, PromptTooLong):
        return invalid(str(event.error), code="context_length_exceeded")
    if isinstance(event.error, EngineRefusal):
        return invalid(f"The backend of the model refuses the request ({event.error})")
    return internal(f"The completion could not be computed ({event.error})")
