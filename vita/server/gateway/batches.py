"""The routes /v1/files and /v1/batches of the gateway.

A key sees its own files and batches; a key with the scope `admin` sees those of all keys. The requests of a batch are
answered as other requests of its key: with its scopes, its rate limit and the request log.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from vita.server.api import read
from vita.server.batches.batch import BatchStore, RequestBatch
from vita.server.batches.requests import WINDOW_HOURS, BatchCreation, listed, not_found, query_of
from vita.server.batches.runner import BatchResponse, BatchRunner
from vita.server.batches.stored_files import FileStore, StoredFile
from vita.server.batches.upload import FileUpload, read_upload
from vita.server.errors import ApiError, invalid, too_busy
from vita.server.gateway.admission import INTERNAL_KEY, Admission, AdmissionSlot
from vita.server.gateway.keys import Key
from vita.server.json_response import json_response
from vita.server.middleware import new_request_id
from vita.server.routes import (
    ANY_MODEL_SCOPE,
    CHAT_COMPLETIONS,
    CLASSIFY,
    COMPLETIONS,
    EMBEDDINGS,
    MESSAGES,
    RERANK,
    RESPONSES,
    ModelRoute,
    Route,
)

BATCHED_ROUTES: Mapping[str, ModelRoute] = {
    route.path: route for route in (CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS, RERANK, CLASSIFY, RESPONSES, MESSAGES)
}
"""Endpoint of a batch -> its route."""
FILE_PURPOSES = ("batch", "batch_output")
"""Purposes of the files of the Files API."""
_PAGE = ("limit", "after", "order")
FILES = Route(
    "POST", "/v1/files", "Upload a file of requests.", request=FileUpload, scopes=ANY_MODEL_SCOPE, upload=True,
    errors=(429,),
)  # fmt: skip
LIST_FILES = Route("GET", "/v1/files", "List the files.", scopes=ANY_MODEL_SCOPE, query=("purpose", *_PAGE))
FILE = Route("GET", "/v1/files/{id}", "Describe a file.", scopes=ANY_MODEL_SCOPE, errors=(404,))
FILE_CONTENT = Route(
    "GET", "/v1/files/{id}/content", "Return the content of a file.", scopes=ANY_MODEL_SCOPE, errors=(404,),
    media=("application/jsonl",),
)  # fmt: skip
DELETE_FILE = Route("DELETE", "/v1/files/{id}", "Delete a file.", scopes=ANY_MODEL_SCOPE, errors=(400, 404))
BATCHES = Route(
    "POST", "/v1/batches", "Create a batch.", request=BatchCreation, scopes=ANY_MODEL_SCOPE, errors=(404, 429)
)
LIST_BATCHES = Route("GET", "/v1/batches", "List the batches.", scopes=ANY_MODEL_SCOPE, query=_PAGE)
BATCH = Route("GET", "/v1/batches/{id}", "Describe a batch.", scopes=ANY_MODEL_SCOPE, errors=(404,))
CANCEL_BATCH = Route("POST", "/v1/batches/{id}/cancel", "Cancel a batch.", scopes=ANY_MODEL_SCOPE, errors=(400, 404))
Endpoint = Callable[[Request], Awaitable[Response]]
Forward = Callable[[Request, ModelRoute], Awaitable[Response]]
"""Answers a request to a model route."""
Respond = Callable[[Request, Route, Callable[[Key, AdmissionSlot], Awaitable[Response]]], Awaitable[Response]]
"""Checks a request and answers it with a function of its key."""
A = TypeVar("A")
Method = Callable[[A, Request, Key, AdmissionSlot], Awaitable[Response]]
"""A method that answers a request of a key."""


class BatchApi:
    """The files and the batches of a gateway."""

    def __init__(self, admission: Admission, forward: Forward, folder: Path) -> None:
        """`forward` answers the requests of batches; `folder` is for the files and the states of batches."""
        self._admission, self._settings = admission, admission.settings
        settings = admission.settings
        self.files = FileStore(folder / "files", days=settings.file_days, max_bytes=settings.files_bytes)
        self.batches = BatchStore(folder / "batches")
        self.runner = BatchRunner(
            self.batches, self.files, _InternalRequests(admission, forward), in_flight=settings.batch_in_flight,
            max_requests=settings.batch_requests,
        )  # fmt: skip

    def prune(self) -> None:
        """Delete expired files, and batches whose files have expired."""
        self.files.prune()
        if self._settings.file_days is not None:
            self.batches.prune(self._settings.file_days * 86_400)

    # -- files

    async def upload(self, request: Request, key: Key, slot: AdmissionSlot) -> Response:
        settings = self._settings
        upload = await read_upload(request, max_bytes=settings.file_bytes, part_seconds=settings.body_seconds)
        with upload.content as content:
            file = await asyncio.to_thread(
                self.files.add, content, owner=key.hint, filename=upload.filename, purpose="batch",
                seconds=upload.seconds,
            )  # fmt: skip
        return json_response(file.body())

    async def list_files(self, request: Request, key: Key, slot: AdmissionSlot) -> Response:
        query = query_of(request, LIST_FILES.query)
        purpose = query.get("purpose")
        files = [file for file in self.files.all(owner=owner_of(key)) if purpose in (None, file.purpose)]
        files = [file for file in files if file.purpose in FILE_PURPOSES]
        return json_response(listed(files, query))

    async def file(self, request: Request, key: Key, slot: AdmissionSlot) -> Response:
        return json_response(self._file(request, key).body())

    async def content(self, request: Request, key: Key, slot: AdmissionSlot) -> Response:
        file = self._file(request, key)
        return FileResponse(self.files.path(file), media_type="application/jsonl")

    async def delete_file(self, request: Request, key: Key, slot: AdmissionSlot) -> Response:
        file = self._file(request, key)
        users = [batch for batch in self.batches.all(owner=None) if batch.input_file_id == file.id and not batch.ended]
        if users:
            message = f"The file is the input of the batch {users[0].id}, which has not ended; cancel it first"
            raise invalid(message, "id", code="file_in_use")
        await asyncio.to_thread(self.files.delete, file)
        return json_response({"id": file.id, "object": "file", "deleted": True})

    def _file(self, request: Request, key: Key) -> StoredFile:
        id = request.path_params["id"]
        file = self.files.find(id, owner=owner_of(key))
        if file is None or file.purpose not in FILE_PURPOSES:
            raise not_found("file", id)
        return file

    # -- batches

    async def create(self, request: Request, key: Key, slot: AdmissionSlot) -> Response:
        creation = read(BatchCreation, await self._admission.body(request, slot))
        route = BATCHED_ROUTES.get(creation.endpoint)
        if route is None:
            message = f"`endpoint` must be one of {', '.join(BATCHED_ROUTES)}, got {creation.endpoint}"
            raise invalid(message, "endpoint", code="invalid_value")
        self._admission.authorize(key, route.scopes)
        file = self.files.find(creation.input_file_id, owner=owner_of(key))
        if file is None:
            raise not_found("file", creation.input_file_id)
        if file.purpose != "batch":
            raise invalid("The input must be a file of the purpose `batch`", "input_file_id", code="invalid_value")
        self.check_unfinished(key)
        batch = self.batches.create(
            owner=key.hint, endpoint=creation.endpoint, input_file_id=file.id, window=creation.completion_window,
            hours=WINDOW_HOURS[creation.completion_window], metadata=creation.metadata,
            output_seconds=creation.output_expires_after.seconds if creation.output_expires_after else None,
        )  # fmt: skip
        self.runner.submit(batch)
        return json_response(batch.body())

    async def list_batches(self, request: Request, key: Key, slot: AdmissionSlot) -> Response:
        query = query_of(request, LIST_BATCHES.query)
        return json_response(listed(self.batches.all(owner=owner_of(key), kind="batch"), query))

    async def batch(self, request: Request, key: Key, slot: AdmissionSlot) -> Response:
        return json_response(self._batch(request, key).body())

    async def cancel(self, request: Request, key: Key, slot: AdmissionSlot) -> Response:
        batch = self._batch(request, key)
        if batch.ended:
            raise invalid(f"The batch has ended: it is {batch.status}", "id", code="batch_ended")
        self.begin_cancelling(batch)
        return json_response(batch.body())

    def begin_cancelling(self, batch: RequestBatch) -> None:
        """Start no further requests of a batch; no effect if it has computed all."""
        if batch.status in ("validating", "in_progress"):
            batch.enter("cancelling", self.batches.clock())
            self.batches.save(batch)

    def check_unfinished(self, key: Key) -> None:
        """Raise `ApiError` if a key has too many batches that have not ended."""
        unfinished = sum(not batch.ended for batch in self.batches.all(owner=key.hint))
        if unfinished >= self._settings.batches:
            raise too_busy(f"{unfinished} batches of this API key have not ended; wait for one of them", retry_after=60)

    @property
    def max_requests(self) -> int:
        """Return the maximum number of requests of a batch."""
        return self._settings.batch_requests

    async def large_body(self, request: Request, slot: AdmissionSlot) -> bytes:
        """Read a JSON body with the limit of an uploaded file."""
        return await self._admission.content(request, slot, max_bytes=self._settings.file_bytes)

    def _batch(self, request: Request, key: Key) -> RequestBatch:
        id = request.path_params["id"]
        batch = self.batches.find(id, owner=owner_of(key))
        if batch is None:
            raise not_found("batch", id)
        return batch


def batch_endpoints(api: BatchApi | None, respond: Respond) -> list[tuple[Route, Endpoint]]:
    """Return the routes with their endpoints; without a folder for batches, they respond with 404."""
    methods: dict[Route, Method[BatchApi]] = {
        FILES: BatchApi.upload, LIST_FILES: BatchApi.list_files, FILE: BatchApi.file, FILE_CONTENT: BatchApi.content,
        DELETE_FILE: BatchApi.delete_file, BATCHES: BatchApi.create, LIST_BATCHES: BatchApi.list_batches,
        BATCH: BatchApi.batch, CANCEL_BATCH: BatchApi.cancel,
    }  # fmt: skip
    return endpoints_of(methods, api, respond)


def endpoints_of(methods: Mapping[Route, Method[A]], api: A | None, respond: Respond) -> list[tuple[Route, Endpoint]]:
    """Pair each route with its method of an API; without the API, the routes respond with 404."""

    def endpoint(route: Route) -> Endpoint:
        async def answer(request: Request) -> Response:
            async def work(key: Key, slot: AdmissionSlot) -> Response:
                if api is None:
                    raise ApiError(404, "This service does not store files and batches", code="unknown_url")
                return await methods[route](api, request, key, slot)

            return await respond(request, route, work)

        return answer

    return [(route, endpoint(route)) for route in methods]


class _InternalRequests:
    """Sends requests to the gateway within the process, with the key of their owner."""

    def __init__(self, admission: Admission, forward: Forward) -> None:
        self._admission, self._forward = admission, forward

    @property
    def draining(self) -> bool:
        return self._admission.draining

    @property
    def in_flight(self) -> int:
        return self._admission.in_flight

    async def answer(self, endpoint: str, body: bytes, *, owner: str) -> BatchResponse | None:
        """Answer a request of the owner's key; None if the key is no longer valid."""
        key = self._admission.keys.current(owner)
        if key is None:
            return None
        request = _internal_request(endpoint, body, key)
        response = await self._forward(request, BATCHED_ROUTES[endpoint])
        retry_after = response.headers.get("retry-after", "1")
        seconds = float(retry_after) if re.fullmatch(r"\d{1,6}", retry_after) else 1.0
        return BatchResponse(response.status_code, request.state.request_id, bytes(response.body), seconds)


def _internal_request(path: str, body: bytes, key: Key) -> Request:
    """Create the request of a batch; its client never disconnects."""
    parts = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, object]:
        if (part := next(parts, None)) is not None:
            return part
        await asyncio.Event().wait()
        raise AssertionError

    headers = {"content-type": "application/json", "content-length": str(len(body)), "host": "localhost"}
    scope = {
        "type": "http", "method": "POST", "path": path, "query_string": b"", INTERNAL_KEY: key, "state": {},
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    request = Request(scope, receive)
    request.state.request_id = new_request_id()
    return request


def owner_of(key: Key) -> str | None:
    """Return the owner whose objects a key sees; None for all."""
    return None if key.allows("admin") else key.hint
