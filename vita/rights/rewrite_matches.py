"""The rewrites of a document in a corpus, which were made from its text and are erased with it.

for match in rewrite_matches(folder, "mail/7", contents={"51d0..."}): match.id, match.explanation
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from vita.data.curation.corpus import read_corpus
from vita.data.rewrites import REPHRASING, origin_of
from vita.rights.document_fates import DocumentMatch


def rewrite_matches(
    folder: Path, document: str, *, source: str | None = None, contents: Collection[str] = ()
) -> list[DocumentMatch]:
    """Return the rewrites of a document in the training part of a corpus.

    A rewrite matches by the id of its document (only of `source`, if given) or by one of the `contents`. The matches
    have no content, because an erasure covers rewrites by their link.
    """
    if not any((folder / "train").glob("*.jsonl.zst")):
        return []
    matches: dict[tuple[str, str], DocumentMatch] = {}
    for row in read_corpus(folder, "train"):
        origin = origin_of(row.metadata)
        if origin is None or row.id == document:
            continue
        if origin.content in contents or (origin.id == document and source in (None, origin.source)):
            style = (row.metadata.get(REPHRASING) or {}).get("style", "unknown")
            detail = f"`{row.id}`, a rewrite of it in the style {style}, is in the training text"
            matches[row.source, row.id] = DocumentMatch(row.source, row.id, "trained on", detail)
    return list(matches.values())
