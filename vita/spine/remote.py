"""The far side of a store: any place that fsspec knows (`s3://`, `gs://`)."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from vita.spine.errors import StoreError
from vita.spine.remote_files import open_filesystem, remote_errors


class Remote:
    """A place to keep objects in; a put is atomic there, since an object appears whole."""

    def __init__(self, url: str) -> None:
        try:
            with remote_errors(url):
                self.files, self.base = open_filesystem(url)
        except FileNotFoundError:
            raise StoreError(url, "there is no such place") from None
        self.url = url

    def put_file(self, source: Path, name: str) -> None:
        if self.size(name) != source.stat().st_size:
            self._try(lambda: self.files.put_file(str(source), self._at(name)))

    def put_bytes(self, data: bytes, name: str) -> None:
        self._try(lambda: self.files.pipe_file(self._at(name), data))

    def get_bytes(self, name: str) -> bytes | None:
        return self._try(lambda: self.files.cat_file(self._at(name)))

    def size(self, name: str) -> int | None:
        found = self._try(lambda: self.files.info(self._at(name)))
        return None if found is None else found["size"]

    def names(self, folder: str) -> list[str]:
        return self._try(lambda: self.files.ls(self._at(folder), detail=False)) or []

    def fetch(self, name: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name[:12]}-{uuid.uuid4().hex[:8]}")
        try:
            if self.size(name) is not None:
                self._try(lambda: self.files.get_file(self._at(name), str(aside)))
                aside.chmod(0o444)
                aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)

    def _at(self, name: str) -> str:
        return f"{self.base.rstrip('/')}/{name}"

    def _try(self, call: Any) -> Any:
        """The answer, None for "not there", and one clear line for anything else the far side says."""
        self.files.invalidate_cache()
        try:
            with remote_errors(self.url):
                return call()
        except FileNotFoundError:
            return None
