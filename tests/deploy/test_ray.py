"""The target `ray` with a real Ray Serve: start, access, rolling update, a failed update, rollback and stop.

The test needs `ray[serve]`: in this environment, or in the one that the environment variable
`VITA_TEST_RAY` names by its folder.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.deploy.services import Clients, Deployments, scale, spoil
from tests.server.releases import release_folder
from vita.deploy.ray_target import has_ray_serve
from vita.server.release import read_release
from vita.spine.ledger import Ledger

pytestmark = pytest.mark.slow


def python_with_ray() -> str | None:
    if environment := os.environ.get("VITA_TEST_RAY"):
        return str(Path(environment) / "bin" / "python")
    return sys.executable if has_ray_serve() else None


@pytest.fixture
def deployments(tmp_path: Path) -> Iterator[Deployments]:
    python = python_with_ray()
    if python is None:
        pytest.skip("ray[serve] is not installed, and VITA_TEST_RAY names no environment with it")
    value = Deployments(tmp_path, target="ray", python=python)
    value.environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    yield value
    value.vita("deploy", "--stop", "--out", "mine")


def listeners(name: str) -> list[tuple[int, bool]]:
    """Return (port, True if only this machine can reach it) of the open ports of processes with this name."""
    inodes = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if name not in (process / "cmdline").read_text():
                continue
            inodes |= {str(link.readlink()) for link in (process / "fd").iterdir()}
        except OSError:
            continue
    ports = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            local, state, inode = (line.split()[index] for index in (1, 3, 9))
            if state == "0A" and f"socket:[{inode}]" in inodes:
                address, port = local.split(":")
                ports.append((int(port, 16), address in ("0100007F", "0" * 24 + "01000000")))
    return ports


def accepts_a_client_without_a_certificate(port: int) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=10)) as connection:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
            return bool(connection.recv(100))
    except (ssl.SSLError, OSError):
        return False


def test_a_release_runs_in_ray_serve_and_is_updated_and_rolled_back(deployments: Deployments, tmp_path: Path) -> None:
    first = release_folder(tmp_path)
    second = release_folder(tmp_path, version="2", change=scale)
    broken = release_folder(tmp_path, version="3", change=spoil)
    settings = ("--set", "cpus=0.5", "--set", "site=paris")
    started = deployments.deploy(first, *settings)
    assert started["url"] == deployments.url and deployments.version() == "m:1"

    answer = httpx.post(f"{deployments.url}/drain", trust_env=False)
    assert answer.status_code == 404 and answer.headers["X-Vita-Site"] == "paris", "routes of the operator are closed"
    other_host = httpx.get(f"{deployments.url}/v1/models", headers={"Host": "example.org"}, trust_env=False)
    assert other_host.status_code == 403
    names = ("ray::ServeReplica", "ray::ProxyActor", "ray::ServeController", "gcs_server", "raylet")
    ports = [port for name in names for port in listeners(name)]
    assert ports and not any(accepts_a_client_without_a_certificate(port) for port, is_local in ports if not is_local)

    with Clients(deployments.url) as clients:
        updated = deployments.deploy(second, *settings)
        assert updated["previous"] == started["deployment"] and deployments.version() == "m:2"
        record = (tmp_path / "mine/deployment.json").read_text()
        code, out = deployments.vita(*deployments.words(broken, *settings))
        assert code != 0 and "does not start" in out and "Traceback" not in out, out
        assert (tmp_path / "mine/deployment.json").read_text() == record and deployments.version() == "m:2"
        restored = deployments.succeed("deploy", "--rollback", "--out", "mine", "--json")
        assert restored["release"] == read_release(first).digest and deployments.version() == "m:1"
    assert set(clients.statuses) == {200}, clients.statuses

    secret = deployments.succeed("keys", "create", "notebook", "--scope", "chat", "--json")["key"]
    with closing(Ledger(tmp_path / "store/ledger.db")) as ledger:
        deadline = time.monotonic() + 20
        while deployments.send().status_code == 200:
            assert time.monotonic() < deadline, "a key is required from now on"
            time.sleep(0.2)
        assert deployments.send().status_code == 401 and deployments.send(secret).status_code == 403
        secret = deployments.succeed("keys", "create", "laptop", "--json")["key"]
        time.sleep(3)
        assert deployments.send(secret).status_code == 200
        model = restored["model"]
        ledger.move(model, "retired", who="Ada", why="a test", access="none", successor=None)
        while deployments.send(secret).status_code == 200:
            assert time.monotonic() < deadline + 20, "a retired model is refused from now on"
            time.sleep(0.2)
        assert "retired" in deployments.send(secret).json()["error"]["message"]

    code, out = deployments.vita("deploy", "--stop", "--out", "mine")
    assert code == 0 and "stopped" in out
    with pytest.raises(httpx.ConnectError):
        deployments.send()
    assert not [port for name in names for port in listeners(name)], "no process of Ray remains"
