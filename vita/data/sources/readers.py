"""File readers: one function for each file type, by suffix, that yields rows one at a time.

A row that cannot be read is a `Row` with a `RowProblem`, so that the source can stop or drop it. Damage that makes the
rest of a file unreadable is a `DamagedFile` error. A new file type is one decorated function here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import orjson

from vita.data.content import normalize_line_ends
from vita.data.sources import files
from vita.data.sources.files import DamagedFile, SourceFile
from vita.spine.file_listing import printable
from vita.spine.registry import Registry


class RowProblem(NamedTuple):
    """The reason why a row cannot be used; drops are counted by `reason`."""

    reason: str
    expected: str
    got: str
    hint: str | None = None


DAMAGED_FILE = "damaged_file"
"""Drop reason of the row that represents the rest of a damaged file."""


class Row(NamedTuple):
    """One row of a file, or the problem with which it could not be read."""

    path: str
    """The file, for messages."""
    name: str
    """The file's name inside the source, for ids and sources."""
    number: int
    """Number of the line or row, from 1; 0 if the row is the whole file."""
    values: Mapping[str, Any] | None
    problem: RowProblem | None = None
    repaired: bool = False
    """True if lone surrogates in its strings were replaced by U+FFFD."""

    @property
    def where(self) -> str:
        return f"{self.path}, row {self.number}" if self.number else self.path


class ReadOptions(Protocol):
    """The fields of a source that determine how its files are read."""

    @property
    def cut_at(self) -> str | None: ...
    @property
    def text_field(self) -> str | None: ...


Reader = Callable[[SourceFile, ReadOptions], Iterator[Row]]
READERS: Registry[Reader] = Registry("reader")


@READERS.add("jsonl")
@READERS.add("ndjson")
def read_jsonl(file: SourceFile, wishes: ReadOptions) -> Iterator[Row]:
    """Read JSON objects, one per line; blank lines are skipped."""
    for number, line in enumerate(files.lines(file), 1):
        try:
            values = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            if not line.strip():
                continue
            try:
                values, repaired = _parse_python_json(line)
            except ValueError:
                yield Row(printable(file.path), file.name, number, None, _json_problem(line, error))
                continue
            yield _object_row(file, number, values)._replace(repaired=repaired)
            continue
        yield _object_row(file, number, values)


@READERS.add("json")
def read_json(file: SourceFile, wishes: ReadOptions) -> Iterator[Row]:
    """Read one JSON array of objects."""
    hint = "write one JSON object a line and name the file .jsonl"
    data = files.read_text(file, hint=hint)
    repaired = False
    try:
        values = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        try:
            values, repaired = _parse_python_json(data)
        except ValueError:
            raise DamagedFile(file.path, f"is not JSON: {error}", hint=hint) from None
    if not isinstance(values, list):
        raise DamagedFile(file.path, expected="a JSON array of objects", got=json_type(values), hint=hint)
    for number, value in enumerate(values, 1):
        yield _object_row(file, number, value)._replace(repaired=repaired)


@READERS.add("parquet")
def read_parquet(file: SourceFile, wishes: ReadOptions) -> Iterator[Row]:
    """Read the rows of a parquet file in batches."""
    import pyarrow
    from pyarrow import parquet

    with files.open_binary(file) as handle:
        try:
            number = 0
            for batch in parquet.ParquetFile(handle).iter_batches(batch_size=512):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(printable(file.path), file.name, number, values)
        except (pyarrow.ArrowException, OSError) as error:
            problem = f"cannot be read as parquet: {(str(error).splitlines() or [type(error).__name__])[0]}"
            raise DamagedFile(file.path, problem, hint="copy or download it again") from None
    files.verify(file)  # parquet is not read sequentially, so there is no digest to compare


