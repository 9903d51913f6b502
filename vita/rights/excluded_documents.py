"""The documents that the erasure of a document concerns: those with its id, and others with an equal or similar text.

contents_by_source("w3", matches, hits)         # {"wiki": {"51d0..."}, "rfc": {None}}: two documents have the id
excluded_with("w3", matches, hits)              # (ExcludedDocument("wiki", "w9", "a near copy"),)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from vita.rights.document_fates import DocumentMatch
from vita.rights.source_search import SourceHit


@dataclass(frozen=True, slots=True)
class ExcludedDocument:
    """A document with another id that an erasure excludes with the requested document."""

    source: str
    id: str
    relation: str
    """`a copy`, `a near copy`, `the same text` or `a rewrite`."""

    def __str__(self) -> str:
        return f"`{self.id}` of {self.source} ({self.relation})"

    def as_json(self) -> dict[str, str]:
        return {"source": self.source, "id": self.id, "relation": self.relation}


def contents_by_source(
    document: str, matches: Iterable[DocumentMatch], hits: Iterable[SourceHit]
) -> dict[str, frozenset[str | None]]:
    """Return source -> hashes of the contents of its documents with the id; None for a dropped text without a hash."""
    contents: dict[str, set[str | None]] = {}
    for match in matches:
        if match.dropped_from is not None:
            content = match.near_content or (match.content if match.relation == "a copy" else None)
            contents.setdefault(match.dropped_from, set()).add(content)
        elif match.id == document and match.content and not match.relation:
            contents.setdefault(match.source, set()).add(match.content)
    for hit in hits:
        if not hit.copy:
            contents.setdefault(hit.source, set()).add(hit.content)
    return {source: frozenset(hashes) for source, hashes in contents.items()}


def excluded_with(
    document: str, matches: Iterable[DocumentMatch], hits: Iterable[SourceHit], near_contents: Collection[str]
) -> tuple[ExcludedDocument, ...]:
    """Return the documents with another id or of another source that are excluded with a document, each once.

    `near_contents` are the hashes of the near copies of the document.
    """
    relations: dict[tuple[str, str], str] = {}
    for match in matches:
        if match.relation and match.id and match.id != document:
            relation = "a near copy" if match.content in near_contents else match.relation
            relations.setdefault((match.source, match.id), relation)
    for hit in hits:
        if hit.copy:
            relation = "a near copy" if hit.content in near_contents else "the same text"
            for id in hit.ids[:1]:
                relations.setdefault((hit.source, id), relation)
    return tuple(ExcludedDocument(source, id, relation) for (source, id), relation in sorted(relations.items()))
