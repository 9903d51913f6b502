"""Profiles of filters: the documents that each filter drops alone, and thresholds that drop fewer reference documents.

pages = sample_pages(sources, rules, limit=5000)
profile = FilterProfile.of(use, pages)                      # profile.dropped, profile.rules, profile.sources
use = relax_filter(use, references, allowed=1)              # the least change that drops at most one reference
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vita.data.content import normalize_text
from vita.data.curation.encoding_repair import repair_encoding
from vita.data.curation.filters import FILTERS, FilterUse, upper_limit
from vita.data.curation.language import identify_language
from vita.data.curation.page_features import PageFeatures
from vita.data.curation.part_files import hash_of_id
from vita.data.curation.rules import CurationRules
from vita.data.records import Document
from vita.data.sources.read import Source, documents

_OFF = 16.0
"""Factor by which a maximum is raised at most, up to the limit of the setting."""
_BISECTIONS = 14


@dataclass(frozen=True)
class FilterProfile:
    """The pages of a sample that a filter drops if it is the only one."""

    use: FilterUse
    pages: int
    rules: Mapping[str, int]
    """Rule -> dropped pages, the most frequent first."""
    sources: Mapping[str, tuple[int, int]]
    """Source of the documents -> (dropped pages, pages), in the order of the names."""

    @property
    def dropped(self) -> int:
        return sum(self.rules.values())

    @classmethod
    def of(cls, use: FilterUse, pages: Sequence[PageFeatures]) -> FilterProfile:
        """Apply a filter to all pages."""
        check = FILTERS[use.name]
        reasons = [check(page, **use.settings) for page in pages]
        rules = Counter(reason.rule for reason in reasons if reason is not None)
        sources = Counter(page.document.source for page in pages)
        dropped = Counter(
            page.document.source for page, reason in zip(pages, reasons, strict=True) if reason is not None
        )
        return cls(
            use, len(pages), dict(sorted(rules.items(), key=lambda item: (-item[1], item[0]))),
            {source: (dropped[source], sources[source]) for source in sorted(sources)},
        )  # fmt: skip


def sample_pages(sources: Sequence[Source], rules: CurationRules, *, limit: int) -> list[PageFeatures]:
    """Return at most `limit` documents of the sources, prepared as for the filters.

    They are those with the smallest hash of source and id, so the sample is uniform and independent of the order.
    """
    heap: list[tuple[int, int, Document]] = []  # the largest of the smallest hashes comes first
    for number, (rank, document) in enumerate(_ranked(sources)):
        if len(heap) < limit:
            heapq.heappush(heap, (-rank, -number, document))
        elif rank < -heap[0][0]:
            heapq.heapreplace(heap, (-rank, -number, document))
    return [page for *_, document in sorted(heap, reverse=True) if (page := _page(document, rules)) is not None]


def _ranked(sources: Sequence[Source]) -> Iterator[tuple[int, Document]]:
    for source in sources:
        for document in documents(source, dropped=lambda *_: None):
            yield hash_of_id(document.source, document.id), document


def _page(document: Document, rules: CurationRules) -> PageFeatures | None:
    """Return the page of a document as the filters see it; None for an empty document."""
    text = repair_encoding(document.text) if rules.repair_encoding else document.text
    text, data = normalize_text(text)
    if not data.strip():
        return None
    metadata = dict(document.metadata)
    if rules.languages != "none":
        metadata["language"] = identify_language(text)
    return PageFeatures(replace(document, text=text, metadata=metadata), data)


def relax_filter(use: FilterUse, references: Sequence[PageFeatures], *, allowed: int) -> FilterUse:
    """Relax thresholds of a filter until it drops at most `allowed` of the reference pages, which should all stay.

    A threshold is a numeric setting whose name begins with `min` or `max`. The threshold that saves most pages is
    changed first, and by no more than necessary. Filters that drop more because of other settings stay as they are.
    """
    dropped = _dropped_by(use, references)
    while len(dropped) > allowed:
        remaining = {
            name: len(_dropped_by(_relaxed(use, name, 1.0), dropped))
            for name, value in use.settings.items()
            if _is_threshold(name, value)
        }
        name = min(remaining, key=remaining.__getitem__, default=None)
        if name is None or remaining[name] == len(dropped):
            return use
        use = _least_change(use, name, dropped, allowed=max(allowed, remaining[name]))
        dropped = _dropped_by(use, dropped)
    return use


def changed_settings(before: FilterUse, after: FilterUse) -> list[dict[str, Any]]:
    """Return the settings of a filter that differ: `{filter, setting, before, after}`."""
    return [
        {"filter": after.name, "setting": name, "before": value, "after": after.settings[name]}
        for name, value in before.settings.items()
        if value != after.settings[name]
    ]


def _dropped_by(use: FilterUse, pages: Sequence[PageFeatures]) -> list[PageFeatures]:
    check = FILTERS[use.name]
    return [page for page in pages if check(page, **use.settings) is not None]


def _least_change(use: FilterUse, name: str, pages: Sequence[PageFeatures], *, allowed: int) -> FilterUse:
    """Return the use with the smallest change of a threshold that leaves at most `allowed` pages dropped."""
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if len(_dropped_by(_relaxed(use, name, middle), pages)) <= allowed:
            high = middle
        else:
            low = middle
    return _relaxed(use, name, high)


def _is_threshold(name: str, value: Any) -> bool:
    values = value if isinstance(value, tuple) else (value,)
    is_number = all(isinstance(item, (int, float)) and not isinstance(item, bool) and item > 0 for item in values)
    return name.startswith(("min", "max")) and bool(values) and is_number


def _relaxed(use: FilterUse, name: str, amount: float) -> FilterUse:
    """Return the use with a threshold relaxed by an amount from 0 (unchanged) to 1 (without effect)."""
    relax: Callable[[float], float] = (
        (lambda value: value * (1 - amount)) if name.startswith("min") else (lambda value: value * _OFF**amount)
    )
    value, limit = use.settings[name], upper_limit(use.name, name)
    if isinstance(value, tuple):
        changed: Any = tuple(min(_rounded(relax(item), item, name), limit) for item in value)
    else:
        changed = min(_rounded(relax(value), value, name), limit)
    return FilterUse(name=use.name, settings={**use.settings, name: changed})


def _rounded(value: float, before: float, name: str) -> float | int:
    """Round to two significant digits of the former value, or to an integer if that was one, away from it."""
    toward = math.floor if name.startswith("min") else math.ceil
    if isinstance(before, int):
        return toward(value)
    digits = 1 - math.floor(math.log10(before))
    return round(toward(value * 10**digits) / 10**digits, digits)
