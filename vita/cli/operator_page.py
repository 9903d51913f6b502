"""The link to the operator page of a service: `vita fleet page`."""

from __future__ import annotations

import typer

from vita.cli.app import open_workspace
from vita.cli.options import JsonOption, print_json
from vita.cli.serve import ServiceOption, fleet_app


@fleet_app.command("page")
def fleet_page(ctx: typer.Context, service: ServiceOption = None, as_json: JsonOption = False) -> None:
    """Print a link to the operator page of a running service. It is valid for one minute and can be used once."""
    from vita.server.service.admin import ServiceHandle

    control = ServiceHandle.find(open_workspace(ctx).store.root / "services", service)
    url = control.admin + control.call("POST", "/page").json()["path"]
    if as_json:
        print_json({"service": control.service, "url": url})
        return
    typer.echo(url)
