"""Hosts for `bench.sites`: network namespaces on one bridge, PostgreSQL and HAProxy in front of the sites.

    with Hosts(folder, ("a", "b")) as hosts:
        hosts.start("a", "paris", ["vita", "serve", ...]); hosts.disconnect("b"); hosts.connect("b")

It needs root, `ip`, PostgreSQL and HAProxy; `missing_tools` names what is absent. Nothing outside of the namespaces, of
the bridge and of the folder is changed, and all of it is removed at the end.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import httpx

HAPROXY_CONFIG = Path(__file__).parents[1] / "docs" / "haproxy.cfg"
VITA = (sys.executable, "-c", "from vita.cli import main; main()")
POSTGRES_PORT, PROXY_PORT = 55432, 8080


def missing_tools() -> list[str]:
    """Return the names of what this machine lacks."""
    missing = [] if os.geteuid() == 0 else ["root permissions (network namespaces)"]
    missing += [program for program in ("ip", "haproxy") if shutil.which(program, path=_PATH) is None]
    missing += [] if _postgres_programs() else ["PostgreSQL"]
    if not missing:
        probe = subprocess.run(["ip", "netns", "add", name := f"vita-probe-{os.getpid()}"], capture_output=True)
        missing += ["network namespaces"] if probe.returncode else []
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return missing


class Hosts:
    """Hosts in network namespaces, each with one address, and the processes on them."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.names = folder, names
        self._bridge, self._prefix = f"vita{os.getpid()}"[:12], f"10.{100 + os.getpid() % 100}.7"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._data: Path | None = None
        self._postgres_control: tuple[list[str], str] | None = None
        self.gateway_address = f"{self._prefix}.1"
        """Address of the bridge, where PostgreSQL and HAProxy listen."""
        self.ledger_url = f"postgresql://vita@{self.gateway_address}:{POSTGRES_PORT}/vita"
        self.api = f"http://{self.gateway_address}:{PROXY_PORT}"

    def address(self, host: str) -> str:
        return f"{self._prefix}.{self.names.index(host) + 2}"

    def __enter__(self) -> Hosts:
        try:
            self._create()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _create(self) -> None:
        _run("ip", "link", "add", self._bridge, "type", "bridge")
        _run("ip", "addr", "add", f"{self.gateway_address}/24", "dev", self._bridge)
        _run("ip", "link", "set", self._bridge, "up")
        for host in self.names:
            space, outer, inner = self._space(host), f"{self._bridge}{host}", "eth0"
            _run("ip", "netns", "add", space)
            _run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", space)
            _run("ip", "link", "set", outer, "master", self._bridge, "up")
            for command in (
                ("addr", "add", f"{self.address(host)}/24", "dev", inner), ("link", "set", inner, "up"),
                ("link", "set", "lo", "up"),
            ):  # fmt: skip
                _run("ip", "-n", space, *command)
        self._start_postgres()

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if self._postgres_control is not None:
            control, user = self._postgres_control
            subprocess.run([*control, "-m", "immediate", "stop"], capture_output=True, cwd="/", user=user, check=False)
        if self._data is not None:
            shutil.rmtree(self._data, ignore_errors=True)
        for host in self.names:
            subprocess.run(["ip", "netns", "del", self._space(host)], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self._bridge], capture_output=True, check=False)

    # -- processes

    def start(self, host: str, name: str, command: Sequence[str], *, environment: Mapping[str, str]) -> None:
        """Start a process on a host; its output goes to NAME.log."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*self.on(host), *command], cwd=self.folder, stdout=log, stderr=log,
                env={**os.environ, "PATH": _PATH, **environment}, start_new_session=True,
            )  # fmt: skip

    def on(self, host: str) -> list[str]:
        """Return the start of a command that runs on a host."""
        return ["ip", "netns", "exec", self._space(host)]

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def wait_for(self, name: str, pattern: str, *, seconds: float = 120.0, since: int = 0) -> None:
        """Wait until the output of a process contains a text."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.log(name)[since:]):
            if self.processes[name].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not report `{pattern}`: {self.log(name)[-2000:]}")
            time.sleep(0.1)

    def kill(self, name: str) -> None:
        """Kill a process and its children at once."""
        os.killpg(self.processes[name].pid, signal.SIGKILL)
        self.processes[name].wait()

    def stop(self, name: str) -> None:
        """Ask a process to end (SIGTERM)."""
        self.processes[name].terminate()

    # -- the network

    def disconnect(self, host: str) -> None:
        """Drop all packets from and to a host."""
        _run("ip", "link", "set", f"{self._bridge}{host}", "down")

    def connect(self, host: str) -> None:
        _run("ip", "link", "set", f"{self._bridge}{host}", "up")

    def _space(self, host: str) -> str:
        return f"{self._bridge}-{host}"

    # -- PostgreSQL and HAProxy

    def _start_postgres(self) -> None:
        initdb = _postgres_programs()
        assert initdb is not None, "missing_tools names PostgreSQL"
        user = "postgres" if "postgres" in {entry.pw_name for entry in pwd.getpwall()} else "nobody"
        data = Path(tempfile.mkdtemp(prefix="vita-postgres-"))  # other users can enter this folder's parents
        self._data = data
        shutil.chown(data, user)
        _run(str(initdb), "-D", str(data / "data"), "-A", "trust", "-U", "vita", "--no-sync", user=user)
        access = data / "data" / "pg_hba.conf"
        access.write_text(access.read_text() + f"host all vita {self._prefix}.0/24 trust\n")
        options = (
            f"-c listen_addresses={self.gateway_address} -c port={POSTGRES_PORT} -c max_connections=200 -k {data} -F"
        )
        control = str(initdb.with_name("pg_ctl"))
        self._postgres_control = [control, "-D", str(data / "data")], user
        _run(*self._postgres_control[0], "-o", options, "-l", str(data / "log"), "-w", "start", user=user)
        import psycopg

        address = f"postgresql://vita@{self.gateway_address}:{POSTGRES_PORT}/postgres"
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute("CREATE DATABASE vita")

    def start_proxy(self, sites: Mapping[str, str]) -> None:
        """Start HAProxy with the example of the documentation, for these sites (name -> HOST:PORT)."""
        text = HAPROXY_CONFIG.read_text()
        text = text.replace("bind :8080", f"bind {self.gateway_address}:{PROXY_PORT}")
        servers = "\n".join(f"    server {name} {address}" for name, address in sites.items())
        text = re.sub(r"(?:    server \w+ [\d.:]+\n)+", f"{servers}\n", text)
        path = self.folder / "haproxy.cfg"
        path.write_text(text)
        with (self.folder / "haproxy.log").open("ab") as log:
            command = [str(shutil.which("haproxy", path=_PATH)), "-db", "-f", str(path)]
            self.processes["haproxy"] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        _wait_until_ready(self.api)


_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _wait_until_ready(url: str, *, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if httpx.get(f"{url}/ready", trust_env=False, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        if time.monotonic() > deadline:
            raise RuntimeError(f"{url} was not ready within {seconds:g} s")
        time.sleep(0.2)


def _postgres_programs() -> Path | None:
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    program = shutil.which("initdb") or (str(versions[-1]) if versions else None)
    return Path(program) if program else None


def _run(*command: str, user: str | None = None) -> None:
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd="/", user=user, env={**os.environ, "PATH": _PATH}
    )
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip() or result.stdout.strip()}")
