"""Jobs of curation on a Ray cluster, with the interface of `WorkerPool` and the same results.

    with RayPool("local", folder=scratch) as pool:          # or the address of a running cluster, HOST:PORT
        for result in pool.in_order(work, jobs, watch=print): ...

A job is a Ray task that writes its result to a folder which all nodes share, so a job whose worker was killed is
repeated, and nothing else. Ray is started on 127.0.0.1 without its dashboard, or a running cluster is used; Vita opens
no port to the network. Before the first job, each node must have the same version of Vita and see the shared folder.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from vita.data.curation.worker_pool import Tick
from vita.spine.errors import ConfigError, DataError, MissingExtra, VitaError
from vita.spine.machine import prepare_environment_of_ray

J = TypeVar("J")
A = TypeVar("A")

LOCAL = "local"
"""The address for a cluster of this machine alone, which ends with the run."""
RETRIES = 3
"""Number of repetitions of a job whose worker was killed."""
_PACKAGES = ("vita-lm", "numpy", "orjson", "zstandard", "resiliparse")
"""Packages whose versions can change the bytes of a corpus."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_START = "start a cluster with `ray start --head --node-ip-address=127.0.0.1`, or use --ray local"
_WAIT_SECONDS = 0.5


class RayPool:
    """A pool of Ray workers that run jobs."""

    def __init__(self, address: str, *, folder: Path) -> None:
        """`folder` is a folder that all nodes share."""
        self._address, self._folder = address, folder
        self.workers = 1
        """Number of jobs that the cluster runs at once: its CPUs."""
        self._ray: Any = None

    def __enter__(self) -> RayPool:
        is_loopback = self._address == LOCAL or self._address.rpartition(":")[0] in _LOOPBACK
        prepare_environment_of_ray(loopback=is_loopback)
        try:
            import ray  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise MissingExtra(f"--ray {self._address}", "ray") from None
        self._ray = ray
        options: dict[str, Any] = {"address": self._address}
        if self._address == LOCAL:
            options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        else:
            self._check_address()
        try:
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            first_line = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"--ray {self._address}", f"cannot be reached: {first_line}", hint=_START) from None
        try:
            self.workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
            self._check_nodes()
        except BaseException:
            ray.shutdown()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()

    def in_order(self, work: Callable[[J, Tick], A], jobs: Sequence[J], *, watch: Tick) -> Iterator[A]:
        """Yield `work(job, tick)` for every job; `watch` receives the number of items of finished jobs."""
        task = self._ray.remote(num_cpus=1, max_retries=RETRIES)(_run_job)
        pending: deque[Any] = deque()
        remaining = iter(jobs)
        done = 0
        while True:
            while len(pending) < 2 * self.workers and (job := next(remaining, None)) is not None:
                pending.append(task.remote(work, job))
            if not pending:
                return
            while not self._ray.wait([pending[0]], timeout=_WAIT_SECONDS)[0]:
                watch(done)
            outcome = self._outcome(pending.popleft())
            done += outcome.items
            watch(done)
            yield outcome.answer

    def _check_address(self) -> None:
        """Raise an error at once if nothing listens; Ray itself would try for minutes."""
        host, _, port = self._address.rpartition(":")
        where = f"--ray {self._address}"
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise ConfigError(where, expected="`local` or HOST:PORT", got=self._address)
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise DataError(where, f"cannot be reached: {error.strerror or error}", hint=_START) from None

    def _outcome(self, reference: Any) -> _Outcome:
        try:
            outcome: _Outcome = self._ray.get(reference)
        except (self._ray.exceptions.WorkerCrashedError, self._ray.exceptions.OutOfMemoryError) as error:
            problem = f"was killed {RETRIES + 1} times in the same job"
            hint = "give the nodes more memory, or start Ray with fewer CPUs"
            first_line = (str(error).splitlines() or [""])[0]
            raise DataError("a worker process of Ray", f"{problem} ({first_line})", hint=hint) from None
        if outcome.error is not None:
            raise outcome.error
        return outcome

    def _check_nodes(self) -> None:
        """Compare the packages of each node with those of this process, and its view of the shared folder."""
        from ray.util import scheduling_strategies  # pyright: ignore[reportMissingImports]

        self._folder.mkdir(parents=True, exist_ok=True)
        probe = self._folder / f"ray-probe-{os.getpid()}-{time.time_ns()}"
        probe.write_text(probe.name)
        try:
            answers = {}
            for node in self._ray.nodes():
                if node["Alive"] and node["Resources"].get("CPU"):
                    strategy = scheduling_strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                    task = self._ray.remote(num_cpus=1, scheduling_strategy=strategy)(_describe_node)
                    answers[node["NodeManagerHostname"], node["NodeID"][:8]] = task.remote(probe)
            own = _describe_node(probe)
            for (host, node), reference in answers.items():
                where = f"the Ray node {host} ({node})"
                try:
                    description: _Node = self._ray.get(reference)
                except self._ray.exceptions.RayError as error:
                    cause = (str(error).strip().splitlines() or [""])[-1]
                    hint = f"install the same Vita there: {own.versions['vita-lm']}"
                    raise DataError(where, f"cannot run Vita: {cause}", hint=hint) from None
                if not description.sees_folder:
                    hint = "use a file system that all nodes share for --out and the store"
                    raise DataError(where, f"does not see the folder {self._folder}", hint=hint)
                for name, version in own.versions.items():
                    if description.versions[name] != version:
                        raise DataError(where, expected=f"{name} {version}", got=description.versions[name])
        finally:
            probe.unlink(missing_ok=True)


class _Node(NamedTuple):
    versions: dict[str, str]
    sees_folder: bool


def _describe_node(probe: Path) -> _Node:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return _Node(versions, probe.exists() and probe.read_text() == probe.name)


class _Outcome(NamedTuple):
    """The answer of a job with its number of items, or the error that ended it."""

    answer: Any
    items: int
    error: VitaError | None = None


def _run_job(work: Callable[[J, Tick], A], job: J) -> _Outcome:
    counts: list[int] = []
    try:
        answer = work(job, counts.append)
    except VitaError as error:
        return _Outcome(None, sum(counts), error)
    return _Outcome(answer, sum(counts))
