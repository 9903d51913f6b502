"""Sessions of simulated users with a service over HTTP: requests, feedback, and the failures of both.

    sessions = crowd.sessions(100, seed=0)
    results = asyncio.run(run_sessions("http://127.0.0.1:8000/v1", sessions, crowd, model="cat", seed=0))
    sum(len(result.failed) for result in results)

The users retry after 429 and 503 as `Retry-After` says. A request that stays without an answer counts as failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

import httpx

from vita.data.world.users import Reaction, UserSession, UserSimulator
from vita.spine.errors import exception_text

TRIES = 5
_COME_AGAIN = (429, 503)


@dataclass(frozen=True)
class SessionResult:
    """The result of a simulated session."""

    session: UserSession
    answers: tuple[str, ...]
    requests: tuple[str, ...]
    """The ids of the requests in the service."""
    version: str
    """The version that answered."""
    feedback_count: int
    """The number of feedback records that the server accepted."""
    complaints: tuple[bool, ...] = ()
    """One flag per answer: True if the user complains about it."""
    failed: tuple[str, ...] = ()
    """The failures, as messages."""


async def run_sessions(
    url: str,
    sessions: Iterable[UserSession],
    crowd: UserSimulator,
    *,
    model: str,
    seed: int,
    concurrency: int = 8,
    max_tokens: int = 48,
    key: str | None = None,
    on_session: Callable[[int], Awaitable[None]] | None = None,
) -> list[SessionResult]:
    """Run the sessions in their order, `concurrency` at a time; each answer is sampled with its own seed."""
    semaphore, done = asyncio.Semaphore(concurrency), 0
    headers = {"X-Vita-Consent": "yes", **({"Authorization": f"Bearer {key}"} if key else {})}
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=120, limits=limits, trust_env=False) as client:

        async def run(session: UserSession) -> SessionResult:
            nonlocal done
            async with semaphore:
                result = await _run_session(client, session, crowd, model=model, seed=seed, max_tokens=max_tokens)
            done += 1
            if on_session:
                await on_session(done)
            return result

        return list(await asyncio.gather(*(run(session) for session in sessions)))


async def _run_session(
    client: httpx.AsyncClient, session: UserSession, crowd: UserSimulator, *, model: str, seed: int, max_tokens: int
) -> SessionResult:
    answers, requests, version, failed = [], [], "", []
    for number in range(session.answers):
        body = {
            "model": model,
            "messages": [{"role": message.role, "content": message.content} for message in session.prompt],
            "temperature": 1.0,
            "max_tokens": max_tokens,
            "seed": (seed * 1_000_003 + session.number * 7 + number) % 2**31,
            "user": session.who,
        }
        reply, problem = await _post(client, "chat/completions", body)
        if reply is None:
            return SessionResult(session, tuple(answers), tuple(requests), version, 0, failed=(problem,))
        answers.append(reply.json()["choices"][0]["message"]["content"] or "")
        requests.append(reply.headers["x-request-id"])
        version = reply.headers.get("x-vita-version", "")
    feedback_count = 0
    for reaction in crowd.react(session, answers, seed=seed):
        reply, problem = await _post(client, "feedback", _feedback(reaction, requests))
        feedback_count += reply is not None
        if reply is None:
            failed.append(problem)
    complaints = tuple(crowd.complains_about(session, answer) for answer in answers)
    return SessionResult(session, tuple(answers), tuple(requests), version, feedback_count, complaints, tuple(failed))


def _feedback(reaction: Reaction, requests: Sequence[str]) -> dict[str, object]:
    feedback: dict[str, object] = {"kind": reaction.kind, "consent": True}
    if reaction.kind == "vote":
        assert reaction.rejected is not None, "a vote has two sides"
        sides = {"chosen_request_id": requests[reaction.index], "rejected_request_id": requests[reaction.rejected]}
        return feedback | sides
    feedback["request_id"] = requests[reaction.index]
    return feedback | ({"better": reaction.better} if reaction.kind == "edit" else {"value": int(reaction.value)})


async def _post(client: httpx.AsyncClient, path: str, body: object) -> tuple[httpx.Response | None, str]:
    """Return the response, or None and the problem."""
    problem = ""
    for attempt in range(TRIES):
        try:
            reply = await client.post(path, json=body)
        except httpx.HTTPError as error:
            return None, f"{path}: {exception_text(error)}"
        if reply.is_success:
            return reply, ""
        problem = f"{path}: {reply.status_code} {reply.text[:200]}"
        if reply.status_code not in _COME_AGAIN:
            return None, problem
        await asyncio.sleep(min(float(reply.headers.get("retry-after", 1)), 5.0) * (1 + attempt))
    return None, problem
