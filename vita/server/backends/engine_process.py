"""The process of a program that a replica starts: its address, its output and its end.

    process = EngineProcess("llama.cpp", command, environment, secret=secret)
    process.wait_ready(lambda: ready, seconds=300)

The program ends with the replica, and the replica ends when its program does: then the service starts both again, as
for every replica. The output of the program is searched for errors, which are printed without the secret.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vita.server.backends import guardian
from vita.spine.errors import ModelError

ENDED = 70
"""Exit code of a replica whose program has ended."""
_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+$")
"""The address of the program; a thread of the program may have written a part of another line before it."""
_PREFIX = re.compile(r"^(?:\(.*?pid=\d+\) )?(?:(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) \S+ \S+ \[\S+\] )?")
"""Process, level and source of a line of vLLM."""
_EXCEPTION = re.compile(r"^[\w.]*(?:Error|Exception): ")
_ERROR = re.compile(r"^(?:\S+ E |error[: ])|: error: ", re.IGNORECASE)
"""A line of llama.cpp, or of another program, that reports an error."""


class EngineProcess:
    """A running program."""

    def __init__(
        self,
        program: str,
        command: Sequence[str],
        environment: dict[str, str],
        *,
        secret: str,
        folder: Path | None = None,
    ) -> None:
        """`folder` is removed when the program has ended."""
        self.program, self._secret = program, secret
        self.address: str | None = None
        """The address that the program printed."""
        self._last_lines: deque[str] = deque(maxlen=50)
        self._first_exception = ""
        self._closing = self._watched = False
        removal = [] if folder is None else ["--remove", str(folder)]
        self._process = subprocess.Popen(
            [sys.executable, "-I", guardian.__file__, *removal, *command],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"{program} output", daemon=True)
        self._reader.start()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait_ready(self, is_ready: Callable[[], bool], *, seconds: float) -> None:
        """Wait until the program is ready; raise `ModelError` with its last error if it ends before."""
        deadline = time.monotonic() + seconds
        while not is_ready():
            if not self.running:
                self._reader.join(5)
                raise ModelError(f"backend {self.program}", f"ended before it was ready: {self.last_error()}")
            if time.monotonic() > deadline:
                error = self.last_error()  # before the program is ended
                self.stop()
                raise ModelError(f"backend {self.program}", f"was not ready within {seconds:g} s: {error}")
            time.sleep(0.05)

    def end_replica_with_program(self) -> None:
        """End this replica at once when the program ends, so that its connections break and others take over."""
        self._watched = True
        threading.Thread(target=self._watch, name=f"{self.program} watch", daemon=True).start()

    def end_replica(self, reason: str) -> None:
        """End this replica at once, and with it the program, which has failed."""
        if self._watched and not self._closing:
            _print(f"ERROR: {self.program} has failed: {reason}")
            os._exit(ENDED)

    def stop(self) -> None:
        """End the program and all its processes."""
        self._closing = True
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def last_error(self) -> str:
        """Return the first exception of the output, or its last error, or how the program ended, or its last line."""
        if self._first_exception:
            return self._first_exception
        errors = [line for line in self._last_lines if _ERROR.search(line)]
        if errors:
            return errors[-1][:500]
        code = self._process.poll()
        if code is None:
            return next((line for line in reversed(self._last_lines) if line.strip()), "it has no output")[-500:]
        return f"by signal {code - 128}" if code > 128 else f"with code {code}"

    def _read(self) -> None:
        """Read the output line by line; print errors on standard error, where the service reads them."""
        stream: Any = self._process.stdout
        with stream:
            for data in stream:
                line = data.decode(errors="replace").rstrip()
                if self._secret:
                    line = line.replace(self._secret, "***")
                if self.address is None and (address := _ADDRESS.search(line)):
                    self.address = address[0]
                    continue
                line = _PREFIX.sub("", line, count=1)
                self._last_lines.append(line)
                if is_exception := _EXCEPTION.search(line):
                    self._first_exception = self._first_exception or line[:500]
                if is_exception or _ERROR.search(line):
                    _print(f"ERROR: {self.program}: {line[:300]}")

    def _watch(self) -> None:
        self._process.wait()
        if self._closing:
            return
        _print(f"ERROR: {self.program} has ended unexpectedly: {self.last_error()}")
        os._exit(ENDED)


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - the service reads standard error
