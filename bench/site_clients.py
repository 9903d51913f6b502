"""Clients of `bench.sites`: they repeat requests until they are complete, compare the answers and give feedback."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from vita.spine.errors import exception_text

PATIENCE_SECONDS = 90.0
"""Time in which a client repeats a request."""


@dataclass
class SiteTally:
    """Counts of all requests."""

    completed: int = 0
    repeats: int = 0
    continued: int = 0
    """Streams that continued with `Last-Event-ID`."""
    restarted: int = 0
    """Requests that were sent again with a new key, because their version was replaced before their first byte."""
    statuses: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    sites: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    records: Counter[str] = field(default_factory=Counter)
    """Values of `X-Vita-Idempotency`."""
    request_ids: list[str] = field(default_factory=list)
    feedback_failures: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    duration: float = 0.0


async def client(
    http: httpx.AsyncClient, number: int, bodies: list[dict[str, Any]], expected: dict[str, list[str]],
    tally: SiteTally, is_running: Callable[[], bool],
) -> None:  # fmt: skip
    """Send requests one after another, and feedback on each; every second one is streamed."""
    turn = 0
    while is_running():
        turn += 1
        index = (number + turn) % len(bodies)
        body = {**bodies[index], "stream": (number + turn) % 2 == 0, "user": f"user {number}"}
        start = time.monotonic()
        response = await complete(http, body, tally)
        if response is None:
            continue
        tally.completed += 1
        tally.seconds.append(time.monotonic() - start)
        if response.problem or response.text != expected.get(response.digest, [None] * len(bodies))[index]:
            tally.wrong.append(f"{response.request_id} {response.version} {response.problem}: {response.text!r}"[:300])
        await give_feedback(http, response.request_id, tally)


@dataclass
class SiteResponse:
    """A response, of which several sites may have sent parts."""

    request_id: str = ""
    site: str = ""
    version: str = ""
    digest: str = ""
    text: str = ""
    last_event_id: str | None = None
    problem: str = ""
    """Why the response is wrong."""

    def begin(self, headers: httpx.Headers, tally: SiteTally) -> None:
        """Read the headers of the first or of a further part."""
        digest = headers.get("x-vita-digest", "")
        if self.text and digest != self.digest:
            self.problem = f"continued by {digest[:12]} instead of {self.digest[:12]}"
        self.request_id, self.digest = headers["x-request-id"], digest
        tally.records[headers.get("x-vita-idempotency", "")] += 1
        self.site, self.version = headers.get("x-vita-site", ""), headers.get("x-vita-version", "")


async def complete(http: httpx.AsyncClient, body: dict[str, Any], tally: SiteTally) -> SiteResponse | None:
    """Send a request, and repeat it until it is complete; None for a lost one, which is recorded."""
    response, key, failure, accepted = SiteResponse(), uuid.uuid4().hex, "", False
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        headers = {"Idempotency-Key": key}
        if response.last_event_id is not None:
            headers["Last-Event-ID"] = response.last_event_id
            tally.continued += 1
        try:
            status, failure = await (_stream if body["stream"] else _whole)(http, body, headers, response, tally)
        except httpx.HTTPError as error:
            status, failure = 0, exception_text(error) or type(error).__name__
        tally.statuses[status] += 1
        if status == 200 and not failure:
            tally.sites[response.site] += 1
            tally.versions[response.version] += 1
            return response
        tally.failures[f"{status} {failure}"[:120]] += 1
        accepted = accepted or status not in (429, 503)
        if status == 410 and not response.text:
            tally.restarted += 1
            key = uuid.uuid4().hex
            continue
        if status not in (0, 200, 429, 502, 503, 504):
            break
        tally.repeats += 1
        await asyncio.sleep(0.5)
    if accepted:
        tally.lost.append(f"{'stream' if body['stream'] else 'whole'}: {failure}"[:300])
    return None


async def _whole(
    http: httpx.AsyncClient, body: dict[str, Any], headers: dict[str, str], response: SiteResponse, tally: SiteTally
) -> tuple[int, str]:
    answer = await http.post("/v1/chat/completions", json=body, headers=headers)
    if answer.status_code != 200:
        return answer.status_code, _error(answer.content)
    response.begin(answer.headers, tally)
    response.text = answer_text(answer.json())
    return 200, ""


async def _stream(
    http: httpx.AsyncClient, body: dict[str, Any], headers: dict[str, str], response: SiteResponse, tally: SiteTally
) -> tuple[int, str]:
    async with http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
        if answer.status_code != 200:
            return answer.status_code, _error(await answer.aread())
        response.begin(answer.headers, tally)
        event_id = None
        async for line in answer.aiter_lines():
            if line.startswith("id: "):
                event_id = line[4:]
            elif line == "data: [DONE]":
                return 200, ""
            elif line.startswith("data: "):
                event = json.loads(line[6:])
                if "error" in event:
                    return 200, str(event["error"]["message"])
                response.text += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
                response.last_event_id = event_id
    return 200, "the stream ended early"


async def give_feedback(http: httpx.AsyncClient, request_id: str, tally: SiteTally) -> None:
    """Send feedback twice, each time to any site, and repeat it until it is stored."""
    tally.request_ids.append(request_id)
    thumb, problem = {"kind": "thumb", "value": 1, "request_id": request_id}, ""
    for _ in range(2):
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            try:
                answer = await http.post("/v1/feedback", json=thumb)
                if answer.status_code in (200, 201):
                    break
                problem = f"{answer.status_code} {_error(answer.content)}"
            except httpx.HTTPError as error:
                problem = exception_text(error) or type(error).__name__
            await asyncio.sleep(0.5)
        else:
            tally.feedback_failures.append(f"{request_id}: {problem}"[:200])
            return


def answer_text(answer: dict[str, Any]) -> str:
    return answer["choices"][0]["message"]["content"] or ""


def _error(content: bytes) -> str:
    try:
        return str(json.loads(content)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return content[:80].decode(errors="replace")
