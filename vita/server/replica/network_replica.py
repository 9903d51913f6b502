"""A replica on a host of its own: serves one release over TLS and joins gateways.

    serve(NetworkReplicaOptions(release=folder, digest=sha256, credentials=credentials, join=["https://10.0.1.1:9000"],
                                host="10.0.1.2", port=9001))

Every file of the release is verified before the model is loaded. Only the certificate of a gateway can connect, and
only a gateway that the replica has joined has a valid token. The replica writes no files and has no ledger. On SIGTERM
it leaves its gateways, finishes its requests and ends.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from vita.gates.weights import model_digest
from vita.server.errors import ApiError
from vita.server.json_response import error_response
from vita.server.replica.main import open_app, verify
from vita.server.replica.membership import Membership
from vita.server.replica.rotating_secrets import RotatingSecrets
from vita.server.replica.traced_requests import TracedRequests
from vita.server.sites.credentials import Credentials
from vita.server.sites.join_messages import RENEW_SECONDS, TOKEN_SECONDS, is_address
from vita.server.sites.peers import PeerProtocol, RequireRole, with_tls
from vita.server.sites.residency import REGION_HEADER, request_regions, require_region
from vita.server.sites.site import Site
from vita.server.tracing import open_tracing
from vita.spine.errors import ConfigError, GateError


@dataclass(frozen=True)
class NetworkReplicaOptions:
    """The options of `vita replica`."""

    release: Path
    digest: str
    """Required SHA-256 of release.json."""
    credentials: Credentials
    join: Sequence[str]
    """Addresses at which gateways let replicas join."""
    host: str
    port: int
    """Port to listen on; 0 selects a free port."""
    site: Site = field(default_factory=Site)
    device: str = "cpu"
    threads: int = 1
    drain_seconds: int = 30
    renew_seconds: float = RENEW_SECONDS
    """Interval at which the token is replaced."""
    notify: Callable[[str], None] = lambda _: None


class RegionGuard:
    """Refuses requests that are limited to other regions than that of the replica, with 403."""

    def __init__(self, app: ASGIApp, region: str | None) -> None:
        self._app, self._region = app, region

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            header = dict(scope["headers"]).get(REGION_HEADER.lower().encode())
            try:
                require_region(request_regions((), header.decode("latin-1") if header else None), self._region)
            except ApiError as error:
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def serve(options: NetworkReplicaOptions) -> None:
    """Serve until SIGTERM or SIGINT, or until all gateways have ended the membership, which raises `GateError`."""
    if options.host in ("0.0.0.0", "::"):
        raise ConfigError("--host", expected="the address at which gateways reach this host", got=options.host)
    for address in options.join:
        if not is_address(address.rstrip("/")):
            raise ConfigError("--join", expected="an address such as https://10.0.1.1:9000", got=address)
    release, files = verify(options.release, digest=options.digest)  # before the import of torch, which takes seconds
    import torch

    torch.set_num_threads(options.threads)
    tokens = RotatingSecrets(seconds=TOKEN_SECONDS)
    app = open_app(
        options.release, digest=options.digest, device=options.device, secret=tokens, threads=options.threads
    )
    offer = {"instance": secrets.token_hex(16), "release": release.digest, "files": model_digest(files),
             "site": options.site.name, "region": options.site.region}  # fmt: skip
    options.notify(f"verified {release.id} ({release.digest[:12]})")
    tracing = open_tracing(release.name)
    try:
        asyncio.run(_serve_until_signal(TracedRequests(app, tracing), options, tokens, offer))
    finally:
        tracing.close()


async def _serve_until_signal(
    app: ASGIApp, options: NetworkReplicaOptions, tokens: RotatingSecrets, offer: dict[str, str | None]
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve_app(app, options, tokens, offer, stop=stop)


async def serve_app(
    app: ASGIApp, options: NetworkReplicaOptions, tokens: RotatingSecrets, offer: dict[str, str | None], *,
    stop: asyncio.Event,
) -> None:  # fmt: skip
    """Serve the application of a replica and join the gateways, until `stop` or until all of them have ended it.

    `offer` are the fields of `JoinRequest` without the address and the token.
    """
    guarded = RequireRole(RegionGuard(app, options.site.region), "gateway")
    config = uvicorn.Config(
        guarded, http=PeerProtocol, ws="none", log_config=None,
        log_level="warning", access_log=False, timeout_keep_alive=75, server_header=False,
        timeout_graceful_shutdown=options.drain_seconds,
    )  # fmt: skip
    server = _Server(with_tls(config, options.credentials.server_context()))
    listening = _open_socket(options.host, options.port)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    host = f"[{options.host}]" if ":" in options.host else options.host
    url = f"https://{host}:{listening.getsockname()[1]}"
    options.notify(f"listening on {url}")
    async with httpx.AsyncClient(verify=options.credentials.client_context(), trust_env=False) as client:
        members = [
            Membership(
                address.rstrip("/"), {**offer, "url": url}, tokens, client, options.notify, options.renew_seconds
            )
            for address in options.join
        ]
        keeping = asyncio.gather(*(member.keep() for member in members))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({keeping, stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
        keeping.cancel()
        stopping.cancel()
        membership_result, _ = await asyncio.gather(keeping, stopping, return_exceptions=True)
        await asyncio.gather(*(member.leave() for member in members))
    await server.end(serving)
    if isinstance(membership_result, Exception):
        raise membership_result
    if all(member.end is not None for member in members):
        raise GateError("replica", f"all gateways have ended the membership: {members[0].end}")


class _Server(uvicorn.Server):
    """A server that leaves signals to its caller."""

    async def end(self, serving: asyncio.Task[None]) -> None:
        """Finish the requests in progress within the graceful shutdown time, and end.

        Then connections are aborted: to close TLS, an idle client would have to respond.
        """
        self.should_exit = True
        while self.server_state.tasks and not serving.done():
            await asyncio.sleep(0.05)
        while not serving.done():
            for connection in list(self.server_state.connections):
                connection.transport.abort()  # type: ignore[union-attr]
            await asyncio.sleep(0.05)
        await serving

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _open_socket(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        hint = "--host is an address of this host, and --port a free port"
        raise ConfigError(f"{host}:{port}", f"cannot be listened on: {error}", hint=hint) from None
