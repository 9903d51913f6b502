"""Settings of a deployment: the target, where requests are accepted, the resources and the image.

    settings = build(DeploymentSettings, {"target": "kubernetes", "store": "s3://models/vita"}, where="deploy")

A setting that the target does not have is rejected; settings are never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, field_validator, model_validator

from vita.server.settings import ServiceSettings
from vita.spine.config import InputPath, Settings, neutral

Target = Literal["local", "compose", "kubernetes", "ray"]
SiteName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""A name of a site or a region (`vita.server.sites.site`), which is also a value of a Kubernetes label."""
DnsLabel = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,40}[a-z0-9])?$")]
"""A name of a Kubernetes object, at most 42 characters, so that names derived from it have at most 63."""
MIN_UNPRIVILEGED_PORT = 1024
STORE_EXTRAS: Mapping[str, str] = {"s3": "s3", "gs": "gcs", "gcs": "gcs"}
"""Scheme of the URL of a store -> the extra that the image needs for it."""

_EVERY_TARGET = ("target", "name", "replicas", "port", "service", "site", "region")
_IN_CONTAINERS = ("cpus", "memory", "gpus", "image", "base_image", "package", "wheel", "store")
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "local": (*_EVERY_TARGET, "host"),
    "compose": (*_EVERY_TARGET, *_IN_CONTAINERS, "host", "postgresql"),
    "kubernetes": (
        *_EVERY_TARGET, *_IN_CONTAINERS, "namespace", "max_replicas", "queue_depth", "ledger_secret",
        "client_namespaces", "outgoing_ports",
    ),
    "ray": (*_EVERY_TARGET, "host", "cpus", "gpus", "max_replicas", "queue_depth", "ray_address"),
}  # fmt: skip
"""Target -> the settings that it has."""
# A reference of an image as in the OCI distribution specification: [host[:port]/]path, without a tag or a digest.
_PATH_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*(?::[0-9]+)?"
_REPOSITORY = re.compile(rf"(?:{_HOST}/)?{_PATH_PART}(?:/{_PATH_PART})*")
_TAG, _DIGEST = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", r"sha256:[0-9a-f]{64}"
_IMAGE = re.compile(rf"{_REPOSITORY.pattern}(?::{_TAG})?(?:@{_DIGEST})?")
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9,._-]+\])?([=<>~!]=?[A-Za-z0-9.*+!,=<>~-]+)?")


