"""Readers of tables, `.csv` and `.tsv`, for records whose fields are columns: labelled texts and text pairs.

They are separate from `readers`, because a folder of documents may contain tables that are no documents. The first row
names the columns. A `.csv` file quotes fields as in RFC 4180; a `.tsv` file does not quote.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from typing import Any

from vita.data.sources import files
from vita.data.sources.files import DamagedFile, SourceFile
from vita.data.sources.readers import Reader, ReadOptions, Row, RowProblem
from vita.spine.file_listing import printable


def read_csv(file: SourceFile, wishes: ReadOptions) -> Iterator[Row]:
    """Read a table with commas between the fields."""
    yield from _read_table(file, delimiter=",", quoting=csv.QUOTE_MINIMAL)


def read_tsv(file: SourceFile, wishes: ReadOptions) -> Iterator[Row]:
    """Read a table with tabulators between the fields."""
    yield from _read_table(file, delimiter="\t", quoting=csv.QUOTE_NONE)


TABLE_READERS: Mapping[str, Reader] = {"csv": read_csv, "tsv": read_tsv}
"""The reader of each type of table, by suffix."""


def _read_table(file: SourceFile, **form: Any) -> Iterator[Row]:
    rows = csv.reader(_text_lines(file), strict=True, **form)
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
        yield Row(path, file.name, number, dict(zip(columns, fields, strict=True)))


def _text_lines(file: SourceFile) -> Iterator[str]:
    for number, line in enumerate(files.lines(file), 1):
        try:
            yield line.decode("utf-8") + "\n"
        except UnicodeDecodeError as error:
            got = f"the byte 0x{line[error.start]:02x} in line {number}"
            raise DamagedFile(file.path, expected="text in UTF-8", got=got, hint="convert the file to UTF-8") from None


def _check_columns(file: SourceFile, columns: list[str]) -> None:
    unnamed = [number for number, name in enumerate(columns, 1) if not name]
    if unnamed or len(set(columns)) < len(columns):
        got = ", ".join(name or "(empty)" for name in columns)
        raise DamagedFile(file.path, expected="different names of all columns in the first row", got=got)
