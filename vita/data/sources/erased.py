"""Filtering of erased records: those that an erasure covers are dropped from every source with the reason `erased`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from vita.data.content import content_key, normalize_text
from vita.data.records import (
    Dialogue,
    Document,
    DroppedRecord,
    LabelledText,
    Message,
    Preference,
    TextPair,
    UnpairedPreference,
)
from vita.spine.erasures import Erasure

Record = Document | Dialogue | Preference | UnpairedPreference | LabelledText | TextPair
R = TypeVar("R", bound=Record)


def content_hash(record: Record) -> str:
    """Return a hash that is equal for records with equal content, independent of their ids."""
    return text_hash(_record_text(record))


def text_hash(text: str) -> str:
    """Return a hash that is equal for texts that curation treats as duplicates."""
    return content_key(*normalize_text(text)).hex()


def without_erased(
    records: Iterable[R], erasures: Sequence[Erasure], dropped: Callable[[DroppedRecord], None] | None
) -> Iterator[R]:
    """Yield the records that no erasure covers, and pass the others to `dropped`."""
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
        erasure = erasure or _find_erasure_by_id(record, by_id)
        if erasure is None:
            yield record
        elif dropped:
            dropped(
                DroppedRecord(record.id, record.source, "erased", f"erasure {erasure.id}, requested by {erasure.who}")
            )


def _find_erasure_by_id(record: Record, by_id: dict[str, list[Erasure]]) -> Erasure | None:
    requests = record.metadata.get("requests", ())
    ids = [record.id, *(map(str, requests) if isinstance(requests, list) else ())]
    if isinstance(
        record, (Preference, UnpairedPreference)
    ):  # records of the same row are numbered: `id/1`, `id/chosen`
        row, _, suffix = record.id.rpartition("/")
        ids += [row] if suffix.isdigit() or suffix in ("chosen", "rejected") else []
    for id in ids:
        for erasure in by_id.get(id, ()):
            if erasure.source in (None, record.source):
                return erasure
    return None


def _record_text(record: Record) -> str:
    match record:
        case Document():
            return record.text
        case Dialogue():
            return _join_contents(record.messages)
        case Preference():
            return _join_contents((*record.prompt, *record.chosen, *record.rejected))
        case UnpairedPreference():
            return _join_contents((*record.prompt, *record.answer))
        case LabelledText():
            return "\n".join(record.texts)
        case TextPair():
            return "\n".join((record.anchor, record.positive, *record.negatives))


def _join_contents(messages: Iterable[Message]) -> str:
    return "\n".join(message.text for message in messages)
