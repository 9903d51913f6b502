"""The far side of a store: any place that fsspec knows (`s3://`, `gs://`)."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from vita.spine.disk import explain_disk
from vita.spine.errors import MissingExtra, StoreError

REMOTE_LIBRARIES = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "google")
"""Packages whose exceptions mean that remote storage cannot be reached."""


class Remote:
    """A place to keep objects in; a put is atomic there, since an object appears whole."""

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            self.files, self.base = fsspec.core.url_to_fs(url)
        except ImportError:
            extra = {"s3": "s3", "gs": "gcs", "gcs": "gcs"}.get(url.split("://")[0], "s3")
            raise MissingExtra(url, extra) from None
        except ValueError as error:
            raise StoreError(url, f"is not a place to keep artifacts: {error}") from None
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
            return call()
        except FileNotFoundError:
            return None
        except OSError as error:
            if explain_disk(error, self.url):
                raise
            raise StoreError(
                self.url, f"cannot be reached: {error}", hint="check the address and the credentials"
            ) from None
        except Exception as error:  # each cloud library has a family of its own
            if type(error).__module__.split(".")[0] in REMOTE_LIBRARIES:
                raise StoreError(
                    self.url, f"cannot be reached: {error}", hint="check the address and the credentials"
                ) from None
            raise
