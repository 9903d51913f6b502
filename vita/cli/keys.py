"""API keys: `vita keys`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table

from vita.cli.app import app, open_workspace
from vita.cli.options import SERVICES, JsonOption, print_json
from vita.spine.console import print_table

keys_app = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)
app.add_typer(keys_app, name="keys", rich_help_panel=SERVICES)


@keys_app.command("create")
def keys_create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the key: its user or its purpose.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="chat, completions, embeddings, feedback, research or admin. Default: the first four."),
    ] = None,
    per_minute: Annotated[float | None, typer.Option(help="Maximum requests per minute.")] = None,
    days: Annotated[float | None, typer.Option(min=0.0, max=36_500, help="Validity in days.")] = None,
    consent: Annotated[
        bool, typer.Option(help="Requests with this key consent to storage unless they decline.")
    ] = False,
    region: Annotated[
        list[str] | None, typer.Option(help="Limit the key to sites in this region. Can be repeated. Default: all.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Create an API key. The key is shown once; the ledger stores only its hash."""
    from vita.server.gateway.keys import USUAL_SCOPES, create

    workspace = open_workspace(ctx)
    scopes: Sequence[str] = [part.strip() for option in scope or () for part in option.split(",")] or USUAL_SCOPES
    expires = None if days is None else time.time() + days * 86400
    secret = create(
        workspace.ledger, name, scopes=scopes, requests_per_minute=per_minute, consent=consent, expires=expires,
        regions=region or (),
    )  # fmt: skip
    if as_json:
        print_json({"key": secret, "name": name, "scopes": sorted(set(scopes)), "regions": sorted(set(region or ()))})
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
             "regions": list(key.regions),
             "state": "valid" if key.valid(now) else "revoked" if key.revoked else "expired"}
            for key in keys]  # fmt: skip
    if as_json:
        print_json(rows)
        return
    table = Table("key", "name", "scopes", "per minute", "regions", "state", box=None, pad_edge=False)
    for row in rows:
        limit = "" if row["requests_per_minute"] is None else f"{row['requests_per_minute']:g}"
        table.add_row(row["key"], row["name"], " ".join(row["scopes"]), limit, " ".join(row["regions"]), row["state"])
    print_table(workspace.console, table)


@keys_app.command("revoke")
def keys_revoke(
    ctx: typer.Context,
    key: Annotated[str, typer.Argument(help="The eight characters after `vk-`, or the name of the key.")],
    as_json: JsonOption = False,
) -> None:
    """Revoke an API key. Running services reject it within seconds."""
    from vita.server.gateway.keys import revoke

    workspace = open_workspace(ctx)
    revoked = revoke(workspace.ledger, key)
    if as_json:
        print_json({"key": f"vk-{revoked.hint}-...", "name": revoked.name, "state": "revoked"})
        return
    workspace.console.print(f"vk-{revoked.hint}-... ({revoked.name}) is revoked")
