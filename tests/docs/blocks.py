"""Fenced blocks of the documentation pages, and the commands that they show.

A block with `title="life.yaml"` shows the content of that file. In a `console` block a command follows `$ `, and the
lines below it are its output; a `bash` or `sh` block holds commands only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)(?P<attributes>[^\n]*)\n(?P<text>.*?)^(?P=indent)```",
    re.DOTALL | re.MULTILINE,
)
SHELL = ("bash", "sh", "console")


@dataclass(frozen=True)
class Command:
    """A command as the page shows it, and the output lines shown below it."""

    line: int
    text: str
    output: tuple[str, ...] = ()


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `line` is the line number of its opening fence."""

    page: Path
    line: int
    language: str
    title: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[Command]:
        """The commands of a shell block, in order; of any other block none."""
        if self.language == "console":
            return console_commands(self.text, self.line)
        return bash_commands(self.text, self.line) if self.language in SHELL else []


def page_blocks(page: Path) -> tuple[Block, ...]:
    """All fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    blocks = []
    for fence in FENCE.finditer(text):
        content = re.sub(f"^{fence['indent']}", "", fence["text"], flags=re.MULTILINE)
        title = re.search(r'title="([^"]+)"', fence["attributes"])
        line = text.count("\n", 0, fence.start()) + 1
        blocks.append(Block(page, line, fence["language"], title[1] if title else None, content))
    return tuple(blocks)


def blocks(*languages: str) -> list[Block]:
    """All blocks of all pages in one of the languages."""
    return [block for page in PAGES for block in page_blocks(page) if block.language in languages]


def bash_commands(text: str, first_line: int) -> list[Command]:
    """The commands of a `bash` block: a command ends where a line does not end in a backslash."""
    commands, pending = list[Command](), list[str]()
    for number, line in enumerate(text.splitlines(), first_line + 1):
        pending.append(line)
        if not line.endswith("\\"):
            command = "\n".join(pending)
            if command.strip() and not command.lstrip().startswith("#"):
                commands.append(Command(number - len(pending) + 1, command))
            pending = []
    return commands


def console_commands(text: str, first_line: int) -> list[Command]:
    """The commands of a `console` block with the output that is shown below each."""
    commands, continued = list[Command](), False
    for number, line in enumerate(text.splitlines(), first_line + 1):
        if line.startswith("$ "):
            commands.append(Command(number, line.removeprefix("$ ")))
        elif not commands:
            raise ValueError(f"line {number}: output is shown before any command: {line}")
        else:
            last = commands.pop()
            if continued:
                commands.append(Command(last.line, f"{last.text}\n{line}"))
            else:
                commands.append(Command(last.line, last.text, (*last.output, line)))
        continued = line.endswith("\\") and (line.startswith("$ ") or continued)
    return commands


def shown_output_pattern(lines: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern for the complete output: `...` matches any text, and sequences of blanks are equal."""
    parts = []
    for line in lines:
        if line.strip() == "...":
            parts.append(r"(?:.*\n)*?")
        else:
            words = [r"[^\n]*?".join(map(re.escape, word.split("..."))) for word in line.split()]
            parts.append(r"[ \t]*" + r"[ \t]+".join(words) + r"[ \t]*\n")
    return re.compile("".join(parts))


def output_matches(lines: tuple[str, ...], output: str) -> bool:
    """True if the output is the one shown; color codes, empty lines at the ends and trailing blanks do not count."""
    plain_output = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output).replace("\r", "")
    return shown_output_pattern(lines).fullmatch(plain_output.strip("\n") + "\n") is not None
