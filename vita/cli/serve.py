"""Serving: `vita serve`, `vita fleet`, `vita keys`."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from vita.cli.app import app, open_workspace
from vita.cli.workspace import Workspace
from vita.spine.console import line, print_table
from vita.spine.errors import ConfigError, VitaError

if TYPE_CHECKING:
    from vita.server.release import ReleaseInfo
    from vita.server.service.admin import ServiceHandle

keys_app = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)
fleet_app = typer.Typer(help="Control a running service.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
app.add_typer(fleet_app, name="fleet")

UngatedOption = Annotated[
    str | None,
    typer.Option(
        metavar="REASON", help="Serve a model without an approval of a gate, for this reason, which the ledger records."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]
ServiceOption = Annotated[str | None, typer.Option(help="Name or address of the service, if several run.")]


@app.command()
def serve(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="A model or a release: a name (cat/dpo), a digest, or a folder.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 selects a free port.")] = 8000,
    replicas: Annotated[int, typer.Option(min=1, max=64, help="Number of replica processes.")] = 1,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Addresses other than this machine's need API keys.")
    ] = "127.0.0.1",
    name: Annotated[str | None, typer.Option(help="Name of the model in requests.")] = None,
    research: Annotated[bool, typer.Option(help="Serve a retired model to keys with the scope `research`.")] = False,
    ungated: UngatedOption = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the service: in_flight=64, log=metadata, ...")
    ] = None,
) -> None:
    """Serve a model with an OpenAI-compatible API, and a chat page at `/`."""
    from vita.server.service.deploy_checks import ledger_clearance
    from vita.server.service.service import Service
    from vita.server.settings import ServiceSettings
    from vita.spine.config import build, override

    workspace = open_workspace(ctx)
    settings = build(ServiceSettings, override({}, assignments or []), where="serve")
    with tempfile.TemporaryDirectory(prefix="vita-release-") as folder:
        release = _release(workspace, model, Path(folder), name=name)
        count_text = "" if replicas == 1 else f" on {replicas} replicas"
        workspace.console.print(f"starting {release.id}{count_text} ...")
        service = Service(
            name=name or release.name,
            release=release,
            ledger=workspace.ledger,
            controls=_controls(workspace),
            clear=ledger_clearance(workspace.ledger, workspace.store),
            ungated=ungated,
            settings=settings,
            host=host,
            port=port,
            replicas=replicas,
            threads=workspace.machine.threads,
            research=research,
            notify=lambda text: workspace.console.print(text),
            ready=lambda url: _announce(workspace, url, name or release.name),
        )
        cut = asyncio.run(service.run())
    workspace.console.print(f"stopped; {_ended(cut)}")


def _ended(cut: int) -> str:
    if not cut:
        return "everything that was accepted has been answered"
    return f"{cut} request{'s' * (cut > 1)} that had been accepted {'were' if cut > 1 else 'was'} cut off"


def _announce(workspace: Workspace, url: str, name: str) -> None:
    body = json.dumps({"model": name, "messages": [{"role": "user", "content": "What is a cat?"}]})
    workspace.console.print(line(("serving", "bold"), f" {name} at ", (url, "bold"), ", with a chat page at /"))
    curl = f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'"
    workspace.console.print(curl, soft_wrap=True)
    workspace.console.print(
        "Ctrl-C finishes the running requests and stops; `vita fleet status` in another terminal shows the state"
    )


def _release(workspace: Workspace, reference: str, folder: Path, *, name: str | None) -> ReleaseInfo:
    """Return the release of a reference; a model folder gets a temporary release."""
    from vita.server.release import create_release, read_release
    from vita.stages.kinds import Model, Release

    path = Path(reference)
    if path.is_dir() and reference not in workspace.ledger.all_names():
        if (path / "release.json").is_file():
            return read_release(path.resolve())
        create_release(path, folder, name=_plain(name or path.resolve().name), digest=_digest_of(workspace, path))
        return read_release(folder)
    digest = workspace.digest(reference)
    if workspace.store.manifest(digest).kind == Release.kind:
        return read_release(workspace.store.open(digest, Release).path)
    model = workspace.store.open(digest, Model)
    called = name or (reference if reference in workspace.ledger.all_names() else digest[:12])
    create_release(model.path, folder, name=_plain(called), digest=digest)
    return read_release(folder)


def _keep_release(release: ReleaseInfo, folder: Path) -> Path:
    """Move a release to `folder`, which its digest names, unless the same release is there and whole.

    A folder that is there is never deleted: a service may serve from it. Two commands may do this at once: renaming
    fails where the other command was first, and its folder holds the same files.
    """
    from vita.server.release import read_release, verify_release

    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.is_dir():
        try:
            verify_release(read_release(folder))
            return folder
        except VitaError:
            folder.rename(release.folder.with_name("damaged"))
    try:
        release.folder.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    return folder


def _digest_of(workspace: Workspace, folder: Path) -> str:
    """Return the digest of a model folder from its files; a model of the store keeps its digest."""
    from vita.gates.weights import hash_files, match_model

    return match_model(workspace.ledger, workspace.store, hash_files(folder.resolve())).digest


def _plain(name: str) -> str:
    """Return a name in the form that release names have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "model"


