"""The membership of a network replica in the fleet of one gateway: it joins, renews its token, and leaves.

    membership = Membership("https://10.0.1.1:9000", offer, secrets, client, notify)
    await membership.keep(); await membership.leave()

A gateway that does not respond, or that does not serve the release yet, is asked again. A gateway that has drained the
replica or retired its model ends the membership.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from vita.server.replica.rotating_secrets import RotatingSecrets
from vita.server.sites.join_messages import JOIN_PATH, LEAVE_PATH, RENEW_SECONDS
from vita.spine.errors import exception_text

RETRY_SECONDS, TIMEOUT_SECONDS = 1.0, 10.0
FIRST_TIMEOUT_SECONDS = 600.0
"""Maximum time of the first join, in which the gateway clears the release."""


@dataclass
class Membership:
    """The connection to one gateway."""

    gateway: str
    offer: dict[str, Any]
    """The fields of `JoinRequest` without the token."""
    secrets: RotatingSecrets
    client: httpx.AsyncClient
    notify: Callable[[str], None]
    renew_seconds: float = RENEW_SECONDS
    joined: bool = False
    end: str | None = None
    """Reason of the gateway for ending the membership."""

    async def keep(self) -> None:
        """Join and renew until the gateway ends the membership."""
        notice = ""
        while self.end is None:
            pause, text = await self._join()
            if text and text != notice:
                self.notify(f"{self.gateway}: {text}")
            notice = text
            await asyncio.sleep(pause)

    async def _join(self) -> tuple[float, str]:
        """Send one request; returns the pause before the next one, and a notice for the operator."""
        message = {**self.offer, "token": self.secrets.new(), "seconds": self.secrets.seconds}
        timeout = TIMEOUT_SECONDS if self.joined else FIRST_TIMEOUT_SECONDS
        try:
            answer = await self.client.post(
                self.gateway + JOIN_PATH, json=message, timeout=httpx.Timeout(timeout, connect=TIMEOUT_SECONDS)
            )
        except httpx.HTTPError as error:
            self.joined = False
            return RETRY_SECONDS, f"does not respond: {exception_text(error)}"
        if answer.status_code == 200:
            notice = "" if self.joined else f"joined as {_field(answer, 'replica')}"
            self.joined = True
            return self.renew_seconds, notice
        problem = _problem(answer)
        self.joined = False
        if answer.status_code in (400, 403, 410):
            self.end = problem
        return RETRY_SECONDS, problem

    async def leave(self) -> None:
        """Tell the gateway that the replica stops; returns when its requests have finished."""
        if not self.joined or self.end is not None:
            return
        try:
            await self.client.post(
                self.gateway + LEAVE_PATH, json={"instance": self.offer["instance"]}, timeout=FIRST_TIMEOUT_SECONDS
            )
        except httpx.HTTPError as error:
            self.notify(f"{self.gateway}: could not be notified that the replica stops: {exception_text(error)}")


def _problem(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"responds with {answer.status_code}"


def _field(answer: httpx.Response, name: str) -> str:
    try:
        return str(json.loads(answer.content)[name])
    except (ValueError, KeyError, TypeError):
        return "a replica"
