"""The waiting requests of a batch, in an order that is fair to its adapters.

The next request is the oldest one of the adapter (or base) whose last request began longest ago, so that many requests
to one adapter do not delay those to another one. Without adapters the order is that of arrival.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator

from vita.infer.batch_adapters import BatchAdapter
from vita.infer.request import Job


class FairQueue:
    """Waiting jobs; not safe for several threads."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._last_turn: dict[BatchAdapter | None, int] = {}
        self._turn = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs)

    def extend(self, jobs: Iterable[Job]) -> None:
        """Append jobs."""
        self._jobs.extend(jobs)

    def pop(self, *, without: Container[BatchAdapter | None] = ()) -> Job | None:
        """Remove and return the next job whose adapter is not in `without`; None if no such job waits."""
        indices = [index for index, job in enumerate(self._jobs) if job.adapter not in without]
        if not indices:
            return None
        index = min(indices, key=lambda index: self._last_turn.get(self._jobs[index].adapter, 0))
        job = self._jobs.pop(index)
        self._turn += 1
        self._last_turn[job.adapter] = self._turn
        return job

    def remove(self, condition: Callable[[Job], bool]) -> list[Job]:
        """Remove and return the jobs that meet a condition."""
        removed = [job for job in self._jobs if condition(job)]
        self._jobs = [job for job in self._jobs if not condition(job)]
        return removed

    def forget(self, adapter: BatchAdapter) -> None:
        """Forget the last turn of an adapter that gets no more requests."""
        self._last_turn.pop(adapter, None)
