"""Curation on a Ray cluster of two nodes: equal bytes, killed workers, and errors that name the cause."""

from __future__ import annotations

import filecmp
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

from vita.data.curation import ray_pool
from vita.data.curation.ray_pool import RayPool
from vita.spine.errors import ConfigError, DataError

CLUSTER = """
from ray.cluster_utils import Cluster

options = {"num_cpus": 1, "include_dashboard": False, "node_ip_address": "127.0.0.1"}
cluster = Cluster(initialize_head=True, head_node_args=options)
cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1")
print(cluster.address, flush=True)
input()
cluster.shutdown()
"""


def _skip_without_ray() -> None:
    if find_spec("ray") is None:  # not imported here: `RayPool` sets the environment before its import
        pytest.skip("needs the extra `ray`")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of two nodes on this machine."""
    _skip_without_ray()
    settings = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env={**os.environ, **settings},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout and process.stdin
        address = next((line.strip() for line in process.stdout if line.startswith("127.0.0.1:")), "")
        assert address, "the cluster did not start"
        yield address
        process.stdin.close()
        process.wait(timeout=60)


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def run_cli(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "vita", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
def test_a_cluster_of_two_nodes_writes_the_same_bytes(cluster: str, tmp_path: Path) -> None:
    """Each file is larger than a slice, so that the nodes share the work."""
    (tmp_path / "in").mkdir()
    for number in range(3):
        pages = (f"Page {number} {line}: the ships of the harbour number {line * 7919 % 100_003} are at sea.\n\n"
                 for line in range(110_000))  # fmt: skip
        (tmp_path / "in" / f"{number}.txt").write_text("".join(pages))
    arguments = ["curate", str(tmp_path / "in"), "--set", "filters=[]", "--set", "deduplicate=exact", "--out"]
    run_cli(*arguments, tmp_path / "plain", "--workers", "1")
    run_cli(*arguments, tmp_path / "ray", "--ray", cluster)
    for task in (3, 1, 2):
        run_cli(*arguments, tmp_path / "tasks", "--task", f"{task}/3", "--workers", "1")
    run_cli(*arguments, tmp_path / "tasks", "--workers", "1")
    names = files_of(tmp_path / "plain")
    assert any(name.startswith("train/") for name in names)
    for folder in ("ray", "tasks"):
        assert files_of(tmp_path / folder) == names
        assert filecmp.cmpfiles(tmp_path / "plain", tmp_path / folder, names, shallow=False) == (names, [], [])


def count_attempts(job: tuple[Path, int], tick: Callable[[int], None]) -> int:
    """Record an attempt; the first attempt of job 3 is killed."""
    folder, number = job
    attempts = len(list(folder.glob(f"{number}-*")))
    (folder / f"{number}-{attempts}").touch()
    if number == 3 and not attempts:
        os.kill(os.getpid(), signal.SIGKILL)
    tick(number)
    return number * number


@pytest.mark.slow
def test_a_killed_worker_costs_its_job_alone_and_results_keep_their_order(cluster: str, tmp_path: Path) -> None:
    import psutil

    progress: list[int] = []
    with RayPool(cluster, folder=tmp_path) as pool:
        assert pool.workers == 2
        jobs = [(tmp_path, number) for number in range(6)]
        assert list(pool.in_order(count_attempts, jobs, watch=progress.append)) == [0, 1, 4, 9, 16, 25]
        assert progress[-1] == sum(range(6))
        ray_names = ("raylet", "gcs_server", "ray::")
        listening = {
            connection.laddr.ip.removeprefix("::ffff:")
            for process in psutil.process_iter()
            if process.name().startswith(ray_names)
            for connection in process.net_connections()
            if connection.status == "LISTEN"
        }
        assert listening == {"127.0.0.1"}
    attempts = [len(list(tmp_path.glob(f"{number}-*"))) for number in range(6)]
    assert attempts == [1, 1, 1, 2, 1, 1]


def refuse(job: int, tick: Callable[[int], None]) -> int:
    raise DataError(f"file {job}", "is damaged", hint="copy it again")


@pytest.mark.slow
def test_errors_of_jobs_and_of_nodes_are_those_of_vita(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RayPool(cluster, folder=tmp_path) as pool, pytest.raises(DataError, match="file 7: is damaged") as raised:
        list(pool.in_order(refuse, [7], watch=lambda done: None))
    assert raised.value.hint == "copy it again"
    versions = metadata.version
    monkeypatch.setattr(
        ray_pool.importlib.metadata, "version", lambda name: "9.9" if name == "numpy" else versions(name)
    )
    with pytest.raises(DataError, match=r"the Ray node .*: expected numpy 9\.9"), RayPool(cluster, folder=tmp_path):
        pass


def test_an_address_is_refused_before_ray_waits_for_it(tmp_path: Path) -> None:
    _skip_without_ray()
    with pytest.raises(ConfigError, match=r"expected `local` or HOST:PORT"), RayPool("everywhere", folder=tmp_path):
        pass
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(DataError, match="cannot be reached") as raised, RayPool(address, folder=tmp_path):
            pass
    assert "ray start" in (raised.value.hint or "")
