"""The application: the options that all commands share. Nothing slow is imported until a command runs."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from vita import __version__
from vita.cli.workspace import Workspace
from vita.spine.console import open_console

app = typer.Typer(
    help="Carry a language model through its whole life, in one file and one command.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Look at data as a model would see it.", no_args_is_help=True)
app.add_typer(data_app, name="data")


def errors_console() -> Console:
    """The console for errors and alerts."""
    return open_console(stderr=True)


def workspace(ctx: typer.Context) -> Workspace:
    """The store and ledger that this call works with."""
    found = ctx.find_object(Workspace)
    assert found is not None
    return found


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"vita {__version__}")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    store: Annotated[
        str | None, typer.Option(help="Folder or URL of the artifacts (else VITA_STORE, else ./vita-store).")
    ] = None,
    ledger: Annotated[
        str | None, typer.Option(help="Database URL (else VITA_LEDGER, else ledger.db in the store).")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which Vita.")
    ] = False,
) -> None:
    """Options of every command."""
    ctx.obj = Workspace.of(store, ledger)
