"""Runs a module as a child process that ends when its parent ends, for any reason.

    python -m vita.server.service.parent_watch vita.server.replica.main --release FOLDER ...

The parent holds the other end of standard input. When it closes, the child receives SIGTERM and is ended by force after
`GRACE_SECONDS`.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

GRACE_SECONDS = 5.0


def main() -> None:
    """Start to watch the parent, then run the module."""
    threading.Thread(target=_watch, name="parent watch", daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _watch() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
