"""Readers of tables, CSV and TSV. The first row names the columns.

A CSV file quotes fields as in RFC 4180; a TSV file does not quote.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

from vita.data.sources.files import DamagedFile, SourceFile
from vita.data.sources.readers import READERS, ReadOptions, Row, RowProblem
from vita.data.sources.streams import MAX_BYTES, SourceText
from vita.spine.file_listing import printable


@READERS.add("csv")
def read_csv(file: SourceFile, wishes: ReadOptions) -> Iterator[Row]:
    """Read a table with commas between the fields."""
    yield from _read_table(SourceText(file, wishes.encoding), delimiter=",", quoting=csv.QUOTE_MINIMAL)


@READERS.add("tsv")
def read_tsv(file: SourceFile, wishes: ReadOptions) -> Iterator[Row]:
    """Read a table with tabulators between the fields."""
    yield from _read_table(SourceText(file, wishes.encoding), delimiter="\t", quoting=csv.QUOTE_NONE)


def _read_table(stream: SourceText, **form: Any) -> Iterator[Row]:
    csv.field_size_limit(MAX_BYTES)
    file = stream.file
    rows = csv.reader(_text_lines(stream), strict=True, **form)
    path, columns = printable(file.path), list[str]()
    number = 0
    while True:
        try:
            fields = next(rows, None)
        except csv.Error as error:
            raise DamagedFile(file.path, f"row {number + 1} is not a row of a table: {error}") from None
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
            got = f"{len(fields)} fields"
            problem = RowProblem("misfit", f"{len(columns)} fields, one for each column of the first row", got)
            yield Row(path, file.name, number, None, problem)
            continue
        values = dict(zip(columns, fields, strict=True))
        yield Row(path, file.name, number, values, encoding=stream.converted_from)


def _text_lines(stream: SourceText) -> Iterator[str]:
    for number, line in enumerate(stream.lines(), 1):
        try:
            yield line.decode("utf-8") + "\n"
        except UnicodeDecodeError as error:
            got = f"the byte 0x{line[error.start]:02x} in line {number}"
            hint = "set `encoding` of the source, or convert the file to UTF-8"
            raise DamagedFile(stream.file.path, expected="text in UTF-8", got=got, hint=hint) from None


def _check_columns(file: SourceFile, columns: list[str]) -> None:
    unnamed = [number for number, name in enumerate(columns, 1) if not name]
    if unnamed or len(set(columns)) < len(columns):
        got = ", ".join(name or "(empty)" for name in columns)
        raise DamagedFile(file.path, expected="different names of all columns in the first row", got=got)
