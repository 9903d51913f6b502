"""Computes the requests of batches at low priority, as requests of the key that created the batch.

    runner = BatchRunner(batches, files, gateway, in_flight=8)
    runner.start(); ...; await runner.close()

A request starts only while fewer than `in_flight` requests of the service are in progress, those of clients included:
clients never wait for more than these. Capacity and rate limits delay a request of a batch; other errors are results.
When the service drains, the requests in progress finish, and the next start of the service continues the batch.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from vita.server.batches.batch import BatchStore, RequestBatch, file_purpose
from vita.server.batches.batch_input import BatchItem, check_input, read_requests
from vita.server.batches.batch_results import EXPIRED, ResultWriter
from vita.server.batches.stored_files import FileStore

log = logging.getLogger(__name__)
POLL_SECONDS = 0.02
LONGEST_PAUSE = 30.0
BUSY = (429, 503)
"""Statuses of a request that was refused before any computation; it is repeated until the batch expires."""
FAULTS = (500, 502, 504)
"""Statuses of a failure of the service; the request is repeated `FAULTS_ALLOWED` times."""
FAULTS_ALLOWED = 2


@dataclass(frozen=True)
class BatchResponse:
    """The response to a request of a batch."""

    status: int
    request_id: str
    content: bytes
    retry_after: float = 1.0


class BatchGateway(Protocol):
    """The parts of the gateway that compute requests of batches."""

    @property
    def draining(self) -> bool:
        """True when the service stops."""
        ...

    @property
    def in_flight(self) -> int:
        """Number of requests in progress."""
        ...

    async def answer(self, endpoint: str, body: bytes, *, owner: str) -> BatchResponse | None:
        """Answer a request of the owner's key; None if the key is no longer valid."""
        ...


