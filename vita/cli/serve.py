"""Serving: `vita serve`, `vita fleet`."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from vita.cli.app import app, open_workspace
from vita.cli.options import SERVICES, JsonOption, print_json
from vita.cli.release_options import (
    BackendOption,
    BackendSetOption,
    BatchInvarianceOption,
    DraftModelOption,
    SpeculationOption,
    with_backend,
    with_decoding,
)
from vita.cli.workspace import Workspace
from vita.spine.console import line, print_table
from vita.spine.errors import ConfigError, StoreError, VitaError
from vita.spine.model_files import is_adapter_folder
from vita.spine.plain_text import counted

if TYPE_CHECKING:
    from vita.server.release import ReleaseInfo
    from vita.server.service.admin import ServiceHandle

fleet_app = typer.Typer(help="Control a running service.", no_args_is_help=True)
app.add_typer(fleet_app, name="fleet", rich_help_panel=SERVICES)

UngatedOption = Annotated[
    str | None,
    typer.Option(metavar="REASON", help="Serve a model that no gate has approved. The ledger records REASON."),
]
ServiceOption = Annotated[str | None, typer.Option(help="Name or address of the service, if several run.")]


@app.command(rich_help_panel=SERVICES)
def serve(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="A model or a release: a name (cat/dpo), a digest, or a folder.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on. 0 selects a free port.")] = 8000,
    replicas: Annotated[int, typer.Option(min=0, max=64, help="Number of replica processes.")] = 1,
    host: Annotated[
        str, typer.Option(help="Address to listen on. API keys are required if other machines can reach the address.")
    ] = "127.0.0.1",
    name: Annotated[str | None, typer.Option(help="Model name that clients use in requests.")] = None,
    digest: Annotated[
        str | None, typer.Option(metavar="SHA256", help="Serve the release only if release.json has this SHA-256.")
    ] = None,
    research: Annotated[
        bool, typer.Option(help="Serve a retired model. Only API keys with the scope `research` can use it.")
    ] = False,
    ungated: UngatedOption = None,
    site: Annotated[str, typer.Option(help="Name of this site, for the response header X-Vita-Site.")] = "",
    region: Annotated[str | None, typer.Option(help="Region of this site, for example eu.")] = None,
    credentials: Annotated[
        Path | None, typer.Option(help="Folder with the certificate of this gateway. Lets network replicas join.")
    ] = None,
    join_port: Annotated[int, typer.Option(min=0, max=65535, help="Port for network replicas. 0: a free port.")] = 0,
    backend: BackendOption = None,
    backend_assignments: BackendSetOption = None,
    speculation: SpeculationOption = None,
    draft_model: DraftModelOption = None,
    batch_invariance: BatchInvarianceOption = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a setting of the service, for example in_flight=64 or log=metadata."),
    ] = None,
) -> None:
    """Serve a model with an OpenAI-compatible API and a chat page at `/`."""
    from vita.server.service.deploy_checks import ledger_clearance
    from vita.server.service.service import Service
    from vita.server.settings import ServiceSettings
    from vita.server.sites.credentials import Credentials
    from vita.server.sites.site import Site
    from vita.spine.config import build, override

    if not replicas and credentials is None:
        raise ConfigError("--replicas", expected="at least 1, or --credentials for network replicas", got=0)
    workspace = open_workspace(ctx)
    settings = build(ServiceSettings, override({}, assignments or []), where="serve")
    with _temporary_folder() as folder:
        release = _release(workspace, model, folder / "release", name=name)
        if digest is not None and release.digest != digest:
            raise StoreError(model, expected=f"the release with the digest {digest}", got=release.digest)
        release = with_backend(workspace, release, folder / "backend", backend, backend_assignments)
        release = with_decoding(
            workspace, release, folder / "decoding",
            method=speculation, draft_model=draft_model, batch_invariance=batch_invariance,
        )  # fmt: skip
        count_text = "" if replicas == 1 else f" on {replicas} replicas" if replicas else " on network replicas"
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
            site=Site(site, region),
            credentials=None if credentials is None else Credentials.load(credentials, role="gateway"),
            join_port=join_port,
            notify=lambda text: workspace.console.print(text),
            ready=lambda url: _announce(workspace, url, name or release.name, task=_task(release)),
        )
        cut = asyncio.run(service.run())
    workspace.console.print(f"stopped; {_outcome(cut)}")


def _outcome(cut: int) -> str:
    if not cut:
        return "all accepted requests were completed"
    return f"{counted(cut, 'accepted request')} {'were' if cut > 1 else 'was'} interrupted"


_EXAMPLES: dict[str, tuple[str, dict[str, object]]] = {
    "chat": ("chat/completions", {"messages": [{"role": "user", "content": "What is a cat?"}]}),
    "classification": ("classify", {"input": "What is a cat?"}),
    "embedding": ("embeddings", {"input": "What is a cat?"}),
    "masked": ("embeddings", {"input": "What is a cat?"}),
}
"""Task of a model -> a route and the fields of a request."""


def _task(release: ReleaseInfo) -> str:
    """Return the task of a release, which its golden texts state; chat for a model that generates text."""
    golden = release.content.get("golden") or [{}]
    return golden[0].get("task") or "chat"


def _announce(workspace: Workspace, url: str, name: str, *, task: str) -> None:
    route, fields = _EXAMPLES[task]
    body = json.dumps({"model": name, **fields})
    page = ", with a chat page at /" if task == "chat" else ""
    workspace.console.print(line(("serving", "bold"), f" {name} at ", (url, "bold"), page))
    curl = f"  curl {url}/v1/{route} -H 'Content-Type: application/json' -d '{body}'"
    workspace.console.print(curl, soft_wrap=True)
    workspace.console.print(
        "press Ctrl-C to finish requests in flight and stop; `vita fleet status` in another terminal shows the state"
    )


def _release(workspace: Workspace, reference: str, folder: Path, *, name: str | None) -> ReleaseInfo:
    """Return the release of a reference; a model folder gets a temporary release."""
    from vita.server.release import create_release, read_release
    from vita.stages.kinds import Model, Release

    path = Path(reference)
    if path.is_dir() and not is_adapter_folder(path) and reference not in workspace.ledger.all_names():
        if (path / "release.json").is_file():
            return read_release(path.resolve())
        create_release(path, folder, name=_plain(name or path.resolve().name), digest=_digest_of(workspace, path))
        return read_release(folder)
    digest = workspace.known_digest(reference) or workspace.model(reference)
    if workspace.store.manifest(digest).kind == Release.kind:
        return read_release(workspace.store.open(digest, Release).path)
    model = workspace.store.open(digest, Model)
    known = reference if reference in workspace.ledger.all_names() else digest[:12]
    called = name or (path.resolve().name if path.is_dir() else known)
    create_release(model.path, folder, name=_plain(called), digest=digest)
    return read_release(folder)


def _keep_release(release: ReleaseInfo, folder: Path) -> Path:
    """Move a release to `folder`, whose name is its digest, unless the folder already contains the intact release.

    An existing folder is never deleted, because a service may serve from it. If two commands do this concurrently,
    renaming fails in the second one, and the folder of the first contains the same files.
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


