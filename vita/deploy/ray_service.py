"""The process that starts Ray on this machine, or uses a running cluster, and runs the application of a deployment.

    python -m vita.deploy.ray_service FOLDER

It listens on the address of the deployment, without the dashboard of Ray. On SIGHUP, it runs the version in
`FOLDER/requested.json` and writes the outcome to `FOLDER/answered.json`. SIGTERM stops it. If a new application does
not start, the previous one continues.
"""

from __future__ import annotations

import json
import logging
import queue
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vita.deploy.folder import ANSWERED, RELEASE, REQUESTED, VERSIONS
from vita.deploy.ray_application import RayReplica, ray_application
from vita.deploy.ray_certificates import write_certificates
from vita.server.service.service import is_loopback
from vita.server.settings import ServiceSettings
from vita.server.sites.site import Site
from vita.spine import machine
from vita.spine.config import build, override
from vita.spine.disk import write_atomically
from vita.spine.errors import MissingExtra, VitaError

LOCAL = "local"
APPLICATION = "vita"
SURGE = 2
"""During an update, Ray runs the replicas of both versions; on this machine, it gets enough CPU resources for both."""


@dataclass(frozen=True)
class RequestedVersion:
    """The requested version of a deployment."""

    number: int
    """Number of the request, which its answer repeats."""
    id: str

    @classmethod
    def read(cls, folder: Path) -> RequestedVersion:
        return cls(**json.loads((folder / REQUESTED).read_text(encoding="utf-8")))


def main(arguments: list[str]) -> int:
    """Run until SIGTERM."""
    folder = Path(arguments[0]).resolve()
    requested = RequestedVersion.read(folder)
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="vita-ray-") as certificates:
        return _run(folder, requested, signals, certificates=Path(certificates))


def _run(folder: Path, requested: RequestedVersion, signals: queue.SimpleQueue[int], *, certificates: Path) -> int:
    """Start the application and handle signals; returns the exit code."""
    try:
        serve = _start_ray(_description(folder, requested), certificates)
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):  # after Ray, which has handlers of its own
            signal.signal(number, lambda received, _frame: signals.put(received))
        serve.run(_application(folder, requested), name=APPLICATION, route_prefix="/")
    except VitaError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the line that `vita deploy` shows
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - Ray raises many types, with the traceback of a replica as text
        print(f"error: {_first_line(error)}", file=sys.stderr)  # noqa: T201
        return 1
    running = requested
    while signals.get() == signal.SIGHUP:
        running = _replace(serve, folder, running)
    serve.shutdown()
    _stop_ray()
    return 0


def _replace(serve: Any, folder: Path, running: RequestedVersion) -> RequestedVersion:
    """Run the requested version; if it does not start, run the previous one again. Returns the running version."""
    requested = RequestedVersion.read(folder)
    problem = None
    try:
        serve.run(_application(folder, requested), name=APPLICATION, route_prefix="/")
    except Exception as error:
        logging.getLogger(__name__).exception("the version %s did not start", requested.id)
        problem = _first_line(error)
        serve.run(_application(folder, running), name=APPLICATION, route_prefix="/")
    answer = {"number": requested.number, "problem": problem}
    write_atomically(folder / ANSWERED, json.dumps(answer).encode())
    return running if problem else requested


def _start_ray(description: dict[str, Any], certificates: Path) -> Any:
    """Start Ray on 127.0.0.1, or connect to a cluster, and start Serve on the address of the deployment."""
    address = description["ray_address"]
    tls = write_certificates(certificates) if address == LOCAL else None
    machine.prepare_environment_of_ray(loopback=address == LOCAL, tls=tls)
    try:
        import ray  # pyright: ignore[reportMissingImports]
        from ray import serve  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtra("deploy.target", "ray-serve") from None
    options: dict[str, Any] = {"address": address}
    if address == LOCAL:
        most = max(description["replicas"], description["max_replicas"] or 0)
        options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1",
                    "num_cpus": max(1, round(SURGE * most * description["cpus"] + 1))}  # fmt: skip
    ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    http = {"host": description["host"], "port": description["port"]}
    serve.start(proxy_location="HeadOnly", http_options=http)
    return serve


def _stop_ray() -> None:
    import ray  # pyright: ignore[reportMissingImports]

    ray.shutdown()


def _application(folder: Path, requested: RequestedVersion) -> Any:
    description = _description(folder, requested)
    settings = build(ServiceSettings, override({}, description["settings"]), where="deploy.service")
    replica = RayReplica(
        folder=str(folder / VERSIONS / requested.id / RELEASE),
        digest=description["release"],
        service=description["name"],
        settings=settings,
        local=is_loopback(description["host"]),
        ungated=description["ungated"],
        site=Site(description["site"] or "", description["region"]),
        threads=max(1, int(description["cpus"])),
        gpus=description["gpus"],
    )
    return ray_application(
        replica, replicas=description["replicas"], max_replicas=description["max_replicas"], cpus=description["cpus"],
        queue=description["queue_depth"],
    )  # fmt: skip


def _description(folder: Path, requested: RequestedVersion) -> dict[str, Any]:
    return json.loads((folder / VERSIONS / requested.id / "service.json").read_text(encoding="utf-8"))


def _first_line(error: BaseException) -> str:
    """Return the cause of an error of Ray, whose text contains the traceback of the replica."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if "Error: " in line and not line.startswith(("File ", "ray."))]
    return (causes or lines or [type(error).__name__])[-1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
