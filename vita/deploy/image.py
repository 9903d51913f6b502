"""The image of a service: a Containerfile with a build stage and a small runtime stage.

The runtime stage contains Vita in a virtual environment and the release, no compiler, no pip cache and no secret. It
runs as a numeric user without root privileges, and works with a read-only root filesystem. The command of the image
specifies the digest of the release, so a container with other files does not start. A pip configuration with
credentials is a build secret (`--secret id=pip,src=pip.conf`), which is not stored in any layer.
"""

from __future__ import annotations

from pathlib import Path

from vita import __version__
from vita.deploy.release_files import (
    RELEASE_IN_IMAGE,
    STATE_IN_CONTAINER,
    USER_IN_CONTAINER,
    check_backend,
    command_text,
    image_extras,
    requirement,
    serve_arguments,
    service_name,
)
from vita.deploy.settings import DeploymentSettings
from vita.server.release import ReleaseInfo

PROGRAM = "/opt/vita/bin/vita"
CONTAINERFILE = "Containerfile"
HEALTH_PROBE = (
    "import sys, urllib.request as request; "
    "request.build_opener(request.ProxyHandler({})).open('http://127.0.0.1:' + sys.argv[1] + '/ready', timeout=4)"
)
"""A one-line Python program, because the image has no curl; it fails unless the service is ready."""


def health_command(port: int | str) -> list[str]:
    """Return the command that succeeds if the service in a container is ready."""
    return ["/opt/vita/bin/python", "-c", HEALTH_PROBE, str(port)]


def environment() -> dict[str, str]:
    """Return the environment of the service in a container; it writes only to two writable folders."""
    return {
        "HOME": "/tmp",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "VITA_STORE": f"{STATE_IN_CONTAINER}/store",
        "XDG_CACHE_HOME": f"{STATE_IN_CONTAINER}/cache",
    }


def image_files(release: ReleaseInfo, settings: DeploymentSettings) -> dict[str, str]:
    """Return the text files of the build context, in addition to the folder `release` and the wheel."""
    return {CONTAINERFILE: containerfile(release, settings), ".dockerignore": _ignored(settings)}


def containerfile(release: ReleaseInfo, settings: DeploymentSettings) -> str:
    """Return the Containerfile of a release."""
    backend = check_backend(release, settings)
    arguments = serve_arguments(
        release, settings, folder=RELEASE_IN_IMAGE, replicas=1, host="0.0.0.0", port=settings.port
    )
    copied, package = "", requirement(backend, settings)
    if settings.wheel is not None:
        wheel, extras = Path(settings.wheel).name, ",".join(image_extras(backend, settings))
        copied = f"COPY {wheel} /tmp/{wheel}\n"
        package = f"/tmp/{wheel}[{extras}]" if extras else f"/tmp/{wheel}"
    variables = " \\\n    ".join(f"{name}={value}" for name, value in environment().items())
    return f"""\
# The image of the release {release.id}, written by `vita deploy`.
ARG BASE={settings.base_image}

FROM ${{BASE}} AS build
RUN python3 -m venv /opt/vita
{copied}RUN --mount=type=secret,id=pip,target=/etc/pip.conf \\
    /opt/vita/bin/pip install --no-cache-dir --no-compile {command_text([package])[1:-1]}

FROM ${{BASE}}
LABEL org.opencontainers.image.title={command_text([service_name(release, settings)])[1:-1]} \\
      org.opencontainers.image.version={command_text([release.version])[1:-1]} \\
      vita-lm.version="{__version__}" \\
      vita-lm.release="{release.digest}" \\
      vita-lm.model="{release.model}"
COPY --from=build /opt/vita /opt/vita
COPY --chmod=0555 release {RELEASE_IN_IMAGE}
RUN mkdir -p {STATE_IN_CONTAINER} && chown {USER_IN_CONTAINER}:{USER_IN_CONTAINER} {STATE_IN_CONTAINER}
ENV {variables}
WORKDIR {STATE_IN_CONTAINER}
USER {USER_IN_CONTAINER}:{USER_IN_CONTAINER}
EXPOSE {settings.port}
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 \\
    CMD {command_text(health_command(settings.port))}
ENTRYPOINT {command_text([PROGRAM])}
CMD {command_text(arguments)}
"""


def _ignored(settings: DeploymentSettings) -> str:
    """Return the `.dockerignore` for Docker and Buildah: the build context has only the release and the wheel."""
    wheel = [f"!{Path(settings.wheel).name}"] if settings.wheel is not None else []
    return "\n".join(["*", "!release", *wheel, ""])
