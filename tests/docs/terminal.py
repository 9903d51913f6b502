"""The terminal of a reader: one bash session per page, in a separate folder and network namespace.

Commands are sourced from a file, so that the shell reads exactly the text of the page. Servers run as background jobs,
as in a second terminal, until the next server of the page starts or the page ends. Where Linux grants a private network
namespace, the ports in the documentation (8000, 8020) cannot collide with other programs of the machine.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_LOOPBACK = """
import fcntl, os, socket, struct, sys
request = struct.pack("16sh14x", b"lo", 0)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
    flags = struct.unpack("16sh14x", fcntl.ioctl(control, 0x8913, request))[1]
    fcntl.ioctl(control, 0x8914, struct.pack("16sh14x", b"lo", flags | 1))
os.execvp(sys.argv[1], sys.argv[1:])
"""


@cache
def private_network() -> tuple[str, ...]:
    """Return the command prefix that runs a program in a private network, or () if the system does not allow it."""
    prefix = ("unshare", "-rn", sys.executable, "-c", _LOOPBACK)
    try:
        allowed = subprocess.run([*prefix, "true"], capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        allowed = False
    return prefix if allowed else ()


@dataclass(frozen=True)
class Outcome:
    """The exit code and the output (both streams, in order) of a command."""

    code: int
    output: str


@dataclass
class Server:
    """A command that keeps running in the background."""

    text: str
    job: int
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


class Terminal:
    """A bash session in a folder; close it to end all that it started."""

    def __init__(self, folder: Path, scratch: Path, environment: dict[str, str]) -> None:
        self.folder, self._scratch, self._count = folder, scratch, 0
        self.server: Server | None = None
        scratch.mkdir(parents=True, exist_ok=True)
        self._bash = subprocess.Popen(
            [*private_network(), "bash", "--norc", "--noprofile"],
            cwd=folder, env=environment, stdin=subprocess.PIPE, text=True, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def run(self, command: str, *, typed: str = "", timeout: float = 900) -> Outcome:
        """Run a command to its end; `typed` is its standard input."""
        script, log = self._files(command, typed)
        code = script.with_suffix(".code")
        self._send(f". '{script}' < '{script}.in' > '{log}' 2>&1; echo $? > '{code}.part'; mv '{code}.part' '{code}'")
        deadline = time.monotonic() + timeout
        while not code.exists():
            if self._bash.poll() is not None:
                raise AssertionError(f"the shell ended during: {command}\n{log.read_text()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"no end after {timeout:.0f} s: {command}\n{log.read_text()}")
            time.sleep(0.02)
        return Outcome(int(code.read_text()), log.read_text(encoding="utf-8", errors="replace"))

    def start(self, command: str, *, ready: str, timeout: float = 300) -> Server:
        """Start a server in the background, after stopping the one before; return when its output matches `ready`."""
        self.stop_server()
        script, log = self._files(command, "")
        job = script.with_suffix(".job")
        self._send(f"set -m; . '{script}' < /dev/null > '{log}' 2>&1 & echo $! > '{job}.part'; mv '{job}.part' '{job}'")
        self._send("set +m")
        deadline = time.monotonic() + timeout
        while not job.exists():
            time.sleep(0.02)
        server = Server(command, int(job.read_text()), log)
        while not (log.exists() and re.search(ready, server.output, re.MULTILINE)):
            if not _alive(server.job):
                raise AssertionError(f"the server ended: {command}\n{server.output}")
            if time.monotonic() > deadline:
                os.killpg(server.job, signal.SIGKILL)
                raise AssertionError(f"not ready after {timeout:.0f} s: {command}\n{server.output}")
            time.sleep(0.05)
        self.server = server
        return server

    def stop_server(self) -> None:
        """End the running server with Ctrl-C and wait until it is gone."""
        if self.server is None:
            return
        server, self.server = self.server, None
        os.killpg(server.job, signal.SIGINT)
        deadline = time.monotonic() + 60
        while _alive(server.job):
            if time.monotonic() > deadline:
                os.killpg(server.job, signal.SIGKILL)
                raise AssertionError(f"Ctrl-C did not end: {server.text}\n{server.output}")
            time.sleep(0.05)
        assert "Traceback" not in server.output, server.output

    def close(self) -> None:
        """End the server and the shell."""
        try:
            self.stop_server()
        finally:
            if self._bash.stdin:
                self._bash.stdin.close()
            try:
                self._bash.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self._bash.pid, signal.SIGKILL)
                self._bash.wait()

    def _files(self, command: str, typed: str) -> tuple[Path, Path]:
        self._count += 1
        script = self._scratch / f"{self._count:02}"
        script.write_text(command + "\n", encoding="utf-8")
        Path(f"{script}.in").write_text(typed, encoding="utf-8")
        return script, script.with_suffix(".log")

    def _send(self, line: str) -> None:
        assert self._bash.stdin is not None
        self._bash.stdin.write(line + "\n")
        self._bash.stdin.flush()


def _alive(job: int) -> bool:
    try:
        os.killpg(job, 0)
    except ProcessLookupError:
        return False
    return True
