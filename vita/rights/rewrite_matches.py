"""The rewrites of a document in a corpus, which were made from its text and are erased with it.

for match in rewrite_matches(folder, "mail/7", contents={"51d0..."}): match.id, match.explanation
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from vita.data.curation.corpus import read_corpus
from vita.data.rewrites import REPHRASING, origin_of
from vita.data.sources.erased import text_hash
from vita.rights.document_fates import DocumentMatch


def rewrite_matches(
    folder: Path, document: str, *, source: str | None = None, contents: Collection[str] = ()
) -> dict[str, list[DocumentMatch]]:
    """Return source of the document -> its rewrites in the training part of a corpus.

    A rewrite matches by the id of its document (only of `source`, if given) or by one of the `contents`.
    """
    matches: dict[tuple[str, str, str], DocumentMatch] = {}
    if not any((folder / "train").glob("*.jsonl.zst")):
        return {}
    for row in read_corpus(folder, "train"):
        origin = origin_of(row.metadata)
        if origin is None or row.id == document:
            continue
        if origin.content in contents or (origin.id == document and source in (None, origin.source)):
            style = (row.metadata.get(REPHRASING) or {}).get("style", "unknown style")
            detail = f"holds `{row.id}`, a rewrite of it ({style}), in the training text"
            match = DocumentMatch(row.source, row.id, "trained on", detail, text_hash(row.text))
            matches[origin.source, row.source, row.id] = match
    by_source: dict[str, list[DocumentMatch]] = {}
    for (origin_source, _, _), match in matches.items():
        by_source.setdefault(origin_source, []).append(match)
    return by_source
