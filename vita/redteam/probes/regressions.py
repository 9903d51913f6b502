"""Regression probe: repeats earlier successful attacks verbatim, from a file of `vita findings export`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson
from pydantic import ValidationError

from vita.redteam.probe import TESTS, ProbeInputs, ProbeItem, probe
from vita.spine.errors import DataError


@probe(
    "regressions",
    about="Asks again what an earlier version fell for.",
    taxonomy=(),
    severity="high",
)
def regressions(material: ProbeInputs) -> Iterator[ProbeItem]:
    """Yield every exported finding."""
    return iter(material.regressions)


def read(path: str) -> list[ProbeItem]:
    """Read the items of an export; each keeps the name of its probe."""
    items: list[ProbeItem] = []
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise DataError(path, f"cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = orjson.loads(line)
                test = TESTS.validate_python(row["test"])
                items.append(ProbeItem(f"{row['probe']}/{row['item']}", test, str(row.get("group", "")), row["probe"]))
            except (orjson.JSONDecodeError, ValidationError, KeyError, TypeError):
                expected = "a finding as `vita findings export` writes it"
                raise DataError(
                    f"{path}, line {number}", expected=expected, got=line[:80].decode("utf-8", "replace")
                ) from None
    return items
