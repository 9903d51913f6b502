"""The corpus folder: `train/*.jsonl.zst`, `heldout/*.jsonl.zst` and the drops, one JSON object per line.

for document in read_corpus(folder, "train"): ...
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import orjson
import zstandard

from vita.data.records import Document, DroppedRecord
from vita.data.sources import streams
from vita.data.sources.files import SourceFile
from vita.spine.errors import DataError

LEVEL = 3
"""Compression level of zstd. Higher levels take much longer and save little space."""


def read_corpus(folder: Path, part: Literal["train", "heldout"]) -> Iterator[Document]:
    """Yield the documents of a corpus in order."""
    shards = sorted((folder / part).glob("*.jsonl.zst"))
    if not shards and part == "train":
        raise DataError(str(folder), expected="a corpus with files train/*.jsonl.zst", got="none")
    for shard in shards:
        for line in read_lines(shard):
            yield parse_document(line)


def parse_document(line: bytes) -> Document:
    """Return the document of a JSON line, without `split`, which the shards of `vita curate --out` have."""
    row = orjson.loads(line)
    row.pop("split", None)
    return Document(**row)


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a possibly compressed file."""
    return streams.lines(SourceFile(str(path), path.name, path.stat().st_size))


_BUFFER_BYTES = 2**16
"""Bytes of lines that are compressed together: a call of the compressor costs more than a short line."""


class ZstdLineWriter:
    """A writer of lines into one zstd frame without a time stamp, so that equal lines give equal files."""

    def __init__(self, path: Path, *, level: int = LEVEL) -> None:
        self._file = path.open("wb")
        self._frame = zstandard.ZstdCompressor(level=level).stream_writer(self._file)
        self._lines: list[bytes] = []
        self._buffered_bytes = 0

    def write(self, line: bytes) -> None:
        self._lines.append(line)
        self._buffered_bytes += len(line)
        if self._buffered_bytes >= _BUFFER_BYTES:
            self._compress()

    def _compress(self) -> None:
        self._lines.append(b"")  # the last line ends with a line feed, too
        self._frame.write(b"\n".join(self._lines))
        self._lines, self._buffered_bytes = [], 0

    def close(self) -> None:
        if self._lines:
            self._compress()
        self._frame.close()
        self._file.close()

    def __enter__(self) -> ZstdLineWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TextShardWriter:
    """A writer of lines into numbered files of bounded size."""

    def __init__(self, folder: Path, *, prefix: str = "") -> None:
        """`prefix` begins the name of each file."""
        self._folder, self._prefix, self._numbers = folder, prefix, itertools.count()
        self._open: ZstdLineWriter | None = None
        self._bytes = 0

    def write(self, line: bytes) -> None:
        if self._open is None or self._bytes > 64 * 2**20:
            self.close()
            self._open, self._bytes = (
                ZstdLineWriter(self._folder / f"{self._prefix}{next(self._numbers):05d}.jsonl.zst"),
                0,
            )
        self._open.write(line)
        self._bytes += len(line)

    def close(self) -> None:
        if self._open:
            self._open.close()

    def __enter__(self) -> TextShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def dump_document(document: Document) -> bytes:
    """Return the JSON line of a document.

    `dataclasses.asdict` is not used: it copies the metadata deeply, which is as slow as a filter.
    """
    return dump(
        {
            "id": document.id,
            "text": document.text,
            "source": document.source,
            "licence": document.licence,
            "metadata": dict(document.metadata),
        }
    )


def dump_drop(drop: DroppedRecord, text: str | None = None) -> bytes:
    """Return the JSON line of a drop, with the text of the document if it is to be kept."""
    row: dict[str, Any] = {"id": drop.id, "source": drop.source, "reason": drop.reason, "detail": drop.detail}
    if drop.licence:
        row["licence"] = drop.licence
    if drop.repeats:
        row["repeats"] = {"source": drop.repeats[0], "id": drop.repeats[1]}
    if drop.content:
        row["content"] = drop.content
    if text is not None:
        row["text"] = text
    return dump(row)


def dump(value: Any) -> bytes:
    """Return one line of JSON; values of types that JSON lacks are written as text."""
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
