"""The first pass of curation: read one slice of a source, normalize and filter its text, and mask personal data.

Documents that pass are written to part files on disk; dropped documents are written to a second file with their reason.
A finished slice is not processed again after the run was killed. Steps that are faster for many documents at once
process batches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson

from vita.data.content import comparable_bytes, content_key, normalize_text
from vita.data.curation.corpus import ZstdLineWriter, dump
from vita.data.curation.decontamination import SavedIndex
from vita.data.curation.deduplication import RepeatOptions
from vita.data.curation.document_metadata import mask_metadata, with_decision
from vita.data.curation.drop_writer import DropWriter
from vita.data.curation.encoding_repair import repair_encoding
from vita.data.curation.filter_stats import DocumentCount, FilterStats
from vita.data.curation.filters import FilterChain, FilterUse
from vita.data.curation.language import Languages, identify_language
from vita.data.curation.page_features import PageFeatures, page_batch
from vita.data.curation.part_files import PartWriter
from vita.data.curation.personal_data import PersonalData, PersonalDataScanner
from vita.data.curation.shingles import SketchOptions
from vita.data.curation.word_batch import WordBatch
from vita.data.record_rights import rights_of
from vita.data.records import Document, DroppedRecord
from vita.data.sources.read import SourceSlice, documents
from vita.data.sources.readers import PART_BYTES, Row, cut_parts
from vita.spine.disk import exclusive_lock
from vita.spine.erasures import Erasure

BATCH_BYTES = 2**21
"""Bytes of text that are processed at once; limits the memory of the arrays."""
PAGE_BYTES = 2**16
"""Bytes of text whose words are computed at once for the filters; longer documents are computed alone."""
_OTHER_REASONS = ("empty", "contaminated")
_DOCUMENTS_PER_TICK = 200  # documents between two calls of `tick`


def is_filter_rule(reason: str) -> bool:
    """Return True if the drop reason is that of a filter: `filter.rule`."""
    return "." in reason and not is_rights_rule(reason)


def is_rights_rule(reason: str) -> bool:
    """Return True if the drop reason is that of the policy on rights: `rights.rule`."""
    return reason.startswith("rights.")


def is_row_problem(reason: str) -> bool:
    """Return True if the drop reason means that the row or file could not be read."""
    return not is_filter_rule(reason) and not is_excluded(reason) and reason not in _OTHER_REASONS


def is_excluded(reason: str) -> bool:
    """Return True if the drop reason is an erasure or a right: the document was read and must not be used."""
    return reason == "erased" or is_rights_rule(reason)


@dataclass(frozen=True)
class FilterSteps:
    """The steps of the first pass and their settings."""

    filters: tuple[FilterUse, ...]
    repair_encoding: bool
    languages: Languages
    personal_data: PersonalData
    decontamination: SavedIndex | None
    """The index of the benchmarks; None if there are none."""
    keeps_contaminated: bool
    """True to count the documents with passages of benchmarks, False to drop them."""
    part_bytes: int
    """Bytes of text in a part file; limits the memory of the second pass."""
    sketches: SketchOptions | None = None
    """Options of the sketches for the search of near duplicates; None if there is no search."""
    repeats: RepeatOptions | None = None
    """The kinds of repeated text that are cut from documents; None if nothing is cut."""
    dropped_text: bool = False
    """True to store the text of dropped documents."""


@dataclass(frozen=True)
class FilterJob:
    """A slice of a source to filter, the steps, and the folder for the output."""

    number: int
    source_slice: SourceSlice
    steps: FilterSteps
    folder: Path


@dataclass(frozen=True)
class FilterResult:
    """The result of filtering a slice: its part files in order, the file of its drops, and the counts."""

    number: int
    parts: tuple[Path, ...]
    drops: Path
    stats: FilterStats


def filter_slice(job: FilterJob, tick: Callable[[int], None]) -> FilterResult:
    """Filter the slice of a job, or load the result of an earlier run; other processes wait for the result."""
    result_path = job.folder / f"{job.number:06d}.stats.json"
    if not result_path.exists():
        with exclusive_lock(job.folder / f"{job.number:06d}.lock"):
            if not result_path.exists():
                _filter_slice(job, result_path, tick)
    result = orjson.loads(result_path.read_bytes())
    stats = FilterStats.from_json(result["stats"])
    return FilterResult(job.number, tuple(job.folder / name for name in result["parts"]), _drops_path(job), stats)


def _drops_path(job: FilterJob) -> Path:
    return job.folder / f"{job.number:06d}.drops.jsonl.zst"


def _filter_slice(job: FilterJob, result_path: Path, tick: Callable[[int], None]) -> None:
    stats, unreported = FilterStats(), 0
    steps = job.steps
    parts = PartWriter(
        job.folder, job.number, part_bytes=steps.part_bytes, sketches=steps.sketches, repeats=steps.repeats
    )
    with ZstdLineWriter(_drops_path(job), level=1) as drops, parts:
        slice_filter = _SliceFilter(steps, stats, drops, parts, erasures=job.source_slice.erasures)
        row: Row | None = None

        def note_row(converted: Row) -> None:
            nonlocal row
            row = converted

        rows = documents(job.source_slice, dropped=slice_filter.drop_row, converted=note_row)
        for document in _without_long_texts(rows):
            slice_filter.add(document, row)
            unreported += 1
            if unreported == _DOCUMENTS_PER_TICK:
                tick(unreported)
                unreported = 0
        slice_filter.finish()
    tick(unreported)
    _write_atomically(result_path, dump({"parts": parts.names, "stats": stats.to_json()}))


class _SliceFilter:
    """Applies the steps to the documents of a slice; documents that pass the filters wait for a batch."""

    def __init__(
        self,
        steps: FilterSteps,
        stats: FilterStats,
        drops: ZstdLineWriter,
        parts: PartWriter,
        *,
        erasures: Sequence[Erasure],
    ) -> None:
        self._steps, self._stats, self._parts = steps, stats, parts
        self._erased = {content: erasure for erasure in erasures for content in erasure.contents}
        self._filters = FilterChain(steps.filters)
        self._scanner = PersonalDataScanner(steps.personal_data)
        self._drops = DropWriter(drops, stats, self._scanner, with_text=steps.dropped_text)
        self._benchmarks = steps.decontamination.load() if steps.decontamination else None
        self._read: list[tuple[Document, bytes]] = []
        self._read_bytes = 0
        self._waiting: list[tuple[Document, bytes]] = []
        self._waiting_bytes = 0

    def drop_row(self, record: DroppedRecord, size: int = 0, text: str = "") -> None:
        """Count and record a row that could not be read or must not be used, after the documents before it."""
        self._filter_read()
        size = size or record.size
        if is_excluded(record.reason):
            self._stats.read.setdefault(record.source, DocumentCount()).add(size)
        self.drop(record, size, text)

    def drop(self, record: DroppedRecord, size: int = 0, text: str = "") -> None:
        """Count and record a drop."""
        self._drops.add(record, size, text)

    def add(self, document: Document, row: Row | None = None) -> None:
        """Repair, normalize and filter a document; its row states what the reader has changed."""
        # The repair comes first, because wrong decodings contain characters that normalization replaces.
        repaired = repair_encoding(document.text) if self._steps.repair_encoding else document.text
        if repaired is not document.text:
            self._stats.repaired[document.source] = self._stats.repaired.get(document.source, 0) + 1
            document = replace(document, text=repaired, metadata=with_decision(document.metadata, "repaired", True))
        text, data = normalize_text(repaired)
        self._stats.count_rights(rights_of(document), len(data))
        self._stats.read.setdefault(document.source, DocumentCount()).add(len(data))
        if text is not repaired or (row and row.repaired):
            self._stats.normalized[document.source] = self._stats.normalized.get(document.source, 0) + 1
        if row and row.encoding:
            encodings = self._stats.encodings.setdefault(document.source, {})
            encodings[row.encoding] = encodings.get(row.encoding, 0) + 1
        if self._steps.languages != "none":
            document = self._with_language(document, text, len(data))
        elif text is not document.text:
            document = replace(document, text=text)
        if len(data) >= PAGE_BYTES:
            self._filter_read()
        self._read.append((document, data))
        self._read_bytes += len(data)
        if self._read_bytes >= PAGE_BYTES:
            self._filter_read()

    def _filter_read(self) -> None:
        """Filter the documents that were read."""
        pages = self._read
        self._read, self._read_bytes = [], 0
        single = len(pages) == 1
        for page in [PageFeatures(*pages[0])] if single else page_batch(pages) if pages else ():
            self._filter(page)

    def _filter(self, page: PageFeatures) -> None:
        document, data = page.document, page.data
        verdict = self._verdict(page)
        if verdict is not None:
            self.drop(DroppedRecord(document.id, document.source, *verdict), len(data), document.text)
            return
        self._waiting.append((document, data))
        self._waiting_bytes += len(data)
        # A batch ends with its part, so that batches do not change the size of the parts.
        if self._waiting_bytes >= min(BATCH_BYTES, self._parts.free_bytes):
            self.process_batch()

    def finish(self) -> None:
        """Process the documents that remain."""
        self._filter_read()
        self.process_batch()
        self._drops.flush()

    def _with_language(self, document: Document, text: str, size: int) -> Document:
        """Return the document with its normalized text and its language, and a different one that the source states."""
        language = identify_language(text)
        self._stats.languages.setdefault(language, DocumentCount()).add(size)
        return replace(document, text=text, metadata=with_decision(document.metadata, "language", language))

    def _verdict(self, page: PageFeatures) -> tuple[str, str] | None:
        """Return the reason to drop the document of a page and its detail, or None."""
        document = page.document
        if not page.data.strip():
            return "empty", "no text"
        wanted = self._steps.languages
        if isinstance(wanted, tuple) and (language := document.metadata["language"]) not in wanted:
            return "language.other", f"{language}, not {' or '.join(wanted)}"
        return self._filters(page)

    def process_batch(self) -> None:
        """Mask personal data in the waiting documents, drop those with passages of benchmarks, and write the others."""
        batch = self._drop_contaminated(self._drop_erased(self._mask_personal_data()))
        self._parts.add(batch.documents, batch.comparable, batch.words)
        self._waiting, self._waiting_bytes = [], 0

    def _mask_personal_data(self) -> list[tuple[Document, bytes]]:
        documents = [document for document, _ in self._waiting]
        scans = self._scanner([document.text for document in documents], [data for _, data in self._waiting])
        masked_metadata = mask_metadata(documents, self._scanner)
        if not scans and not masked_metadata:
            return self._waiting
        pages = []
        for index, (document, data) in enumerate(self._waiting):
            scan, masked = scans.get(index), masked_metadata.get(index)
            if scan is None and masked is None:
                pages.append((document, data))
                continue
            counts = Counter(scan.counts if scan else {})
            counts.update(masked.counts if masked else {})
            kind = self._scanner.dropped_kind(scan) if scan else None
            self._stats.count_personal_data(counts, dropped=kind is not None)
            if scan and kind is not None:
                verdict = f"personal_data.{kind}", f"contains {scan.counts[kind]} of this kind"
                self.drop(DroppedRecord(document.id, document.source, *verdict), len(data), scan.text)
                continue
            metadata = with_decision(masked.metadata if masked else document.metadata, "masked", dict(counts))
            if scan:
                document, data = replace(document, text=scan.text), scan.text.encode()
            pages.append((replace(document, metadata=metadata), data))
        return pages

    def _drop_erased(self, pages: list[tuple[Document, bytes]]) -> list[tuple[Document, bytes]]:
        """Drop documents whose text is that of an erased document only now that it is repaired and masked."""
        if not self._erased:
            return pages
        kept = []
        for document, data in pages:
            erasure = self._erased.get(content_key(document.text, data).hex())
            if erasure is None:
                kept.append((document, data))
                continue
            detail = f"erasure {erasure.id}, requested by {erasure.who}"
            self.drop(DroppedRecord(document.id, document.source, "erased", detail), len(data), document.text)
        return kept

    def _drop_contaminated(self, pages: list[tuple[Document, bytes]]) -> _Batch:
        documents = [document for document, _ in pages]
        comparable = [comparable_bytes(document.text, data) for document, data in pages]
        needs_words = self._steps.sketches is not None or self._benchmarks is not None
        words = WordBatch.of(comparable) if needs_words else None
        if self._benchmarks is None or words is None:
            return _Batch(documents, comparable, words)
        stays = np.ones(len(pages), bool)
        for index, matches in self._benchmarks.search(words).items():
            document, data = pages[index]
            self._stats.count_contamination(matches)
            if self._steps.keeps_contaminated:
                continue
            stays[index] = False
            verdict = "contaminated", f"contains {matches[0]}"
            self.drop(DroppedRecord(document.id, document.source, *verdict), len(data), document.text)
        kept = np.flatnonzero(stays).tolist()
        return _Batch([documents[i] for i in kept], [comparable[i] for i in kept], words.select(stays))


class _Batch(NamedTuple):
    """Documents that are written together, their texts in the form of `comparable_bytes`, and the words of these."""

    documents: list[Document]
    comparable: list[bytes]
    words: WordBatch | None


def _without_long_texts(rows: Iterable[Document]) -> Iterator[Document]:
    """Divide documents above twice `PART_BYTES` as text files are divided, because features need much memory."""
    for document in rows:
        if len(document.text) < PART_BYTES // 2:
            yield document
            continue
        data = document.text.encode("utf-8", "surrogatepass")
        if len(data) < 2 * PART_BYTES:
            yield document
            continue
        empty = replace(document, text="")
        del document
        for number, (part, _) in enumerate(cut_parts([data]), 1):
            yield replace(empty, id=f"{empty.id}#part{number}", text=part.decode("utf-8", "surrogatepass"))


def _write_atomically(path: Path, data: bytes) -> None:
    half = path.with_suffix(".half")
    half.write_bytes(data)
    half.replace(path)
