"""The target `compose`: one host with a container engine. The file follows the Compose specification.

The service runs with a read-only root filesystem, without capabilities and without new privileges. Secrets are files:
`secrets/ledger_url` and `secrets/database_password` in the deployment folder, which Vita does not write.
"""

from __future__ import annotations

from typing import Any

from vita.deploy.image import CONTAINERFILE, health_command, image_files
from vita.deploy.release_files import (
    RELEASE_IN_IMAGE,
    STATE_IN_CONTAINER,
    USER_IN_CONTAINER,
    drain_seconds,
    image_reference,
    labels,
    serve_arguments,
    service_name,
)
from vita.deploy.settings import DeploymentSettings
from vita.deploy.yaml_output import yaml_document
from vita.server.release import ReleaseInfo

COMPOSE_FILE = "compose.yaml"
POSTGRESQL_IMAGE = "docker.io/library/postgres:17-bookworm"
LEDGER_SECRET, PASSWORD_SECRET = "ledger_url", "database_password"
SECRETS_FOLDER = "../../secrets"
"""The folder of the secrets, relative to the compose file, so that all versions of a deployment use the same ones."""


def compose_files(release: ReleaseInfo, settings: DeploymentSettings, *, ungated: str | None) -> dict[str, str]:
    """Return the text files of a deployment with Compose."""
    return {
        **image_files(release, settings),
        COMPOSE_FILE: yaml_document(compose_document(release, settings, ungated=ungated)),
    }


def secret_names(settings: DeploymentSettings) -> list[str]:
    """Return the names of the secrets that a deployment needs."""
    names = [LEDGER_SECRET] if settings.store is not None or settings.postgresql else []
    return [*names, *([PASSWORD_SECRET] if settings.postgresql else [])]


def compose_document(release: ReleaseInfo, settings: DeploymentSettings, *, ungated: str | None) -> dict[str, Any]:
    """Return the content of `compose.yaml`."""
    services = {"service": _service(release, settings, ungated=ungated)}
    volumes: dict[str, Any] = {"state": {}}
    if settings.postgresql:
        services["database"] = _database()
        services["service"]["depends_on"] = {"database": {"condition": "service_healthy"}}
        volumes["database"] = {}
    document: dict[str, Any] = {"name": service_name(release, settings), "services": services, "volumes": volumes}
    if names := secret_names(settings):
        document["secrets"] = {name: {"file": f"{SECRETS_FOLDER}/{name}"} for name in names}
    return document


def _service(release: ReleaseInfo, settings: DeploymentSettings, *, ungated: str | None) -> dict[str, Any]:
    arguments = serve_arguments(
        release, settings, folder=RELEASE_IN_IMAGE, replicas=settings.replicas, host="0.0.0.0", port=settings.port,
        ungated=ungated,
    )  # fmt: skip
    variables = {"VITA_THREADS": str(max(1, int(settings.cpus)))}
    if settings.gpus:
        variables["VITA_DEVICE"] = "cuda"
    if settings.store is not None:
        variables["VITA_STORE"] = settings.store
    has_ledger_url = LEDGER_SECRET in secret_names(settings)
    if has_ledger_url:
        variables["VITA_LEDGER_FILE"] = f"/run/secrets/{LEDGER_SECRET}"
    service: dict[str, Any] = {
        "image": image_reference(release, settings),
        "build": {"context": ".", "dockerfile": CONTAINERFILE},
        "command": [word.replace("$", "$$") for word in arguments],  # `$` begins a variable in a compose file
        "environment": variables,
        "labels": labels(release, settings),
        "ports": [f"{settings.host}:{settings.port}:{settings.port}"],
        "volumes": [f"state:{STATE_IN_CONTAINER}"],
        "tmpfs": ["/tmp:size=1g,mode=1777"],
        "healthcheck": {
            "test": ["CMD", *health_command(settings.port)],
            "interval": "10s",
            "timeout": "5s",
            "retries": 3,
            "start_period": f"{int(settings.service.ready_seconds)}s",
        },
        "stop_grace_period": f"{drain_seconds(settings.service)}s",
        "restart": "unless-stopped",
        "init": True,
        "user": f"{USER_IN_CONTAINER}:{USER_IN_CONTAINER}",
        **_RESTRICTIONS,
        "pids_limit": 1024,
        "deploy": {"resources": _resources(settings)},
    }
    if has_ledger_url:
        service["secrets"] = [LEDGER_SECRET]
    return service


_RESTRICTIONS: dict[str, Any] = {
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "logging": {"driver": "json-file", "options": {"max-size": "10m", "max-file": "5"}},
}


def _resources(settings: DeploymentSettings) -> dict[str, Any]:
    """Return the limits of the container; memory in the units of Compose, in which `m` and `g` are powers of 1024."""
    memory = settings.memory.replace("Mi", "m").replace("Gi", "g")
    resources: dict[str, Any] = {"limits": {"cpus": f"{settings.cpus:g}", "memory": memory}}
    if settings.gpus:
        devices = [{"driver": "nvidia", "count": settings.gpus, "capabilities": ["gpu"]}]
        resources["reservations"] = {"devices": devices}
    return resources


def _database() -> dict[str, Any]:
    """Return PostgreSQL for the ledger, which only the service can reach."""
    return {
        "image": POSTGRESQL_IMAGE,
        "environment": {
            "POSTGRES_USER": "vita",
            "POSTGRES_DB": "vita",
            "POSTGRES_PASSWORD_FILE": f"/run/secrets/{PASSWORD_SECRET}",
        },
        "secrets": [PASSWORD_SECRET],
        "volumes": ["database:/var/lib/postgresql/data"],
        "tmpfs": ["/tmp", "/var/run/postgresql"],
        "healthcheck": {
            "test": ["CMD", "pg_isready", "-U", "vita", "-d", "vita"],
            "interval": "5s",
            "timeout": "5s",
            "retries": 5,
            "start_period": "60s",
        },
        "restart": "unless-stopped",
        **_RESTRICTIONS,
        "cap_add": ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"],
        "deploy": {"resources": {"limits": {"cpus": "1", "memory": "1g"}}},
    }
