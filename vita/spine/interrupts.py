"""Signals that stop a run: Ctrl-C (SIGINT) and termination (SIGTERM), which schedulers and `docker stop` send.

`termination_interrupts` makes SIGTERM end a step as Ctrl-C does. `deferred_interrupts` is for a loop that must end at a
step boundary: the first signal only sets a flag, the second one interrupts at once.

Handlers can be set in the main thread only; in other threads both functions do nothing. A signal that is ignored when
the process starts (`nohup`, a background job) stays ignored.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], None]
NOTICE = "\nstopping: writes a checkpoint at the next step boundary; interrupt again to stop at once\n"


class Interruption:
    """The state of deferred interrupts: `requested` is True after a signal to stop."""

    requested = False


@contextmanager
def deferred_interrupts() -> Iterator[Interruption]:
    """The first SIGINT or SIGTERM sets `requested`; the second raises `KeyboardInterrupt`."""
    interruption = Interruption()

    def handle(number: int, frame: FrameType | None) -> None:
        if interruption.requested:
            raise KeyboardInterrupt
        interruption.requested = True
        _write_notice()

    with _handled((signal.SIGINT, signal.SIGTERM), handle):
        yield interruption


@contextmanager
def termination_interrupts() -> Iterator[None]:
    """SIGTERM raises `KeyboardInterrupt`, so that a run is recorded as stopped and not as killed."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handled((signal.SIGTERM,), handle):
        yield


@contextmanager
def _handled(numbers: tuple[int, ...], handler: Handler) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in numbers}
    # None: the handler was set by C code and could not be restored.
    replaced = [number for number, previous in before.items() if previous not in (signal.SIG_IGN, None)]
    try:
        for number in replaced:
            signal.signal(number, handler)
        yield
    finally:
        for number in replaced:
            signal.signal(number, before[number])


def _write_notice() -> None:
    """Write to the file descriptor directly: `print` is not safe in a signal handler."""
    try:
        os.write(2, NOTICE.encode())
    except OSError:
        return  # standard error is closed; the flag is still set
