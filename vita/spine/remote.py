"""Remote storage of a store: any URL that fsspec supports (`s3://`, `gs://`)."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from vita.spine.errors import StoreError
from vita.spine.remote_files import open_filesystem, remote_errors


class Remote:
    """A remote object storage; writes are atomic, because an object becomes visible only when it is complete."""

    def __init__(self, url: str) -> None:
        try:
            with remote_errors(url):
                self.files, self.base = open_filesystem(url)
        except FileNotFoundError:
            raise StoreError(url, "not found") from None
        self.url = url

    def put_file(self, source: Path, name: str) -> None:
        if self.size(name) != source.stat().st_size:
            self._try(lambda: self.files.put_file(str(source), self._path(name)))

    def put_bytes(self, data: bytes, name: str) -> None:
        self._try(lambda: self.files.pipe_file(self._path(name), data))

    def get_bytes(self, name: str) -> bytes | None:
        return self._try(lambda: self.files.cat_file(self._path(name)))

    def size(self, name: str) -> int | None:
        info = self._try(lambda: self.files.info(self._path(name)))
        return None if info is None else info["size"]

    def names(self, folder: str) -> list[str]:
        return self._try(lambda: self.files.ls(self._path(folder), detail=False)) or []

    def fetch(self, name: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name[:12]}-{uuid.uuid4().hex[:8]}")
        try:
            if self.size(name) is not None:
                self._try(lambda: self.files.get_file(self._path(name), str(temporary)))
                temporary.chmod(0o444)
                temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def _path(self, name: str) -> str:
        return f"{self.base.rstrip('/')}/{name}"

    def _try(self, call: Any) -> Any:
        """Call and return the result; None if the object is not found; other errors become a `StoreError`."""
        self.files.invalidate_cache()
        try:
            with remote_errors(self.url):
                return call()
        except FileNotFoundError:
            return None
