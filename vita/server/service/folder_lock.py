"""A folder that one process uses at a time."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LockedFolder:
    """A folder with a lock, which ends with the process at the latest."""

    path: Path
    descriptor: int

    @classmethod
    def take(cls, path: Path) -> LockedFolder | None:
        """Create a folder and lock it; returns None while another process has the lock."""
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return cls(path, descriptor)

    def close(self) -> None:
        """Release the lock."""
        os.close(self.descriptor)
