"""Files that clients upload for batches, and the files of their results.

    store = FileStore(folder, days=30, max_bytes=2**30)
    file = store.add(open("requests.jsonl", "rb"), owner=key.hint, filename="requests.jsonl", purpose="batch")
    store.find(file.id, owner=key.hint); store.delete(file)

A file is a folder with its content and its description, which is written last: a folder without one is incomplete and
is removed at the next start. The methods block; the gateway calls them in a thread.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from vita.server.errors import ApiError
from vita.spine.disk import write_atomically

ID = re.compile(r"file-[0-9a-f]{24}")
DAY = 86_400


@dataclass(frozen=True)
class StoredFile:
    """The description of a file."""

    id: str
    owner: str
    """The hint of the API key that owns the file; empty while the service has no keys."""
    filename: str
    purpose: str
    """`batch` for an input, `batch_output` for results."""
    bytes: int
    created_at: int
    expires_at: int | None

    def body(self) -> dict[str, Any]:
        """Return the description with the fields of the OpenAI API."""
        values = {name: value for name, value in asdict(self).items() if name != "owner"}
        return {**values, "object": "file", "status": "processed", "status_details": None}


class FileStore:
    """The files of one service, in a folder."""

    def __init__(
        self, folder: Path, *, days: float | None, max_bytes: int, clock: Callable[[], float] = time.time
    ) -> None:
        """`days` is the time until a file expires; `max_bytes` is the total size of all files."""
        self._folder, self._days, self._max_bytes, self._clock = folder, days, max_bytes, clock
        self._lock = threading.Lock()
        self._files: dict[str, StoredFile] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for entry in folder.iterdir():
            description = entry / "file.json"
            if description.is_file():
                file = StoredFile(**json.loads(description.read_bytes()))
                self._files[file.id] = file
            else:
                shutil.rmtree(entry, ignore_errors=True)

    def add(
        self,
        content: IO[bytes],
        *,
        owner: str,
        filename: str,
        purpose: str,
        seconds: int | None = None,
        limited: bool = True,
    ) -> StoredFile:
        """Store the rest of an open file; `seconds` is the time until it expires, by default that of the store.

        Raises `ApiError` when the files of the service would become too large; without `limited`, this is not checked.
        """
        id = f"file-{secrets.token_hex(12)}"
        folder = self._folder / id
        folder.mkdir()
        try:
            with (folder / "content").open("wb") as target:
                shutil.copyfileobj(content, target, 2**20)
                size = target.tell()
            with self._lock:
                if limited:
                    self._check_total(size)
                now = int(self._clock())
                lifetime = seconds if seconds is not None else None if self._days is None else int(self._days * DAY)
                expires = None if lifetime is None else now + lifetime
                file = StoredFile(id, owner, filename, purpose, size, now, expires)
                write_atomically(folder / "file.json", json.dumps(asdict(file)).encode())
                self._files[id] = file
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return file

    def find(self, id: str, *, owner: str | None) -> StoredFile | None:
        """Return a file of an owner, or of any owner if `owner` is None; None if there is none or it has expired."""
        file = self._files.get(id)
        if file is None or self._expired(file) or owner not in (None, file.owner):
            return None
        return file

    def path(self, file: StoredFile) -> Path:
        """Return the path of the content."""
        return self._folder / file.id / "content"

    def all(self, *, owner: str | None) -> list[StoredFile]:
        """Return the files of an owner, or of all owners if `owner` is None, newest first."""
        files = [file for file in list(self._files.values()) if owner in (None, file.owner) and not self._expired(file)]
        return sorted(files, key=lambda file: (file.created_at, file.id), reverse=True)

    def delete(self, file: StoredFile) -> None:
        """Delete a file: first its description, so that an interrupted deletion is completed at the next start."""
        with self._lock:
            self._files.pop(file.id, None)
            (self._folder / file.id / "file.json").unlink(missing_ok=True)
        shutil.rmtree(self._folder / file.id, ignore_errors=True)

    def prune(self) -> int:
        """Delete expired files; returns their number."""
        expired = [file for file in list(self._files.values()) if self._expired(file)]
        for file in expired:
            self.delete(file)
        return len(expired)

    def _expired(self, file: StoredFile) -> bool:
        return file.expires_at is not None and self._clock() >= file.expires_at

    def _check_total(self, size: int) -> None:
        total = sum(file.bytes for file in self._files.values())
        if total + size > self._max_bytes:
            message = f"The files of the service may have {self._max_bytes} bytes together; delete files first"
            raise ApiError(400, message, param="file", code="storage_limit_exceeded")