def _controls(workspace: Workspace) -> Path:
    return workspace.store.root / "services"


# -- the fleet


@fleet_app.command("status")
def fleet_status(ctx: typer.Context, service: ServiceOption = None, as_json: JsonOption = False) -> None:
    """Show the versions and replicas of a running service."""
    workspace = open_workspace(ctx)
    _show(workspace, _control(workspace, service).call("GET", "/status").json(), as_json=as_json)


@fleet_app.command("drain")
def fleet_drain(
    ctx: typer.Context,
    replica: Annotated[str, typer.Argument(help="A replica, as `vita fleet status` names it.")],
    stop: Annotated[bool, typer.Option("--stop", help="Do not start a replacement.")] = False,
    service: ServiceOption = None,
) -> None:
    """Drain a replica: it finishes its requests and stops; a new replica replaces it."""
    workspace = open_workspace(ctx)
    response = _control(workspace, service).call("POST", "/drain", {"replica": replica, "restart": not stop})
    _show(workspace, response.json())


@fleet_app.command("roll")
def fleet_roll(
    ctx: typer.Context,
    release: Annotated[str, typer.Argument(help="A release or a model: a name, a digest, or a folder.")],
    share: Annotated[float, typer.Option(help="Share of the traffic until the version is promoted.")] = 1.0,
    research: Annotated[bool, typer.Option(help="Also if the model is retired and kept for research.")] = False,
    ungated: UngatedOption = None,
    service: ServiceOption = None,
) -> None:
    """Start another version beside the current one, without losing a request."""
    workspace = open_workspace(ctx)
    if not 0 < share <= 1:
        raise ConfigError("--share", expected="a number above 0, up to 1", got=share)
    control = _control(workspace, service)
    with tempfile.TemporaryDirectory(prefix="vita-release-", dir=_controls(workspace)) as folder:
        created = Path(folder) / "release"
        pinned = _release(workspace, release, created, name=None)
        lasting = pinned.folder
        if lasting == created:  # made by this command, which it must outlive
            lasting = _keep_release(pinned, _controls(workspace) / "releases" / pinned.digest)
        terms = {"ungated": ungated, "research": research}
        _show(workspace, control.call("POST", "/roll", {"folder": str(lasting), "share": share, **terms}).json())


@fleet_app.command("promote")
def fleet_promote(ctx: typer.Context, ungated: UngatedOption = None, service: ServiceOption = None) -> None:
    """Send all traffic to the newest version and drain the others."""
    workspace = open_workspace(ctx)
    _show(workspace, _control(workspace, service).call("POST", "/promote", {"ungated": ungated}).json())


@fleet_app.command("rollback")
def fleet_rollback(ctx: typer.Context, service: ServiceOption = None) -> None:
    """Send all traffic to the previous version and drain the newest."""
    workspace = open_workspace(ctx)
    _show(workspace, _control(workspace, service).call("POST", "/rollback").json())


