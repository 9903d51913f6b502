"""The page of a life: all of it in plain words and pictures, from its record.

    write_story(read_life_record(ledger, store, "cat"), Path("life.html"))

The page needs nothing else, and a life of any shape has one: half carried out, with steps of other names, with reports
of kinds that nobody here knows. What cannot be read is told on the page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from vita.cards.life_page import evidence, service, steps, summary
from vita.cards.life_record import UNREADABLE, LifeRecord
from vita.reporting.page import Block, Page, Paragraph, Section, html
from vita.spine.disk import write_atomically
from vita.spine.errors import LedgerError

__all__ = ["page", "write_story"]

_PARTS: tuple[tuple[str, Callable[[LifeRecord], Iterable[Block]]], ...] = (
    ("In short", summary.in_short),
    ("What each model answers", summary.answers),
    ("Version beside version", evidence.versions),
    ("Attacks", evidence.attacks),
    ("Gates", evidence.gates),
    ("In service", service.traffic),
    ("What users said", service.feedback),
    ("States", service.states),
    ("Step by step", steps.steps),
    ("What was made of what", steps.lineage),
    ("Time and work", steps.work),
)


def write_story(record: LifeRecord, path: Path) -> Path:
    """Write the page to `path` and return the path."""
    write_atomically(path, html(page(record)).encode())
    return path


def page(record: LifeRecord) -> Page:
    """Return the page; a part that cannot be read says so, and the others stand."""
    if not record.steps and not record.gaps:
        raise LedgerError(
            f"life {record.name}", "the ledger knows none of this name", hint="`vita ls` lists what there is"
        )
    sections: list[Section] = []
    for title, tell in _PARTS:
        try:
            blocks = list(tell(record))
        except UNREADABLE as error:
            blocks = [Paragraph(f"This part cannot be told: {type(error).__name__}: {error}")]
        if blocks:
            sections.append(Section(title, blocks))
    if record.gaps:
        sections.append(Section("What cannot be told", [Paragraph(gap) for gap in dict.fromkeys(record.gaps)]))
    return Page(f"The life of {record.name}", _lead(record), sections)


def _lead(record: LifeRecord) -> str:
    return record.about or "A language model from its first plan on, told from what was written down on the way."
