"""Readers of columnar files: Parquet, and Arrow in its file and stream formats, in batches of rows."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain, islice
from typing import Any

from vita.data.sources import files, streams
from vita.data.sources.files import DamagedFile, SourceFile
from vita.data.sources.readers import READERS, ReadOptions, Row, RowProblem
from vita.spine.errors import DataError
from vita.spine.file_listing import printable
from vita.spine.remote_files import remote_errors

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
    """Read the rows of an Arrow file (Feather) or Arrow stream in batches; a span is a range of record batches."""
    import pyarrow

    opened = pyarrow.memory_map(file.path) if file.span else open_seekable(file)
    with _arrow_errors(file, "arrow"), opened as handle:
        span = (file.span.start, file.span.stop) if file.span else (0, None)
        batches = islice(_record_batches(handle), *span)
        yield from _rows(file, (part for batch in batches for part in _small_batches(batch)))
    files.verify(file)


def _record_batches(handle: Any) -> Iterator[Any]:
    """Yield the record batches of an Arrow file or stream; those of a memory map are not copied."""
    from pyarrow import ipc

    is_file = handle.read(6) == b"ARROW1"
    handle.seek(0)
    if is_file:
        table = ipc.open_file(handle)
        yield from (table.get_batch(number) for number in range(table.num_record_batches))
    else:
        yield from ipc.open_stream(handle)


def row_groups(file: SourceFile) -> Iterator[tuple[int, int]]:
    """Yield (rows, bytes) of each row group of a Parquet file; raise `DamagedFile` for a damaged file."""
    from pyarrow import parquet

    with _arrow_errors(file, "parquet"):
        metadata = parquet.ParquetFile(file.path).metadata
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    yield from ((group.num_rows, group.total_byte_size) for group in groups)


def record_batches(file: SourceFile) -> Iterator[tuple[int, int]]:
    """Yield (rows, bytes) of each record batch of an Arrow file or stream; raise `DamagedFile` for a damaged file."""
    import pyarrow

    with _arrow_errors(file, "arrow"), pyarrow.memory_map(file.path) as handle:
        for batch in _record_batches(handle):
            yield batch.num_rows, batch.nbytes


def _small_batches(batch: Any) -> Iterator[Any]:
    for start in range(0, batch.num_rows, BATCH_ROWS):
        yield batch.slice(start, BATCH_ROWS)


def _rows(file: SourceFile, batches: Iterator[Any]) -> Iterator[Row]:
    from pyarrow import types

    number = file.span.first_row - 1 if file.span else 0
    path = printable(file.path)
    for batch in batches:
        maps = [field.name for field in batch.schema if _contains(field.type, types.is_map)]
        # The bytes of an id can have any form (see `row_ids`).
        binaries = [field.name for field in batch.schema if field.name != "id" and _contains(field.type, _is_binary)]
        for values in _values_of(batch):
            number += 1
            if values is None:
                problem = RowProblem("not_utf8", "text in UTF-8", "a text column with other bytes")
                yield Row(path, file.name, number, None, problem)
                continue
            for name in maps:
                values[name] = _with_maps(values[name], batch.schema.field(name).type)
            for name in binaries:
                values[name] = _with_text(values[name])
            yield Row(path, file.name, number, values)


def _values_of(batch: Any) -> Iterator[dict[str, Any] | None]:
    """Yield the values of each row of a batch; None for a row with a text that is not UTF-8, which Arrow permits."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for number in range(batch.num_rows):
            try:
                yield from batch.slice(number, 1).to_pylist()
            except UnicodeDecodeError:
                yield None


def _contains(kind: Any, predicate: Callable[[Any], bool]) -> bool:
    """Return True if a predicate is true for an Arrow type, or for a type inside it."""
    return predicate(kind) or any(_contains(kind.field(number).type, predicate) for number in range(kind.num_fields))


def _is_binary(kind: Any) -> bool:
    from pyarrow import types

    checks = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    return any(check(kind) for check in checks) or (types.is_dictionary(kind) and _is_binary(kind.value_type))


_CONTROLS = re.compile(rb"[\0-\x08\x0e-\x1f\x7f]")


def _with_text(value: Any) -> Any:
    """Return a value with text for bytes that are text in UTF-8, as programs write that do not mark columns as text."""
    if isinstance(value, bytes) and not _CONTROLS.search(value):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value
    if isinstance(value, list):
        return [_with_text(item) for item in value]
    return {name: _with_text(item) for name, item in value.items()} if isinstance(value, dict) else value


def _with_maps(value: Any, kind: Any) -> Any:
    """Return a value of an Arrow type with mappings for maps, which Arrow returns as lists of pairs.

    Keys that are no strings become text, as in JSON. A map with repeated keys becomes a list of objects with `key` and
    `value`.
    """
    from pyarrow import types

    if value is None or not _contains(kind, types.is_map):
        return value
    if types.is_map(kind):
        items = [(key if isinstance(key, str) else str(key), _with_maps(item, kind.item_type)) for key, item in value]
        mapping = dict(items)
        return mapping if len(mapping) == len(items) else [{"key": key, "value": item} for key, item in items]
    if types.is_struct(kind):
        return {name: _with_maps(item, kind.field(name).type) for name, item in value.items()}
    return [_with_maps(item, kind.value_type) for item in value]  # lists of variable and fixed length


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
    errors = remote_errors(file.path, family=DataError) if "://" in file.path else nullcontext()
    with errors, handle, tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as copy:
        head = handle.read(16)
        is_plain = file.is_decompressed or not streams.compression_of(head)
        if is_plain and handle.seekable():
            handle.seek(0)
            yield handle
            return
        opener = file.opener and (lambda: _whole(head, handle))  # a member of an archive is opened only once
        for piece in streams.chunks(SourceFile(file.path, file.name, file.size, file.known, opener)):
            copy.write(piece)
        copy.seek(0)
        yield copy


def _whole(head: bytes, handle: Any) -> streams.StreamReader:
    """Return the content of a handle from which `head` was read."""
    return streams.StreamReader(chain([head], iter(lambda: handle.read(2**20), b"")))
