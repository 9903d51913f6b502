"""The folder of a deployment: the files of each version, and the record of the current and the previous versions.

    FOLDER/deployment.json          the record: the current version, and the versions before it
    FOLDER/current                  a symbolic link to the folder of the current version
    FOLDER/versions/ID/             the files of a version, which never change, and its release

The id of a version is the digest of its release, its settings and its files, so that equal inputs give the same bytes
in the same folder. A version is written to a temporary folder first, and becomes current when the record names it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vita.gates.weights import regular_files
from vita.server.release import DESCRIPTION, ReleaseInfo, link_or_copy, read_release, verify_release
from vita.spine.disk import confined, exclusive_lock, file_sha256, sync_to_disk, write_atomically
from vita.spine.errors import ConfigError, StoreError, exception_text
from vita.spine.store import canonical_json

FORMAT = 1
RECORD, CURRENT, VERSIONS, RELEASE, LOCK = "deployment.json", "current", "versions", "release", ".lock"
RUNNING, SERVICE_LOG = "running.json", "service.log"
"""Files with the process of a service on this machine, and with its output."""
REQUESTED, ANSWERED = "requested.json", "answered.json"
"""The version that is requested of the process of a Ray Serve application, and the response of the process."""
_BEFORE_THE_RECORD = (LOCK, VERSIONS, SERVICE_LOG, REQUESTED, ANSWERED, "secrets")
"""Entries of a deployment folder whose first version is not applied yet."""
MAX_PREVIOUS = 20
"""Maximum number of previous versions; the files of older ones are deleted."""
ID_LENGTH = 16


@dataclass(frozen=True)
class Deployment:
    """A version of a deployment."""

    id: str
    release: str
    """The digest of the release."""
    label: str
    """Name and version of the release."""
    service: str
    """The name of the service."""
    model: str
    """The digest of the model, computed from its files."""
    settings: Mapping[str, Any]
    """The settings that differ from their defaults."""
    ungated: str | None
    """The reason for serving the model without the approval of a gate."""
    files: Mapping[str, str] = field(repr=False)
    """Name of a file of the version, without those of the release -> its sha256."""
    applied: bool = False
    """True if Vita has started this version."""

    @classmethod
    def of(
        cls, release: ReleaseInfo, model: str, settings: Mapping[str, Any], files: Mapping[str, bytes], *,
        service: str, ungated: str | None,
    ) -> Deployment:  # fmt: skip
        """Return the version with these files."""
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
        identity = {"release": release.digest, "settings": settings, "files": hashes}
        deployment_id = hashlib.sha256(canonical_json(identity)).hexdigest()[:ID_LENGTH]
        return cls(deployment_id, release.digest, release.id, service, model, dict(settings), ungated, hashes)


@dataclass(frozen=True)
class DeploymentFolder:
    """A folder with its record, as it was when it was opened."""

    path: Path
    current: Deployment | None = None
    previous: tuple[Deployment, ...] = ()
    """The versions before the current one, the latest last."""

    @classmethod
    def open(cls, path: Path) -> DeploymentFolder:
        """Read the record of a folder; a folder that does not exist or is empty has none.

        Raises `ConfigError` for a folder with other content, and `StoreError` for a damaged record.
        """
        record = path / RECORD
        if record.is_file():
            return cls(path, *_read_record(record))
        if path.exists() and not path.is_dir():
            raise ConfigError("--out", expected="a folder", got=str(path))
        if path.is_dir() and any(entry.name not in _BEFORE_THE_RECORD for entry in path.iterdir()):
            problem = f"`{path}` is not empty and is not a deployment"
            raise ConfigError("--out", problem, hint="choose a new folder, or the folder of an existing deployment")
        return cls(path)

    def files_of(self, deployment: Deployment) -> Path:
        """Return the folder with the files of a version."""
        return self.path / VERSIONS / deployment.id

    def release_of(self, deployment: Deployment) -> ReleaseInfo:
        """Return the release of a version."""
        return read_release(self.files_of(deployment) / RELEASE)

    def verify(self, deployment: Deployment) -> None:
        """Hash all files of a version and of its release; raise `StoreError` for a missing or changed one."""
        folder = self.files_of(deployment)
        for name, expected in deployment.files.items():
            file = confined(folder, name)
            if not file.is_file() or file.is_symlink():
                raise StoreError(str(file), "is missing from the deployment", hint="run `vita deploy` again")
            if (actual := file_sha256(file)) != expected:
                raise StoreError(
                    str(file), expected=f"the SHA-256 of the deployed file ({expected[:12]})", got=actual[:12]
                )
        release = self.release_of(deployment)
        if release.digest != deployment.release:
            raise StoreError(str(folder / RELEASE), expected=f"the release {deployment.release}", got=release.digest)
        verify_release(release)

    def write(self, deployment: Deployment, release: ReleaseInfo, files: Mapping[str, bytes]) -> Path:
        """Write the files of a version, unless they are intact; the current version does not change."""
        folder = self.files_of(deployment)
        if folder.is_dir():
            try:
                self.verify(deployment)
                return folder
            except StoreError:
                folder.rename(folder.with_name(f".damaged-{folder.name}-{_unused(folder)}"))
        temporary = folder.with_name(f".new-{folder.name}")
        shutil.rmtree(temporary, ignore_errors=True)
        for name, data in files.items():
            write_atomically(confined(temporary, name), data)
        for name, source in _release_files(release):
            target = temporary / RELEASE / name
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(source, target)
        temporary.rename(folder)
        sync_to_disk(folder.parent)
        self.verify(deployment)
        return folder

    def activate(self, deployment: Deployment, *, previous: Sequence[Deployment]) -> DeploymentFolder:
        """Make a version current: replace the record, and then the link."""
        kept = tuple(previous)[-MAX_PREVIOUS:]
        record = {"format": FORMAT, "current": asdict(deployment), "previous": [asdict(version) for version in kept]}
        write_atomically(self.path / RECORD, json.dumps(record, indent=1, sort_keys=True).encode() + b"\n")
        link, target = self.path / CURRENT, f"{VERSIONS}/{deployment.id}"
        temporary = self.path / f".{CURRENT}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        temporary.replace(link)
        known = {version.id for version in (deployment, *kept)}
        for version in previous:
            if version.id not in known:
                shutil.rmtree(self.files_of(version), ignore_errors=True)
        return replace(self, current=deployment, previous=kept)

    @contextmanager
    def locked(self) -> Iterator[DeploymentFolder]:
        """Lock the folder against changes by other commands, and read its record again."""
        self.path.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(self.path / LOCK):
            yield type(self).open(self.path)


def _release_files(release: ReleaseInfo) -> Iterator[tuple[str, Path]]:
    """Yield the name and path of each file of a release."""
    present = dict(regular_files(release.folder))
    for name in (DESCRIPTION, *release.files):
        if name not in present:
            raise StoreError(str(release.folder / name), "is missing from the release")
        yield name, present[name]


def _unused(folder: Path) -> int:
    """Return a number for the name of a damaged folder."""
    return sum(1 for _ in folder.parent.glob(f".damaged-{folder.name}-*"))


def _read_record(path: Path) -> tuple[Deployment, tuple[Deployment, ...]]:
    try:
        content = json.loads(path.read_bytes())
        form = content["format"]
        current, *previous = (Deployment(**entry) for entry in (content["current"], *content["previous"]))
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(str(path), f"is not a valid deployment record: {exception_text(error)}") from None
    if form != FORMAT:
        raise StoreError(str(path), expected=f"format {FORMAT}", got=form, hint="update vita-lm")
    return current, tuple(previous)
