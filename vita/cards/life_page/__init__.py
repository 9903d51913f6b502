"""The report of a life as one HTML page: a summary first, then each step and each topic in a collapsed section.

    write_life_page(read_life_record(ledger, store, "cat"), Path("life.html"))

A life of any shape has a page: unfinished, with steps of other names, or with reports of unknown kinds. The page lists
what cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vita.cards import TEMPLATES
from vita.cards.life_page import lineage, results, service, steps, summary
from vita.cards.life_record import UNREADABLE, LifeRecord
from vita.reporting.render import render
from vita.spine.disk import write_atomically
from vita.spine.errors import LedgerError

__all__ = ["write_life_page"]

_PARTS: Mapping[str, Callable[[LifeRecord], Iterable[Any]]] = {
    "releases": summary.releases,
    "key_figures": summary.key_figures,
    "origin": summary.origin,
    "released_answers": summary.released_answers,
    "criteria": summary.criteria,
    "overview": summary.overview_charts,
    "answers": summary.all_answers,
    "steps": steps.steps,
    "versions": results.versions,
    "attacks": results.attacks,
    "findings": results.findings,
    "gates": results.gates,
    "traffic": service.traffic,
    "feedback": service.feedback,
    "states": service.states,
    "lineage": lineage.lineage,
    "work": lineage.work,
}
"""Name of a part in the template -> the function that reads it."""


def write_life_page(record: LifeRecord, path: Path) -> Path:
    """Write the page to `path` and return the path."""
    if not record.steps and not record.gaps:
        raise LedgerError(
            f"life {record.name}", "the ledger has no record of this life", hint="`vita ls` lists the lives"
        )
    parts: dict[str, Sequence[Any]] = {}
    problems: dict[str, str] = {}
    for name, read in _PARTS.items():
        try:
            parts[name] = list(read(record))
        except UNREADABLE as error:
            parts[name], problems[name] = [], f"This part cannot be read: {type(error).__name__}: {error}"
    text = render("life.html.jinja", "html", folder=TEMPLATES, record=record, parts=parts, problems=problems)
    write_atomically(path, text.encode())
    return path
