"""Readers of files: one function for each kind, by suffix, that yields rows one at a time.

A row that cannot be read is still a `Row`, with its `Problem`, so that the source can decide to stop or to drop it;
what spoils the rest of a file is a `DamagedFile` error. A new kind of file is one decorated function here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import orjson

from vita.data.content import normalize_line_ends
from vita.data.sources import files
from vita.data.sources.files import DamagedFile, File
from vita.spine.file_listing import printable
from vita.spine.parts import Parts


class Problem(NamedTuple):
    """Why a row cannot be used; `reason` is what drops are counted by."""

    reason: str
    expected: str
    got: str
    hint: str | None = None


DAMAGED_FILE = "damaged_file"
"""The reason of the bad row that stands for the rest of a damaged file."""


class Row(NamedTuple):
    """One row as it stands in its file, or why it could not be read."""

    place: str
    """The file, for messages."""
    name: str
    """The file's name inside the source, for ids and sources."""
    number: int
    """Line or row, from 1; 0 when the row is the whole file."""
    values: Mapping[str, Any] | None
    problem: Problem | None = None
    repaired: bool = False
    """Whether half surrogate pairs in its strings were replaced by U+FFFD."""

    @property
    def where(self) -> str:
        return f"{self.place}, row {self.number}" if self.number else self.place


class Wishes(Protocol):
    """What a source says of how its files are to be read."""

    @property
    def cut_at(self) -> str | None: ...
    @property
    def text_field(self) -> str | None: ...


Reader = Callable[[File, Wishes], Iterator[Row]]
READERS: Parts[Reader] = Parts("reader")


@READERS.add("jsonl")
@READERS.add("ndjson")
def read_jsonl(file: File, wishes: Wishes) -> Iterator[Row]:
    """JSON objects, one a line; blank lines are passed over."""
    for number, line in enumerate(files.lines(file), 1):
        try:
            values = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            if not line.strip():
                continue
            try:
                values, repaired = _python_json(line)
            except ValueError:
                yield Row(printable(file.path), file.name, number, None, _not_json(line, error))
                continue
            yield _object(file, number, values)._replace(repaired=repaired)
            continue
        yield _object(file, number, values)


@READERS.add("json")
def read_json(file: File, wishes: Wishes) -> Iterator[Row]:
    """One JSON array of objects."""
    hint = "write one JSON object a line and name the file .jsonl"
    data = files.whole(file, hint=hint)
    repaired = False
    try:
        values = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        try:
            values, repaired = _python_json(data)
        except ValueError:
            raise DamagedFile(file.path, f"is not JSON: {error}", hint=hint) from None
    if not isinstance(values, list):
        raise DamagedFile(file.path, expected="a JSON array of objects", got=kind_of(values), hint=hint)
    for number, value in enumerate(values, 1):
        yield _object(file, number, value)._replace(repaired=repaired)


@READERS.add("parquet")
def read_parquet(file: File, wishes: Wishes) -> Iterator[Row]:
    """The rows of a parquet file, batch by batch."""
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
    files.verify(file)  # parquet is not read from its beginning to its end, so that no digest is at hand


@READERS.add("txt")
@READERS.add("text")
@READERS.add("md")
@READERS.add("markdown")
@READERS.add("rst")
def read_text(file: File, wishes: Wishes) -> Iterator[Row]:
    """Plain text: the file, its paragraphs or its lines, as `cut_at` says."""
    if wishes.cut_at is None:
        hint = "set `cut_at: blank_lines` or `cut_at: lines` to make many documents of it"
        yield _text_row(file, 0, normalize_line_ends(files.whole(file, hint=hint)), wishes)
        return
    for number, piece in _pieces(files.text_lines(file), wishes.cut_at):
        yield _text_row(file, number, piece, wishes)


def _pieces(text_lines: Iterable[bytes], cut_at: str) -> Iterator[tuple[int, bytes]]:
    """(number of its first line, bytes) of each piece that is not blank."""
    gathered: list[bytes] = []
    number = 0
    for number, line in enumerate(text_lines, 1):
        if cut_at == "lines":
            if line.strip():
                yield number, line
        elif line.strip():
            gathered.append(line)
        elif gathered:
            yield number - len(gathered), b"\n".join(gathered)
            gathered = []
    if gathered:
        yield number - len(gathered) + 1, b"\n".join(gathered)


def _text_row(file: File, number: int, data: bytes, wishes: Wishes) -> Row:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = max(number, 1) + data.count(b"\n", 0, error.start)
        got = f"the byte 0x{data[error.start]:02x} in line {line}"
        problem = Problem("not_utf8", "text in UTF-8", got, "convert the file to UTF-8, or set `on_bad_row: drop`")
        return Row(printable(file.path), file.name, number, None, problem)
    return Row(printable(file.path), file.name, number, {wishes.text_field or "text": text})


def _python_json(data: bytes) -> tuple[Any, bool]:
    """(value, whether strings were repaired) of JSON as Python's `json` writes it, beyond the standard.

    NaN and the infinities become null; half a surrogate pair, which no UTF-8 can hold, becomes U+FFFD.
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=lambda _: None)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    whole = _without_half_pairs(value)
    return whole, whole is not value


def _without_half_pairs(value: Any) -> Any:
    """`value` itself where every string can be written in UTF-8, otherwise a repaired copy."""
    if isinstance(value, str):
        return (
            value
            if value.isascii()
            else _LONE_SURROGATE.sub("\ufffd", value)
            if _LONE_SURROGATE.search(value)
            else value
        )
    if isinstance(value, dict):
        items = [(_without_half_pairs(name), _without_half_pairs(below)) for name, below in value.items()]
        same = all(new is name and below is value[name] for (new, below), name in zip(items, value, strict=True))
        return value if same else dict(items)
    if isinstance(value, list):
        items = [_without_half_pairs(below) for below in value]
        return value if all(new is old for new, old in zip(items, value, strict=True)) else items
    return value


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def _object(file: File, number: int, values: Any) -> Row:
    if isinstance(values, dict):
        return Row(printable(file.path), file.name, number, values)
    problem = Problem("not_an_object", "a JSON object with fields", kind_of(values))
    return Row(printable(file.path), file.name, number, None, problem)


def _not_json(line: bytes, error: orjson.JSONDecodeError) -> Problem:
    try:
        shown = line[:60].decode("utf-8")
    except UnicodeDecodeError as wrong:
        if wrong.reason != "unexpected end of data":
            return Problem(
                "not_utf8", "JSON in UTF-8", f"the byte 0x{line[wrong.start]:02x} at column {wrong.start + 1}"
            )
        shown = line[: wrong.start].decode("utf-8")
    return Problem("not_json", "a JSON object", f"{shown!r}{'...' if len(line) > 60 else ''} ({error})")


def kind_of(value: Any) -> str:
    """What a value is, in the words of JSON."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__)
