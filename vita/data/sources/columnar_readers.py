"""Readers of columnar files: Parquet, and Arrow in its file and stream formats, in batches of rows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vita.data.sources import files, streams
from vita.data.sources.files import DamagedFile, SourceFile
from vita.data.sources.readers import READERS, ReadOptions, Row
from vita.spine.file_listing import printable

BATCH_ROWS = 512
_SPOOL_BYTES = 16 * 2**20


@READERS.add("parquet")
def read_parquet(file: SourceFile, wishes: ReadOptions) -> Iterator[Row]:
    """Read the rows of a Parquet file in batches; a span is a range of row groups."""
    from pyarrow import parquet

    with open_seekable(file) as handle, _arrow_errors(file, "parquet"):
        table = parquet.ParquetFile(handle)
        groups = range(file.span.start, file.span.stop) if file.span else None
        batches = table.iter_batches(batch_size=BATCH_ROWS, row_groups=groups)
        yield from _rows(file, batches)
    files.verify(file)  # parquet is not read sequentially, so there is no digest to compare


@READERS.add("arrow")
def read_arrow(file: SourceFile, wishes: ReadOptions) -> Iterator[Row]:
    """Read the rows of an Arrow file (Feather) or Arrow stream in batches."""
    from pyarrow import ipc

    with open_seekable(file) as handle, _arrow_errors(file, "arrow"):
        is_file = handle.read(6) == b"ARROW1"
        handle.seek(0)
        if is_file:
            table = ipc.open_file(handle)
            batches = (table.get_batch(number) for number in range(table.num_record_batches))
        else:
            batches = iter(ipc.open_stream(handle))
        yield from _rows(file, (part for batch in batches for part in _small_batches(batch)))
    files.verify(file)


def _small_batches(batch: Any) -> Iterator[Any]:
    for start in range(0, batch.num_rows, BATCH_ROWS):
        yield batch.slice(start, BATCH_ROWS)


def _rows(file: SourceFile, batches: Iterator[Any]) -> Iterator[Row]:
    number = file.span.first_row - 1 if file.span else 0
    path = printable(file.path)
    for batch in batches:
        for values in batch.to_pylist():
            number += 1
            yield Row(path, file.name, number, values)


@contextmanager
def _arrow_errors(file: SourceFile, kind: str) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        problem = f"cannot be read as {kind}: {(str(error).splitlines() or [type(error).__name__])[0]}"
        raise DamagedFile(file.path, problem, hint="copy or download it again") from None


@contextmanager
def open_seekable(file: SourceFile) -> Iterator[Any]:
    """Open the decompressed content of a file with random access; content without it is copied to a temporary file."""
    handle = files.open_binary(file)
    with handle:
        is_plain = file.is_decompressed or not streams.compression_of(handle.read(16))
        if is_plain and handle.seekable():
            handle.seek(0)
            yield handle
            return
    with tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as copy:
        for piece in streams.chunks(SourceFile(file.path, file.name, file.size, file.known, file.opener)):
            copy.write(piece)
        copy.seek(0)
        yield copy
