"""Terminal output: text is printed literally, never interpreted as markup, emoji codes or control sequences.

    console = open_console()
    console.print(line(("error", "bold red"), " ", message))

Styles are passed next to the text, as `(text, style)`, never inside it. Model answers, user text, file names and
settings may contain anything: `[/INST]` and `:smile:` are printed unchanged, and control characters are escaped: they
could move the cursor, clear the screen or change the title of the terminal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from vita.spine.plain_text import is_printable, printable

_UNLIMITED = 100_000


def one_line(text: str) -> str:
    """Escape control characters and join the lines of a message."""
    return printable(" ".join(part for part in (line.strip() for line in text.splitlines()) if part))


def line(*parts: str | tuple[str, str] | Text) -> Text:
    """Build one text from plain parts, `(text, style)` parts and other texts."""
    result = Text()
    for part in parts:
        if isinstance(part, tuple):
            result.append(printable(part[0]), part[1])
        else:
            result.append(printable(part) if isinstance(part, str) else part)
    return result


def open_console(*, stderr: bool = False) -> Console:
    """Create a console with markup, emoji codes and highlighting disabled."""
    return _LiteralConsole(stderr=stderr, markup=False, emoji=False, highlight=False)


def print_table(console: Console, table: Table) -> None:
    """Print a table without truncation: folded at the width of a terminal, unlimited width in a pipe."""
    for column in table.columns:
        column.overflow = "fold"
    if not console.is_terminal:
        console = open_console()
        options = console.options.update(max_width=_UNLIMITED)
        console.width = max(1, Measurement.get(console, options, table).maximum)
    console.print(table)


def prepare_streams() -> None:
    """Escape characters that the terminal's encoding cannot represent; replace closed streams."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # the shell closed it: `vita ls >&-`
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
    for stream, errors in (
        (sys.stdin, "surrogateescape"),
        (sys.stdout, "backslashreplace"),
        (sys.stderr, "backslashreplace"),
    ):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=errors)


class _LiteralConsole(Console):
    """A console that escapes control characters in everything that is rendered, also inside tables and Markdown."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or is_printable(segment.text):
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)
