"""What input paths hold: runs are identified by the content that they read, never by a file's name.

    contents = content_digests(settings, ledger, where="curate")     # path -> digest
    with reading(contents):
        ...    # readers ask `expected_files` and verify each file; at the end every file is verified again

A folder or glob is the digest of its files' names and digests. Local digests are remembered in the ledger by path and
state (inode, size, times of change); of remote files the far side's checksum is taken. A file that changes between
its digest and the end of the run is a `DataError` with its name, so that no result is filed under another content.
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

from vita.spine.config import InputPath, Settings, input_paths
from vita.spine.disk import file_sha256
from vita.spine.erasures import Erasure
from vita.spine.errors import DataError
from vita.spine.file_listing import ListedFile, list_files, printable
from vita.spine.ledger import Fingerprint, Ledger
from vita.spine.remote_files import list_remote, open_filesystem, remote_errors
from vita.spine.store import canonical_json

_SETTLED_NS = 2 * 10**9
"""A file that changed later than this before it was read might change again within one tick of the file system."""


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file whose content is known: its path or URL, its name below the input path, size, state and digest."""

    path: str
    name: str
    size: int
    digest: str
    """sha256 of a local file; the checksum that the far side gives of a remote file."""
    state: tuple[int, ...] = ()
    """Device, inode, size and both times of change of a local file."""

    def verify(self) -> None:
        """Refuse a file that does not hold what it held; a local file with the same state is not read again."""
        if "://" in self.path:
            self.compare(_remote_checksum(self.path))
            return
        try:
            same = _state_of(Path(self.path).stat()) == self.state
            settled = time.time_ns() - max(self.state[3:]) > _SETTLED_NS
            digest = self.digest if same and settled else file_sha256(Path(self.path))
        except OSError as error:
            problem = "vanished" if isinstance(error, FileNotFoundError) else f"became unreadable ({error.strerror})"
            raise DataError(printable(self.path), f"{problem} during the run", hint=_AGAIN) from None
        self.compare(digest)

    def compare(self, digest: str) -> None:
        """Refuse the digest of other content."""
        if digest != self.digest:
            raise DataError(
                printable(self.path), "changed during the run: nothing is kept of what was read", hint=_AGAIN
            )


_AGAIN = "run the same command again when the file no longer changes"


class Contents(dict[str, str]):
    """Path -> digest of what it holds; `files` are the files behind each path, `erasures` what must not be read."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, tuple[KnownFile, ...]] = {}
        self.erasures: tuple[Erasure, ...] = ()


@dataclass
class _Reading:
    contents: Contents
    chosen: dict[str, list[KnownFile]] = field(default_factory=dict)
    """Path -> the files of it that are read; a path that is not listed here is read as a whole."""


_current: ContextVar[_Reading | None] = ContextVar("reading", default=None)


def content_digests(settings: Settings, ledger: Ledger, *, where: str) -> Contents:
    """The contents of every `InputPath` in `settings`."""
    contents = Contents()
    for path in dict.fromkeys(input_paths(settings)):
        contents[str(path)], contents.files[str(path)] = _snapshot(path, ledger, where)
    return contents


def content_digest(path: InputPath | str, ledger: Ledger, *, where: str) -> str:
    """The digest of a file, folder, glob or URL."""
    return _snapshot(path, ledger, where)[0]


@contextmanager
def reading(contents: Contents) -> Iterator[None]:
    """Let readers verify what they read against `contents`, and verify all of it at the end."""
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


def expected_files(path: str) -> tuple[KnownFile, ...] | None:
    """The files of an input path as the run was begun with; None outside of a run."""
    state = _current.get()
    return None if state is None else state.contents.files.get(str(path))


def current_erasures() -> tuple[Erasure, ...]:
    """The erasures that readers must honour in this run."""
    state = _current.get()
    return () if state is None else state.contents.erasures


def choose_files(path: str, files: Iterable[KnownFile]) -> None:
    """Note which files of an input path are read; the others may change during the run."""
    if (state := _current.get()) is not None:
        state.chosen[str(path)] = list(
            {file.path: file for file in (*state.chosen.get(str(path), ()), *files)}.values()
        )


# -- digests


def _snapshot(path: str, ledger: Ledger, where: str) -> tuple[str, tuple[KnownFile, ...]]:
    if "://" in path:
        files = _remote_files(path, where)
        listing = [(file.name, file.digest) for file in files]
        return hashlib.sha256(canonical_json(sorted(listing))).hexdigest(), files
    files = _local_files(list_files(path, where=where), ledger, where)
    if len(files) == 1 and Path(path).expanduser().is_file():
        return files[0].digest, files
    return hashlib.sha256(canonical_json([(file.name, file.digest) for file in files])).hexdigest(), files


def _local_files(listed: list[ListedFile], ledger: Ledger, where: str) -> tuple[KnownFile, ...]:
    """Digests as remembered, or else computed and remembered; the ledger is asked and told in batches."""
    absolute = [printable(str(Path(file.path).absolute())) for file in listed]
    remembered = ledger.fingerprints(absolute)
    files: list[KnownFile] = []
    new: list[Fingerprint] = []
    for file, key in zip(listed, absolute, strict=True):
        state = _state_of(file.state)
        known = remembered.get(key)
        if known and known.state == state[1:]:
            files.append(KnownFile(file.path, file.name, file.state.st_size, known.digest, state))
            continue
        digest, state = _stable_digest(file, state, where)
        files.append(KnownFile(file.path, file.name, state[2], digest, state))
        if time.time_ns() - max(state[3:]) > _SETTLED_NS:
            new.append(Fingerprint(key, digest, *state[1:]))
    ledger.remember_fingerprints(new)
    return tuple(files)


def _stable_digest(file: ListedFile, state: tuple[int, ...], where: str) -> tuple[str, tuple[int, ...]]:
    """(sha256, state) of a file that does not change while it is read."""
    try:
        for _ in range(3):
            digest, after = file_sha256(Path(file.path)), _state_of(Path(file.path).stat())
            if after == state:
                return digest, state
            state = after
    except OSError as error:
        raise DataError(where, f"{printable(file.path)} cannot be read: {error.strerror}") from None
    raise DataError(where, f"{printable(file.path)} changes while it is read", hint=_AGAIN)


def _state_of(stat: os.stat_result) -> tuple[int, ...]:
    return (stat.st_dev, _signed(stat.st_ino), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def _signed(number: int) -> int:
    """An inode number in the range of a database's integers."""
    return number - 2**64 if number >= 2**63 else number


# -- remote files


def _remote_files(url: str, where: str) -> tuple[KnownFile, ...]:
    with remote_errors(url, where=where, family=DataError):
        files, base = open_filesystem(url)
        files.invalidate_cache()
        infos = list_remote(files, base)
        known = [
            KnownFile(
                files.unstrip_protocol(name), name.removeprefix(base), info.get("size") or 0, str(files.checksum(name))
            )
            for name, info in sorted(infos.items())
            if info["type"] == "file"
        ]
    if not known:
        raise DataError(where, f"{url}: there is no such file, and no file below it or matching it")
    return tuple(known)


def _remote_checksum(url: str) -> str:
    try:
        with remote_errors(url, family=DataError):
            files, path = open_filesystem(url)
            files.invalidate_cache()
            return str(files.checksum(path))
    except FileNotFoundError:
        raise DataError(url, "vanished during the run", hint=_AGAIN) from None
