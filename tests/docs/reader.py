"""A reader of one page, who has the files that the page names and types its commands in order."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests.docs.blocks import ROOT, SHELL, Block, Command, output_matches, page_blocks
from tests.docs.terminal import Server, Terminal

SERVERS = (
    "vita serve ",
    "vita review serve ",
    "vita watch mine/pretrain --port ",
    "python -m vita.server.replica.main ",
)
"""Commands that run until Ctrl-C; the commands below them on the page are typed in a second terminal."""
SMALLER = {"design: {budget: 30 min}": "design: {depth: 1, steps: 20}"}
"""The only change to shown files: the README's budget, in the small form that the README recommends for a first run."""


@dataclass(frozen=True)
class Page:
    """The files and the input of the reader of a page."""

    files: Callable[[Path], None] = lambda folder: None
    """Writes the files that the page says the reader has."""
    from_readme: bool = True
    """The page continues where the README ends."""
    typed: Mapping[str, str] = field(default_factory=dict)
    """Beginning of a command -> lines that its user types."""
    not_run: Mapping[str, str] = field(default_factory=dict)
    """Command -> the reason why it cannot run in a test."""


class Reader:
    """Runs the blocks of a page, in order, in a folder."""

    def __init__(self, path: Path, page: Page, folder: Path, scratch: Path, *, root: Path = ROOT) -> None:
        self.path, self.page, self.folder, self._root = path, page, folder, root
        self.terminal = Terminal(folder, scratch / "terminal", reader_environment(scratch))

    def read(self) -> None:
        """Write each titled block, plan each life and run each command; the first failure ends it."""
        unused = set(self.page.not_run)
        try:
            for block in page_blocks(self.path):
                if block.title:
                    self._write(block)
                if block.language == "yaml":
                    self._plan(block)
                if block.language == "python" and not block.title and self.terminal.server:
                    self._python(block)
                for command in block.commands if block.language in SHELL else ():
                    command_text = without_comment(command.text)
                    unused.discard(command_text)
                    if command_text not in self.page.not_run:
                        self._run(block, command)
        finally:
            self.terminal.close()
        assert not unused, f"not on the page: {unused}"

    def _run(self, block: Block, command: Command) -> None:
        position = f"{block.page.relative_to(self._root)}:{command.line}: $ {command.text}"
        if command.text.startswith(SERVERS):
            server = self._serve(command.text)
            code, output = 0, server.output
        else:
            user_input = next((text for start, text in self.page.typed.items() if command.text.startswith(start)), "")
            outcome = self.terminal.run(command.text, typed=user_input)
            code, output = outcome.code, outcome.output
        assert "Traceback" not in output, f"{position}\n{output}"
        refused = bool(command.output) and command.output[0].startswith("error ")
        assert (code != 0) == refused, f"{position}\nexit code {code}\n{output}"
        if command.output:
            expected = "\n".join(command.output)
            assert output_matches(command.output, output), f"{position}\nshown:\n{expected}\nactual:\n{output}"

    def _serve(self, command: str) -> Server:
        """Start a server; it is ready when it prints its address, or else when its port is open."""
        if "vita.server.replica.main" not in command:
            return self.terminal.start(command, ready=r"http://127\.0\.0\.1:\d+")
        server = self.terminal.start(command, ready="")
        port = command.partition("--port ")[2].split()[0]
        waiting = f"for _ in $(seq 120); do (: > /dev/tcp/127.0.0.1/{port}) 2> /dev/null && break; sleep 0.5; done"
        self.terminal.run(waiting)
        return server

    def _write(self, block: Block) -> None:
        text = block.text
        for line, smaller in SMALLER.items():
            text = text.replace(line, smaller)
        target = self.folder / str(block.title)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")

    def _plan(self, block: Block) -> None:
        """`vita plan` accepts every life that the page shows.

        A life that starts from a model of the Hub needs a network; tests/formats/test_open_weight_example.py runs it.
        """
        value = yaml.safe_load(block.text)
        if isinstance(value, dict) and "stages" in value and "model" not in value:
            file = block.title or f"shown-{block.line}.yaml"
            if not block.title:
                (self.folder / file).write_text(block.text, encoding="utf-8")
            outcome = self.terminal.run(f"vita plan {file}")
            assert outcome.code == 0 and "steps would run" in outcome.output, f"{block}\n{outcome.output}"

    def _python(self, block: Block) -> None:
        """Run a Python block below a server command as a separate program while the server runs."""
        script = self.folder / f"shown_{block.line}.py"
        script.write_text(block.text, encoding="utf-8")
        outcome = self.terminal.run(f"python -W error {script.name}")
        assert outcome.code == 0, f"{block}\n{outcome.output}"


def without_comment(command: str) -> str:
    """The command without the comment that follows it."""
    return command.partition("  #")[0].partition(" # ")[0].strip()


def reader_environment(scratch: Path) -> dict[str, str]:
    """The environment of a fresh user account: an empty home, `vita` and `python` on the path, no Vita settings.

    Except that models are not compiled, which takes a minute for each shape, and that the number of threads of the
    test process holds (`tests/__init__.py`).
    """
    home = scratch / "home"
    home.mkdir(parents=True, exist_ok=True)
    other_accounts = ("VITA_", "XDG_", "PYTEST_")
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(other_accounts) or name == "VITA_THREADS"
    }
    path = f"{sysconfig.get_path('scripts')}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {
        **inherited,
        "HOME": str(home),
        "PATH": path,
        "TORCH_COMPILE_DISABLE": "1",
        "COLUMNS": "120",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }


def copy_of(example: Path, folder: Path) -> None:
    """A copy of the folder in which the README was followed."""
    shutil.copytree(example, folder, dirs_exist_ok=True, symlinks=True)


def installed(program: str) -> bool:
    """True if the program runs on this machine."""
    return subprocess.run(["bash", "-c", f"command -v {program}"], capture_output=True).returncode == 0
