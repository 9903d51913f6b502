"""Readers of tables, CSV and TSV. The first row names the columns.

The delimiter of a CSV file is that of its first row: comma, semicolon, tab or vertical bar. Its fields are quoted as in
RFC 4180. In a table with tabs, a field that begins with a quote is quoted if its quotes are balanced; otherwise its
quotes are text, because many programs write such tables without quoting.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Generator, Iterator
from itertools import chain

from vita.data.sources.files import DAMAGED_END, DamagedFile, SourceFile
from vita.data.sources.readers import READERS, ReadOptions, Row, RowProblem
from vita.data.sources.streams import MAX_BYTES, SourceText, chunks
from vita.spine.file_listing import printable
from vita.spine.plain_text import counted

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
"""Delimiter -> its name in messages."""
_MAX_QUOTED_CHARACTERS = 16 * 2**20
"""Length up to which the end of a quoted field is searched in a table with tabs."""
_TO_QUOTE = re.compile(r'[^"]*(?:""[^"]*)*')
"""The text of a quoted field up to its closing quote, or up to the end of the line."""


@READERS.add("csv")
def read_csv(file: SourceFile, wishes: ReadOptions) -> Iterator[Row]:
    """Read a table with the delimiter of its first row between the fields."""
    yield from _read_table(file, wishes, None)


@READERS.add("tsv")
def read_tsv(file: SourceFile, wishes: ReadOptions) -> Iterator[Row]:
    """Read a table with tabs between the fields."""
    yield from _read_table(file, wishes, "\t")


def row_starts(file: SourceFile, format: str, *, span_bytes: int) -> list[tuple[int, int]]:
    """Return (position, number) of a row about every `span_bytes` of a table in UTF-8, from (0, 1) to its end.

    The rows are parsed, because a quoted field can contain line feeds. The list is empty for a table whose rows have no
    certain position: with carriage returns as line ends, or with quotes in a table with tabs.
    """
    csv.field_size_limit(MAX_BYTES)
    source, position = _raw_lines(file), 0

    def raw_lines() -> Iterator[str]:
        nonlocal position
        for line in source:
            if b"\r" in line.removesuffix(b"\n").removesuffix(b"\r"):
                raise _UncertainRows
            position += len(line)
            yield line.decode("utf-8", errors="replace")

    lines = raw_lines()
    starts, number = [(0, 1)], -1
    try:
        head = next((line for line in lines if line.strip()), "")
        delimiter = _delimiter_of(head) if format == "csv" else "\t"
        lines = chain([head], lines)
        rows = map(_unquoted_fields, lines) if delimiter == "\t" else _csv_rows(lines, delimiter)
        for fields in rows:
            number += number < 0 or any(field.strip() for field in fields)
            if position - starts[-1][0] >= span_bytes:
                starts.append((position, number + 1))
    except _UncertainRows:
        return []
    except csv.Error:
        position = DAMAGED_END  # the reader of the last span reports the damage
    finally:
        source.close()
    if position > starts[-1][0]:
        starts.append((position, number + 1))
    return starts


class _UncertainRows(Exception):
    """The positions of the rows are not known."""


def _raw_lines(file: SourceFile) -> Generator[bytes, None, None]:
    """Yield the lines with their ends; a line of more than `MAX_BYTES` has no certain position."""
    pending: list[bytes] = []
    length = 0
    for piece in chunks(file):
        length += len(piece)
        pending.append(piece)
        if b"\n" not in piece:
            if length > MAX_BYTES:
                raise _UncertainRows
            continue
        *lines, last = b"".join(pending).split(b"\n")
        yield from (line + b"\n" for line in lines)
        pending, length = [last], len(last)
    if length:
        yield b"".join(pending)


def _unquoted_fields(line: str) -> list[str]:
    if line.startswith('"') or '\t"' in line:
        raise _UncertainRows
    return line.split("\t")


def _delimiter_of(line: str) -> str:
    """Return the delimiter that divides a line into most fields, in the order of `_DELIMITERS`."""
    counts = {delimiter: len(next(csv.reader([line], delimiter=delimiter), ())) for delimiter in _DELIMITERS}
    return max(counts, key=lambda delimiter: counts[delimiter])


def _read_table(file: SourceFile, wishes: ReadOptions, delimiter: str | None) -> Iterator[Row]:
    """Read the rows of a table, or of a span, whose columns are those of the first row of the file."""
    stream = SourceText(file, wishes.encoding)
    columns: list[str] = []
    if file.span and file.span.start:
        columns, delimiter = _first_row(file._replace(span=None), wishes, delimiter)
    rows, delimiter = _rows(stream, delimiter)
    path, number = printable(file.path), stream.first_row - 1
    while True:
        try:
            fields = next(rows, None)
        except csv.Error as error:
            form = f"a row of a table with {_DELIMITERS[delimiter]}"
            raise DamagedFile(file.path, f"row {number + 1} is not {form}: {error}") from None
        if fields is None:
            return
        if not columns:
            columns = [name.strip() for name in fields]
            _check_columns(file, columns)
            continue
        if not any(field.strip() for field in fields):
            continue
        number += 1
        if len(fields) != len(columns):
            form = f"{counted(len(columns), 'field')}, one for each column of the first row, separated by"
            expected = f"{form} {_DELIMITERS[delimiter]}"
            yield Row(path, file.name, number, None, RowProblem("misfit", expected, counted(len(fields), "field")))
            continue
        values = dict(zip(columns, fields, strict=True))
        yield Row(path, file.name, number, values, encoding=stream.converted_from)


def _first_row(file: SourceFile, wishes: ReadOptions, delimiter: str | None) -> tuple[list[str], str]:
    """Return the names of the columns and the delimiter."""
    rows, delimiter = _rows(SourceText(file, wishes.encoding), delimiter)
    return [name.strip() for name in next(rows, [])], delimiter


def _rows(stream: SourceText, delimiter: str | None) -> tuple[Iterator[list[str]], str]:
    """Return the rows of a table and the delimiter, by default that of the first row."""
    csv.field_size_limit(MAX_BYTES)
    lines = _text_lines(stream)
    if delimiter is None:
        head = next((line for line in lines if line.strip()), "")
        delimiter = _delimiter_of(head)
        lines = chain([head] if head else (), lines)
    return (_tab_rows(lines) if delimiter == "\t" else _csv_rows(lines, delimiter)), delimiter


def _csv_rows(lines: Iterator[str], delimiter: str) -> Iterator[list[str]]:
    return csv.reader(lines, delimiter=delimiter, strict=True)


# -- tables with tabs


class _Lines:
    """Lines without their ends, of which the last ones can be taken back."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = (line.removesuffix("\n") for line in lines)
        self._returned: list[str] = []

    def next(self) -> str | None:
        """Return the next line, None at the end."""
        return self._returned.pop() if self._returned else next(self._lines, None)

    def put_back(self, lines: list[str]) -> None:
        """Put back the lines that were read last."""
        self._returned.extend(reversed(lines))


