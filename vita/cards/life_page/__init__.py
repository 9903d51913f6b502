"""The report of a life as one HTML page: a summary first, then each step and each topic in a collapsed section.

    write_life_page(read_life_record(ledger, store, "cat"), Path("life.html"))

A life of any shape has a page: unfinished, with steps of other names, or with reports of unknown kinds. The page lists
what cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from vita.cards import TEMPLATES
from vita.cards.life_page import sections, steps, summary
from vita.cards.life_record import UNREADABLE, LifeRecord
from vita.reporting.page import Details, blocks
from vita.reporting.render import render
from vita.reporting.wording import capitalized
from vita.spine.disk import write_atomically
from vita.spine.errors import LedgerError, exception_text

__all__ = ["write_life_page"]

_SUMMARY: Mapping[str, Callable[[LifeRecord], Iterable[Any]]] = {
    "key figures": summary.key_figures,
    "released versions": summary.releases,
    "answers": summary.released_answers,
    "loss": summary.loss_chart,
    "gates": sections.criteria,
    "training data": summary.origin,
    "timeline": summary.timeline,
    "steps": steps.steps,
}
"""Part of the template -> the function that reads it."""
_SECTIONS: Mapping[str, tuple[str, Callable[[LifeRecord], Iterable[Any]]]] = {
    "Answers of all models": ("the same questions, greedy decoding", summary.all_answers),
    "Versions compared": ("the same measurements for each version", sections.versions),
    "Red teaming": ("attack success rate and over-refusal rate", sections.attacks),
    "Findings": ("successful attacks, and their state", sections.findings),
    "Gates": ("criteria, verdicts, approvals and waivers", sections.gates),
    "Traffic": ("requests by version", sections.traffic),
    "Feedback": ("of users, by version", sections.feedback),
    "States": ("of each version, with reasons", sections.states),
    "Lineage": ("which artifact was made from which", sections.lineage),
    "Time and compute": ("", sections.work),
}
"""Title of a collapsed section -> its note and the function that reads it."""


def write_life_page(record: LifeRecord, path: Path) -> Path:
    """Write the page to `path` and return the path."""
    if not record.steps and not record.gaps:
        raise LedgerError(
            f"life {record.name}", "the ledger has no record of this life", hint="`vita ls` lists the lives"
        )
    gaps = list(record.gaps)

    def content(name: str, read: Callable[[LifeRecord], Iterable[Any]]) -> list[Any]:
        try:
            return list(read(record))
        except UNREADABLE as error:
            gaps.append(f"{capitalized(name)} cannot be read: {exception_text(error)}")
            return []

    parts: dict[str, Any] = {name: content(name, read) for name, read in _SUMMARY.items()}
    parts |= {name: blocks(part) for name, part in parts.items() if name not in ("key figures", "released versions")}
    details = [Details(title, content(title, read), note) for title, (note, read) in _SECTIONS.items()]
    sections = [section for section in details if section.blocks]
    text = render("life.html.jinja", folder=TEMPLATES, record=record, parts=parts, sections=sections, gaps=gaps)
    write_atomically(path, text.encode())
    return path