@READERS.add("txt")
@READERS.add("text")
@READERS.add("md")
@READERS.add("markdown")
@READERS.add("rst")
def read_text(file: SourceFile, wishes: ReadOptions) -> Iterator[Row]:
    """Read plain text: the file as one document, or its paragraphs or lines according to `cut_at`."""
    if wishes.cut_at is None:
        hint = "set `cut_at: blank_lines` or `cut_at: lines` to make many documents of it"
        yield _text_row(file, 0, normalize_line_ends(files.read_text(file, hint=hint)), wishes)
        return
    for number, piece in _pieces(files.text_lines(file), wishes.cut_at):
        yield _text_row(file, number, piece, wishes)


def _pieces(text_lines: Iterable[bytes], cut_at: str) -> Iterator[tuple[int, bytes]]:
    """Yield (number of the first line, bytes) of each piece that is not blank."""
    paragraph: list[bytes] = []
    number = 0
    for number, line in enumerate(text_lines, 1):
        if cut_at == "lines":
            if line.strip():
                yield number, line
        elif line.strip():
            paragraph.append(line)
        elif paragraph:
            yield number - len(paragraph), b"\n".join(paragraph)
            paragraph = []
    if paragraph:
        yield number - len(paragraph) + 1, b"\n".join(paragraph)


def _text_row(file: SourceFile, number: int, data: bytes, wishes: ReadOptions) -> Row:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = max(number, 1) + data.count(b"\n", 0, error.start)
        got = f"the byte 0x{data[error.start]:02x} in line {line}"
        problem = RowProblem("not_utf8", "text in UTF-8", got, "convert the file to UTF-8, or set `on_bad_row: drop`")
        return Row(printable(file.path), file.name, number, None, problem)
    return Row(printable(file.path), file.name, number, {wishes.text_field or "text": text})


def _parse_python_json(data: bytes) -> tuple[Any, bool]:
    """Parse JSON as Python's `json` writes it, beyond the standard; return the value and whether it was repaired.

    NaN and infinities become null; lone surrogates, which UTF-8 cannot encode, become U+FFFD.
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=lambda _: None)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    repaired = _replace_lone_surrogates(value)
    return repaired, repaired is not value


def _replace_lone_surrogates(value: Any) -> Any:
    """Return `value` itself if every string can be encoded in UTF-8, otherwise a repaired copy."""
    if isinstance(value, str):
        return (
            value
            if value.isascii()
            else _LONE_SURROGATE.sub("\ufffd", value)
            if _LONE_SURROGATE.search(value)
            else value
        )
    if isinstance(value, dict):
        items = [(_replace_lone_surrogates(name), _replace_lone_surrogates(item)) for name, item in value.items()]
        unchanged = all(new is name and item is value[name] for (new, item), name in zip(items, value, strict=True))
        return value if unchanged else dict(items)
    if isinstance(value, list):
        items = [_replace_lone_surrogates(item) for item in value]
        return value if all(new is old for new, old in zip(items, value, strict=True)) else items
    return value


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def _object_row(file: SourceFile, number: int, values: Any) -> Row:
    if isinstance(values, dict):
        return Row(printable(file.path), file.name, number, values)
    problem = RowProblem("not_an_object", "a JSON object with fields", json_type(values))
    return Row(printable(file.path), file.name, number, None, problem)


def _json_problem(line: bytes, error: orjson.JSONDecodeError) -> RowProblem:
    try:
        excerpt = line[:60].decode("utf-8")
    except UnicodeDecodeError as decode_error:
        if decode_error.reason != "unexpected end of data":
            return RowProblem(
                "not_utf8",
                "JSON in UTF-8",
                f"the byte 0x{line[decode_error.start]:02x} at column {decode_error.start + 1}",
            )
        excerpt = line[: decode_error.start].decode("utf-8")
    return RowProblem("not_json", "a JSON object", f"{excerpt!r}{'...' if len(line) > 60 else ''} ({error})")


def json_type(value: Any) -> str:
    """Return the JSON type of a value, as text for messages."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__)
