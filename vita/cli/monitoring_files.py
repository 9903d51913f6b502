"""Prometheus rules and a Grafana dashboard as files: `vita monitor SERVICE --write FOLDER`."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from vita.cli.options import print_json
from vita.cli.workspace import Workspace
from vita.spine.errors import ConfigError

DEFAULT_TARGET = "127.0.0.1:8000"
"""Address of a service that does not run now: the default of `vita serve`."""


def write_files(
    workspace: Workspace, service: str | None, folder: Path, *, target: str | None, alerts: Path | None, as_json: bool
) -> None:
    """Write the files of a service and print their paths."""
    from vita.monitoring.alerts import read_rules
    from vita.monitoring.metric_queries import MetricQueries
    from vita.monitoring.monitoring_files import write_monitoring_files
    from vita.server.gateway.keys import all_keys
    from vita.server.routes import MODEL_ROUTES, TRANSLATED_ROUTES

    name, address = _service(workspace, service)
    routes = [route.template for route in (*MODEL_ROUTES, *TRANSLATED_ROUTES)]
    paths = write_monitoring_files(
        folder,
        MetricQueries(name, routes),
        target=target or address or DEFAULT_TARGET,
        rules=read_rules(alerts) if alerts else (),
        has_keys=bool(all_keys(workspace.ledger)),
    )
    if as_json:
        print_json({"service": name, "files": [str(path) for path in paths]})
        return
    for path in paths:
        workspace.console.print(f"wrote {path}", soft_wrap=True)


def _service(workspace: Workspace, service: str | None) -> tuple[str, str | None]:
    """Return the name of the service, and its address if it runs on this machine."""
    from vita.server.service.admin import ServiceHandle

    handles = ServiceHandle.all(workspace.store.root / "services")
    running = [handle for handle in handles if service in (None, handle.service, handle.url)]
    if len(running) == 1:
        return running[0].service, urlsplit(running[0].url).netloc
    if service is None:
        problem = f"{len(running)} services run" if running else "no service runs with this store"
        raise ConfigError("monitor", problem, hint="name the service: `vita monitor NAME --write FOLDER`")
    return service, None
