"""Network replicas and their certificates: `vita replica`, `vita sites`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from vita.cli.app import app
from vita.cli.options import SERVICES, JsonOption, print_json
from vita.spine import machine
from vita.spine.console import open_console
from vita.spine.errors import ConfigError

sites_app = typer.Typer(help="Create certificates for gateways and network replicas.", no_args_is_help=True)
app.add_typer(sites_app, name="sites", rich_help_panel=SERVICES)


@sites_app.command("create-authority")
def sites_create_authority(
    folder: Annotated[
        Path, typer.Argument(help="New folder for the certificate authority. Keep its private key offline.")
    ],
    days: Annotated[float, typer.Option(min=0.01, max=36_500, help="Validity in days.")] = 3650.0,
    as_json: JsonOption = False,
) -> None:
    """Create a certificate authority, which signs the certificates of gateways and replicas."""
    from vita.server.sites.credentials import create_authority

    create_authority(folder, days=days)
    if as_json:
        print_json({"folder": str(folder)})
        return
    open_console().print(f"created a certificate authority in {folder}", soft_wrap=True)


@sites_app.command("issue")
def sites_issue(
    authority: Annotated[Path, typer.Argument(help="Folder of the certificate authority.")],
    folder: Annotated[Path, typer.Argument(help="New folder for the certificate and its private key.")],
    role: Annotated[str, typer.Option(help="Role of the host: gateway or replica.")],
    name: Annotated[str, typer.Option(help="Name of the site or of the host.")],
    host: Annotated[
        list[str], typer.Option(help="Address or name under which others connect to the host. Can be repeated.")
    ],
    days: Annotated[float, typer.Option(min=0.0001, max=3650, help="Validity in days.")] = 90.0,
    as_json: JsonOption = False,
) -> None:
    """Issue a certificate for a gateway or a network replica."""
    from vita.server.sites.credentials import check_role, issue

    issue(authority, folder, role=check_role(role), name=name, hosts=host, days=days)
    if as_json:
        print_json({"folder": str(folder), "role": role, "name": name, "hosts": host})
        return
    open_console().print(f"issued a certificate for the {role} {name} in {folder}", soft_wrap=True)


@app.command(rich_help_panel=SERVICES)
def replica(
    digest: Annotated[str, typer.Argument(help="Digest of a release in the store, all 64 digits.")],
    store: Annotated[str, typer.Option(help="Store of the release: a folder or a URL (s3://, gs://, https://).")],
    join: Annotated[list[str], typer.Option(help="Join address of a gateway: https://HOST:PORT. Can be repeated.")],
    credentials: Annotated[Path, typer.Option(help="Folder with the certificate of this replica.")],
    host: Annotated[str, typer.Option(help="Address of this host at which gateways reach the replica.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on. 0 selects a free port.")] = 0,
    site: Annotated[str, typer.Option(help="Name of the site of this replica.")] = "",
    region: Annotated[str | None, typer.Option(help="Region of this replica. It must be that of its gateways.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Cache folder for files of a remote store.")] = None,
    drain_seconds: Annotated[int, typer.Option(min=1, help="Time to finish requests in flight on shutdown.")] = 30,
) -> None:
    """Serve a release on this host as a replica of gateways on other hosts."""
    from vita.server.replica.network_replica import NetworkReplicaOptions, serve
    from vita.server.sites.credentials import Credentials
    from vita.server.sites.site import Site
    from vita.spine.store import Store
    from vita.stages.kinds import Release

    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ConfigError(
            "DIGEST",
            expected="the 64 hexadecimal digits of a release",
            got=digest,
            hint="see `vita show RELEASE --json`",
        )
    console, place = open_console(), Site(site, region)
    own = Credentials.load(credentials, role="replica")
    if own.warning:
        console.print(f"warning: {own.warning}", soft_wrap=True)
    artifacts = Store(store, cache=cache or machine.cache_folder())
    release = artifacts.open(digest, Release)
    pinned, _ = artifacts.manifest(digest).files["release.json"]
    serve(
        NetworkReplicaOptions(
            release=release.path,
            digest=pinned,
            credentials=own,
            join=join,
            host=host,
            port=port,
            site=place,
            device=machine.chosen_device() or "cpu",
            threads=machine.Machine.detect().threads,
            drain_seconds=drain_seconds,
            notify=lambda text: console.print(text, soft_wrap=True, markup=False),
        )
    )
    console.print("stopped; all accepted requests were completed")
