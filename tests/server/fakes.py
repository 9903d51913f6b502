"""Replicas that answer by rule and die on command, in this process, behind a transport of httpx."""

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
    """The clearance of releases for stubs, which hold no model."""
    return Clearance(release.model, "ungated", reason="a stub")


WORDS = ["one", " two", " three", " four", " five", " six", " seven", " eight"]


def words_of(body: dict[str, Any]) -> list[str]:
    """The answer: the words in an order that the seed decides."""
    chance = hashlib.sha256(str(body.get("seed")).encode()).digest()
    return [WORDS[chance[place] % len(WORDS)] for place in range(8)]


@dataclass
class FakeReplica:
    """Answers like a replica. `dies` holds at which word of each answer to come the connection breaks."""

    name: str
    dies: list[int | None] = field(default_factory=list)
    status: int | None = None
    delay: float = 0.0
    asked: list[dict[str, Any]] = field(default_factory=list)
    cancelled: int = 0
    down: bool = False
    per_event: int = 1
    """How many words stand in one event of a stream."""
    faults: list[str | None] = field(default_factory=list)
    """The codes of errors with which the streams to come end after their third event."""

    async def answer(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("refused")
        if request.url.path == "/metrics":
            return httpx.Response(200, text='# HELP vita_x X.\n# TYPE vita_x gauge\nvita_x{a="b"} 1.0\n')
        if request.method == "GET":
            return httpx.Response(200, json={"from": self.name})
        body = json.loads(await request.aread())
        self.asked.append({**body, "request": request.headers["x-request-id"]})
        if self.status:
            error = {"message": "no", "type": "server_error", "param": None, "code": None}
            return httpx.Response(self.status, json={"error": error})
        dies = self.dies.pop(0) if self.dies else None
        if body.get("stream"):
            headers = {"content-type": "text/event-stream"}
            fault = self.faults.pop(0) if self.faults else None
            return httpx.Response(200, headers=headers, stream=_Stream(self, body, dies, fault))
        try:
            await asyncio.sleep(self.delay)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if dies is not None:
            raise httpx.ReadError("killed")
        usage = {"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11}
        text = "".join(words_of(body))
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return httpx.Response(200, json={"id": "chatcmpl-1", "choices": [choice], "usage": usage})


class _Stream(httpx.AsyncByteStream):
    def __init__(self, replica: FakeReplica, body: dict[str, Any], dies: int | None, fault: str | None) -> None:
        self.replica, self.body, self.dies, self.fault = replica, body, dies, fault

    async def __aiter__(self) -> AsyncIterator[bytes]:
        base = {"id": f"chatcmpl-{self.replica.name}", "created": 1, "object": "chat.completion.chunk"}
        yield _event({**base, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        words, step = words_of(self.body), self.replica.per_event
        try:
            for place in range(0, len(words), step):
                if self.dies is not None and place >= self.dies:
                    raise httpx.ReadError("killed")
                if self.fault is not None and place >= 3:
                    yield _event({"error": {"message": "no", "type": "server_error", "code": self.fault}})
                    return
                await asyncio.sleep(self.replica.delay)
                some = words[place : place + step]
                entries = [{"token": word, "logprob": -1.0} for word in some]
                delta = {"content": "".join(some)}
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
    """Reaches the fake replicas by their names."""

    def __init__(self, *replicas: FakeReplica) -> None:
        self.replicas = {replica.name: replica for replica in replicas}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self.replicas[request.url.host].answer(request)


def routes_to(*replicas: FakeReplica, version: str = "cat:1", model: str = "a" * 64) -> Router:
    """Router of a service `cat` with one version on these replicas."""
    routes = Router("cat")
    routes.add(version_of(*replicas, version=version, model=model, share=1.0))
    return routes


def version_of(*replicas: FakeReplica, version: str, model: str, share: float, created: float = 1.0) -> ServedVersion:
    """A version on these replicas, all ready."""
    backends = [Backend(one.name, f"http://{one.name}", ready=True) for one in replicas]
    return ServedVersion(version, model, model, name="cat", created=created, share=share, backends=backends)
