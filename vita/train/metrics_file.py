"""The file of training metrics, `metrics.jsonl`: one line per step, truncated to the checkpoint when a run resumes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vita.spine.disk import explain_disk, write_atomically
from vita.spine.errors import StoreError


class MetricsFile:
    """The metrics file, truncated to step `upto` and then appended to."""

    def __init__(self, path: Path, *, upto: int, writes: bool) -> None:
        self.path, self.writes = path, writes
        self._rows = [row for row in _read(path) if row["step"] <= upto] if writes else []
        if writes:
            with _disk_errors_explained(path):
                # Truncate atomically: a crash must not lose rows before the checkpoint, which cannot be restored.
                write_atomically(path, "".join(json.dumps(row) + "\n" for row in self._rows).encode())
                self._file = path.open("a", encoding="utf-8")

    def add(self, row: dict[str, Any]) -> None:
        """Append a row; a row with nothing but its step is ignored."""
        if not self.writes or len(row) == 1:
            return
        self._rows.append(row)
        with _disk_errors_explained(self.path):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows up to the last step."""
        return self._rows

    @property
    def last(self) -> dict[str, Any]:
        """The last row, empty if there is none."""
        return self._rows[-1] if self._rows else {}

    def sync(self) -> None:
        """Write the rows to the disk, before a checkpoint that depends on them."""
        if self.writes:
            with _disk_errors_explained(self.path):
                self._file.flush()
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self.writes:
            with _disk_errors_explained(self.path):
                self._file.close()


@contextmanager
def _disk_errors_explained(path: Path) -> Iterator[None]:
    """Raise errors of the disk as one-line errors."""
    try:
        yield
    except OSError as error:
        raise explain_disk(error, path) or StoreError(str(path), f"cannot be written: {error}") from None


def _read(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of the file; a crash may have truncated the last one."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
