"""A corpus folder: `train/*.jsonl.zst`, `heldout/*.jsonl.zst` and the drops, one JSON object a line.

for document in read_corpus(folder, "train"): ...
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import orjson
import zstandard

from vita.data import files
from vita.data.records import Document
from vita.spine.errors import DataError

LEVEL = 3
"""Of zstd: levels above take much longer than they save."""


def read_corpus(folder: Path, part: Literal["train", "heldout"]) -> Iterator[Document]:
    """The documents of a corpus in their order."""
    shards = sorted((folder / part).glob("*.jsonl.zst"))
    if not shards and part == "train":
        raise DataError(str(folder), expected="a corpus with files train/*.jsonl.zst", got="none")
    for shard in shards:
        for line in read_lines(shard):
            yield Document(**orjson.loads(line))


def read_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file of lines."""
    return files.lines(files.File(str(path), path.name, path.stat().st_size))


class ZstdLines:
    """Writes lines into one zstd frame without a time stamp: equal lines make equal files."""

    def __init__(self, path: Path, *, level: int = LEVEL) -> None:
        self._file = path.open("wb")
        self._frame = zstandard.ZstdCompressor(level=level).stream_writer(self._file)

    def write(self, line: bytes) -> None:
        self._frame.write(line + b"\n")

    def close(self) -> None:
        self._frame.close()
        self._file.close()

    def __enter__(self) -> ZstdLines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def dump(value: Any) -> bytes:
    """One line of JSON; what JSON does not know is written as text."""
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
