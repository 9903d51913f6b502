"""The command line. `main` reports every error of a command in one line and exits with its code."""

from __future__ import annotations

import os
import re
import sys
from typing import Any, NoReturn

import typer
from rich.markup import escape

from vita.cli.app import app, errors_console
from vita.cli.commands import RENAMED, register, stage_commands
from vita.cli.unexpected import print_error, print_error_line
from vita.spine.console import line, prepare_streams
from vita.spine.errors import VitaError
from vita.spine.garbage_collection import exempt_present_objects, rare_garbage_collection

_USAGE_ERROR = typer.BadParameter.__mro__[1]
_COMMAND_LINE_ERROR = typer.BadParameter.__mro__[2]
INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run `vita` and exit with the command's code."""
    prepare_streams()
    words = sys.argv[1:] if arguments is None else arguments
    try:
        code = _run(words)
        sys.stdout.flush()
    except BrokenPipeError:
        code = _reader_left()
    except SystemExit as stop:
        if not isinstance(stop.__context__, BrokenPipeError):
            raise
        code = _reader_left()
    except KeyboardInterrupt:
        code = _interrupted()
    except Exception as error:  # noqa: BLE001 (the last place that can turn it into one line)
        code = _fail(error)
    sys.exit(code)


def _run(words: list[str]) -> int:
    with rare_garbage_collection():
        register(next((word for word in words if word in stage_commands()), None))
    exempt_present_objects()
    # In this mode the parser raises its errors, and returns the code of `typer.Exit`.
    command: Any = typer.main.get_command(app)
    _escape_help(command)
    result: Any = command.main(words, prog_name="vita", standalone_mode=False)
    code = result if isinstance(result, int) else 0
    return _interrupted() if code == INTERRUPTED else code


def _escape_help(command: Any) -> None:
    """Show brackets in help texts, such as `[1, 2]`, literally: typer reads help as markup."""
    for described in (command, *command.params):
        if getattr(described, "help", None):
            described.help = escape(described.help)
    for subcommand in getattr(command, "commands", {}).values():
        _escape_help(subcommand)


def _fail(error: Exception) -> int:
    """Print an error in one line and return its exit code."""
    if isinstance(error, typer.Abort):
        print_error_line("standard input has ended, and an answer is needed")
        return VitaError.exit_code
    if isinstance(error, _COMMAND_LINE_ERROR):
        return _usage_error(error)
    return print_error(error)


def _usage_error(error: Any) -> int:
    """Report a wrong option or argument in one line; a command group without a command prints its help."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(context.get_help() if context else "")
        return int(error.exit_code)
    hint = f"; see `{context.command_path} --help`" if context and isinstance(error, _USAGE_ERROR) else ""
    message = error.format_message().rstrip(".")
    if present_name := _present_name(error, message):
        message, hint = f"{message.split('.')[0].split(' (')[0]}: it is now called {present_name}", ""
    print_error_line(message + hint)
    return int(error.exit_code)


def _present_name(error: Any, message: str) -> str | None:
    """Return the present name of the command or option that the error calls unknown."""
    command = re.match(r"No such command '([\w-]+)'", message)
    return RENAMED.get(command[1] if command else getattr(error, "option_name", ""))


def _interrupted() -> int:
    errors_console().print(line(("stopped", "yellow"), "; the same command continues where it stopped"))
    return INTERRUPTED


def _reader_left() -> int:
    """Handle a closed standard output, as in `vita ls | head -1`, which is not an error."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 (replaces a stream until the end)
    os.dup2(sys.stdout.fileno(), 1)
    return 0
