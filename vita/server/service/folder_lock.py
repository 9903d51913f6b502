"""Folders with a lock: a folder that one process uses at a time, and temporary folders, which end with their process.

folder = LockedFolder.take(path)                         # None while another process has it
with temporary_folder("vita-release-") as folder: ...    # removes the folders of processes that were killed
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

LOCK = ".lock"


@dataclass(frozen=True)
class LockedFolder:
    """A folder with a lock, which ends with the process at the latest."""

    path: Path
    descriptor: int

    @classmethod
    def take(cls, path: Path) -> LockedFolder | None:
        """Create a folder and lock it; returns None while another process has the lock."""
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return cls(path, descriptor)

    def close(self) -> None:
        """Release the lock."""
        os.close(self.descriptor)


@contextmanager
def temporary_folder(prefix: str, *, parent: Path | None = None) -> Iterator[Path]:
    """Create a folder that is removed at the end, or at the next call after its process was killed.

    `parent` is by default the temporary folder of the system.
    """
    parent = parent or Path(tempfile.gettempdir())
    remove_abandoned_folders(prefix, parent=parent)
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        # Another process can remove a folder with a lock file, so the file is locked before it has its name.
        descriptor = os.open(folder / f"{LOCK}.new", os.O_RDWR | os.O_CREAT, 0o600)
        stack.callback(os.close, descriptor)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        (folder / f"{LOCK}.new").rename(folder / LOCK)
        yield folder


def remove_abandoned_folders(prefix: str, *, parent: Path) -> None:
    """Remove the temporary folders of this user whose process has ended without removing them."""
    for folder in parent.glob(f"{prefix}*"):
        try:
            if folder.is_symlink() or folder.lstat().st_uid != os.getuid():
                continue
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:  # without a lock file, or removed by another process
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # its process is running
            continue
        finally:
            os.close(descriptor)
