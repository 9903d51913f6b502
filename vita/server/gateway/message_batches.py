"""The routes /v1/messages/batches of the gateway: the Message Batches API of Anthropic."""

from __future__ import annotations

import asyncio
import tempfile

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from vita.server.api import json_object, read
from vita.server.batches.batch import RequestBatch
from vita.server.batches.message_batch import (
    ENDPOINT,
    INPUT_PURPOSE,
    MessageBatchCreation,
    batch_body,
    batch_page,
    result_lines,
    write_requests,
)
from vita.server.batches.requests import WINDOW_HOURS, not_found, query_of
from vita.server.batches.stored_files import StoredFile
from vita.server.dialects.messages_api import MessagesApi
from vita.server.errors import ApiError, invalid
from vita.server.gateway.admission import AdmissionSlot
from vita.server.gateway.batches import BatchApi, Endpoint, Method, Respond, endpoints_of, owner_of
from vita.server.gateway.keys import Key
from vita.server.json_response import json_response
from vita.server.routes import MESSAGES, Route

LINES = "application/x-jsonl"
_WINDOW = "24h"
_API = MessagesApi()
CREATE = Route(
    "POST", f"{ENDPOINT}/batches", "Create a batch of messages.", request=MessageBatchCreation,
    scopes=MESSAGES.scopes, batched=True, errors=(404, 429), dialect=_API,
)  # fmt: skip
LIST = Route(
    "GET", f"{ENDPOINT}/batches", "List the batches of messages.", scopes=MESSAGES.scopes,
    query=("limit", "after_id", "before_id"), errors=(404,), dialect=_API,
)  # fmt: skip
BATCH = Route(
    "GET", f"{ENDPOINT}/batches/{{id}}", "Describe a batch of messages.", scopes=MESSAGES.scopes, errors=(404,),
    dialect=_API,
)  # fmt: skip
RESULTS = Route(
    "GET", f"{ENDPOINT}/batches/{{id}}/results", "Return the results of a batch of messages.", scopes=MESSAGES.scopes,
    media=(LINES,), errors=(400, 404), dialect=_API,
)  # fmt: skip
CANCEL = Route(
    "POST", f"{ENDPOINT}/batches/{{id}}/cancel", "Cancel a batch of messages.", scopes=MESSAGES.scopes, errors=(404,),
    dialect=_API,
)  # fmt: skip
DELETE = Route(
    "DELETE", f"{ENDPOINT}/batches/{{id}}", "Delete a batch of messages and its results.", scopes=MESSAGES.scopes,
    errors=(400, 404), dialect=_API,
)  # fmt: skip


class MessageBatchApi:
    """The message batches of a gateway, which the runner of its batches computes."""

    def __init__(self, api: BatchApi) -> None:
        self._api, self._creation = api, asyncio.Lock()

    async def create(self, request: Request, key: Key, slot: AdmissionSlot) -> Response:
        """POST /v1/messages/batches"""
        self._api.check_unfinished(key)
        content = await self._api.large_body(request, slot)
        async with self._creation:  # one at a time, because a parsed body takes memory
            file, total = await asyncio.to_thread(self._store, content, key)
        batch = self._api.batches.create(
            owner=key.hint, endpoint=ENDPOINT, input_file_id=file.id, window=_WINDOW, hours=WINDOW_HOURS[_WINDOW],
            metadata=None, output_seconds=None, kind="msgbatch", total=total,
        )  # fmt: skip
        self._api.runner.submit(batch)
        return self._described(request, batch)

    def _store(self, content: bytes, key: Key) -> tuple[StoredFile, int]:
        """Store the requests of a body as the input file of a batch; returns it with their number."""
        creation = read(MessageBatchCreation, json_object(content))
        with tempfile.TemporaryFile() as lines:
            write_requests(creation, lines, max_requests=self._api.max_requests)
            lines.seek(0)
            file = self._api.files.add(lines, owner=key.hint, filename="requests.jsonl", purpose=INPUT_PURPOSE)
        return file, len(creation.requests)

    async def list(self, request: Request, key: Key, slot: AdmissionSlot) -> Response:
        """GET /v1/messages/batches"""
        batches = self._api.batches.all(owner=owner_of(key), kind="msgbatch")
        return json_response(batch_page(batches, query_of(request, LIST.query), address=_address(request)))

    async def batch(self, request: Request, key: Key, slot: AdmissionSlot) -> Response:
        """GET /v1/messages/batches/{id}"""
        return self._described(request, self._find(request, key))

    async def results(self, request: Request, key: Key, slot: AdmissionSlot) -> Response:
        """GET /v1/messages/batches/{id}/results"""
        batch = self._find(request, key)
        if not batch.ended:
            raise invalid(f"The batch {batch.id} has no results yet: its `processing_status` is not `ended`")
        files = {id: self._api.files.find(id, owner=None) for id in _file_ids(batch)}
        input = files.get(batch.input_file_id)
        if input is None or not all(files.values()):
            raise ApiError(404, f"The results of the batch {batch.id} have expired", code="not_found")
        paths = [self._api.files.path(file) for file in files.values() if file is not None and file is not input]
        return StreamingResponse(result_lines(batch, self._api.files.path(input), paths), media_type=LINES)

    async def cancel(self, request: Request, key: Key, slot: AdmissionSlot) -> Response:
        """POST /v1/messages/batches/{id}/cancel"""
        batch = self._find(request, key)
        self._api.begin_cancelling(batch)
        return self._described(request, batch)

    async def delete(self, request: Request, key: Key, slot: AdmissionSlot) -> Response:
        """DELETE /v1/messages/batches/{id}"""
        batch = self._find(request, key)
        if not batch.ended:
            raise invalid(f"The batch {batch.id} has not ended; cancel it first")
        files = [self._api.files.find(id, owner=None) for id in _file_ids(batch)]
        self._api.batches.delete(batch)
        for file in files:
            if file is not None:
                await asyncio.to_thread(self._api.files.delete, file)
        return json_response({"id": batch.id, "type": "message_batch_deleted"})

    def _find(self, request: Request, key: Key) -> RequestBatch:
        id = request.path_params["id"]
        batch = self._api.batches.find(id, owner=owner_of(key), kind="msgbatch")
        if batch is None:
            raise not_found("batch of messages", id)
        return batch

    def _described(self, request: Request, batch: RequestBatch) -> Response:
        return json_response(batch_body(batch, url=f"{_address(request)}/{batch.id}"))


def message_batch_endpoints(api: BatchApi | None, respond: Respond) -> list[tuple[Route, Endpoint]]:
    """Return the routes with their endpoints; without a folder for batches, they respond with 404."""
    methods: dict[Route, Method[MessageBatchApi]] = {
        CREATE: MessageBatchApi.create, LIST: MessageBatchApi.list, BATCH: MessageBatchApi.batch,
        RESULTS: MessageBatchApi.results, CANCEL: MessageBatchApi.cancel, DELETE: MessageBatchApi.delete,
    }  # fmt: skip
    return endpoints_of(methods, None if api is None else MessageBatchApi(api), respond)


def _file_ids(batch: RequestBatch) -> list[str]:
    return [id for id in (batch.input_file_id, batch.output_file_id, batch.error_file_id) if id is not None]


def _address(request: Request) -> str:
    """Return the URL of the list of batches, as the client addresses this service."""
    return str(request.url.replace(path=CREATE.path, query="", fragment=""))
