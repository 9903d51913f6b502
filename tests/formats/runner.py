"""Runs `vita` as a process in a folder of its own, with a Hub on this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.cli.models import Vita as Runner
from tests.hub_server import HubServer


class Vita:
    """`vita("ls")` returns the standard output, or with `code` the standard error of a failing command."""

    def __init__(self, folder: Path, hub: HubServer) -> None:
        self.folder, self.hub = folder, hub
        self.folder.mkdir(exist_ok=True)

    def __call__(self, *words: str, code: int = 0, text: str = "", **variables: str) -> str:
        environment = self.hub.environment(self.folder, OMP_NUM_THREADS="1", VITA_DEVICE="cpu", **variables)
        command = [sys.executable, "-m", "vita", *words]
        done = subprocess.run(command, cwd=self.folder, env=environment, input=text, capture_output=True, text=True)
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
        return done.stdout if code == 0 else done.stderr


class LocalVita:
    """The same in this process, which is faster and has no Hub."""

    def __init__(self, folder: Path, run: Runner) -> None:
        self.folder, self._run = folder, run

    def __call__(self, *words: str, code: int = 0) -> str:
        got, out, err = self._run(*words)
        assert got == code, f"{out}\n{err}"
        return out if code == 0 else err
