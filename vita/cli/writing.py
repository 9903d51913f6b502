"""Files that a user asks for, where the path may lead nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vita.spine.disk import explain_disk
from vita.spine.errors import StoreError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What stands in the way of writing to `path` becomes one line."""
    try:
        yield
    except OSError as error:
        if explained := explain_disk(error, path):
            raise explained from None
        raise StoreError(str(path), f"cannot be written: {(error.strerror or str(error)).lower()}") from None
