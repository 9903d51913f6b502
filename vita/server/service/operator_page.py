"""The operator page of a service, on the separate loopback port of the administration interface.

`vita fleet page` prints a link that is valid for one minute and can be used once. It starts a session with a cookie
that scripts and other sites cannot use. Each change is confirmed on a separate page, whose form contains a token of the
session (protection against CSRF). The page is rendered by the server and contains no script.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from vita.gates.clearance import ServingRequest
from vita.monitoring.prometheus_files import DEFAULT_ALERTS
from vita.reporting.render import served_page
from vita.reporting.web import LOCAL_HOSTS, page_application
from vita.server.service.operator_view import operator_view
from vita.server.service.supervisor import Supervisor
from vita.spine.errors import VitaError
from vita.spine.ledger import Ledger

PATH, COOKIE = "/operator", "vita_operator"
LINK_SECONDS, SESSION_SECONDS, MOST_SESSIONS = 60.0, 12 * 3600.0, 20
LARGEST_FORM = 16 * 1024
_TEMPLATES = Path(__file__).parent / "templates"
_REFRESH_SECONDS = "30"


@dataclass
class OperatorSession:
    """The session of one browser."""

    expires: float
    form: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    """The token of its forms."""
    message: str = ""
    """The result of the last change, which the next page shows."""
    is_problem: bool = False


@dataclass(frozen=True)
class Change:
    """A change that an operator can make: its question, its consequence and the label of its button."""

    question: str
    consequence: str
    label: str
    needs_reason: bool = False


CHANGES = {
    "drain": Change(
        "Drain the replica {target}?",
        "The replica finishes its requests and stops. A new local replica replaces it; a network replica is not "
        "replaced.", "Drain",
    ),
    "promote": Change(
        "Promote the newest version?", "It receives all traffic. The other versions finish their requests and stop.",
        "Promote", needs_reason=True,
    ),
    "rollback": Change(
        "Roll back the newest version?",
        "The previous version receives all traffic. The newest version finishes its requests and stops.", "Roll back",
    ),
}  # fmt: skip


class OperatorPage:
    """The sessions and endpoints of the page."""

    def __init__(
        self, ledger: Ledger, supervisor: Supervisor, status: Callable[[], Awaitable[Mapping[str, Any]]]
    ) -> None:
        """`status` returns the document of `vita fleet status`."""
        self._ledger, self._supervisor, self._status = ledger, supervisor, status
        self._links: dict[str, float] = {}
        self._sessions: dict[str, OperatorSession] = {}

    def application(self) -> ASGIApp:
        """Create the application of the page, for the path `/operator`."""
        return page_application(
            [
                Route(PATH, self.show),
                Route(f"{PATH}/enter", self.enter),
                Route(f"{PATH}/confirm", self.confirm),
                Route(f"{PATH}/act", self.act, methods=["POST"]),
            ],
            hosts=LOCAL_HOSTS,
        )

    def link(self) -> str:
        """Create a link that starts a session once, within a minute; returns its path."""
        now = time.monotonic()
        self._links = {code: expires for code, expires in self._links.items() if expires > now}
        code = secrets.token_urlsafe(32)
        self._links[code] = now + LINK_SECONDS
        return f"{PATH}/enter?code={code}"

    async def enter(self, request: Request) -> Response:
        """Start a session with the code of a link."""
        if self._links.pop(request.query_params.get("code", ""), 0.0) < time.monotonic():
            return _refusal("This link was already used or has expired.")
        now = time.monotonic()
        alive = {name: session for name, session in self._sessions.items() if session.expires > now}
        self._sessions = dict(list(alive.items())[-(MOST_SESSIONS - 1) :])
        name = secrets.token_urlsafe(32)
        self._sessions[name] = OperatorSession(now + SESSION_SECONDS)
        response = RedirectResponse(PATH, 303)
        response.set_cookie(COOKIE, name, path=PATH, httponly=True, samesite="strict", max_age=int(SESSION_SECONDS))
        return response

    async def show(self, request: Request) -> Response:
        """Show the state of the service."""
        if (session := self._session(request)) is None:
            return _refusal("There is no session, or it has expired.")
        status = await self._status()
        try:
            view = await asyncio.to_thread(operator_view, self._ledger, status, DEFAULT_ALERTS)
        except VitaError as error:
            return _refusal(f"The ledger cannot be read: {error}", 503)
        kind, message = "bad" if session.is_problem else "", session.message
        session.message, session.is_problem = "", False
        page = served_page(
            "operator.html.jinja", folder=_TEMPLATES, forms=True, view=view, message=message, message_kind=kind
        )
        headers = {"Content-Security-Policy": page.policy, "Refresh": _REFRESH_SECONDS}
        return HTMLResponse(page.html, headers=headers)

    async def confirm(self, request: Request) -> Response:
        """Ask for the confirmation of a change."""
        if (session := self._session(request)) is None:
            return _refusal("There is no session, or it has expired.")
        action, target = request.query_params.get("action", ""), request.query_params.get("target", "")
        if (change := CHANGES.get(action)) is None or (action == "drain" and target not in self._supervisor.replicas):
            return _refusal("Unknown action.", 404)
        page = served_page(
            "confirm.html.jinja", folder=_TEMPLATES, forms=True, question=change.question.format(target=target),
            consequence=change.consequence, label=change.label, needs_reason=change.needs_reason, action=action,
            target=target, token=session.form,
        )  # fmt: skip
        return HTMLResponse(page.html, headers={"Content-Security-Policy": page.policy})

    async def act(self, request: Request) -> Response:
        """Make a change that was confirmed."""
        session = self._session(request)
        length = request.headers.get("content-length", "")
        if not length.isdigit() or int(length) > LARGEST_FORM:
            return _refusal("The form is too large.", 413)
        form = {name: value for name, value in (await request.form()).items() if isinstance(value, str)}
        is_own = session is not None and hmac.compare_digest(form.get("form", "").encode(), session.form.encode())
        if session is None or not is_own or not _is_same_origin(request):
            return _refusal("The form does not belong to this session, or the session has expired.")
        try:
            session.message = await self._carry_out(form.get("action", ""), form.get("target", ""), form.get("reason"))
        except VitaError as error:
            session.message, session.is_problem = str(error), True
        return RedirectResponse(PATH, 303)

    async def _carry_out(self, action: str, target: str, reason: str | None) -> str:
        """Make a change and return its result as a sentence."""
        if action == "drain":
            note = await self._supervisor.drain(target)
            return note or f"The replica {target} was drained and replaced."
        if action == "promote":
            version = await self._supervisor.promote(terms=ServingRequest((reason or "").strip() or None))
            return f"Promoted: {version.id} receives all traffic."
        if action == "rollback":
            version = await self._supervisor.roll_back()
            return f"Rolled back: {version.id} receives all traffic."
        return "Unknown action."

    def _session(self, request: Request) -> OperatorSession | None:
        session = self._sessions.get(request.cookies.get(COOKIE, ""))
        return session if session is not None and session.expires > time.monotonic() else None


def _is_same_origin(request: Request) -> bool:
    """Return False if a browser states that another site sent a form; without a referrer, the origin is `null`."""
    own = (None, "null", f"http://{request.headers.get('host')}")
    return (
        request.headers.get("sec-fetch-site", "same-origin") == "same-origin" and request.headers.get("origin") in own
    )


def _refusal(problem: str, status: int = 403) -> Response:
    return PlainTextResponse(f"{problem} `vita fleet page` prints a new link.\n", status)