class BatchRunner:
    """Runs the batches of one service, each in its own task."""

    def __init__(
        self, batches: BatchStore, files: FileStore, gateway: BatchGateway, *, in_flight: int, max_requests: int
    ) -> None:
        self._batches, self._files, self._gateway = batches, files, gateway
        self._limit, self._max_requests = in_flight, max_requests
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._running = 0
        self._turn = asyncio.Lock()

    def start(self) -> None:
        """Continue the batches that have not ended."""
        for batch in reversed(self._batches.all(owner=None)):
            if not batch.ended:
                self.submit(batch)

    def submit(self, batch: RequestBatch) -> None:
        """Begin to run a batch."""
        task = self._tasks[batch.id] = asyncio.create_task(self._run(batch))
        task.add_done_callback(lambda _: self._tasks.pop(batch.id, None))

    async def close(self) -> None:
        """Stop all batches; their states are stored."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, batch: RequestBatch) -> None:
        try:
            file = self._files.find(batch.input_file_id, owner=None)
            if file is None:
                self._fail(batch, [_problem("file_not_found", "The input file does not exist any more")])
                return
            path = self._files.path(file)
            if batch.status == "validating" and not await self._validate(batch, path):
                return
            await self._compute(batch, path)
        except Exception:
            log.exception("batch %s failed", batch.id)
            self._fail(batch, [_problem("internal_error", "The batch failed; the log of the server names it")])

    async def _validate(self, batch: RequestBatch, path: Path) -> bool:
        """Check the input; returns False for a batch that has failed."""
        summary = await asyncio.to_thread(check_input, path, batch.endpoint, max_requests=self._max_requests)
        batch.total, batch.model = summary.total, summary.model
        if summary.errors:
            self._fail(batch, summary.errors)
            return False
        if batch.status == "validating":
            batch.enter("in_progress", self._batches.clock())
        self._batches.save(batch)
        return True

    def _fail(self, batch: RequestBatch, errors: list[dict[str, object]]) -> None:
        batch.errors = errors
        batch.enter("failed", self._batches.clock())
        self._batches.save(batch)

    async def _compute(self, batch: RequestBatch, path: Path) -> None:
        """Compute the requests without a result, and make files of the results when the batch ends."""
        outputs, errors = (self._batches.results(batch, kind) for kind in ("output", "error"))
        writer = await asyncio.to_thread(ResultWriter, outputs, errors)
        try:
            self._count(batch, writer)
            await self._compute_all(batch, read_requests(path), writer)
            if self._gateway.draining:
                return
            if batch.status != "cancelling":
                for request in read_requests(path):
                    if request.custom_id not in writer:  # the window has ended
                        message = "The completion window ended before the request was computed"
                        writer.add_error(request.custom_id, code=EXPIRED, message=message)
                        batch.times["expired"] = int(self._batches.clock())
            self._count(batch, writer)
        finally:
            writer.close()
        await self._finish(batch)

    async def _compute_all(self, batch: RequestBatch, requests: Iterable[BatchItem], writer: ResultWriter) -> None:
        places = asyncio.Semaphore(self._limit)

        async def compute(request: BatchItem) -> None:
            try:
                await self._compute_request(batch, request, writer)
                self._count(batch, writer)
            finally:
                places.release()

        async with asyncio.TaskGroup() as group:
            for request in requests:
                if request.custom_id in writer:
                    continue
                await places.acquire()
                if self._is_stopped(batch):
                    break
                group.create_task(compute(request))

    async def _compute_request(self, batch: RequestBatch, request: BatchItem, writer: ResultWriter) -> None:
        """Write the result of a request; writes nothing if the batch stops first."""
        body, faults = json.dumps(request.body).encode(), 0
        while not self._is_stopped(batch):
            async with self._slot():
                if self._is_stopped(batch):
                    return
                response = await self._gateway.answer(batch.endpoint, body, owner=batch.owner)
            if response is None:
                message = "The API key of the batch is revoked or expired"
                writer.add_error(request.custom_id, code="invalid_api_key", message=message)
                return
            faults += response.status in FAULTS
            if response.status in BUSY or (response.status in FAULTS and faults <= FAULTS_ALLOWED):
                if not self._gateway.draining:
                    await asyncio.sleep(min(response.retry_after, LONGEST_PAUSE))
                continue
            writer.add_response(
                request.custom_id, status=response.status, request_id=response.request_id,
                body=json.loads(response.content),
            )  # fmt: skip
            return

    async def _finish(self, batch: RequestBatch) -> None:
        """Make files of the results and enter the final state."""
        expired = "expired" in batch.times
        cancelled = batch.status == "cancelling"
        if not cancelled:
            batch.enter("finalizing", self._batches.clock())
            self._batches.save(batch)
        batch.output_file_id = await asyncio.to_thread(self._add_file, batch, "output")
        batch.error_file_id = await asyncio.to_thread(self._add_file, batch, "error")
        final: Literal["cancelled", "expired", "completed"]
        final = "cancelled" if cancelled else "expired" if expired else "completed"
        batch.enter(final, self._batches.clock())
        self._batches.save(batch)
        for kind in ("output", "error"):
            self._batches.results(batch, kind).unlink(missing_ok=True)

    def _add_file(self, batch: RequestBatch, kind: Literal["output", "error"]) -> str | None:
        """Return the id of a new file of results; None without results."""
        path = self._batches.results(batch, kind)
        if not path.exists() or not path.stat().st_size:
            return None
        with path.open("rb") as content:
            file = self._files.add(
                content, owner=batch.owner, filename=f"{batch.id}_{kind}.jsonl", limited=False,
                purpose=f"{file_purpose(batch)}_output", seconds=batch.output_seconds,
            )  # fmt: skip
        return file.id

    def _count(self, batch: RequestBatch, writer: ResultWriter) -> None:
        batch.completed, batch.failed = len(writer.ids["output"]), len(writer.ids["error"])
        batch.expired = len(writer.expired_ids)

    def _is_stopped(self, batch: RequestBatch) -> bool:
        """Return True if no further requests of the batch may start."""
        return self._gateway.draining or batch.status == "cancelling" or self._batches.clock() >= batch.expires_at

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """Wait until the service has capacity for a request of a batch."""
        async with self._turn:
            while max(self._running, self._gateway.in_flight) >= self._limit:
                await asyncio.sleep(POLL_SECONDS)
            self._running += 1
        try:
            yield
        finally:
            self._running -= 1


def _problem(code: str, message: str) -> dict[str, object]:
    return {"code": code, "message": message, "param": None, "line": None}