def _temporary_folder(parent: Path | None = None) -> AbstractContextManager[Path]:
    """Return a temporary folder for a release; folders of processes that were killed are removed."""
    from vita.server.service.folder_lock import temporary_folder

    return temporary_folder("vita-release-", parent=parent)


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
    as_json: JsonOption = False,
) -> None:
    """Drain a replica: it finishes its requests and stops. A new replica replaces it, unless its model is retired."""
    workspace = open_workspace(ctx)
    response = _control(workspace, service).call("POST", "/drain", {"replica": replica, "restart": not stop})
    _show(workspace, response.json(), as_json=as_json)


@fleet_app.command("roll")
def fleet_roll(
    ctx: typer.Context,
    release: Annotated[str, typer.Argument(help="A release or a model: a name, a digest, or a folder.")],
    share: Annotated[float, typer.Option(help="Share of the traffic until the version is promoted.")] = 1.0,
    research: Annotated[bool, typer.Option(help="Allow a retired model that is kept for research.")] = False,
    ungated: UngatedOption = None,
    backend: BackendOption = None,
    backend_assignments: BackendSetOption = None,
    speculation: SpeculationOption = None,
    draft_model: DraftModelOption = None,
    batch_invariance: BatchInvarianceOption = None,
    service: ServiceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a new version while the current one keeps running, without interrupting requests."""
    workspace = open_workspace(ctx)
    if not 0 < share <= 1:
        raise ConfigError("--share", expected="a number above 0, up to 1", got=share)
    control = _control(workspace, service)
    with _temporary_folder(_controls(workspace)) as folder:
        pinned = _release(workspace, release, folder / "release", name=None)
        pinned = with_backend(workspace, pinned, folder / "backend", backend, backend_assignments)
        pinned = with_decoding(
            workspace, pinned, folder / "decoding",
            method=speculation, draft_model=draft_model, batch_invariance=batch_invariance,
        )  # fmt: skip
        lasting = _lasting_release(workspace, pinned, folder)
        terms = {"ungated": ungated, "research": research}
        status = control.call("POST", "/roll", {"folder": str(lasting), "share": share, **terms}).json()
        _show(workspace, status, as_json=as_json)


@fleet_app.command("promote")
def fleet_promote(
    ctx: typer.Context, ungated: UngatedOption = None, service: ServiceOption = None, as_json: JsonOption = False
) -> None:
    """Send all traffic to the newest version and drain the others."""
    workspace = open_workspace(ctx)
    status = _control(workspace, service).call("POST", "/promote", {"ungated": ungated}).json()
    _show(workspace, status, as_json=as_json)


@fleet_app.command("rollback")
def fleet_rollback(ctx: typer.Context, service: ServiceOption = None, as_json: JsonOption = False) -> None:
    """Send all traffic to the previous version and drain the newest."""
    workspace = open_workspace(ctx)
    _show(workspace, _control(workspace, service).call("POST", "/rollback").json(), as_json=as_json)


@fleet_app.command("add-adapter")
def fleet_add_adapter(
    ctx: typer.Context,
    adapter: Annotated[str, typer.Argument(help="An adapter of the served model: a name, a digest, or a folder.")],
    name: Annotated[str | None, typer.Option(help="Model name that clients use in requests.")] = None,
    ungated: UngatedOption = None,
    service: ServiceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Serve an adapter in addition to its base model, without a restart."""
    workspace = open_workspace(ctx)
    control = _control(workspace, service)
    with _temporary_folder(_controls(workspace)) as folder:
        pinned = _release(workspace, adapter, folder / "release", name=name)
        lasting = _lasting_release(workspace, pinned, folder)
        status = control.call("POST", "/adapters", {"folder": str(lasting), "ungated": ungated}).json()
        _show(workspace, status, as_json=as_json)


@fleet_app.command("remove-adapter")
def fleet_remove_adapter(
    ctx: typer.Context,
    adapter: Annotated[str, typer.Argument(help="An adapter: its name, or its digest.")],
    service: ServiceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop serving an adapter; its requests in flight finish."""
    workspace = open_workspace(ctx)
    status = _control(workspace, service).call("POST", "/adapters/remove", {"name": adapter}).json()
    _show(workspace, status, as_json=as_json)


def _lasting_release(workspace: Workspace, pinned: ReleaseInfo, temporary: Path) -> Path:
    """Return the folder of a release that exists after the end of this command."""
    if temporary not in pinned.folder.parents:
        return pinned.folder
    return _keep_release(pinned, _controls(workspace) / "releases" / pinned.digest)


def _control(workspace: Workspace, service: str | None) -> ServiceHandle:
    from vita.server.service.admin import ServiceHandle

    return ServiceHandle.find(_controls(workspace), service)


def _show(workspace: Workspace, status: dict[str, Any], *, as_json: bool = False) -> None:
    if as_json:
        print_json(status)
        return
    workspace.console.print(line((status["service"], "bold"), f", {counted(status['in_flight'], 'request')} in flight"))
    versions = Table("version", "share", "state", "model", "backend", "gate", box=None, pad_edge=False)
    for version in status["versions"]:
        gate = version["gate"].get("gate") or f"{version['gate']['status']}: {version['gate'].get('reason', '')}"
        quantization = (version.get("backend_details") or {}).get("quantization")
        backend = " ".join(filter(None, (version.get("backend", "vita"), quantization)))
        share, model = f"{version['share']:.0%}", version["model"][:12]
        versions.add_row(version["version"], share, version["state"], model, backend, gate)
    print_table(workspace.console, versions)
    if status.get("adapters"):
        adapters = Table("adapter", "base", "state", "model", "gate", box=None, pad_edge=False)
        for adapter in status["adapters"]:
            gate = adapter["gate"].get("gate") or f"{adapter['gate']['status']}: {adapter['gate'].get('reason', '')}"
            adapters.add_row(adapter["adapter"], adapter["base"], adapter["state"], adapter["model"][:12], gate)
        print_table(workspace.console, adapters)
    columns = ("replica", "version", "host", "site", "state", "pid", "in flight", "starts")
    replicas = Table(*columns, box=None, pad_edge=False)
    for replica in status["replicas"]:
        fields = ("replica", "version", "host", "site", "state", "pid", "in_flight", "starts")
        replicas.add_row(*("" if replica[field] is None else str(replica[field]) for field in fields))
    print_table(workspace.console, replicas)
    for version in (*status["versions"], *status.get("adapters", ())):
        if reason := version.get("reason"):
            name = version.get("adapter") or version["version"]
            workspace.console.print(line((name, "yellow"), f": retired: {reason}"), soft_wrap=True)
    for replica in status["replicas"]:
        for note in (*filter(None, [replica.get("reason")]), *replica.get("warnings", ())):
            workspace.console.print(line((replica["replica"], "yellow"), f": {note}"), soft_wrap=True)
    if note := status.get("note"):
        workspace.console.print(line(note), soft_wrap=True)
