"""The state of a queue of requests that a thread of its own computes: what its callers read, and when it is full."""

from __future__ import annotations

import queue as queues
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence

from vita.infer.request import (
    Event,
    FailedEvent,
    FinishedEvent,
    GenerationRequest,
    Job,
    Listener,
    QueueFull,
    SchedulerClosed,
)


class RequestQueue(ABC):
    """A queue with `rows` places that are computed together and `queue` places that wait."""

    rows: int
    queue: int
    unit = "answers"
    """Name of what takes a place, in messages."""
    _thread: threading.Thread
    _draining: bool

    @property
    def capacity(self) -> int:
        """Return the maximum number of places that can be taken at the same time."""
        return self.rows + self.queue

    @property
    def alive(self) -> bool:
        """Return True if the thread is running."""
        return self._thread.is_alive()

    @property
    def draining(self) -> bool:
        """Return True if new requests are refused."""
        return self._draining

    @property
    @abstractmethod
    def running(self) -> int:
        """Number of places that are being computed."""

    @property
    @abstractmethod
    def in_flight(self) -> int:
        """Number of places that have no result."""

    @property
    def waiting(self) -> int:
        """Number of places whose computation has not begun."""
        return max(0, self.in_flight - self.running)

    def _check_seats(self, seats: int) -> None:
        """Raise `SchedulerClosed` while draining, and `QueueFull` if fewer than `seats` places are free."""
        if self._draining:
            raise SchedulerClosed("the server is shutting down")
        if self.in_flight + seats > self.capacity:
            message = f"{self.in_flight} {self.unit} are computed or waiting, of at most {self.capacity}"
            raise QueueFull("requests", message)


class GenerationQueue(RequestQueue):
    """A queue of generation requests."""

    @abstractmethod
    def submit_all(self, requests: Sequence[tuple[GenerationRequest, Listener]]) -> list[Job]:
        """Queue all requests or none."""

    def submit(self, request: GenerationRequest, listener: Listener) -> Job:
        """Queue a request; another thread calls `listener`.

        Raises `QueueFull`, `SchedulerClosed` or a `DataError`.
        """
        return self.submit_all([(request, listener)])[0]

    def answer(self, request: GenerationRequest) -> list[Event]:
        """Submit a request, wait, and return all its events; a failure is raised."""
        queue: queues.SimpleQueue[Event] = queues.SimpleQueue()
        self.submit(request, queue.put)
        events: list[Event] = []
        while not events or not isinstance(events[-1], (FinishedEvent, FailedEvent)):
            events.append(queue.get())
        if isinstance(events[-1], FailedEvent):
            raise events[-1].error
        return events
