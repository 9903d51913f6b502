"""Simulated users at a service's door: they ask, read, say what they think of it, and count what went wrong.

    visited = asyncio.run(walk("http://127.0.0.1:8000/v1", crowd.visits(100, seed=0), crowd, model="cat", seed=0))
    sum(one.failed for one in visited)

They come by HTTP like anybody else, wait when they are told to (429, 503 with Retry-After), and count as failed every
request that they did not get an answer to in the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

import httpx

from vita.data.world.users import Reaction, UserSession, UserSimulator

TRIES = 5
_COME_AGAIN = (429, 503)


@dataclass(frozen=True)
class SessionResult:
    """The result of a simulated session."""

    visit: UserSession
    answers: tuple[str, ...]
    requests: tuple[str, ...]
    """The ids under which the service knows them."""
    version: str
    """The version that answered."""
    said: int
    """The number of feedback records that the server accepted."""
    minded: tuple[bool, ...] = ()
    """One flag per answer: True if the user complains about it."""
    failed: tuple[str, ...] = ()
    """The failures, as messages."""


async def walk(
    url: str,
    visits: Iterable[UserSession],
    crowd: UserSimulator,
    *,
    model: str,
    seed: int,
    at_once: int = 8,
    max_tokens: int = 48,
    key: str | None = None,
    on_visit: Callable[[int], Awaitable[None]] | None = None,
) -> list[SessionResult]:
    """Make the visits, `at_once` at a time and begun in their order; answers are sampled with seeds of their own."""
    gate, done = asyncio.Semaphore(at_once), 0
    headers = {"X-Vita-Consent": "yes", **({"Authorization": f"Bearer {key}"} if key else {})}
    limits = httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once)
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=120, limits=limits, trust_env=False) as client:

        async def one(visit: UserSession) -> SessionResult:
            nonlocal done
            async with gate:
                visited = await _visit(client, visit, crowd, model=model, seed=seed, max_tokens=max_tokens)
            done += 1
            if on_visit:
                await on_visit(done)
            return visited

        return list(await asyncio.gather(*(one(visit) for visit in visits)))


async def _visit(
    client: httpx.AsyncClient, visit: UserSession, crowd: UserSimulator, *, model: str, seed: int, max_tokens: int
) -> SessionResult:
    answers, requests, version, failed = [], [], "", []
    for number in range(visit.answers):
        body = {
            "model": model,
            "messages": [{"role": message.role, "content": message.content} for message in visit.prompt],
            "temperature": 1.0,
            "max_tokens": max_tokens,
            "seed": (seed * 1_000_003 + visit.number * 7 + number) % 2**31,
            "user": visit.who,
        }
        reply, problem = await _post(client, "chat/completions", body)
        if reply is None:
            return SessionResult(visit, tuple(answers), tuple(requests), version, 0, failed=(problem,))
        answers.append(reply.json()["choices"][0]["message"]["content"] or "")
        requests.append(reply.headers["x-request-id"])
        version = reply.headers.get("x-vita-version", "")
    feedback_count = 0
    for reaction in crowd.react(visit, answers, seed=seed):
        reply, problem = await _post(client, "feedback", _feedback(reaction, requests))
        feedback_count += reply is not None
        if reply is None:
            failed.append(problem)
    complaints = tuple(crowd.minds(visit, answer) for answer in answers)
    return SessionResult(visit, tuple(answers), tuple(requests), version, feedback_count, complaints, tuple(failed))


def _feedback(reaction: Reaction, requests: Sequence[str]) -> dict[str, object]:
    feedback: dict[str, object] = {"kind": reaction.kind, "consent": True}
    if reaction.kind == "vote":
        assert reaction.rejected is not None, "a vote has two sides"
        sides = {"chosen_request_id": requests[reaction.index], "rejected_request_id": requests[reaction.rejected]}
        return feedback | sides
    feedback["request_id"] = requests[reaction.index]
    return feedback | ({"better": reaction.better} if reaction.kind == "edit" else {"value": int(reaction.value)})


async def _post(client: httpx.AsyncClient, path: str, body: object) -> tuple[httpx.Response | None, str]:
    """The answer, or None and what went wrong."""
    problem = ""
    for attempt in range(TRIES):
        try:
            reply = await client.post(path, json=body)
        except httpx.HTTPError as error:
            return None, f"{path}: {type(error).__name__}"
        if reply.is_success:
            return reply, ""
        problem = f"{path}: {reply.status_code} {reply.text[:200]}"
        if reply.status_code not in _COME_AGAIN:
            return None, problem
        await asyncio.sleep(min(float(reply.headers.get("retry-after", 1)), 5.0) * (1 + attempt))
    return None, problem
