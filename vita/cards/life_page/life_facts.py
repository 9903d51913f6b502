"""What a story is made of: the life's steps, and for each what its reports say, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vita.cards import reader
from vita.cards.life_record import UNREADABLE, Chapter, Chronicle
from vita.gates.services import served_models
from vita.spine.ledger import Ledger, Move
from vita.spine.store import Store
from vita.stats.intervals import Interval


@dataclass(frozen=True)
class Material:
    """A life with all that is known of it."""

    ledger: Ledger
    store: Store
    chronicle: Chronicle
    figures: Mapping[str, Mapping[str, Interval]]
    """Artifact digest -> the figures of its reports."""
    about: Mapping[str, str]
    """Report digest -> the model that it measured."""
    moves: Mapping[str, list[Move]]
    """Model digest -> its changes of state."""
    gaps: list[str] = field(default_factory=list)
    served: frozenset[str] = frozenset()
    """The models that a living service serves."""

    def state(self, digest: str) -> str:
        moves = self.moves.get(digest)
        state = moves[-1].state if moves else "candidate"
        if state in ("approved", "serving"):
            return "serving" if digest in self.served else "approved"
        return state

    def measured(self) -> list[tuple[Chapter, str, Mapping[str, Interval]]]:
        """(step with figures, digest of the model they are about, figures), in the order of the life."""
        return [
            (chapter, self.about.get(chapter.digest, chapter.digest), self.figures[chapter.digest])
            for chapter in self.chronicle.chapters
            if self.figures.get(chapter.digest)
        ]

    def name(self, digest: str) -> str:
        """What a digest is called on the page."""
        return self.chronicle.names.get(digest, digest[:12])


_COPIES = ("release", "archive")
"""Kinds that hold a model's reports along with the model: their figures belong to other steps."""


def collect(ledger: Ledger, store: Store, chronicle: Chronicle) -> Material:
    """Read what the steps' artifacts say of themselves; what cannot be read is a gap."""
    figures: dict[str, dict[str, Interval]] = {}
    about: dict[str, str] = {}
    gaps: list[str] = []
    for chapter in chronicle.chapters:
        if chapter.kind == "gone":
            gaps.append(f"What the step {chapter.name} gave is no longer in the store.")
            continue
        if chapter.kind in _COPIES:
            continue
        try:
            figures[chapter.digest] = reader.figures(store, chapter.digest)
            if chapter.kind == "report" and (model := reader.measured_model(store, chapter.digest)):
                about[chapter.digest] = model
        except UNREADABLE as error:
            gaps.append(f"The report of the step {chapter.name} cannot be read: {error}")
    moves: dict[str, list[Move]] = {}
    served: frozenset[str] = frozenset()
    try:
        for move in ledger.moves():
            moves.setdefault(move.artifact, []).append(move)
        served = frozenset(served_models(ledger))
    except UNREADABLE as error:
        gaps.append(f"The states of the versions cannot be read: {error}")
    return Material(ledger, store, chronicle, figures, about, moves, gaps, served)
