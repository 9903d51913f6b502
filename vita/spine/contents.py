"""The digest of what a path holds, so that runs are identified by content and never by a file's name.

A folder or glob is the digest of its files' names and digests. Local digests are remembered in the ledger
by path, size and time of change; of remote files the far side's checksum is taken.
"""

from __future__ import annotations

import glob
import hashlib
import time
from pathlib import Path

from vita.spine.config import InputPath, Settings, input_paths
from vita.spine.disk import file_sha256
from vita.spine.errors import DataError
from vita.spine.ledger import Ledger
from vita.spine.store import canonical_json

_SETTLED_NS = 2 * 10**9


def content_digests(settings: Settings, ledger: Ledger, *, where: str) -> dict[str, str]:
    """Path -> digest of what it holds, for every `InputPath` in `settings`."""
    return {str(path): content_digest(path, ledger, where=where) for path in input_paths(settings)}


def content_digest(path: InputPath | str, ledger: Ledger, *, where: str) -> str:
    """The digest of a file, folder, glob or URL."""
    if "://" in path:
        return _remote_digest(path, where)
    files = local_files(path, where=where)
    alone = Path(path)
    if alone.is_file():
        return _file_digest(alone, ledger, where)
    base = alone if alone.is_dir() else Path(glob.escape(path)).parent
    listing = [(_relative(file, base), _file_digest(file, ledger, where)) for file in files]
    return hashlib.sha256(canonical_json(sorted(listing))).hexdigest()


def local_files(path: str, *, where: str) -> list[Path]:
    """The files that a file, folder (all below it) or glob names, sorted; hidden files are left out."""
    alone = Path(path).expanduser()
    if alone.is_file():
        return [alone]
    if alone.is_dir():
        files = sorted(file for file in alone.rglob("*") if file.is_file() and not _hidden(file, alone))
    else:
        files = sorted(Path(found) for found in glob.glob(str(alone), recursive=True) if Path(found).is_file())  # noqa: PTH207 (absolute patterns)
    if not files:
        what = "holds no files" if alone.is_dir() else "there is no such file, and it matches none as a glob"
        raise DataError(where, f"{path}: {what}", hint="paths are relative to the life's file")
    return files


def _hidden(file: Path, base: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(base).parts)


def _relative(file: Path, base: Path) -> str:
    return file.relative_to(base).as_posix() if file.is_relative_to(base) else file.name


def _file_digest(file: Path, ledger: Ledger, where: str) -> str:
    absolute = file.absolute()
    try:
        seen = absolute.stat()
        remembered = ledger.fingerprint(str(absolute), seen.st_size, seen.st_mtime_ns)
        if remembered:
            return remembered
        digest = file_sha256(absolute)
    except OSError as error:
        raise DataError(where, f"{file} cannot be read: {error.strerror}") from None
    if time.time_ns() - seen.st_mtime_ns > _SETTLED_NS:  # a file that changes right now may keep its time of change
        ledger.remember_fingerprint(str(absolute), seen.st_size, seen.st_mtime_ns, digest)
    return digest


def _remote_digest(url: str, where: str) -> str:
    import fsspec

    try:
        files, base = fsspec.core.url_to_fs(url)
        found = sorted(files.glob(base)) if glob.has_magic(base) else sorted(files.find(base))
        sums = [(name.removeprefix(base), str(files.checksum(name))) for name in found]
    except (OSError, ImportError, ValueError) as error:
        raise DataError(where, f"{url} cannot be reached: {error}") from None
    if not sums:
        raise DataError(where, f"{url} holds no files")
    return hashlib.sha256(canonical_json(sums)).hexdigest()
