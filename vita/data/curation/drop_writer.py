"""Records of dropped documents: personal data in their texts and details are masked before they are written."""

from __future__ import annotations

from dataclasses import replace

from vita.data.curation.corpus import ZstdLineWriter, dump_drop
from vita.data.curation.filter_stats import FilterStats
from vita.data.curation.personal_data import PersonalDataScanner
from vita.data.curation.references import masked_licence, masked_source
from vita.data.records import DroppedRecord
from vita.data.sources.readers import DAMAGED_FILE

_BATCH_BYTES = 2**21
_BATCH_RECORDS = 4096


class DropWriter:
    """Counts dropped documents and writes them in order, in batches in which personal data are masked.

    A filter drops a document before the search for personal data, so its text is searched here: the text of a drop is
    written to the dropped shards, and the beginning of some texts to the report. Kinds with the action `drop` are
    masked as well; kinds with the action `keep` stay.
    """

    def __init__(
        self, lines: ZstdLineWriter, stats: FilterStats, scanner: PersonalDataScanner, *, with_text: bool
    ) -> None:
        """`with_text` stores the text of each drop in its line."""
        self._lines, self._stats, self._scanner, self._with_text = lines, stats, scanner, with_text
        self._waiting: list[tuple[DroppedRecord, int, str]] = []
        self._waiting_bytes = 0

    def add(self, record: DroppedRecord, size: int, text: str) -> None:
        """Count and write a drop; `size` is the number of bytes of its document."""
        self._waiting.append((record, size, text))
        self._waiting_bytes += len(text)
        if self._waiting_bytes >= _BATCH_BYTES or len(self._waiting) >= _BATCH_RECORDS:
            self.flush()

    def flush(self) -> None:
        """Write the drops that wait."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        texts = [text for _, _, text in waiting]
        # The detail of a row that could not be read quotes it. That of an erasure names who requested it.
        details = ["" if record.reason == "erased" else record.detail for record, _, _ in waiting]
        searched = texts + details
        scans = self._scanner(searched, [text.encode("utf-8", "replace") for text in searched])
        for index, (record, size, text) in enumerate(waiting):
            if (detail := scans.get(len(texts) + index)) is not None:
                record = replace(record, detail=detail.text)
            actions = self._scanner.actions
            rights = masked_source(record.source, actions), masked_licence(record.licence, actions)
            if rights != (record.source, record.licence):
                record = replace(record, source=rights[0], licence=rights[1])
            if record.reason == DAMAGED_FILE:
                self._stats.damaged.append(f"{record.id.rpartition(':')[0]}: {record.detail}")
            text = scans[index].text if index in scans else text
            self._stats.drop(record, size=size, text=text)
            self._lines.write(dump_drop(record, text if self._with_text else None))
