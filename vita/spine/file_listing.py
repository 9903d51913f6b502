"""Listing of the local files that a path refers to: a file, all files below a folder, or the matches of a glob.

Links to files and folders are followed, also to targets outside of the folder; a link to a parent folder is not entered
again. Names that begin with a dot are skipped. Anything unreadable raises an error that names it: a folder without
permission, a broken link, a named pipe, a socket or a device.
"""

# Text and `os` instead of `Path`: several times as fast where there are many files.
# ruff: noqa: PTH112, PTH114, PTH115, PTH116, PTH119
from __future__ import annotations

import fnmatch
import glob
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vita.spine.errors import DataError
from vita.spine.url_secrets import mask_url_secrets


class ListedFile(NamedTuple):
    """A file: its path, its printable name relative to the listed path, and its state on the disk."""

    path: str
    name: str
    state: os.stat_result


RELATIVE_PATHS = (
    "relative paths begin at the folder of the life file; in a command and its --config, at the current folder"
)
"""The hint of an error for a path that does not exist."""


def list_files(path: str, *, where: str) -> list[ListedFile]:
    """Return the files of a file, folder (recursively) or glob, sorted by name."""
    expanded = str(Path(path).expanduser())
    state = _state(expanded, where, missing_ok=True)
    if state is not None and not stat.S_ISDIR(state.st_mode):
        return [ListedFile(expanded, printable(Path(expanded).name), _regular(expanded, state, where))]
    if state is not None:
        states, base = dict(_below(expanded, state, frozenset(), where)), expanded
    else:
        base = str(Path(*_parts_before_magic(expanded)))
        states = dict(_matches(expanded, base, where))
    if not states:
        if state is not None:
            raise DataError(where, f"{printable(path)}: holds no files")
        problem = f"{printable(path)}: no such file, and no file matches it as a glob"
        raise DataError(where, problem, hint=RELATIVE_PATHS)
    prefix = base.rstrip("/") + "/"
    names = ((printable(file.removeprefix(prefix)), file) for file in states)
    return [ListedFile(file, name, states[file]) for name, file in sorted(names)]


def hidden_names(path: str) -> list[str]:
    """Return the names of the hidden files and folders (`.git/`) below a folder, sorted; they are not read."""
    base = str(Path(path).expanduser())
    names: list[str] = []
    for folder, folders, files in os.walk(base):
        entries = [f"{name}/" for name in folders] + files
        names += [os.path.relpath(folder, base) + f"/{name}" for name in entries if name.startswith(".")]
        folders[:] = [name for name in folders if not name.startswith(".")]
    return sorted(printable(name.removeprefix("./")) for name in names)


def printable(name: str) -> str:
    r"""Return a name as valid UTF-8 text; bytes that are not UTF-8 are escaped as `\xe9`, secrets in URLs masked."""
    text = name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")
    return mask_url_secrets(text)


def _below(
    folder: str, state: os.stat_result, ancestors: frozenset[tuple[int, int]], where: str
) -> Iterator[tuple[str, os.stat_result]]:
    """Yield (path, state) of every file below a folder; `ancestors` are the folders above it."""
    ancestors = ancestors | {(state.st_dev, state.st_ino)}
    for path in _entries(folder, where):
        child_state = _state(path, where)
        assert child_state is not None
        if not stat.S_ISDIR(child_state.st_mode):
            yield path, _regular(path, child_state, where)
        elif (child_state.st_dev, child_state.st_ino) not in ancestors:
            yield from _below(path, child_state, ancestors, where)


def _entries(folder: str, where: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.path for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        hint = "grant read permission, or move it out of the source"
        raise DataError(where, f"the folder {printable(folder)} cannot be read: {error.strerror}", hint=hint) from None


def _state(path: str, where: str, *, missing_ok: bool = False) -> os.stat_result | None:
    """Return the state of a file or folder, links followed; None if it is missing and `missing_ok`."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(path):
            target, hint = printable(os.readlink(path)), "remove the link, or restore its target"
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
    kind = kinds.get(stat.S_IFMT(state.st_mode), "not a regular file")
    hint = "write its content into a file first: it is read more than once"
    raise DataError(where, expected=f"a file at {printable(path)}", got=kind, hint=hint)


# -- globs


def _matches(pattern: str, base: str, where: str) -> Iterator[tuple[str, os.stat_result]]:
    _refuse_unreadable(base, Path(pattern).parts[len(Path(base).parts) :], where)
    for path in glob.glob(pattern, recursive=True):  # noqa: PTH207 (absolute patterns)
        state = _state(path, where)
        assert state is not None
        if stat.S_ISDIR(state.st_mode):
            if not pattern.endswith("**"):  # `**` itself matches the files below
                yield from _below(path, state, frozenset(), where)
        else:
            yield path, _regular(path, state, where)


def _refuse_unreadable(folder: str, parts: tuple[str, ...], where: str, *, depth: int = 40) -> None:
    """Raise `DataError` for an unreadable folder in which `parts` of a glob might match: `glob` skips it silently."""
    if not parts or depth == 0 or not Path(folder).is_dir():
        return
    for path in _entries(folder, where):
        if parts[0] == "**":
            remaining = parts
        elif fnmatch.fnmatchcase(os.path.basename(path), parts[0]):
            remaining = parts[1:]
        else:
            continue
        if remaining and not os.path.islink(path) and os.path.isdir(path):
            _refuse_unreadable(path, remaining, where, depth=depth - 1)


def _parts_before_magic(pattern: str) -> Iterator[str]:
    for part in Path(pattern).parts:
        if glob.has_magic(part):
            return
        yield part