class DeploymentSettings(Settings):
    """The target of a deployment, and its settings."""

    target: Target
    """Target platform: `local`, `compose`, `kubernetes` or `ray`."""
    name: DnsLabel | None = None
    """Name of the service, and model name in requests; by default the name of the release. Lower-case letters, digits
    and hyphens."""
    replicas: int = Field(1, ge=1, le=1000)
    """Number of replicas: processes (`local`, `compose`), pods (`kubernetes`) or Ray Serve replicas (`ray`)."""
    port: int = Field(8000, ge=MIN_UNPRIVILEGED_PORT, le=65535)
    """Port on which requests are accepted."""
    host: str = "127.0.0.1"
    """Address on which requests are accepted."""
    site: SiteName | None = None
    """Name of the site, for the response header `X-Vita-Site` and a label (see [Several sites](../sites.md))."""
    region: SiteName | None = None
    """Region of the site, for API keys and requests that are limited to regions, and a label. On Kubernetes, pods run
    only on nodes with this value of the label `topology.kubernetes.io/region`."""
    service: ServiceSettings = neutral(ServiceSettings())
    """Settings of the service, such as `service.in_flight=64` (see [Limits](../operations.md#limits))."""
    cpus: float = Field(1.0, gt=0, le=1024)
    """CPUs of a container or of a Ray Serve replica."""
    memory: str = Field("4Gi", pattern=r"^[1-9][0-9]*(Mi|Gi)$")
    """Memory limit of a container, in Mi or Gi."""
    gpus: int = Field(0, ge=0, le=64)
    """NVIDIA GPUs of a container or of a Ray Serve replica."""
    image: str | None = None
    """Repository of the image, such as `registry.example.org/team/mine`. The tag is the beginning of the release
    digest."""
    base_image: str = "docker.io/library/python:3.12-slim-bookworm"
    """Base image with Python 3.11 or newer and its module `venv`."""
    package: str | None = None
    """Requirement that pip installs in the image; by default this version of `vita-lm` with the necessary extras."""
    wheel: InputPath | None = None
    """Wheel of `vita-lm` that is installed in the image instead of `package`."""
    store: str | None = None
    """URL of the shared artifact store, such as `s3://models/vita`. The service then reads approvals and retirements
    from the shared ledger, whose database URL is a secret."""
    postgresql: bool = False
    """Also run PostgreSQL, for the ledger of the service."""
    namespace: DnsLabel | None = None
    """Namespace of the Kubernetes objects; by default the current namespace of `kubectl` or `helm`."""
    max_replicas: int | None = Field(None, ge=1, le=1000)
    """Maximum number of replicas with autoscaling; no autoscaling when absent."""
    queue_depth: int = Field(4, ge=1)
    """Autoscaling adds replicas if more requests than this wait per replica."""
    ledger_secret: DnsLabel = "vita-ledger"
    """Name of the Kubernetes Secret whose key `url` is the database URL of the shared ledger."""
    client_namespaces: tuple[DnsLabel, ...] = ()
    """Namespaces whose pods may send requests, in addition to the namespace of the service."""
    outgoing_ports: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = (443, 5432)
    """TCP ports to which pods may connect, for the store and the ledger. DNS is always permitted."""

    ray_address: str = Field("local", pattern=r"^(local|[A-Za-z0-9.-]+:[0-9]{1,5})$")
    """`local` to start Ray on this machine, or HOST:PORT of a running cluster. All of its nodes must have the
    deployment folder under the same path."""

    @field_validator("image")
    @classmethod
    def _is_repository(cls, image: str | None) -> str | None:
        if image is not None and not (_REPOSITORY.fullmatch(image) and len(image) <= 255):
            raise ValueError(f"`{image}` is not the repository of an image, such as registry.example.org/team/mine")
        return image

    @field_validator("base_image")
    @classmethod
    def _is_image(cls, image: str) -> str:
        if not _IMAGE.fullmatch(image):
            raise ValueError(f"`{image}` is not the reference of an image, such as docker.io/library/python:3.12-slim")
        return image

    @field_validator("package")
    @classmethod
    def _is_requirement(cls, package: str | None) -> str | None:
        if package is not None and not _PACKAGE.fullmatch(package):
            raise ValueError(f"`{package}` is not a requirement, such as vita-lm[s3,postgres]==1.0")
        return package

    @field_validator("store")
    @classmethod
    def _is_shared_store(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in STORE_EXTRAS or not parts.netloc or not re.fullmatch(r"[A-Za-z0-9:/._-]+", url):
            raise ValueError(f"`{url}` is not the URL of a store, such as s3://BUCKET/FOLDER or gs://BUCKET/FOLDER")
        return url

    @model_validator(mode="after")
    def _fits_the_target(self) -> Self:
        for name in sorted(self.model_fields_set & DeploymentSettings.model_fields.keys()):
            if name not in _FIELDS[self.target] and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"`{name}` is not a setting of the target `{self.target}`")
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"`max_replicas` ({self.max_replicas}) is less than `replicas` ({self.replicas})")
        if self.package is not None and self.wheel is not None:
            raise ValueError("`package` and `wheel` cannot both be set")
        if self.target == "kubernetes" and self.store is None:
            raise ValueError(
                "the target `kubernetes` needs `store`, the URL of the shared store: every pod reads approvals and "
                "retirements from the shared ledger and store"
            )
        if self.store is not None and self.postgresql:
            raise ValueError("`postgresql` cannot be combined with `store`: a shared store has a shared ledger")
        return self

    @property
    def in_containers(self) -> bool:
        """Return True for a target that needs an image."""
        return self.target in ("compose", "kubernetes")

    def record(self) -> dict[str, object]:
        """Return the settings that differ from their defaults, for `deployment.json`."""
        return {"target": self.target, **self.model_dump(mode="json", exclude_defaults=True)}
