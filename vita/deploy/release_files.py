"""Properties of a release that the files of every target need: its service name, image and command line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from vita import __version__
from vita.deploy.settings import STORE_EXTRAS, DeploymentSettings, Target
from vita.server.backend_settings import BackendSettings, release_backend
from vita.server.release import ReleaseInfo
from vita.server.settings import ServiceSettings
from vita.spine.errors import ConfigError

SUPPORTED_BACKENDS: Mapping[Target, tuple[str, ...]] = {
    "local": ("vita", "llama.cpp", "vllm", "openai"),
    "compose": ("vita", "llama.cpp"),
    "kubernetes": ("vita", "llama.cpp"),
    "ray": ("vita",),
}
"""Target -> the backends of a release that it can run."""
BACKEND_EXTRAS: Mapping[str, str] = {"llama.cpp": "llama-cpp"}
"""Backend -> the extra that the image needs for it."""
RELEASE_IN_IMAGE = "/opt/release"
STATE_IN_CONTAINER = "/var/lib/vita"
USER_IN_CONTAINER = 65532
"""Numeric user and group of the service in a container; not root, and not a user of the host."""
TAG_LENGTH = 16
"""Characters of the release digest in the tag of an image."""


def check_backend(release: ReleaseInfo, settings: DeploymentSettings) -> BackendSettings:
    """Return the backend of a release; raise `ConfigError` if the target cannot run it."""
    backend = release_backend(release.content)
    supported = SUPPORTED_BACKENDS[settings.target]
    if backend.program not in supported:
        raise ConfigError(
            "deploy.target",
            f"`{settings.target}` cannot run a release with the backend `{backend.program}`",
            expected=f"one of the backends {', '.join(supported)}",
            got=backend.program,
            hint="use --target local" if settings.target != "local" else None,
        )
    return backend


def service_name(release: ReleaseInfo, settings: DeploymentSettings) -> str:
    """Return the name of the service: a DNS label."""
    if settings.name is not None:
        return settings.name
    name = re.sub(r"[^a-z0-9-]+", "-", release.name.lower()).strip("-")[:42].strip("-")
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        hint = "set `name`, for example --set name=mine"
        raise ConfigError(
            "deploy.name", f"no service name can be derived from the release name `{release.name}`", hint=hint
        )
    return name


def image_reference(release: ReleaseInfo, settings: DeploymentSettings) -> str:
    """Return the reference of the image of a release."""
    repository = settings.image or f"localhost/{service_name(release, settings)}"
    return f"{repository}:{release.digest[:TAG_LENGTH]}"


def requirement(backend: BackendSettings, settings: DeploymentSettings) -> str:
    """Return the requirement that pip installs in the image."""
    if settings.package is not None:
        return settings.package
    extras = ",".join(image_extras(backend, settings))
    return f"vita-lm[{extras}]=={__version__}" if extras else f"vita-lm=={__version__}"


def image_extras(backend: BackendSettings, settings: DeploymentSettings) -> list[str]:
    """Return the extras of Vita that the service in the image needs."""
    extras = {BACKEND_EXTRAS[backend.program]} if backend.program in BACKEND_EXTRAS else set()
    if settings.store is not None:
        extras |= {"postgres", STORE_EXTRAS[settings.store.partition(":")[0]]}
    if settings.postgresql:
        extras.add("postgres")
    return sorted(extras)


def service_assignments(service: ServiceSettings) -> list[str]:
    """Return the settings of a service that differ from their defaults, as values of `--set`."""
    values = service.model_dump(mode="json", exclude_defaults=True)
    return [f"{name}={json.dumps(value)}" for name, value in sorted(values.items())]


def serve_arguments(
    release: ReleaseInfo, settings: DeploymentSettings, *, folder: str, replicas: int, host: str, port: int | str,
    ungated: str | None = None,
) -> list[str]:  # fmt: skip
    """Return the arguments of `vita` with which a process serves the release in `folder`."""
    arguments = ["serve", folder, "--digest", release.digest, "--name", service_name(release, settings)]
    arguments += ["--host", host, "--port", str(port), "--replicas", str(replicas), *site_arguments(settings)]
    arguments += [word for assignment in service_assignments(settings.service) for word in ("--set", assignment)]
    return [*arguments, *(("--ungated", ungated) if ungated is not None else ())]


def site_arguments(settings: DeploymentSettings) -> list[str]:
    """Return the arguments of `vita serve` with the site and its region."""
    values = {"--site": settings.site, "--region": settings.region}
    return [word for option, value in values.items() if value is not None for word in (option, value)]


def labels(release: ReleaseInfo, settings: DeploymentSettings) -> dict[str, str]:
    """Return the labels of a deployment: release, site and region."""
    values = {
        "vita-lm/release": release.digest[:TAG_LENGTH],
        "vita-lm/site": settings.site,
        "vita-lm/region": settings.region,
    }
    return {name: value for name, value in values.items() if value is not None}


def drain_seconds(service: ServiceSettings) -> int:
    """Return the time after which a container may be killed: longer than requests in flight may take."""
    return int(service.drain_seconds) + 15


def command_text(words: Sequence[str]) -> str:
    """Return the JSON form of a command in a Containerfile."""
    return json.dumps(list(words), ensure_ascii=False)
