"""Filtering of rewrites whose document is erased: an erasure of a document covers everything made from its text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from vita.data.records import Document, DroppedRecord, text_size
from vita.data.rewrites import RewriteOrigin, origin_of
from vita.data.sources.erased import without_erased
from vita.spine.erasures import NOT_STATED, Erasure


def without_erased_rewrites(
    documents: Iterable[Document], erasures: Sequence[Erasure], dropped: Callable[[DroppedRecord], None] | None
) -> Iterator[Document]:
    """Yield the documents that are not rewrites of an erased document, and pass the others to `dropped`."""
    if not erasures:
        yield from documents
        return
    contents = {content: erasure for erasure in erasures for content in erasure.contents}
    for document in documents:
        origin = origin_of(document.metadata)
        detail = None if origin is None else _erased_origin(document, origin, erasures, contents)
        if detail is None:
            yield document
        elif dropped:
            size, licence = text_size(document), document.licence or NOT_STATED
            dropped(DroppedRecord(document.id, document.source, "erased", detail, size=size, licence=licence))


def _erased_origin(
    document: Document, origin: RewriteOrigin, erasures: Sequence[Erasure], contents: dict[str, Erasure]
) -> str | None:
    """Return the detail of the drop if an erasure covers the origin of a document; otherwise None."""
    if (erasure := contents.get(origin.content)) is not None:
        return f"a rewrite of a document of erasure {erasure.id}, requested by {erasure.who}"
    drops: list[DroppedRecord] = []
    # The origin without its text: its id, source and licence decide.
    stand_in = replace(document, id=origin.id, source=origin.source, licence=origin.licence, text=f"\0{document.id}")
    list(without_erased([stand_in], erasures, drops.append))
    return f"a rewrite of `{origin.id}`: {drops[0].detail}" if drops else None
