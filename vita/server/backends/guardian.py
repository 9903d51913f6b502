"""Runs a command that ends together with the process that started this one, for any reason.

    python -I guardian.py [--remove FOLDER] COMMAND ARGUMENT ...

The parent holds the other end of standard input. When it closes, all processes of the command end, also those that the
command has started. When the command ends, this process ends with its exit code. `FOLDER` is removed at the end.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

GRACE_SECONDS = 2.0
_SET_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


def main() -> int:
    """Run the command and watch the parent."""
    words = sys.argv[1:]
    folder = words[1] if words[0] == "--remove" else None
    command = subprocess.Popen(
        words[2:] if folder else words, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_end_with_parent
    )
    threading.Thread(target=_watch, args=(command.pid, folder), name="parent watch", daemon=True).start()
    code = command.wait()
    _end(command.pid, folder)
    return code if code >= 0 else 128 - code


def _watch(group: int, folder: str | None) -> None:
    """End the command when standard input closes."""
    while os.read(0, 1024):
        pass
    _signal_all(group, signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    _end(group, folder)
    os._exit(1)


def _end(group: int, folder: str | None) -> None:
    """End all processes of the command, and remove its folder."""
    _signal_all(group, signal.SIGKILL)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _signal_all(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _end_with_parent() -> None:
    """Let the kernel end the command when this process is killed; only Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
