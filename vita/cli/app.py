"""The application: the options that all commands share. Nothing slow is imported until a command runs."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from typer.core import TyperGroup

from vita import __version__
from vita.cli.options import RESULTS
from vita.cli.workspace import Workspace
from vita.spine.console import open_console

EXIT_CODES = {
    "0": "success, or a gate passed",
    "1": "other error",
    "2": "invalid option, setting or plan",
    "3": "invalid data",
    "4": "store error: missing or corrupt artifact, or full disk",
    "5": "the ledger cannot be read or written",
    "6": "the model is incomplete or incompatible",
    "7": "training failed or did not improve the model",
    "8": "an optional library is missing",
    "9": "a gate rejected the command",
    "10-14": "gate: 10 failed, 11 could not run, 12 unsure, 13 approvals missing, 14 reserved",
    "20": "alert from `vita monitor`, `vita drift` or `vita retest`",
    "70": "internal error, with a log file",
    "130": "stopped by Ctrl-C or SIGTERM",
}
"""Exit code, or range of codes -> meaning; `docs/trouble.md` has the same table."""


def _epilog() -> str:
    """Format the exit codes for `vita --help`."""
    return "\n".join(["Exit codes:", *(f"{code:>6}  {meaning}" for code, meaning in EXIT_CODES.items())])


_ORDER = (
    "live", "plan", "launch", "scaling", "race", "runs", "watch", "recipes", "ls", "show", "data", "report", "card",
    "trace", "train-filter", "verify", "restore", "clean", "chat", "generate", "embed", "export", "push", "gate",
    "approve", "waive", "curate-policy", "people", "serve", "deploy", "fleet", "replica", "sites", "keys", "monitor",
    "drift", "retest", "proposals", "deprecate", "review", "feedback", "findings", "trace-document", "forget",
    "erasures",
)  # fmt: skip
"""The order of commands in `vita --help`; stages follow."""


class _Commands(TyperGroup):
    """Lists the commands in the order of use, not of registration."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return sorted(self.commands, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))


app = typer.Typer(
    cls=_Commands,
    help="Build, tune, evaluate, release and serve a language model with one file and one command.",
    epilog=_epilog(),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Show the data exactly as the training stages read it.", no_args_is_help=True)
app.add_typer(data_app, name="data", rich_help_panel=RESULTS)


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
        str | None,
        typer.Option(
            help="Folder or URL of the artifact store. Default: $VITA_STORE, or ./vita-store if it is not set."
        ),
    ] = None,
    ledger: Annotated[
        str | None, typer.Option(help="Database URL of the ledger. Default: $VITA_LEDGER, or ledger.db in the store.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options that all commands share."""
    ctx.obj = workspace = Workspace.of(store, ledger)
    ctx.call_on_close(workspace.close)
