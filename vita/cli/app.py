"""The commands, and the options that all of them share. Nothing heavy is imported until a command runs."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import vita.cli
from vita import __version__
from vita.cli.workspace import Workspace
from vita.spine.console import open_console
from vita.stages import own_stages

_ORDER = (
    "design", "curate", "tokenize", "initialize", "pretrain", "test", "adapt", "sft", "reward", "rlhf", "dpo",
    "redteam", "deploy", "refine", "retire",
)  # fmt: skip
_SPELLED = {"initialize": "init"}


def stage_commands() -> dict[str, str]:
    """Command -> the stage that it carries out alone, in the order of a life."""
    found = sorted(own_stages(), key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))
    return {_SPELLED.get(name, name): name for name in found}


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


def register(asked: str | None) -> None:
    """Enter the commands; of the stages only the one asked for is imported, the rest show their first sentence."""
    for module in pkgutil.iter_modules(vita.cli.__path__):
        importlib.import_module(f"vita.cli.{module.name}")  # their decorators enter the commands

    for command, name in stage_commands().items():
        if command == asked:
            from vita.cli.single import stage_command

            run, summary = stage_command(name)
        else:
            run, summary = _placeholder, _first_sentence(name)
        app.command(command, help=summary, rich_help_panel="One stage alone")(run)


def _placeholder() -> None:
    """Stands in a listing for a stage that is not imported."""


def _first_sentence(name: str) -> str:
    path = Path(__file__).parents[1] / "stages" / f"{name}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n\n")[0].replace("\n", " ")
