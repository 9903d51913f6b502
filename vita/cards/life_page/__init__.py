"""The story of a life: one page that tells all of it in plain words and pictures, from the ledger.

    write_story(ledger, store, "cat", Path("life.html"))

The page needs nothing else, and a life of any shape has one: half carried out, with steps of other names, with reports
of kinds that nobody here knows. What cannot be read is told on the page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from vita.cards.life_page import evidence, service, steps, summary
from vita.cards.life_page.life_facts import Material, collect
from vita.cards.life_record import UNREADABLE, Chronicle, read_life
from vita.reporting.page import Block, Page, Paragraph, Section, html
from vita.spine.disk import write_atomically
from vita.spine.errors import LedgerError
from vita.spine.ledger import Ledger
from vita.spine.store import Store

__all__ = ["page", "write_story"]

_PARTS: tuple[tuple[str, Callable[[Material], Iterable[Block]]], ...] = (
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


def write_story(ledger: Ledger, store: Store, life: str, path: Path) -> Path:
    """Write the page to `path`; returns it."""
    write_atomically(path, html(page(ledger, store, life)).encode())
    return path


def page(ledger: Ledger, store: Store, life: str) -> Page:
    """The page; a part that cannot be read says so, and the others stand."""
    chronicle = read_life(ledger, store, life)
    if not chronicle.chapters and not chronicle.gaps:
        raise LedgerError(f"life {life}", "the ledger knows none of this name", hint="`vita ls` lists what there is")
    material = collect(ledger, store, chronicle)
    sections: list[Section] = []
    for title, tell in _PARTS:
        try:
            blocks = list(tell(material))
        except UNREADABLE as error:
            blocks = [Paragraph(f"This part cannot be told: {type(error).__name__}: {error}")]
        if blocks:
            sections.append(Section(title, blocks))
    gaps = [*chronicle.gaps, *material.gaps]
    if gaps:
        sections.append(Section("What cannot be told", [Paragraph(gap) for gap in dict.fromkeys(gaps)]))
    return Page(f"The life of {life}", _lead(chronicle), sections)


def _lead(chronicle: Chronicle) -> str:
    return chronicle.about or "A language model from its first plan on, told from what was written down on the way."
