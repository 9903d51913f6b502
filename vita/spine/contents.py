"""Content digests of input paths: a run is identified by the content that it reads, never by a file's name.

    contents = content_digests(settings, ledger, where="curate")     # path -> digest
    with reading(contents):
        ...    # readers call `expected_files` and verify each file; at the end every file is verified again

The digest of a folder or glob covers the names and digests of its files. Local digests are cached in the ledger by path
and state (inode, size, mtime, ctime); for remote files the checksum of the remote storage is used. A file that changes
between its digest and the end of the run raises a `DataError` with its name, so that results match their content.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from vita.spine.config import InputPath, Settings, input_paths
from vita.spine.disk import file_sha256, read_up_to
from vita.spine.erasures import Erasure
from vita.spine.errors import DataError
from vita.spine.file_listing import ListedFile, list_files, printable
from vita.spine.garbage_collection import rare_garbage_collection
from vita.spine.ledger import Fingerprint, Ledger
from vita.spine.remote_files import (
    address_of,
    checksum_of,
    list_files_below,
    missing_files,
    open_filesystem,
    remote_errors,
)
from vita.spine.store import canonical_json
from vita.spine.url_secrets import without_user_and_query

SMALL_FILE_BYTES = 2**16
"""Size from which the content of a file is not held."""
_HELD_BYTES = 2**26
"""Maximum size of the contents of small files that are held during a run."""
_STABLE_NS = 2 * 10**9
"""Minimum age of a change, in ns: a younger file might change again within one tick of the file system clock."""


class KnownFile(NamedTuple):
    """A file with a known digest: its path or URL, its name relative to the input path, size, state and digest."""

    path: str
    name: str
    size: int
    digest: str
    """sha256 of a local file; checksum of the remote storage for a remote file."""
    state: tuple[int, ...] = ()
    """Device, inode, size, mtime and ctime of a local file."""
    content: bytes | None = None
    """The bytes of a small local file that was read for its digest; readers do not read it again."""

    def verify(self) -> None:
        """Raise `DataError` if the content has changed; a local file with the same state is not read again."""
        if "://" in self.path:
            self.compare(_remote_checksum(self.path))
            return
        try:
            is_unchanged = _state_of(os.stat(self.path)) == self.state  # noqa: PTH116 (many small files)
            is_stable = time.time_ns() - max(self.state[3:]) > _STABLE_NS
            digest = self.digest if is_unchanged and is_stable else file_sha256(Path(self.path))
        except OSError as error:
            problem = "vanished" if isinstance(error, FileNotFoundError) else f"became unreadable ({error.strerror})"
            raise DataError(printable(self.path), f"{problem} during the run", hint=_AGAIN) from None
        self.compare(digest)

    def compare(self, digest: str) -> None:
        """Raise `DataError` if `digest` differs from the expected one."""
        if digest != self.digest:
            raise DataError(printable(self.path), "changed during the run: the result is discarded", hint=_AGAIN)


_AGAIN = "run the same command again when the file no longer changes"


class Contents(dict[str, str]):
    """Path -> content digest; `files` are the files of each path, `erasures` the documents that must not be read."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, tuple[KnownFile, ...]] = {}
        self.erasures: tuple[Erasure, ...] = ()

    @property
    def held_bytes(self) -> int:
        """Return the size of the contents of small files that are held."""
        return sum(len(file.content) for files in self.files.values() for file in files if file.content)


@dataclass
class _Reading:
    contents: Contents
    chosen: dict[str, list[KnownFile]] = field(default_factory=dict)
    """Path -> its files that are read; a path that is not listed is read completely."""


_current: ContextVar[_Reading | None] = ContextVar("reading", default=None)


def content_digests(settings: Settings, ledger: Ledger, *, where: str) -> Contents:
    """Compute the contents of every `InputPath` in `settings`."""
    contents = Contents()
    with rare_garbage_collection():
        for path in dict.fromkeys(input_paths(settings)):
            snapshot = _snapshot(path, ledger, where, hold=_HELD_BYTES - contents.held_bytes)
            contents[str(path)], contents.files[str(path)] = snapshot
    return contents


def content_digest(path: InputPath | str, ledger: Ledger, *, where: str) -> str:
    """Compute the digest of a file, folder, glob or URL."""
    return _snapshot(path, ledger, where)[0]


@contextmanager
def reading(contents: Contents) -> Iterator[None]:
    """Let readers verify files against `contents`, and verify all files at the end."""
    state = _Reading(contents)
    token = _current.set(state)
    try:
        yield
    finally:
        _current.reset(token)
    for path, files in contents.files.items():
        for file in state.chosen.get(path, files):
            if "://" not in file.path or path not in state.chosen:  # readers verify remote files themselves
                file.verify()


def current_content(path: str) -> str | None:
    """Return the content digest of an input path in this run; None outside of a run."""
    state = _current.get()
    return None if state is None else state.contents.get(str(path))


def expected_files(path: str) -> tuple[KnownFile, ...] | None:
    """Return the files of an input path at the start of the run, or None outside of a run."""
    state = _current.get()
    return None if state is None else state.contents.files.get(str(path))


