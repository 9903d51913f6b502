"""The command line. `main` turns the family of errors into one line and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Any

from rich.markup import escape

from vita.cli.app import app, errors_console, register, stage_commands
from vita.spine.errors import VitaError


def main(arguments: list[str] | None = None) -> Any:
    """Run `vita`; returns never, but exits with the command's code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        register(next((word for word in given if word in stage_commands()), None))
        app(arguments, prog_name="vita")
    except VitaError as error:
        errors_console().print(f"[bold red]error[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        errors_console().print("[yellow]stopped[/]; the same command goes on where it stopped")
        sys.exit(130)
    except BrokenPipeError:  # the reader has gone, as in `vita ls | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
