"""Rows of benchmark files, whose fields are read by name and type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vita.data.sources.read import Source, readable_files
from vita.data.sources.readers import read_rows
from vita.spine.errors import DataError


class BenchmarkRow(Mapping[str, Any]):
    """A row of a benchmark file; a missing field or one of another type is an error with file and line."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values, self.where = values, where

    def text(self, name: str) -> str:
        """Return the string in a field."""
        return self._of(name, str, "text")

    def number(self, name: str) -> int:
        """Return the integer in a field."""
        return self._of(name, int, "a whole number")

    def texts(self, name: str) -> tuple[str, ...]:
        """Return the strings in a field, at least two."""
        values = self._of(name, list, "a list of texts")
        if len(values) < 2 or not all(isinstance(value, str) and value for value in values):
            raise DataError(f"{self.where}: {name}", expected="two or more texts", got=values, quoted=values)
        return tuple(values)

    def gold(self, options: Sequence[Any]) -> int:
        """Return the index of the correct option, from the field `gold`."""
        index = self.number("gold")
        if not 0 <= index < len(options):
            raise DataError(f"{self.where}: gold", expected=f"0 to {len(options) - 1}", got=index)
        return index

    def _of(self, name: str, kind: type, expected: str) -> Any:
        value = self._values.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise DataError(f"{self.where}: {name}", expected=expected, got=value, quoted=value)
        return value

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def benchmark_rows(path: str) -> Iterator[BenchmarkRow]:
    """Yield the rows of a benchmark file."""
    source = Source.model_validate(path)
    for file in readable_files(source):
        for row in read_rows(file, source):
            if row.values is None:
                got = row.problem.got if row.problem else "nothing"
                raise DataError(row.where, expected="a row of a benchmark", got=got, quoted=got)
            yield BenchmarkRow(row.values, row.where)
