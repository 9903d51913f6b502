"""Safe file operations: atomic writes, durable writes, and clear errors for a full or read-only disk.

write_atomically(path, data)                # a reader sees the old file or the complete new file
with full_disk_explained(folder): ...       # "no space left" as one clear line
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from vita.spine.errors import StoreError


class full_disk_explained:  # noqa: N801 (reads as a phrase: `with full_disk_explained(folder)`)
    """Translate system errors such as "no space left" and "read-only" into a one-line `StoreError`."""

    def __init__(self, path: Path | str) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: Any, error: BaseException | None, _trace: Any) -> None:
        if error is not None and (explained := explain_disk(error, self.path)):
            raise explained from None


def explain_disk(error: BaseException, path: Path | str) -> StoreError | None:
    """Return a `StoreError` for a full or read-only disk, a file size limit or permissions; None for other errors."""
    cause: BaseException | None = error
    while cause is not None:
        number = cause.errno if isinstance(cause, OSError) else None
        text = str(cause).lower()
        if number in (errno.ENOSPC, errno.EDQUOT) or "no space left" in text or "disk is full" in text:
            hint = "free some space and run the same command again: it resumes where it stopped"
            return StoreError(str(path), "the disk is full", hint=hint)
        name = str(getattr(cause, "filename", None) or path)
        if number == errno.EFBIG:
            hint = "raise the limit (`ulimit -f`), or use a file system without it, and run the same command again"
            return StoreError(name, "the file exceeds the maximum file size", hint=hint)
        if number == errno.EROFS:
            hint = "choose a writable folder with --store and --ledger"
            return StoreError(name, "is on a read-only file system", hint=hint)
        if number in (errno.EACCES, errno.EPERM):
            hint = "check the permissions of the file and of its folders, or choose another one"
            return StoreError(name, f"cannot be accessed ({os.strerror(number)})", hint=hint)
        cause = cause.__cause__ or cause.__context__
    return None


_READ_BYTES = 2**17
"""Bytes per read of a digest; a larger buffer costs more than it saves for many small files."""


def file_sha256(path: Path | str, *, size: int | None = None) -> str:
    """Return the sha256 of a file's bytes, in hex.

    With `size`, reading ends after that many bytes: the caller verifies that the file has this size.
    """
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (faster than `Path.open`, for many small files)
        data = file.read(_READ_BYTES)
        digest, count = hashlib.sha256(data), len(data)
        while count != size and (data := file.read(_READ_BYTES)):
            digest.update(data)
            count += len(data)
        return digest.hexdigest()


def read_up_to(path: Path | str, size: int) -> bytes:
    """Return the first bytes of a file, at most `size`, with the fewest system calls, for many small files."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, size)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` atomically: a reader sees the old file or the complete new file, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_to_disk(path.parent)


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold the lock of a file, and wait while another process holds it; the lock ends with its process."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def confined(folder: Path, name: str) -> Path:
    """Return `folder/name`; raise `StoreError` if the path would be outside of the folder."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or not parts.parts:
        raise StoreError(name, expected="a path inside the artifact")
    return folder.joinpath(*parts.parts)


def sync_to_disk(path: Path) -> None:
    """Flush a file, or a folder's directory entries, to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
