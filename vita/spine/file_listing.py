"""The local files that a path names: a file, every file below a folder, or what a glob matches.

Links to files and folders are followed, also out of the folder; a link back to a folder above it is not entered again.
Names that begin with a dot are left out. What cannot be read is refused by its name, never passed over: a folder
without permission, a broken link, a named pipe, a socket or a device.
"""

# Text and `os` instead of `Path`: several times as fast where there are many files.
# ruff: noqa: PTH112, PTH114, PTH115, PTH116, PTH119
from __future__ import annotations

import fnmatch
import glob
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vita.spine.errors import DataError


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file: its path, its printable name below what the user named, and its state on the disk."""

    path: str
    name: str
    state: os.stat_result


def list_files(path: str, *, where: str) -> list[ListedFile]:
    """The files that a file, folder (all below it) or glob names, sorted by name."""
    given = str(Path(path).expanduser())
    state = _state(given, where, missing_ok=True)
    if state is not None and not stat.S_ISDIR(state.st_mode):
        return [ListedFile(given, printable(Path(given).name), _regular(given, state, where))]
    if state is not None:
        found, base = dict(_below(given, state, frozenset(), where)), given
    else:
        base = str(Path(*_parts_before_magic(given)))
        found = dict(_matches(given, base, where))
    if not found:
        what = "holds no files" if state is not None else "there is no such file, and it matches none as a glob"
        raise DataError(where, f"{printable(path)}: {what}", hint="paths are relative to the life's file")
    prefix = base.rstrip("/") + "/"
    names = ((printable(file.removeprefix(prefix)), file) for file in found)
    return [ListedFile(file, name, found[file]) for name, file in sorted(names)]


def printable(name: str) -> str:
    r"""A name as text that every file and screen takes: bytes that are not UTF-8 as `\xe9`."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")


def _below(
    folder: str, state: os.stat_result, above: frozenset[tuple[int, int]], where: str
) -> Iterator[tuple[str, os.stat_result]]:
    """(path, state) of every file below a folder; `above` are the folders that it lies in."""
    above = above | {(state.st_dev, state.st_ino)}
    for path in _entries(folder, where):
        below = _state(path, where)
        assert below is not None
        if not stat.S_ISDIR(below.st_mode):
            yield path, _regular(path, below, where)
        elif (below.st_dev, below.st_ino) not in above:
            yield from _below(path, below, above, where)


def _entries(folder: str, where: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.path for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        hint = "allow reading it, or move it out of the source"
        raise DataError(where, f"the folder {printable(folder)} cannot be read: {error.strerror}", hint=hint) from None


def _state(path: str, where: str, *, missing_ok: bool = False) -> os.stat_result | None:
    """The state of a file or folder behind all links; None where there is none and that is allowed."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(path):
            target, hint = printable(os.readlink(path)), "remove the link, or bring back what it points to"
            raise DataError(where, f"{printable(path)} is a broken link to {target}", hint=hint) from None
        if missing_ok:
            return None
        raise DataError(where, f"{printable(path)} vanished while the files were listed") from None
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(where, f"{printable(path)} cannot be read: {problem}") from None


def _regular(path: str, state: os.stat_result, where: str) -> os.stat_result:
    if stat.S_ISREG(state.st_mode):
        return state
    kinds = {
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    kind = kinds.get(stat.S_IFMT(state.st_mode), "no regular file")
    hint = "write its content into a file first: it is read more than once"
    raise DataError(where, expected=f"a file at {printable(path)}", got=kind, hint=hint)


# -- globs


def _matches(pattern: str, base: str, where: str) -> Iterator[tuple[str, os.stat_result]]:
    _refuse_unreadable(base, Path(pattern).parts[len(Path(base).parts) :], where)
    for path in glob.glob(pattern, recursive=True):  # noqa: PTH207 (absolute patterns)
        state = _state(path, where)
        assert state is not None
        if stat.S_ISDIR(state.st_mode):
            if not pattern.endswith("**"):  # which matches the files below by itself
                yield from _below(path, state, frozenset(), where)
        else:
            yield path, _regular(path, state, where)


def _refuse_unreadable(folder: str, parts: tuple[str, ...], where: str, *, depth: int = 40) -> None:
    """Refuse a folder in which `parts` of a glob might match and that cannot be read: `glob` passes over it."""
    if not parts or depth == 0 or not Path(folder).is_dir():
        return
    for path in _entries(folder, where):
        if parts[0] == "**":
            left = parts
        elif fnmatch.fnmatchcase(os.path.basename(path), parts[0]):
            left = parts[1:]
        else:
            continue
        if left and not os.path.islink(path) and os.path.isdir(path):
            _refuse_unreadable(path, left, where, depth=depth - 1)


def _parts_before_magic(pattern: str) -> Iterator[str]:
    for part in Path(pattern).parts:
        if glob.has_magic(part):
            return
        yield part