def _tab_rows(text_lines: Iterator[str]) -> Iterator[list[str]]:
    """Yield the fields of each row of a table with tabs.

    A row is read without quoting if its quotes are not balanced, or if only this gives the number of fields of the
    first row, in its line or in each of its lines.
    """
    lines = _Lines(text_lines)
    width = 0
    while (line := lines.next()) is not None:
        fields = line.split("\t") if line else []
        if line.startswith('"') or '\t"' in line:
            quoted, further = _quoted_fields(line, lines)
            if quoted is not None and not _is_plain([line, *further], fields_of_quoted=len(quoted), width=width):
                fields = quoted
            else:
                lines.put_back(further)
        width = width or len(fields)
        yield fields


def _is_plain(lines: list[str], *, fields_of_quoted: int, width: int) -> bool:
    """Return True if a row that can be read with quotes fits the table of `width` columns only without them."""
    fits_plain = all(line.count("\t") + 1 == width for line in lines)
    return fits_plain and (fields_of_quoted != width or (len(lines) > 1 and width > 1))


def _quoted_fields(line: str, lines: _Lines) -> tuple[list[str] | None, list[str]]:
    """Return (the fields of a row, the further lines that were read); the fields are None for unbalanced quotes."""
    fields: list[str] = []
    further: list[str] = []
    position = length = 0
    while True:
        if not line.startswith('"', position):
            end = line.find("\t", position)
            end = end if end >= 0 else len(line)
            fields.append(line[position:end])
        else:
            parts: list[str] = []
            position += 1
            while (end := _end_of_quoted(line, position)) == len(line):
                parts += [line[position:], "\n"]
                following = lines.next()
                if following is None:
                    return None, further
                further.append(following)
                length += len(following)
                if length > _MAX_QUOTED_CHARACTERS:
                    return None, further
                line, position = following, 0
            fields.append("".join([*parts, line[position:end]]).replace('""', '"'))
            end += 1
        if end == len(line):
            return fields, further
        if line[end] != "\t":
            return None, further
        position = end + 1


def _end_of_quoted(line: str, position: int) -> int:
    """Return the position of the quote that closes a quoted field, or the end of the line."""
    match = _TO_QUOTE.match(line, position)
    assert match
    return match.end()


def _text_lines(stream: SourceText) -> Iterator[str]:
    for number, line in enumerate(stream.lines(), 1):
        try:
            yield line.decode("utf-8") + "\n"
        except UnicodeDecodeError as error:
            row = f" after row {stream.first_row - 1}" if stream.first_row > 1 else ""
            got = f"the byte 0x{line[error.start]:02x} in line {number}{row}"
            hint = "set `encoding` of the source, or convert the file to UTF-8"
            raise DamagedFile(stream.file.path, expected="text in UTF-8", got=got, hint=hint) from None


def _check_columns(file: SourceFile, columns: list[str]) -> None:
    unnamed = [number for number, name in enumerate(columns, 1) if not name]
    if unnamed or len(set(columns)) < len(columns):
        got = ", ".join(name or "(empty)" for name in columns)
        raise DamagedFile(file.path, expected="different names of all columns in the first row", got=got)
