"""Fake replicas in this process with predictable answers and planned failures, behind an httpx transport."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from vita.gates.clearance import Clearance, ServingRequest
from vita.server.gateway.routing import Backend, Router, ServedVersion
from vita.server.release import ReleaseInfo


def clear_any(release: ReleaseInfo, terms: ServingRequest, *, record: bool = True) -> Clearance:
    """Clear any release, for stubs that hold no model."""
    return Clearance(release.model, "ungated", reason="a stub")


WORDS = ["one", " two", " three", " four", " five", " six", " seven", " eight"]


def words_of(body: dict[str, Any]) -> list[str]:
    """Return the words of the answer in an order that the seed determines."""
    digest = hashlib.sha256(str(body.get("seed")).encode()).digest()
    return [WORDS[digest[index] % len(WORDS)] for index in range(8)]


@dataclass
class FakeReplica:
    """Fake replica. For each later answer, `break_points` holds the word at which the connection breaks, or None."""

    name: str
    break_points: list[int | None] = field(default_factory=list)
    status: int | None = None
    delay: float = 0.0
    requests: list[dict[str, Any]] = field(default_factory=list)
    cancelled: int = 0
    down: bool = False
    per_event: int = 1
    """The number of words in an event of a stream."""
    faults: list[str | None] = field(default_factory=list)
    """For each later stream, the code of the error that ends it after the third event, or None."""

    async def answer(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("refused")
        if request.url.path == "/metrics":
            return httpx.Response(200, text='# HELP vita_x X.\n# TYPE vita_x gauge\nvita_x{a="b"} 1.0\n')
        if request.method == "GET":
            return httpx.Response(200, json={"from": self.name})
        body = json.loads(await request.aread())
        self.requests.append({**body, "request": request.headers["x-request-id"]})
        if self.status:
            error = {"message": "no", "type": "server_error", "param": None, "code": None}
            return httpx.Response(self.status, json={"error": error})
        break_point = self.break_points.pop(0) if self.break_points else None
        if body.get("stream"):
            headers = {"content-type": "text/event-stream"}
            fault = self.faults.pop(0) if self.faults else None
            return httpx.Response(200, headers=headers, stream=_Stream(self, body, break_point, fault))
        try:
            await asyncio.sleep(self.delay)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if break_point is not None:
            raise httpx.ReadError("killed")
        usage = {"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11}
        text = "".join(words_of(body))
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return httpx.Response(200, json={"id": "chatcmpl-1", "choices": [choice], "usage": usage})


class _Stream(httpx.AsyncByteStream):
    def __init__(self, replica: FakeReplica, body: dict[str, Any], break_point: int | None, fault: str | None) -> None:
        self.replica, self.body, self.break_points, self.fault = replica, body, break_point, fault

    async def __aiter__(self) -> AsyncIterator[bytes]:
        base = {"id": f"chatcmpl-{self.replica.name}", "created": 1, "object": "chat.completion.chunk"}
        yield _event({**base, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        words, step = words_of(self.body), self.replica.per_event
        try:
            for index in range(0, len(words), step):
                if self.break_points is not None and index >= self.break_points:
                    raise httpx.ReadError("killed")
                if self.fault is not None and index >= 3:
                    yield _event({"error": {"message": "no", "type": "server_error", "code": self.fault}})
                    return
                await asyncio.sleep(self.replica.delay)
                chunk = words[index : index + step]
                entries = [{"token": word, "logprob": -1.0} for word in chunk]
                delta = {"content": "".join(chunk)}
                yield _event({**base, "choices": [{"index": 0, "delta": delta, "logprobs": {"content": entries}}]})
        except (asyncio.CancelledError, GeneratorExit):
            self.replica.cancelled += 1
            raise
        yield _event({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if (self.body.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11}
            yield _event({**base, "choices": [], "usage": usage})
        yield b"data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


class Network(httpx.AsyncBaseTransport):
    """Transport that reaches the fake replicas by their names."""

    def __init__(self, *replicas: FakeReplica) -> None:
        self.replicas = {replica.name: replica for replica in replicas}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self.replicas[request.url.host].answer(request)


def routes_to(*replicas: FakeReplica, version: str = "cat:1", model: str = "a" * 64) -> Router:
    """Return the router of a service `cat` with one version on these replicas."""
    routes = Router("cat")
    routes.add(version_of(*replicas, version=version, model=model, share=1.0))
    return routes


def version_of(*replicas: FakeReplica, version: str, model: str, share: float, created: float = 1.0) -> ServedVersion:
    """Return a version on these replicas, all ready."""
    backends = [Backend(replica.name, f"http://{replica.name}", ready=True) for replica in replicas]
    return ServedVersion(version, model, model, name="cat", created=created, share=share, backends=backends)
