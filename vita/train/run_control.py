"""Control of a training run by another process: pause, resume and stop, by a file in the scratch folder of the run.

request(scratch, "pause")          # the run writes a checkpoint at the next step boundary and waits
request(scratch, None)             # it continues
request(scratch, "stop")           # it writes a checkpoint and ends, as after Ctrl-C
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Literal, get_args

from vita.spine.disk import write_atomically

Action = Literal["pause", "stop"]
CONTROL, PAUSED = "control.json", "paused.json"
CHECK_SECONDS = 0.5
"""Interval at which a run reads the file."""


def request(scratch: Path, action: Action | None) -> None:
    """Request an action of the run in `scratch`; None withdraws an earlier request."""
    path = scratch / CONTROL
    if action is None:
        path.unlink(missing_ok=True)
    else:
        write_atomically(path, json.dumps({"action": action, "at": time.time()}).encode())


def requested_action(scratch: Path) -> Action | None:
    """Return the requested action, or None."""
    try:
        action = json.loads((scratch / CONTROL).read_text(encoding="utf-8")).get("action")
    except (OSError, ValueError, AttributeError):
        return None
    return action if action in get_args(Action) else None


def is_paused(scratch: Path) -> bool:
    """Return True if the run has written its checkpoint and waits."""
    return (scratch / PAUSED).exists()


def wait_for_control() -> None:
    """Wait until a paused run reads the file again."""
    time.sleep(CHECK_SECONDS)


class RunControl:
    """The requests to a run, read at most every `CHECK_SECONDS`."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._checked = 0.0
        self._action: Action | None = None
        for name in (CONTROL, PAUSED):  # of an earlier process, which has ended
            (scratch / name).unlink(missing_ok=True)

    def action(self) -> Action | None:
        """Return the requested action; the file is read at most every `CHECK_SECONDS`."""
        now = time.monotonic()
        if now - self._checked >= CHECK_SECONDS:
            self._checked, self._action = now, requested_action(self._scratch)
        return self._action

    def mark_paused(self, paused: bool) -> None:
        """Tell other processes whether the run waits."""
        path = self._scratch / PAUSED
        if paused:
            write_atomically(path, b"{}")
        else:
            path.unlink(missing_ok=True)
