"""The operators' side of a running service: on a loopback port of its own, with a token that only the owner can read.

    control = ServiceHandle.find(folder, "cat"); control.call("POST", "/roll", {"folder": ..., "share": 0.1})

Nothing of it is reachable through the public listener.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vita.gates.clearance import Terms
from vita.server.gateway.gateway import Gateway
from vita.server.gateway.telemetry import CONTENT_TYPE
from vita.server.middleware import standard_middleware
from vita.server.release import read_release
from vita.server.service.supervisor import Supervisor
from vita.spine import machine
from vita.spine.errors import ConfigError, VitaError


@dataclass(frozen=True)
class ServiceHandle:
    """Where a running service is told what to do; the file that holds it can be read by its owner only."""

    service: str
    url: str
    """The public address."""
    admin: str
    token: str
    place: str
    process: str

    @classmethod
    def of(cls, service: str, *, url: str, port: int) -> ServiceHandle:
        place, process = machine.owner()
        return cls(service, url, f"http://127.0.0.1:{port}", secrets.token_urlsafe(32), place, process)

    def write(self, folder: Path) -> Path:
        """The file, with mode 600 from its first moment."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{_slug(self.service)}-{self.admin.rpartition(':')[2]}.json"
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(self), file)
        return path

    @classmethod
    def all(cls, folder: Path) -> list[ServiceHandle]:
        """The services that run on this machine; files of dead ones are cleared away."""
        found = []
        for path in sorted(folder.glob("*.json")):
            try:
                control = cls(**json.loads(path.read_text()))
            except (ValueError, TypeError, OSError):
                continue
            if machine.still_alive(control.place, control.process) is False:
                path.unlink(missing_ok=True)
            else:
                found.append(control)
        return found

    @classmethod
    def find(cls, folder: Path, service: str | None) -> ServiceHandle:
        """The running service of that name, or the only one."""
        living = cls.all(folder)
        named = [one for one in living if service in (None, one.service, one.url)]
        if len(named) == 1:
            return named[0]
        if not living:
            raise ConfigError("fleet", "no service runs with this store", hint="start one with `vita serve MODEL`")
        told = ", ".join(f"{one.service} at {one.url}" for one in living)
        if not named:
            raise ConfigError("fleet", f"no service `{service}` runs with this store", hint=f"there is {told}")
        raise ConfigError("fleet", f"{len(named)} services run", hint=f"name one by its address: {told}")

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        """Tell the service something; what it refuses becomes an error here."""
        headers = {"Authorization": f"Bearer {self.token}"}
        try:
            with httpx.Client(timeout=httpx.Timeout(900, connect=5), trust_env=False) as client:
                answer = client.request(method, self.admin + path, json=body, headers=headers)
        except httpx.HTTPError as error:
            raise ConfigError(f"service {self.service}", f"does not answer: {error or type(error).__name__}") from None
        if answer.status_code >= 400:
            raise _told(answer)
        return answer


class Refused(VitaError):
    """A running service refused a command."""

    def __init__(self, problem: str, *, exit_code: int = VitaError.exit_code) -> None:
        super().__init__("fleet", problem)
        self.exit_code = exit_code


def _told(answer: httpx.Response) -> Refused:
    """The service's refusal, with the exit code of the error that it met."""
    try:
        content = answer.json()
        problem = str(content["error"]).removeprefix("fleet: ")
        return Refused(problem, exit_code=int(content.get("exit_code", VitaError.exit_code)))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Refused(f"answered {answer.status_code}")


def admin_app(gateway: Gateway, supervisor: Supervisor, *, token: str) -> Starlette:
    """The application behind the token."""

    async def status(_: dict[str, Any]) -> Any:
        return {**supervisor.status(), "in_flight": gateway.in_flight, "draining": gateway.draining}

    async def drain(body: dict[str, Any]) -> Any:
        await supervisor.drain(str(body.get("replica")), again=body.get("again") is not False)
        return await status({})

    async def roll(body: dict[str, Any]) -> Any:
        share = body.get("share", 1.0)
        if isinstance(share, bool) or not isinstance(share, (int, float)):
            raise ConfigError("fleet.share", expected="a number", got=share)
        folder = body.get("folder")
        if not isinstance(folder, str):
            raise ConfigError("fleet.folder", expected="the folder of a release", got=folder)
        release = await asyncio.to_thread(read_release, Path(folder).resolve())
        await supervisor.roll(release, share=float(share), terms=_terms(body))
        return await status({})

    async def promote(body: dict[str, Any]) -> Any:
        await supervisor.promote(terms=_terms(body))
        return await status({})

    async def roll_back(_: dict[str, Any]) -> Any:
        await supervisor.roll_back()
        return await status({})

    async def metrics(_: dict[str, Any]) -> Any:
        return Response(await gateway.exposition(), headers={"Content-Type": CONTENT_TYPE})

    def guarded(work: Callable[[dict[str, Any]], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), token.encode()):
                return JSONResponse({"error": "the token is wrong"}, 401)
            try:
                told = await work(await _body(request))
            except VitaError as error:
                return JSONResponse({"error": str(error), "exit_code": error.exit_code}, 409)
            except ValueError as error:
                return JSONResponse({"error": f"the body is not JSON: {error}"}, 400)
            return told if isinstance(told, Response) else JSONResponse(told)

        return answer

    posts = {"/drain": drain, "/roll": roll, "/promote": promote, "/rollback": roll_back}
    routes = [Route("/status", guarded(status)), Route("/metrics", guarded(metrics))]
    routes += [Route(path, guarded(work), methods=["POST"]) for path, work in posts.items()]
    return Starlette(routes=routes, middleware=standard_middleware())


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object of a request; a request without a body has an empty one."""
    data = await request.body()
    if not data.strip():
        return {}
    body = json.loads(data)
    if not isinstance(body, dict):
        raise ConfigError("fleet", expected="a JSON object as the body", got=type(body).__name__)
    return body


def _terms(body: dict[str, Any]) -> Terms:
    """On which terms a release is to be cleared."""
    ungated, research = body.get("ungated"), body.get("research", False)
    if not isinstance(ungated, str | None):
        raise ConfigError("fleet.ungated", expected="a reason", got=ungated)
    if not isinstance(research, bool):
        raise ConfigError("fleet.research", expected="true or false", got=research)
    return Terms(ungated, research)


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)[:100]
