"""Immutable artifacts by content digest: a folder, or any fsspec URL (`s3://`, `gs://`) with a local cache.

    objects/ab/ab12...        bytes, named by their sha256
    artifacts/<digest>.json   the manifest: kind, files, facts; its own sha256 is the artifact's digest
    folders/<digest>/...      hard links to the objects, so that any tool can read an artifact as a folder
    scratch/<run key>/        work in progress; survives a crash

Commits are atomic: objects first, the manifest last, each written to a temporary file and renamed. All reads are
verified; a corrupt object is renamed, so that the next run produces its artifact again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from vita.spine import machine
from vita.spine.disk import confined, file_sha256, full_disk_explained, sync_to_disk, write_atomically
from vita.spine.errors import StoreError
from vita.spine.plain_text import with_article
from vita.spine.remote import Remote
from vita.spine.url_secrets import mask_secrets_in

if TYPE_CHECKING:
    from vita.spine.ledger import Ledger

VERIFY_LIMIT = 4 * 2**30
"""Size in bytes above which `open` verifies artifacts by file size only; `Store.verify` reads all bytes."""

REQUIRES = "requires"
"""Fact of an artifact that cannot be used alone: the digests of the artifacts that it refers to, opened with it."""
TEMPORARY = "tmp-"
"""Name prefix of scratch folders that belong to a process instead of a run."""


Traits = Mapping[str, Any]
"""Properties of a model on which stages depend (`vita.spine.traits`)."""


@dataclass(frozen=True)
class Artifact:
    """The output of a stage: a read-only folder, identified by its digest."""

    kind: ClassVar[str] = "artifact"
    digest: str
    path: Path
    facts: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def traits(self) -> Traits | None:
        """Properties on which stages depend, None for a kind without any."""
        return None

    @classmethod
    def admit(cls, digest: str, slot: str, ledger: Ledger, store: Store) -> None:
        """Raise an error if an artifact of this kind must not be used as the input `slot` now."""


A = TypeVar("A", bound=Artifact)


@dataclass(frozen=True)
class Draft(Generic[A]):
    """The uncommitted output of a stage: a folder of files and deterministic facts about it."""

    kind: type[A]
    folder: Path
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """The manifest of an artifact: its kind, its facts, and its files as path -> (sha256, bytes)."""

    kind: str
    files: Mapping[str, tuple[str, int]]
    facts: Mapping[str, Any]

    @property
    def size(self) -> int:
        return sum(size for _, size in self.files.values())

    def encode(self) -> bytes:
        """Return the canonical bytes, whose sha256 is the digest of the artifact."""
        files = {path: {"sha256": sha, "bytes": size} for path, (sha, size) in sorted(self.files.items())}
        return canonical_json({"kind": self.kind, "files": files, "facts": self.facts})

    @classmethod
    def decode(cls, data: bytes, *, where: str) -> Manifest:
        try:
            value = json.loads(data)
            files = {path: (entry["sha256"], entry["bytes"]) for path, entry in value["files"].items()}
            return cls(value["kind"], files, value["facts"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise StoreError(where, "the manifest cannot be read") from None


class Store:
    """A store of artifacts; `location` is a folder or a URL, `cache` the local cache folder of a URL."""

    def __init__(self, location: str | Path, *, cache: Path | None = None) -> None:
        self.location = str(location)
        self._remote: Remote | None = None
        if "://" in self.location and not self.location.startswith("file://"):
            self._remote = Remote(self.location)
            name = hashlib.sha256(self.location.encode()).hexdigest()[:16]
            self.root = (cache or Path.cwd() / ".vita-cache") / name
        else:
            self.root = Path(self.location.removeprefix("file://")).expanduser().absolute()
        self._verified: set[str] = set()
        try:
            with full_disk_explained(self.root):
                for name in ("objects", "artifacts", "folders", "scratch"):
                    (self.root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                str(self.root),
                f"cannot be a store: {error.strerror or error}",
                hint="choose another folder with --store",
            ) from None

    @property
    def is_remote(self) -> bool:
        """True if artifacts must be downloaded before they can be read."""
        return self._remote is not None

    # -- writing

    def commit(self, draft: Draft[A]) -> A:
        """Store the files of a draft as an artifact; files are hard-linked if the disk supports it, or else copied."""
        with full_disk_explained(self.root):
            files: dict[str, tuple[str, int]] = {}
            for path in sorted(p for p in draft.folder.rglob("*") if p.is_file() or p.is_symlink()):
                if path.is_symlink():
                    raise StoreError(str(path), "the draft contains a symbolic link", hint="copy the file instead")
                name = path.relative_to(draft.folder).as_posix()
                files[name] = self._add_object(path)
            if not files:
                raise StoreError(str(draft.folder), "the draft contains no files")
            manifest = Manifest(draft.kind.kind, files, json.loads(canonical_json(mask_secrets_in(draft.facts))))
            data = manifest.encode()
            digest = hashlib.sha256(data).hexdigest()
            if self._remote:
                for sha, _ in files.values():
                    self._remote.put_file(self._object(sha), f"objects/{sha[:2]}/{sha}")
                self._remote.put_bytes(data, f"artifacts/{digest}.json")
            write_atomically(self.root / "artifacts" / f"{digest}.json", data)
            self._verified.update(sha for sha, _ in files.values())
            return self._handle(draft.kind, digest, manifest)

    def scratch(self, key: str) -> Path:
        """Return the scratch folder of a run, which exists until `clear_scratch`."""
        folder = self.root / "scratch" / key
        with full_disk_explained(self.root):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def clear_scratch(self, key: str) -> None:
        shutil.rmtree(self.root / "scratch" / key, ignore_errors=True)

    @contextmanager
    def temporary(self, purpose: str) -> Iterator[Path]:
        """Create an empty draft folder that belongs to no run, under a unique name; it is removed when the block ends.

        The name contains the process id, so that a later cleanup can check whether it is still in use.
        """
        _, process = machine.owner()
        key = f"{TEMPORARY}{purpose}-{process.replace(':', '-')}-{uuid.uuid4().hex[:8]}"
        try:
            folder = self.scratch(key) / "draft"
            folder.mkdir()
            yield folder
        finally:
            self.clear_scratch(key)

    # -- reading

    def open(self, digest: str, kind: type[A] = Artifact) -> A:
        """Return the artifact, available locally and verified; raise `StoreError` for another kind."""
        manifest = self.manifest(digest)
        if kind is not Artifact and manifest.kind != kind.kind:
            expected, got = with_article(kind.kind), with_article(manifest.kind)
            raise StoreError(f"artifact {digest[:12]}", expected=expected, got=got)
        with full_disk_explained(self.root):
            for name, (sha, size) in manifest.files.items():
                self._ensure(
                    sha, size, f"{manifest.kind} {digest[:12]}, file {name}", deep=manifest.size <= VERIFY_LIMIT
                )
            for required in manifest.facts.get(REQUIRES, ()):
                self.open(required)
            return self._handle(kind, digest, manifest)

    def read(self, digest: str, name: str) -> bytes:
        """Return one verified file of an artifact; its other files are not read."""
        manifest = self.manifest(digest)
        if name not in manifest.files:
            raise StoreError(f"{manifest.kind} {digest[:12]}", f"contains no file {name}")
        sha, size = manifest.files[name]
        self._ensure(sha, size, f"{manifest.kind} {digest[:12]}, file {name}", deep=True)
        return self._object(sha).read_bytes()

    def manifest(self, digest: str) -> Manifest:
        """Return the manifest of an artifact, without reading its files."""
        path = self.root / "artifacts" / f"{digest}.json"
        if path.exists():
            data = path.read_bytes()
        elif self._remote and (data := self._remote.get_bytes(f"artifacts/{digest}.json")) is not None:
            write_atomically(path, data)
        else:
            raise StoreError(f"artifact {digest[:12]}", f"is not in the store {self.location}", hint="see `vita ls`")
        if hashlib.sha256(data).hexdigest() != digest:
            path.rename(path.with_suffix(".corrupt"))
            raise StoreError(f"artifact {digest[:12]}", "its manifest was corrupt and has been renamed", hint=_AGAIN)
        return Manifest.decode(data, where=f"artifact {digest[:12]}")

    def has(self, digest: str) -> bool:
        """Return True if all files of the artifact are present with the right size (`open` verifies the content)."""
        try:
            manifest = self.manifest(digest)
        except StoreError:
            return False
        return all(self._present(sha, size) for sha, size in manifest.files.values())

    def digests(self) -> list[str]:
        """Return the digests of all artifacts, sorted."""
        with full_disk_explained(self.root):  # `glob` would treat an unreadable folder as empty
            names = [path.name for path in (self.root / "artifacts").iterdir()]
        digests = {name.removesuffix(".json") for name in names if name.endswith(".json") and not name.startswith(".")}
        if self._remote:
            digests.update(
                PurePosixPath(name).stem for name in self._remote.names("artifacts") if name.endswith(".json")
            )
        return sorted(digests)

    def verify(self) -> Iterator[tuple[str, Manifest, list[str]]]:
        """Read every byte of every artifact; yield (digest, manifest, names of corrupt files)."""
        self._verified.clear()
        for digest in self.digests():
            manifest, bad = self.manifest(digest), []
            for name, (sha, size) in manifest.files.items():
                try:
                    self._ensure(sha, size, name, deep=True)
                except StoreError:
                    bad.append(name)
            yield digest, manifest, bad

    # -- helpers

    def _object(self, sha: str) -> Path:
        return self.root / "objects" / sha[:2] / sha

    def _present(self, sha: str, size: int) -> bool:
        path = self._object(sha)
        if path.exists():
            return path.stat().st_size == size
        return bool(self._remote and self._remote.size(f"objects/{sha[:2]}/{sha}") == size)

    def _add_object(self, source: Path) -> tuple[str, int]:
        sha, size = file_sha256(source), source.stat().st_size
        target = self._object(sha)
        if target.exists() and target.stat().st_size == size and (sha in self._verified or file_sha256(target) == sha):
            return sha, size
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{sha[:12]}-{uuid.uuid4().hex[:8]}")
        try:
            _link_or_copy(source, temporary)
            sync_to_disk(temporary)
            temporary.chmod(0o444)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        sync_to_disk(target.parent)
        return sha, size

    def _ensure(self, sha: str, size: int, where: str, *, deep: bool) -> None:
        """Ensure that an object is intact; a corrupt one is renamed, and downloaded again from a remote store."""
        path = self._object(sha)
        if self._is_intact(path, sha, size, deep=deep):
            return
        corrupt = _quarantine(path)
        if self._remote:
            self._remote.fetch(f"objects/{sha[:2]}/{sha}", path)
            if self._is_intact(path, sha, size, deep=deep):
                return
            corrupt = _quarantine(path) or corrupt
        if corrupt:
            raise StoreError(where, "was corrupt (its bytes do not match its digest) and has been renamed", hint=_AGAIN)
        raise StoreError(where, "is missing from the store", hint=_AGAIN)

    def _is_intact(self, path: Path, sha: str, size: int, *, deep: bool) -> bool:
        if not path.exists() or path.stat().st_size != size:
            return False
        if deep and sha not in self._verified:
            if file_sha256(path) != sha:
                return False
            self._verified.add(sha)
        return True

    def _handle(self, kind: type[A], digest: str, manifest: Manifest) -> A:
        folder = self.root / "folders" / digest
        if not self._folder_is_intact(folder, manifest):
            temporary = folder.with_name(f".{digest[:12]}-{uuid.uuid4().hex[:8]}")
            for name, (sha, _) in manifest.files.items():
                target = confined(temporary, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                _link_or_copy(self._object(sha), target)
            if folder.exists():
                stale = folder.with_name(f".{digest[:12]}-{uuid.uuid4().hex[:8]}")
                folder.rename(stale)
                shutil.rmtree(stale, ignore_errors=True)
            try:
                temporary.rename(folder)
            except OSError:  # another process was faster
                shutil.rmtree(temporary, ignore_errors=True)
        return kind(digest=digest, path=folder, facts=manifest.facts)

    def _folder_is_intact(self, folder: Path, manifest: Manifest) -> bool:
        for name, (sha, _) in manifest.files.items():
            try:
                folder_stat, object_stat = confined(folder, name).stat(), self._object(sha).stat()
            except FileNotFoundError:
                return False
            if (folder_stat.st_ino, folder_stat.st_dev) != (object_stat.st_ino, object_stat.st_dev) and (
                folder_stat.st_size != object_stat.st_size or file_sha256(folder / name) != sha
            ):
                return False
        return True


_AGAIN = "run the same command again to produce it again"


def canonical_json(value: Any) -> bytes:
    """Encode a JSON value canonically: sorted names, no spaces, UTF-8; NaN is refused."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def _quarantine(path: Path) -> bool:
    """Rename a corrupt object for later inspection; return False if there is none."""
    if not path.exists():
        return False
    path.rename(path.with_name(f"{path.name}.corrupt-{uuid.uuid4().hex[:6]}"))
    return True


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        shutil.copyfile(source, target)
