"""File readers: one function for each format that yields rows one at a time, and the selection of the reader.

    for row in read_rows(file, source): ...

The format is detected from the content (`content_types.py`). A row that cannot be read is a `Row` with a `RowProblem`,
so that the source can stop or drop it. Damage that makes the rest of a file unreadable is a `DamagedFile` error. A new
format is one decorated function; formats with libraries of their own have their own modules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import orjson

from vita.data.content import normalize_line_ends
from vita.data.extraction.limits import ExtractionSettings
from vita.data.sources import streams
from vita.data.sources.content_types import SUFFIX_FORMATS, detect_format
from vita.data.sources.fields import TEXT_FIELDS
from vita.data.sources.files import DamagedFile, SourceFile
from vita.data.sources.json_spans import array_of_span, array_problem, elements_before_damage
from vita.data.sources.row_ids import exact_id, exact_ids
from vita.data.sources.streams import LONG_LINE, MAX_BYTES, SourceText
from vita.spine.file_listing import printable
from vita.spine.plain_text import counted
from vita.spine.registry import Registry


class RowProblem(NamedTuple):
    """The reason why a row cannot be used; drops are counted by `reason`."""

    reason: str
    expected: str
    got: str
    hint: str | None = None


DAMAGED_FILE = "damaged_file"
"""Drop reason of the row that represents the rest of a damaged file."""
EMPTY_FILE = "empty_file"
"""Drop reason of the row that represents a file without rows."""


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
    encoding: str | None = None
    """The encoding of the file, if it is not UTF-8."""
    is_skipped: bool = False
    """True if the problem is no error, such as a picture in a web archive: the row is dropped in every case."""

    @property
    def where(self) -> str:
        return f"{self.path}, row {self.number}" if self.number else self.path


class ReadOptions(Protocol):
    """The fields of a source that determine how its files are read."""

    @property
    def cut_at(self) -> str | None: ...
    @property
    def text_field(self) -> str | None: ...
    @property
    def format(self) -> str | None: ...
    @property
    def encoding(self) -> str | None: ...
    @property
    def extraction(self) -> ExtractionSettings: ...


Reader = Callable[[SourceFile, ReadOptions], Iterator[Row]]
READERS: Registry[Reader] = Registry("reader")


def read_rows(file: SourceFile, wishes: ReadOptions) -> Iterator[Row]:
    """Yield the rows of a file, by the reader for its content."""
    if file.span:
        return READERS[file.span.format](file, wishes)
    file, head = streams.with_head(file)
    return READERS[format_of(file, head, wishes) or "text"](file, wishes)


def format_of(file: SourceFile, head: bytes, wishes: ReadOptions) -> str | None:
    """Return the format of a file that begins with `head`: the one of the settings, or that of its content."""
    suffix = file.suffix
    if wishes.format:
        return wishes.format
    if suffix not in SUFFIX_FORMATS and suffix in READERS:
        return suffix  # the reader of another package
    return detect_format(head, suffix=suffix, text_fields=[wishes.text_field] if wishes.text_field else TEXT_FIELDS)


def is_readable(file: SourceFile, wishes: ReadOptions) -> bool:
    """Return True if there is a reader for a file: by the settings, its suffix, or its content."""
    if wishes.format or file.suffix in SUFFIX_FORMATS or file.suffix in READERS:
        return True
    try:
        return format_of(file, streams.with_head(file)[1], wishes) is not None
    except DamagedFile:
        return False


def empty_file(file: SourceFile) -> Row:
    """Return the row of a file or member in which its reader found nothing."""
    got = f"no row ({counted(file.size, 'byte')})"
    problem = RowProblem(EMPTY_FILE, "a file with text or rows", got)
    return Row(printable(file.path), file.name, 0, None, problem, is_skipped=True)


@READERS.add("jsonl")
def read_jsonl(file: SourceFile, wishes: ReadOptions) -> Iterator[Row]:
    """Read JSON objects, one per line; blank lines are skipped."""
    stream = SourceText(file, wishes.encoding, is_json=True)
    for number, line in enumerate(stream.lines(skip_long=True), stream.first_row):
        if line is LONG_LINE:
            problem = RowProblem("too_large", f"a row of at most {MAX_BYTES >> 20} MiB", "a longer line")
            yield Row(printable(file.path), file.name, number, None, problem)
            continue
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
            row = _object_row(file, number, exact_id(values, line))
            yield row._replace(repaired=repaired, encoding=stream.converted_from)
            continue
        row = _object_row(file, number, exact_id(values, line))
        line = b""  # a long line is not held while its row is used
        yield row._replace(encoding=stream.converted_from) if stream.converted_from else row


@READERS.add("json")
def read_json(file: SourceFile, wishes: ReadOptions) -> Iterator[Row]:
    """Read one JSON array of objects, or one object, which is a single row; rows before a damaged one are read."""
    hint = "write one JSON object a line and name the file .jsonl"
    stream = SourceText(file, wishes.encoding, is_json=True)
    data, damage = streams.read_text(stream, hint=hint)
    start = stream.start
    if file.span:
        data = array_of_span(data, file.span)
        start -= 1 if start else 0  # a bracket was added
    problem, repaired = "", False
    try:
        values = exact_ids(orjson.loads(data), data)
    except orjson.JSONDecodeError as error:
        try:
            values, repaired = _parse_python_json(data)
            values = exact_ids(values, data)
        except ValueError as second_error:
            problem = array_problem(data, second_error, error.msg, start=start, first_row=stream.first_row)
            values = []
            if not file.span or not file.span.start:  # a later span may begin inside a row, if the damage is before it
                for element in elements_before_damage(data, _is_json):
                    value, is_repaired = _parse_python_json(element)
                    values.append(exact_id(value, element))
                    repaired = repaired or is_repaired
    if isinstance(values, dict):
        values = [exact_id(values, data)]
    if damage and not isinstance(values, list):
        raise damage
    if not isinstance(values, list):
        expected = "a JSON array of objects, or one object"
        raise DamagedFile(file.path, expected=expected, got=json_type(values), hint=hint)
    for number, value in enumerate(values, stream.first_row):
        yield _object_row(file, number, value)._replace(repaired=repaired, encoding=stream.converted_from)
    if damage:
        raise damage
    if problem:
        raise DamagedFile(file.path, f"is not JSON: {problem}", hint=hint)


def _is_json(data: bytes) -> bool:
    try:
        _parse_python_json(data)
    except ValueError:
        return False
    return True


@READERS.add("text")
def read_text(file: SourceFile, wishes: ReadOptions) -> Iterator[Row]:
    """Read plain text: the file as one document, or its paragraphs or lines according to `cut_at`.

    Without `cut_at`, a file above `PART_BYTES` is cut into parts of about that size, at blank lines if possible.
    """
    stream = SourceText(file, wishes.encoding)
    encoding = stream.converted_from
    pieces = _pieces(stream.text_lines(), wishes.cut_at, stream.first_row) if wishes.cut_at else text_parts(stream)
    for number, piece in pieces:
        row = _text_row(file, number, piece, wishes)
        yield row._replace(encoding=encoding) if encoding else row


def _pieces(text_lines: Iterable[bytes], cut_at: str, first_row: int) -> Iterator[tuple[int, bytes]]:
    """Yield (number of the first line, bytes) of each piece that is not blank."""
    paragraph: list[bytes] = []
    number = 0
    for number, line in enumerate(text_lines, first_row):
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
        problem = RowProblem(
            "not_utf8", "text in UTF-8", got, "set `encoding`, convert the file, or set `on_bad_row: drop`"
        )
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


PART_BYTES = 8 * 2**20
"""Size of the parts of a large text in bytes; a part has at most twice as many."""
BLANK_LINE = re.compile(rb"\n[ \t\r]*\n")
_SPACE = re.compile(rb"\s+")


def text_parts(stream: SourceText) -> Iterator[tuple[int, bytes]]:
    """Yield (number of the first line, text) of each part of a text file; the number is 0 for a file of one part."""
    if stream.whole is not None and len(stream.whole) < PART_BYTES:
        if stream.whole:
            yield 0, normalize_line_ends(stream.whole)
        return
    line, is_whole = stream.first_row, stream.file.span is None
    for part, is_last in cut_parts(stream.pieces()):
        text = normalize_line_ends(part)
        yield (0 if is_last and is_whole else line), text
        is_whole = False
        line += text.count(b"\n")


def cut_parts(pieces: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yield (part, whether it is the last) of a text, cut after about `PART_BYTES`.

    A cut is after the next blank line, else after a line, else after a space, within as many bytes again. Cuts do not
    depend on the sizes of the pieces.
    """
    pending: list[bytes] = []
    length = 0
    for piece in pieces:
        pending.append(piece)
        length += len(piece)
        if length < 2 * PART_BYTES:
            continue
        text = pending[0] if len(pending) == 1 else b"".join(pending)
        start = 0
        while len(text) - start >= 2 * PART_BYTES:
            stop = _part_end(text, start)
            yield text[start:stop], False
            start = stop
        pending, length = [text[start:]], len(text) - start
    if length:
        yield b"".join(pending), True


