"""The administration interface of a running service: a separate loopback port and a token that only its owner can read.

    handle = ServiceHandle.find(folder, "cat"); handle.call("POST", "/roll", {"folder": ..., "share": 0.1})

It is not reachable through the public port.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from vita.gates.clearance import ServingRequest
from vita.server.gateway.gateway import Gateway
from vita.server.gateway.telemetry import CONTENT_TYPE
from vita.server.middleware import standard_middleware
from vita.server.release import read_release
from vita.server.service.operator_page import OperatorPage
from vita.server.service.supervisor import Supervisor
from vita.spine import machine
from vita.spine.errors import ConfigError, VitaError, exception_text


@dataclass(frozen=True)
class ServiceHandle:
    """The address and the token of the administration interface, stored in a file that only its owner can read."""

    service: str
    url: str
    """The public URL."""
    admin: str
    token: str
    host: str
    process: str

    @classmethod
    def of(cls, service: str, *, url: str, port: int) -> ServiceHandle:
        host, process = machine.owner()
        return cls(service, url, f"http://127.0.0.1:{port}", secrets.token_urlsafe(32), host, process)

    def write(self, folder: Path) -> Path:
        """Write the file; it has mode 600 from its creation on."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{slug(self.service)}-{self.admin.rpartition(':')[2]}.json"
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(self), file)
        return path

    @classmethod
    def all(cls, folder: Path) -> list[ServiceHandle]:
        """Return the services that run on this machine; deletes the files of dead ones."""
        handles = []
        for path in sorted(folder.glob("*.json")):
            try:
                control = cls(**json.loads(path.read_text()))
            except (ValueError, TypeError, OSError):
                continue
            if machine.still_alive(control.host, control.process) is False:
                path.unlink(missing_ok=True)
            else:
                handles.append(control)
        return handles

    @classmethod
    def find(cls, folder: Path, service: str | None) -> ServiceHandle:
        """Return the running service with this name, or the only one."""
        handles = cls.all(folder)
        matches = [handle for handle in handles if service in (None, handle.service, handle.url)]
        if len(matches) == 1:
            return matches[0]
        if not handles:
            raise ConfigError("fleet", "no service runs with this store", hint="start one with `vita serve MODEL`")
        available = ", ".join(f"{handle.service} at {handle.url}" for handle in handles)
        if not matches:
            raise ConfigError("fleet", f"no service `{service}` runs with this store", hint=f"there is {available}")
        raise ConfigError("fleet", f"{len(matches)} services run", hint=f"name one by its address: {available}")

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        """Send a command to the service; raises `CommandRefused` when it responds with an error."""
        headers = {"Authorization": f"Bearer {self.token}"}
        try:
            with httpx.Client(timeout=httpx.Timeout(900, connect=5), trust_env=False) as client:
                answer = client.request(method, self.admin + path, json=body, headers=headers)
        except httpx.HTTPError as error:
            raise ConfigError(f"service {self.service}", f"does not respond: {exception_text(error)}") from None
        if answer.status_code >= 400:
            raise _refused(answer)
        return answer


class CommandRefused(VitaError):
    """A running service refused a command."""

    def __init__(self, problem: str, *, exit_code: int = VitaError.exit_code) -> None:
        super().__init__("fleet", problem)
        self.exit_code = exit_code


def _refused(answer: httpx.Response) -> CommandRefused:
    """Create the error for a refused command, with the exit code that the service reports."""
    try:
        content = answer.json()
        problem = str(content["error"]).removeprefix("fleet: ")
        return CommandRefused(problem, exit_code=int(content.get("exit_code", VitaError.exit_code)))
    except (ValueError, KeyError, TypeError, AttributeError):
        return CommandRefused(f"responded with {answer.status_code}")


def admin_app(gateway: Gateway, supervisor: Supervisor, *, token: str) -> Starlette:
    """Create the application of the administration interface."""

    async def status(_: dict[str, Any]) -> Any:
        content, served = supervisor.status(), {**gateway.router.versions, **gateway.router.adapters}
        for entry in (*content["versions"], *content["adapters"]):
            state = gateway.directory.state(served[entry.get("adapter") or entry["version"]])
            entry |= {"state": state.state, "reason": state.why if state.state == "retired" else ""}
        return {**content, "in_flight": gateway.in_flight, "draining": gateway.draining}

    async def drain(body: dict[str, Any]) -> Any:
        note = await supervisor.drain(str(body.get("replica")), restart=body.get("restart") is not False)
        return {**await status({}), **({} if note is None else {"note": note})}

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

    async def add_adapter(body: dict[str, Any]) -> Any:
        folder = body.get("folder")
        if not isinstance(folder, str):
            raise ConfigError("fleet.folder", expected="the folder of a release", got=folder)
        release = await asyncio.to_thread(read_release, Path(folder).resolve())
        await supervisor.add_adapter(release, terms=_terms(body))
        return await status({})

    async def remove_adapter(body: dict[str, Any]) -> Any:
        await supervisor.remove_adapter(str(body.get("name")))
        return await status({})

    page = OperatorPage(gateway.ledger, supervisor, partial(status, {}))

    async def page_link(_: dict[str, Any]) -> Any:
        return {"path": page.link()}

    async def metrics(_: dict[str, Any]) -> Any:
        return Response(await gateway.exposition(), headers={"Content-Type": CONTENT_TYPE})

    def guarded(work: Callable[[dict[str, Any]], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            token_sent = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(token_sent.encode(), token.encode()):
                return JSONResponse({"error": "the token is wrong"}, 401)
            try:
                result = await work(await _body(request))
            except VitaError as error:
                return JSONResponse({"error": str(error), "exit_code": error.exit_code}, 409)
            except ValueError as error:
                return JSONResponse({"error": f"the body is not JSON: {error}"}, 400)
            return result if isinstance(result, Response) else JSONResponse(result)

        return answer

    posts = {"/drain": drain, "/roll": roll, "/promote": promote, "/rollback": roll_back,
             "/adapters": add_adapter, "/adapters/remove": remove_adapter, "/page": page_link}  # fmt: skip
    routes: list[BaseRoute] = [Route("/status", guarded(status)), Route("/metrics", guarded(metrics))]
    routes += [Route(path, guarded(work), methods=["POST"]) for path, work in posts.items()]
    routes.append(Mount("", page.application()))
    return Starlette(routes=routes, middleware=standard_middleware())


async def _body(request: Request) -> dict[str, Any]:
    """Read the JSON object in the body of a request; {} without a body."""
    data = await request.body()
    if not data.strip():
        return {}
    body = json.loads(data)
    if not isinstance(body, dict):
        raise ConfigError("fleet", expected="a JSON object as the body", got=type(body).__name__)
    return body


def _terms(body: dict[str, Any]) -> ServingRequest:
    """Read the terms for the clearance of a release."""
    ungated, research = body.get("ungated"), body.get("research", False)
    if not isinstance(ungated, str | None):
        raise ConfigError("fleet.ungated", expected="a reason", got=ungated)
    if not isinstance(research, bool):
        raise ConfigError("fleet.research", expected="true or false", got=research)
    return ServingRequest(ungated, research)


def slug(name: str) -> str:
    """Return the name of a service as a part of a file name."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)[:100]
