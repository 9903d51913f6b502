"""Files on a disk that may be full, that others read, and whose power may fail.

write_atomically(path, data)                # a reader sees the old file or the whole new one
with full_disk_explained(folder): ...       # "no space left" as one clear line
"""

from __future__ import annotations

import errno
import hashlib
import os
import uuid
from pathlib import Path, PurePosixPath
from typing import Any

from vita.spine.errors import StoreError


class full_disk_explained:  # noqa: N801 (reads as a phrase: `with full_disk_explained(folder)`)
    """Turns "no space left" and "read-only" from the system into one clear line."""

    def __init__(self, place: Path | str) -> None:
        self.place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: Any, error: BaseException | None, _trace: Any) -> None:
        if error is not None and (explained := explain_disk(error, self.place)):
            raise explained from None


def explain_disk(error: BaseException, place: Path | str) -> StoreError | None:
    """The clear form of an error of a full or read-only disk, a limit or permissions; None for any other error."""
    seen: BaseException | None = error
    while seen is not None:
        number = seen.errno if isinstance(seen, OSError) else None
        text = str(seen).lower()
        if number in (errno.ENOSPC, errno.EDQUOT) or "no space left" in text or "disk is full" in text:
            hint = "free some space and run the same command again: it goes on where it stopped"
            return StoreError(str(place), "the disk is full", hint=hint)
        name = str(getattr(seen, "filename", None) or place)
        if number == errno.EFBIG:
            hint = "raise the limit (`ulimit -f`), or use a file system without it, and run the same command again"
            return StoreError(name, "a file exceeds the largest size that is allowed here", hint=hint)
        if number == errno.EROFS:
            hint = "choose a folder that can be written; --store and --ledger name those of Vita"
            return StoreError(name, "lies on a read-only file system", hint=hint)
        if number in (errno.EACCES, errno.EPERM):
            hint = "check the permissions of the file and of its folders, or choose another one"
            return StoreError(name, f"cannot be accessed ({os.strerror(number)})", hint=hint)
        seen = seen.__cause__ or seen.__context__
    return None


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` so that a reader sees the old file or the whole new one, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    synced(path.parent)


def confined(folder: Path, name: str) -> Path:
    """`folder/name`, refused when `name` would leave the folder."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or not parts.parts:
        raise StoreError(name, expected="a path inside the artifact")
    return folder.joinpath(*parts.parts)


def synced(path: Path) -> None:
    """Have a file, or a folder's list of names, on the disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