def _control(workspace: Workspace, service: str | None) -> ServiceHandle:
    from vita.server.service.admin import ServiceHandle

    return ServiceHandle.find(_controls(workspace), service)


def _show(workspace: Workspace, status: dict[str, Any], *, as_json: bool = False) -> None:
    if as_json:
        typer.echo(json.dumps(status, indent=1))
        return
    workspace.console.print(line((status["service"], "bold"), f", {status['in_flight']} requests in flight"))
    versions = Table("version", "share", "model", "gate", box=None, pad_edge=False)
    for replica in status["versions"]:
        gate = replica["gate"].get("gate") or f"{replica['gate']['status']}: {replica['gate'].get('reason', '')}"
        versions.add_row(replica["version"], f"{replica['share']:.0%}", replica["model"][:12], gate)
    print_table(workspace.console, versions)
    replicas = Table("replica", "version", "state", "pid", "in flight", "starts", box=None, pad_edge=False)
    for replica in status["replicas"]:
        cells = (
            replica["replica"],
            replica["version"],
            replica["state"],
            replica["pid"],
            replica["in_flight"],
            replica["starts"],
        )
        replicas.add_row(*(str(cell) for cell in cells))
    print_table(workspace.console, replicas)
    for replica in status["replicas"]:
        for note in (*filter(None, [replica.get("reason")]), *replica.get("warnings", ())):
            workspace.console.print(line((replica["replica"], "yellow"), f": {note}"), soft_wrap=True)


# -- keys


@keys_app.command("create")
def keys_create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Whose key it is, or what for.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="chat, completions, embeddings, feedback, research or admin; the first four when absent."),
    ] = None,
    per_minute: Annotated[float | None, typer.Option(help="Requests per minute.")] = None,
    days: Annotated[float | None, typer.Option(min=0.0, max=36_500, help="Validity in days.")] = None,
    consent: Annotated[bool, typer.Option(help="Requests with this key may be stored unless they decline.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Create an API key. It is shown once and stored as a hash."""
    from vita.server.gateway.keys import USUAL_SCOPES, create

    workspace = open_workspace(ctx)
    scopes: Sequence[str] = [part.strip() for option in scope or () for part in option.split(",")] or USUAL_SCOPES
    expires = None if days is None else time.time() + days * 86400
    secret = create(
        workspace.ledger, name, scopes=scopes, requests_per_minute=per_minute, consent=consent, expires=expires
    )
    if as_json:
        typer.echo(json.dumps({"key": secret, "name": name, "scopes": sorted(set(scopes))}))
        return
    typer.echo(secret)
    workspace.console.print("Store it now: it is not shown again. Send it as `Authorization: Bearer KEY`.", style="dim")


@keys_app.command("list")
def keys_list(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List the API keys with their scopes and states."""
    from vita.server.gateway.keys import all_keys

    workspace = open_workspace(ctx)
    keys = all_keys(workspace.ledger)
    now = time.time()
    rows = [{"key": f"vk-{key.hint}-...", "name": key.name, "scopes": list(key.scopes),
             "requests_per_minute": key.requests_per_minute, "consent": key.consent, "created": key.created,
             "state": "valid" if key.valid(now) else "revoked" if key.revoked else "run out"}
            for key in keys]  # fmt: skip
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    table = Table("key", "name", "scopes", "a minute", "state", box=None, pad_edge=False)
    for row in rows:
        limit = "" if row["requests_per_minute"] is None else f"{row['requests_per_minute']:g}"
        table.add_row(row["key"], row["name"], " ".join(row["scopes"]), limit, row["state"])
    print_table(workspace.console, table)


@keys_app.command("revoke")
def keys_revoke(
    ctx: typer.Context, key: Annotated[str, typer.Argument(help="Its eight letters, or its name.")]
) -> None:
    """Revoke an API key. Running services refuse it within seconds."""
    from vita.server.gateway.keys import revoke

    workspace = open_workspace(ctx)
    ended = revoke(workspace.ledger, key)
    workspace.console.print(f"vk-{ended.hint}-... ({ended.name}) is revoked")
