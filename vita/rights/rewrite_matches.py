"""The rewrites of documents in a corpus, which were made from their text and are erased with them.

for match in rewrite_matches(folder, "mail/7", contents={"51d0..."}): match.id, match.explanation
for match in rewrite_groups(folder, RightsQuery(source="mail")): match.use, match.documents

The matches have no content: an erasure covers rewrites by the link to their document.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

from vita.data.curation.corpus import read_corpus
from vita.data.records import Document
from vita.data.rewrites import REPHRASING, RewriteOrigin, origin_of
from vita.rights.document_fates import DocumentMatch, Use
from vita.rights.query import RightsQuery
from vita.spine.erasures import is_source
from vita.spine.plain_text import counted

_PARTS: tuple[tuple[Literal["train", "heldout"], Use, str], ...] = (
    ("train", "trained on", "in the training text"),
    ("heldout", "held out", "held out"),
)


def rewrite_matches(
    folder: Path, document: str, *, source: str | None = None, contents: Collection[str] = ()
) -> list[DocumentMatch]:
    """Return the rewrites of a document in a corpus.

    A rewrite matches by the id of its document (only of `source`, if given) or by one of the `contents`.
    """
    matches: dict[tuple[str, str, str], DocumentMatch] = {}
    for use, place, row, origin in _rewrites(folder):
        by_id = origin.id == document and is_source(source, origin.source)
        if row.id != document and (by_id or origin.content in contents):
            style = (row.metadata.get(REPHRASING) or {}).get("style", "unknown")
            detail = f"`{row.id}`, a rewrite of it in the style {style}, is {place}"
            matches[use, row.source, row.id] = DocumentMatch(row.source, row.id, use, detail, relation="a rewrite")
    return list(matches.values())


def rewrite_groups(folder: Path, query: RightsQuery) -> list[DocumentMatch]:
    """Return the number of rewrites whose documents have a source or licence, if they do not have it themselves."""
    ids: dict[tuple[str, Use, str], set[str]] = {}
    for use, place, row in _group(folder, query):
        ids.setdefault((row.source, use, place), set()).add(row.id)
    return [
        DocumentMatch(
            source, "", use, f"{counted(len(group), 'rewrite')} of its documents {place}", documents=len(group)
        )
        for (source, use, place), group in ids.items()
    ]  # fmt: skip


def rewrite_ids(folder: Path, query: RightsQuery) -> set[tuple[str, str]]:
    """Return (source, id) of the rewrites in `rewrite_groups`."""
    return {(row.source, row.id) for _, _, row in _group(folder, query)}


def _group(folder: Path, query: RightsQuery) -> Iterator[tuple[Use, str, Document]]:
    for use, place, row, origin in _rewrites(folder):
        if query.includes(origin.source, origin.licence) and not query.includes(row.source, row.licence):
            yield use, place, row


def _rewrites(folder: Path) -> Iterator[tuple[Use, str, Document, RewriteOrigin]]:
    for part, use, place in _PARTS:
        if any((folder / part).glob("*.jsonl.zst")):
            for row in read_corpus(folder, part):
                if (origin := origin_of(row.metadata)) is not None:
                    yield use, place, row, origin
