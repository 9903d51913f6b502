"""Listing and opening of local and remote files.

A file, folder, glob or URL (`s3://...`) becomes a sorted list of `SourceFile`s, whose content `streams.py` reads. A
file that is missing, unreadable or changed since the run began is refused with a one-line error.
"""

from __future__ import annotations

import fnmatch
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from vita.spine.contents import KnownFile, choose_files, expected_files
from vita.spine.disk import read_up_to
from vita.spine.errors import DataError
from vita.spine.file_listing import list_files, printable
from vita.spine.plain_text import counted
from vita.spine.remote_files import (
    address_of,
    folder_of,
    is_over_http,
    list_files_below,
    missing_files,
    open_filesystem,
    remote_errors,
)
from vita.spine.retried_http import RetriedFile
from vita.spine.url_secrets import links_of_chain, without_user_and_query

COMPRESSED_SUFFIXES = frozenset({".gz", ".zst", ".bz2", ".xz"})
"""Suffixes that hide the suffix of the format; compression itself is detected by content."""
_COMPRESSED_ENDINGS = tuple(COMPRESSED_SUFFIXES)


class DamagedFile(DataError):
    """An error for a file that cannot be read to the end: truncated, damaged, or of another type than its name.

    A source with `on_bad_row: drop` keeps the rows before the damage, counts the file and continues.
    """

    @property
    def summary(self) -> str:
        """Return the problem without the path of the file."""
        return str(self).removeprefix(f"{self.where}: ")


DAMAGED_END = 2**62
"""The `stop` of the last span of a damaged file, whose reader reports the damage."""


@dataclass(frozen=True, slots=True)
class FileSpan:
    """A part of a large file: the bytes, row groups or record batches from `start` to `stop`."""

    start: int
    stop: int
    first_row: int
    """Number of the first row."""
    size: int
    """Share of the size on disk, in bytes."""
    format: str
    """The format of the file, which the beginning of a span does not show."""


class SourceFile(NamedTuple):
    """A file to read: its path or URL, its printable name relative to the source, and its size on disk in bytes."""

    path: str
    name: str
    size: int
    known: KnownFile | None = None
    """The state of the file when the run began, with which the bytes read are compared."""
    opener: Callable[[], Any] | None = None
    """Opens the content of a file that has no path of its own, such as a member of an archive."""
    is_decompressed: bool = False
    """True if the content has no compression."""
    span: FileSpan | None = None
    """The part of a large file that a slice of a source reads; None for the whole file."""
    content: bytes | None = None
    """The decompressed content of a small file that was read."""

    @property
    def is_named_compressed(self) -> bool:
        """Return True if the name states a compression."""
        return _ending(self.path) in COMPRESSED_SUFFIXES

    @property
    def suffix(self) -> str:
        """Return the file type by name, without compression: `jsonl` for `a.jsonl.zst`."""
        ending = _ending(self.path)
        if ending in COMPRESSED_SUFFIXES:
            ending = _ending(self.path[: -len(ending)])
        return ending[1:]


def _ending(path: str) -> str:
    """Return the suffix of a path with its dot; several times as fast as `pathlib`, for many small files."""
    if "://" in path:
        path = without_user_and_query(links_of_chain(path)[0])
    name = path.rpartition("/")[2]
    dot = name.rfind(".")
    return name[dot:].lower() if 0 < dot < len(name) - 1 else ""


def find_files(path: str, *, exclude: Iterable[str] = (), where: str) -> list[SourceFile]:
    """Find the files of a file path, folder, glob or URL, sorted by name, without those that a glob excludes.

    During a run these are the files that existed when the run began.
    """
    matches = _find_remote(path, where) if "://" in path else _find_local(path, where)
    files = matches
    if exclude:
        files = [file for file in matches if not any(_matches_glob(file, pattern) for pattern in exclude)]
    if not files:
        raise DataError(
            where, f"{path}: {counted(len(matches), 'file')} found, and every file is excluded by {', '.join(exclude)}"
        )
    return sorted(files, key=lambda file: file.name)


def record_selected(path: str, files: Iterable[SourceFile]) -> None:
    """Record which of the files from `find_files` are read: only these must not change until the run ends."""
    choose_files(path, [file.known for file in files if file.known])