def current_erasures() -> tuple[Erasure, ...]:
    """Return the erasures that readers must apply in this run."""
    state = _current.get()
    return () if state is None else state.contents.erasures


@contextmanager
def applying(erasures: Iterable[Erasure]) -> Iterator[None]:
    """Let readers apply these erasures, outside of a run."""
    contents = Contents()
    contents.erasures = tuple(erasures)
    with reading(contents):
        yield


def choose_files(path: str, files: Iterable[KnownFile]) -> None:
    """Record the files of an input path that are read; its other files may change during the run."""
    if (state := _current.get()) is not None:
        state.chosen[str(path)] = list(
            {file.path: file for file in (*state.chosen.get(str(path), ()), *files)}.values()
        )


# -- digests


def _snapshot(path: str, ledger: Ledger, where: str, *, hold: int = 0) -> tuple[str, tuple[KnownFile, ...]]:
    """Return the digest of a path and its files, with at most `hold` bytes of the contents of small files."""
    if isinstance(path, InputPath) and (identity := path.identify(ledger, where=where)) is not None:
        return identity, ()
    if "://" in path:
        files = _remote_files(path, where)
        listing = [(file.name, file.digest) for file in files]
        return hashlib.sha256(canonical_json(sorted(listing))).hexdigest(), files
    files = _local_files(list_files(path, where=where), ledger, where, hold)
    if len(files) == 1 and Path(path).expanduser().is_file():
        return files[0].digest, files
    return hashlib.sha256(canonical_json([(file.name, file.digest) for file in files])).hexdigest(), files


def _local_files(listed: list[ListedFile], ledger: Ledger, where: str, hold: int) -> tuple[KnownFile, ...]:
    """Return the files with cached digests; missing digests are computed and cached. Ledger access is batched."""
    folder = str(Path.cwd())
    absolute = [printable(os.path.join(folder, file.path)) for file in listed]  # noqa: PTH118 (many small files)
    remembered = ledger.fingerprints(absolute)
    files: list[KnownFile] = []
    new: list[Fingerprint] = []
    for file, key in zip(listed, absolute, strict=True):
        state = _state_of(file.state)
        fingerprint = remembered.get(key)
        if fingerprint and fingerprint.state == state[1:]:
            files.append(KnownFile(file.path, file.name, file.state.st_size, fingerprint.digest, state))
            continue
        digest, state, content = _stable_digest(file, state, where)
        content = content if content and len(content) <= hold else None
        hold -= len(content or b"")
        files.append(KnownFile(file.path, file.name, state[2], digest, state, content))
        if time.time_ns() - max(state[3:]) > _STABLE_NS:
            new.append(Fingerprint(key, digest, *state[1:]))
    ledger.remember_fingerprints(new)
    return tuple(files)


def _stable_digest(file: ListedFile, state: tuple[int, ...], where: str) -> tuple[str, tuple[int, ...], bytes | None]:
    """Return (sha256, state, content if it is small) of a file that does not change while it is read."""
    try:
        for _ in range(3):
            content = read_up_to(file.path, state[2] + 1) if state[2] < SMALL_FILE_BYTES else None
            if content is not None and len(content) == state[2]:
                digest = hashlib.sha256(content).hexdigest()
            else:
                digest, content = file_sha256(file.path, size=state[2]), None
            after = _state_of(os.stat(file.path))  # noqa: PTH116 (many small files)
            if after == state:
                return digest, state, content
            state = after
    except OSError as error:
        raise DataError(where, f"{printable(file.path)} cannot be read: {error.strerror}") from None
    raise DataError(where, f"{printable(file.path)} changes while it is read", hint=_AGAIN)


def _state_of(stat: os.stat_result) -> tuple[int, ...]:
    return (stat.st_dev, _signed(stat.st_ino), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def _signed(number: int) -> int:
    """Map an inode number to the range of a signed 64-bit database integer."""
    return number - 2**64 if number >= 2**63 else number


# -- remote files


def _remote_files(url: str, where: str) -> tuple[KnownFile, ...]:
    with remote_errors(url, where=where, family=DataError), missing_files(url, where=where):
        files, base = open_filesystem(url)
        files.invalidate_cache()
        infos = list_files_below(files, base)
        known_files = [
            KnownFile(
                address_of(files, name, url), _name_below(name, base), info.get("size") or 0, checksum_of(files, name)
            )
            for name, info in sorted(infos.items())
        ]
    if not known_files:
        raise DataError(where, f"{url}: there is no such file, and no file below it or matching it")
    return tuple(known_files)


def _name_below(name: str, base: str) -> str:
    """Return the name of a file relative to the path of the source, without secrets."""
    return without_user_and_query(name).removeprefix(without_user_and_query(base))


def _remote_checksum(url: str) -> str:
    try:
        with remote_errors(url, family=DataError):
            files, path = open_filesystem(url)
            files.invalidate_cache()
            return checksum_of(files, path)
    except FileNotFoundError:
        raise DataError(url, "vanished during the run", hint=_AGAIN) from None
