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
    text_size,
)
from vita.spine.erasures import NOT_STATED, Erasure

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
    index = ErasureIndex(erasures)
    for record in records:
        erasure = index.find(record)
        if erasure is None:
            yield record
        elif dropped:
            dropped(erased_record(record, erasure))


def erased_record(record: Record, erasure: Erasure) -> DroppedRecord:
    """Return the drop of a record that an erasure covers."""
    detail = f"erasure {erasure.id}, requested by {erasure.who}"
    licence = record.licence or NOT_STATED
    return DroppedRecord(record.id, record.source, "erased", detail, size=text_size(record), licence=licence)


class ErasureIndex:
    """Erasures by content and by id; those of a source or licence are compared with every record."""

    def __init__(self, erasures: Sequence[Erasure]) -> None:
        self._by_content = {content: erasure for erasure in erasures for content in erasure.contents}
        self._by_id: dict[str, list[Erasure]] = {}
        for erasure in erasures:
            if erasure.document is not None:
                self._by_id.setdefault(erasure.document, []).append(erasure)
        self._others = [erasure for erasure in erasures if erasure.document is None]

    def find(self, record: Record) -> Erasure | None:
        """Return an erasure that covers the record."""
        if self._by_content and (erasure := self._by_content.get(content_hash(record))):
            return erasure
        ids = _ids(record)
        candidates = [*self._others, *(erasure for id in ids for erasure in self._by_id.get(id, ()))]
        for erasure in candidates:
            if erasure.covers(ids, source=record.source, licence=record.licence, content=None):
                return erasure
        return None


def _ids(record: Record) -> list[str]:
    """Return the ids of a record: its own, of the requests that it was made from, and of its row."""
    requests = record.metadata.get("requests", ())
    ids = [record.id, *(map(str, requests) if isinstance(requests, list) else ())]
    if isinstance(
        record, (Preference, UnpairedPreference)
    ):  # records of the same row are numbered: `id/1`, `id/chosen`
        row, _, suffix = record.id.rpartition("/")
        ids += [row] if suffix.isdigit() or suffix in ("chosen", "rejected") else []
    return ids


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