def open_binary(file: SourceFile) -> Any:
    """Open a file as a binary handle; it is seekable unless the file is a member of an archive."""
    if file.content is not None:
        return io.BytesIO(file.content)
    if file.opener:
        return file.opener()
    try:
        if "://" not in file.path:
            return open(file.path, "rb")  # noqa: PTH123 (faster than `Path.open`, for many small files)
        with remote_errors(file.path, family=DataError):
            filesystem, path = open_filesystem(file.path)
            if not is_over_http(file.path) and len(links_of_chain(file.path)) == 1:
                return filesystem.open(path, "rb")
            # Also keeps the file system of an archive alive, which closes its members at its end.
            return RetriedFile(lambda: filesystem.open(path, "rb"))
    except OSError as error:
        verify(file)  # raises a specific error for a file that was removed since the run began
        raise _unreadable(file.path, error) from None


# -- finding


def _find_local(path: str, where: str) -> list[SourceFile]:
    if (known := expected_files(path)) is not None:
        return [SourceFile(file.path, file.name, file.size, file) for file in known]
    return [SourceFile(file.path, file.name, file.state.st_size) for file in list_files(path, where=where)]


def _find_remote(url: str, where: str) -> list[SourceFile]:
    with remote_errors(url, where=where, family=DataError), missing_files(url, where=where):
        filesystem, base = open_filesystem(url)
        entries = list_files_below(filesystem, base)
        root = folder_of(filesystem, base)
    expected = expected_files(url)
    known = {file.path: file for file in expected or ()}
    if expected is not None:
        entries = {path: entry for path, entry in entries.items() if address_of(filesystem, path, url) in known}
    files = [
        SourceFile(
            address := address_of(filesystem, path, url),
            _relative_name(path, root),
            entry["size"] or 0,
            known.get(address),
        )
        for path, entry in entries.items()
        if not any(part.startswith(".") for part in _relative_name(path, root).split("/"))
    ]
    if not files:
        raise DataError(where, f"{url}: there is no such file, and no file below it or matching it")
    return files


def _relative_name(path: str, root: str) -> str:
    """Return the name of a file below `root`; without the user and the query of a URL."""
    name, folder = (without_user_and_query(part).strip("/") for part in (path, root))
    return name.removeprefix(folder).strip("/") or PurePosixPath(name).name


def _matches_glob(file: SourceFile, pattern: str) -> bool:
    return fnmatch.fnmatchcase(file.name, pattern) or fnmatch.fnmatchcase(PurePosixPath(file.name).name, pattern)


# -- reading


def verify(file: SourceFile) -> None:
    """Raise an error if a file changed since the run began."""
    if file.known:
        file.known.verify()


def read_and_verify(file: SourceFile, size: int) -> Iterator[bytes]:
    """Yield the bytes of a file and compare their digest at the end with the identity of the run."""
    expected = None if file.opener or file.content is not None or "://" in file.path else file.known
    digest = hashlib.sha256()
    with open_binary(file) as handle:
        while chunk := _read_chunk(handle, size, file):
            if expected:
                digest.update(chunk)
            yield chunk
    if expected:
        expected.compare(digest.hexdigest())
    verify(file)


def read_small(file: SourceFile, limit: int) -> bytes | None:
    """Return the bytes of a local file of known digest with less than `limit` bytes, else None.

    The digest of the bytes is compared with the identity of the run, so the state of the file is not compared. Bytes
    that were read for this identity are not read again.
    """
    if file.opener or file.span or not file.known or file.size >= limit or "://" in file.path:
        return None
    if file.known.content is not None:
        return file.known.content
    try:
        data = read_up_to(file.path, file.size + 1)
    except OSError:
        return None  # the reader of larger files raises the error
    if len(data) != file.size:
        return None
    file.known.compare(hashlib.sha256(data).hexdigest())
    return data


def _read_chunk(handle: Any, size: int, file: SourceFile) -> bytes:
    try:
        if "://" not in file.path:
            return handle.read(size)
        with remote_errors(file.path, family=DataError):
            return handle.read(size)
    except OSError as error:
        raise _unreadable(file.path, error) from None


def _unreadable(path: str, error: OSError) -> DataError:
    path = printable(path)
    if isinstance(error, FileNotFoundError):
        return DataError(path, "there is no such file")
    return DataError(path, f"cannot be read: {error.strerror or error}")
