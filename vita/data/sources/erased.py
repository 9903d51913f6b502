"""Records that an erasure covers are left out of everything that is read, and counted under the reason `erased`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from vita.data.content import content_key, normalize_text
from vita.data.records import Dialogue, Document, Drop, Message, Preference, Rated
from vita.spine.erasures import Erasure

R = TypeVar("R", bound="Document | Dialogue | Preference | Rated")


def content_hash(record: Document | Dialogue | Preference | Rated) -> str:
    """A hash that is equal for records with equal content, whatever their ids are."""
    return text_hash(_text(record))


def text_hash(text: str) -> str:
    """A hash that is equal for texts that curation takes for duplicates."""
    return content_key(*normalize_text(text)).hex()


def without_erased(
    records: Iterable[R], erasures: Sequence[Erasure], dropped: Callable[[Drop], None] | None
) -> Iterator[R]:
    """The records that no erasure covers; the others go to `dropped`."""
    if not erasures:
        yield from records
        return
    by_content = {content: erasure for erasure in erasures for content in erasure.contents}
    by_id: dict[str, list[Erasure]] = {}
    for erasure in erasures:
        if erasure.by_id:
            by_id.setdefault(erasure.document, []).append(erasure)
    for record in records:
        erasure = by_content.get(content_hash(record)) if by_content else None
        erasure = erasure or _by_id(record, by_id)
        if erasure is None:
            yield record
        elif dropped:
            dropped(Drop(record.id, record.source, "erased", f"erasure {erasure.id}, asked for by {erasure.who}"))


def _by_id(record: Document | Dialogue | Preference | Rated, by_id: dict[str, list[Erasure]]) -> Erasure | None:
    requests = record.metadata.get("requests", ())
    ids = [record.id, *(map(str, requests) if isinstance(requests, list) else ())]
    if isinstance(record, (Preference, Rated)):  # several of one row are numbered: `id/1`, `id/chosen`
        row, _, which = record.id.rpartition("/")
        ids += [row] if which.isdigit() or which in ("chosen", "rejected") else []
    for id in ids:
        for erasure in by_id.get(id, ()):
            if erasure.source in (None, record.source):
                return erasure
    return None


def _text(record: Document | Dialogue | Preference | Rated) -> str:
    match record:
        case Document():
            return record.text
        case Dialogue():
            return _joined(record.messages)
        case Preference():
            return _joined((*record.prompt, *record.chosen, *record.rejected))
        case Rated():
            return _joined((*record.prompt, *record.answer))


def _joined(messages: Iterable[Message]) -> str:
    return "\n".join(message.content for message in messages)
