"""Messages between the processes of one run: rank 0 decides, the other processes follow its decisions.

    ranks = connect(machine)
    ranks.publish({"run": key})                # in the first process
    ranks.receive("sft")                       # in every other process: {"run": key}

The messages use the key-value store of `torch.distributed`, at the address that `torchrun` sets in the environment
(`MASTER_ADDR`, `MASTER_PORT`). With one process nothing is sent, and torch is not imported.
"""

from __future__ import annotations

import functools
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from vita.spine.errors import ConfigError, PlanError, VitaError
from vita.spine.machine import Machine

POLL_SECONDS = 0.1
CONNECT_SECONDS = 300.0
"""Maximum time that a process waits for the others to start."""
EXPLAIN_SECONDS = 10.0
"""Maximum time that a process with a broken connection waits for the reason from the process that stopped."""
LEAVE_SECONDS = 60.0
"""Maximum time that rank 0 waits at the end until the others have read its last message."""
_plans = itertools.count()
"""Counter of the plans of this process, which separates their messages."""


class Ranks:
    """The connection of this process to the others of its run; `store` is None for a single process."""

    def __init__(self, machine: Machine, store: Any = None) -> None:
        self._machine, self._store, self._sent = machine, store, 0

    def publish(self, message: Mapping[str, Any]) -> None:
        """Send a message to every other process (rank 0 only)."""
        if self._store is not None:
            with _connection_explained(self._machine):
                self._store.set(f"message/{self._sent}", json.dumps(message))
            self._sent += 1

    def receive(self, where: str) -> dict[str, Any]:
        """Wait for the next message of rank 0; raise `PlanError` if another process has stopped."""
        key = f"message/{self._sent}"
        with _connection_explained(self._machine):
            while not self._store.check([key]):
                self._refuse_if_stopped(where)
                time.sleep(POLL_SECONDS)
            message: dict[str, Any] = json.loads(self._store.get(key))
        self._sent += 1
        return message

    @contextmanager
    def stop_together(self) -> Iterator[None]:
        """Notify the other processes if this one stops with an error; wait for all of them at the end."""
        try:
            yield
        except BaseException as error:
            self._publish_stop(error.recorded if isinstance(error, VitaError) else type(error).__name__)
            raise
        self._leave()

    @contextmanager
    def explain_failures(self, where: str) -> Iterator[None]:
        """Replace an error of the communication with the reason why another process stopped."""
        try:
            yield
        except VitaError:
            raise
        except Exception:
            if self._store is not None:
                self._poll(lambda: self._refuse_if_stopped(where), seconds=EXPLAIN_SECONDS)
            raise

    def _refuse_if_stopped(self, where: str) -> bool:
        """Raise `PlanError` if another process has stopped; return False otherwise."""
        if self._store.check(["stopped"]):
            stopped = json.loads(self._store.get("stopped"))
            if stopped["rank"] != self._machine.rank:
                raise PlanError(where, f"process {stopped['rank']} of the run stopped: {stopped['why']}")
        return False

    def _publish_stop(self, reason: str) -> None:
        """Publish the reason of the first process that stops; later ones are consequences of it."""
        if self._store is None:
            return
        try:
            if not self._store.check(["stopped"]):
                self._store.set("stopped", json.dumps({"rank": self._machine.rank, "why": reason}))
        except RuntimeError:
            return  # rank 0, which hosts the store, has ended: no process is left to notify

    def _leave(self) -> None:
        """Keep rank 0, which hosts the store, alive until every other process has read its messages."""
        if self._store is None:
            return
        with _connection_explained(self._machine):
            num_finished = self._store.add("left", 1)
            if self._machine.leads and num_finished < self._machine.world_size:
                self._poll(lambda: self._store.add("left", 0) >= self._machine.world_size, seconds=LEAVE_SECONDS)

    @staticmethod
    def _poll(condition: Callable[[], bool], *, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not condition() and time.monotonic() < until:
            time.sleep(POLL_SECONDS)


def connect(machine: Machine) -> Ranks:
    """Connect this process to the others of its run."""
    if machine.world_size == 1:
        return Ranks(machine)
    return Ranks(machine, shared_store(machine, f"plan-{next(_plans)}"))


def shared_store(machine: Machine, name: str) -> Any:
    """Return the part `name` of the key-value store of all processes of the run.

    The store of torchrun keeps the keys of processes that were killed, so each restart has a part of its own.
    """
    from torch.distributed.distributed_c10d import PrefixStore

    try:
        store = _open_store(machine.rank, machine.world_size)
    except ValueError as error:
        hint = "start the processes with `torchrun`"
        raise ConfigError(f"{machine.world_size} processes", f"cannot find each other: {error}", hint=hint) from None
    except RuntimeError as error:
        raise _lost(machine, error) from None
    return PrefixStore(f"vita/start-{machine.restarts}/{name}", store)


@functools.cache
def _open_store(rank: int, size: int) -> Any:
    """The key-value store of this process, which stays open for later plans.

    A command that adopts a model runs two plans. If rank 0 closed its store in between, another process could connect
    to the closing store for the second plan, and wait for ever.
    """
    from torch.distributed.rendezvous import rendezvous

    meeting = rendezvous("env://", rank, size, timeout=timedelta(seconds=CONNECT_SECONDS))
    store, _, _ = next(iter(meeting))
    return store


@contextmanager
def _connection_explained(machine: Machine) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise _lost(machine, error) from None


def _lost(machine: Machine, error: Exception) -> PlanError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return PlanError(f"process {machine.rank} of the run", f"lost its connection to the others: {reason}")
