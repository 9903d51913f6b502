"""The accepted rewrites and the limit of their share.

collection = RewriteCollection(budget, checks, model={"artifact": digest}, erasures=())
rewrite = collection.add(candidate, result)        # a Document, or None if it was dropped
collection.is_full                                 # True when the next rewrite exceeds the share
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from vita.data.records import Document, DroppedRecord
from vita.data.rewrites import REPHRASING, REWRITE_OF, rewrite_source
from vita.data.sources.erased import without_erased
from vita.data.sources.erased_rewrites import without_erased_rewrites
from vita.rephrasing.candidates import Candidate
from vita.rephrasing.checks import RewriteChecks, rewrite_text
from vita.rephrasing.result_log import RewriteResult
from vita.rephrasing.styles import PROMPT_VERSION
from vita.spine.erasures import Erasure

SAMPLES = 2
"""Accepted rewrites of each style that the report shows."""
SHARE = "share"
"""Drop reason of the rewrite that would exceed the share."""


@dataclass
class ShareBudget:
    """The bytes of rewrites in the training part: at most `share` of all bytes, exactly."""

    share: float
    natural_bytes: int
    rewrite_bytes: int = 0

    def allows(self, size: int) -> bool:
        """Return True if `size` further bytes of rewrites keep the share."""
        rewrites = self.rewrite_bytes + size
        return rewrites <= Fraction(str(self.share)) * (self.natural_bytes + rewrites)

    @property
    def actual(self) -> float:
        """Return the present share."""
        total = self.natural_bytes + self.rewrite_bytes
        return self.rewrite_bytes / total if total else 0.0


@dataclass
class StyleCount:
    """The figures of a style."""

    requested: int = 0
    accepted: int = 0
    source_bytes: int = 0
    """Bytes of the passages of accepted rewrites."""
    bytes: int = 0
    """Bytes of accepted rewrites."""


@dataclass
class RewriteSample:
    """An accepted rewrite beside its passage."""

    style: str
    origin: str
    passage: str
    text: str


@dataclass
class RewriteCollection:
    """Checks results in the order of the candidates, and counts them."""

    budget: ShareBudget
    checks: RewriteChecks
    model: Mapping[str, Any]
    erasures: Sequence[Erasure]
    drops: list[DroppedRecord] = field(default_factory=list)
    styles: dict[str, StyleCount] = field(default_factory=dict)
    licences: Counter[str | None] = field(default_factory=Counter)
    licence_bytes: Counter[str | None] = field(default_factory=Counter)
    samples: list[RewriteSample] = field(default_factory=list)
    is_full: bool = False
    """True after a rewrite that would have exceeded the share."""

    def add(self, candidate: Candidate, result: RewriteResult) -> Document | None:
        """Return the document of a rewrite that passes all checks; otherwise record the reason."""
        style = self.styles.setdefault(candidate.style.name, StyleCount())
        style.requested += 1
        text = rewrite_text(result, candidate.passage)
        if problem := self.checks.problem(candidate, result, text):
            self._drop(candidate, *problem)
            return None
        document = self._document(candidate, result, text)
        permitted = without_erased_rewrites([document], self.erasures, self.drops.append)
        if not list(without_erased(permitted, self.erasures, self.drops.append)):
            return None
        size = len(text.encode("utf-8"))
        if not self.budget.allows(size):
            self.is_full = True
            self._drop(candidate, SHARE, f"its {size} bytes would exceed the share of {self.budget.share:g}")
            return None
        self.budget.rewrite_bytes += size
        self.checks.accept(text)
        style.accepted += 1
        style.source_bytes += result.source_bytes
        style.bytes += size
        self.licences[document.licence] += 1
        self.licence_bytes[document.licence] += size
        if style.accepted <= SAMPLES:
            self.samples.append(RewriteSample(candidate.style.name, candidate.origin.id, candidate.passage, text))
        return document

    @property
    def accepted(self) -> int:
        """Return the number of accepted rewrites."""
        return sum(style.accepted for style in self.styles.values())

    @property
    def requested(self) -> int:
        """Return the number of results that were checked."""
        return sum(style.requested for style in self.styles.values())

    def reasons(self) -> dict[str, int]:
        """Return the number of dropped rewrites by reason, the most frequent first."""
        counts = Counter(drop.reason for drop in self.drops)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def _drop(self, candidate: Candidate, reason: str, detail: str) -> None:
        self.drops.append(DroppedRecord(candidate.id, rewrite_source(candidate.style.name), reason, detail))

    def _document(self, candidate: Candidate, result: RewriteResult, text: str) -> Document:
        rephrasing = {
            "style": candidate.style.name,
            "prompt_version": PROMPT_VERSION,
            "model": dict(self.model),
            "seed": candidate.seed,
            "source_bytes": result.source_bytes,
            "document_bytes": candidate.document_bytes,
        }
        metadata = {
            **candidate.document.metadata, REWRITE_OF: candidate.origin.as_metadata(), REPHRASING: rephrasing,
        }  # fmt: skip
        source = rewrite_source(candidate.style.name)
        return Document(candidate.id, text, source, candidate.origin.licence, metadata)
