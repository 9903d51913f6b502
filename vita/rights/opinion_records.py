"""The ids, sources and licences of the records of feedback and of preferences in the store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vita.data.feedback import read_feedback
from vita.spine.errors import StoreError


class IdentifiedRecord(NamedTuple):
    """A record of feedback or a preference; feedback has no source and no licence of its own."""

    ids: tuple[str, ...]
    source: str = ""
    licence: str | None = None


def _feedback(folder: Path) -> Iterator[IdentifiedRecord]:
    return (IdentifiedRecord((record.id, record.request)) for record in read_feedback(folder))


def _preferences(folder: Path) -> Iterator[IdentifiedRecord]:
    path = folder / "preferences.jsonl"
    if not path.is_file():
        raise StoreError(str(folder), "holds no preferences.jsonl")
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line:
            row = json.loads(line)
            ids = (row["id"], *(row.get("metadata") or {}).get("requests", ()))
            yield IdentifiedRecord(ids, str(row.get("source") or ""), row.get("licence"))


RECORDS = {"feedback": _feedback, "preferences": _preferences}
"""kind of artifact -> function that reads its records."""