def _part_end(text: bytes, start: int) -> int:
    """Return the end of the part that begins at `start`."""
    window = (start + PART_BYTES, start + 2 * PART_BYTES)
    if match := BLANK_LINE.search(text, *window):
        return match.end()
    if stop := text.find(b"\n", *window) + 1:
        return stop
    if match := _SPACE.search(text, *window):
        return match.end()
    stop = start + 2 * PART_BYTES
    while text[stop - 1] & 0xC0 == 0x80:  # not inside a character
        stop -= 1
    return stop - 1


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def _object_row(file: SourceFile, number: int, values: Any) -> Row:
    if isinstance(values, dict):
        return Row(printable(file.path), file.name, number, values)
    problem = RowProblem("not_an_object", "a JSON object with fields", json_type(values))
    return Row(printable(file.path), file.name, number, None, problem)


_LAST_WORD = re.compile(r"(?:[+(]?[0-9][0-9+() ./-]*|\S+)\Z")


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
    if len(line) > 60:
        # A part of a number, an address or a password would not be recognized and masked in the report.
        excerpt = _LAST_WORD.sub("", excerpt)
    return RowProblem("not_json", "a JSON object", f"{excerpt!r}{'...' if len(line) > 60 else ''} ({error})")


def json_type(value: Any) -> str:
    """Return the JSON type of a value, as text for messages."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__)
