"""The application: the options that all commands share. Nothing slow is imported until a command runs."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from vita import __version__
from vita.cli.workspace import Workspace
from vita.spine.console import open_console

app = typer.Typer(
    help="Take a language model through its whole lifecycle with one file and one command.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Inspect data as the training stages read it.", no_args_is_help=True)
app.add_typer(data_app, name="data")


def errors_console() -> Console:
    """The console for errors and alerts."""
    return open_console(stderr=True)


def open_workspace(ctx: typer.Context) -> Workspace:
    """Return the store and ledger of this call."""
    opened = ctx.find_object(Workspace)
    assert opened is not None
    return opened


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"vita {__version__}")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    store: Annotated[
        str | None, typer.Option(help="Folder or URL of the artifact store. Default: VITA_STORE, else ./vita-store.")
    ] = None,
    ledger: Annotated[
        str | None, typer.Option(help="Database URL of the ledger. Default: VITA_LEDGER, else ledger.db in the store.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options that all commands share."""
    ctx.obj = Workspace.of(store, ledger)
