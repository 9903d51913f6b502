"""The first pass of curation: read one slice of a source, normalize and filter its text, and store content keys.

Documents that pass the filters are written to part files on disk; dropped documents are written to a second file with
their reason. A finished slice is not processed again after the run was killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import xxhash
import zstandard

from vita.data.content import as_keys, comparable_bytes, key_of_comparable, normalize_text
from vita.data.curation.corpus import ZstdLineWriter, dump, dump_document, dump_drop
from vita.data.curation.filters import FilterChain, FilterUse
from vita.data.curation.near_duplicates import save_sketches
from vita.data.curation.page_features import PageFeatures
from vita.data.curation.shingles import SketchOptions, SketchWriter
from vita.data.records import Document, DroppedRecord
from vita.data.sources.read import SourceSlice, documents
from vita.data.sources.readers import DAMAGED_FILE, PART_BYTES, Row, cut_parts

SAMPLES = 3
"""Number of sample documents in the report for each drop reason."""
_OTHER_REASONS = ("empty", "erased")
_DOCUMENTS_PER_TICK = 200  # documents between two calls of `tick`


def is_filter_rule(reason: str) -> bool:
    """Return True if the drop reason is that of a filter: `filter.rule`."""
    return "." in reason


def is_row_problem(reason: str) -> bool:
    """Return True if the drop reason means that the row or file could not be read."""
    return not is_filter_rule(reason) and reason not in _OTHER_REASONS


@dataclass(frozen=True)
class FilterJob:
    """A slice of a source to filter, and the folder for the output."""

    number: int
    source_slice: SourceSlice
    filters: tuple[FilterUse, ...]
    folder: Path
    part_bytes: int
    """Bytes of text in a part file; limits the memory of the second pass."""
    sketches: SketchOptions | None = None
    """Options of the sketches for the search of near duplicates; None if there is no search."""
    dropped_text: bool = False
    """True to store the text of dropped documents."""


@dataclass
class DocumentCount:
    """A number of documents and the bytes of their text."""

    documents: int = 0
    bytes: int = 0

    def add(self, size: int, documents: int = 1) -> None:
        self.documents += documents
        self.bytes += size


@dataclass
class FilterStats:
    """Counts of read and dropped documents by source, with sample drops that do not depend on the order of work."""

    read: dict[str, DocumentCount] = field(default_factory=dict)
    normalized: dict[str, int] = field(default_factory=dict)
    encodings: dict[str, dict[str, int]] = field(default_factory=dict)
    """source -> encoding other than UTF-8 -> number of documents."""
    dropped: dict[str, dict[str, DocumentCount]] = field(default_factory=dict)
    """source -> drop reason -> count."""
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """drop reason -> the samples with the smallest hash of their id."""
    damaged: list[str] = field(default_factory=list)
    """Files that could not be read to the end, each with its problem."""

    def drop(self, drop: DroppedRecord, *, size: int, text: str) -> None:
        """Count a drop, and store it as a sample if its hash is among the smallest."""
        self.dropped.setdefault(drop.source, {}).setdefault(drop.reason, DocumentCount()).add(size)
        rank = hash_of_id(drop.source, drop.id)
        reason_samples = self.samples.setdefault(drop.reason, [])
        if len(reason_samples) < SAMPLES or rank < reason_samples[-1]["rank"]:
            reason_samples.append({"rank": rank, **asdict(drop), "text": " ".join(text[:600].split())[:160]})
            reason_samples.sort(key=lambda sample: (sample["rank"], sample["id"]))
            del reason_samples[SAMPLES:]

    def merge(self, other: FilterStats) -> None:
        """Add the counts and samples of another slice."""
        for source, count in other.read.items():
            self.read.setdefault(source, DocumentCount()).add(count.bytes, count.documents)
        for source, count in other.normalized.items():
            self.normalized[source] = self.normalized.get(source, 0) + count
        for source, encodings in other.encodings.items():
            counts = self.encodings.setdefault(source, {})
            for encoding, number in encodings.items():
                counts[encoding] = counts.get(encoding, 0) + number
        for source, reasons in other.dropped.items():
            for reason, count in reasons.items():
                self.dropped.setdefault(source, {}).setdefault(reason, DocumentCount()).add(
                    count.bytes, count.documents
                )
        self.damaged += other.damaged
        for reason, samples in other.samples.items():
            candidates = self.samples.get(reason, []) + samples
            self.samples[reason] = sorted(candidates, key=lambda sample: (sample["rank"], sample["id"]))[:SAMPLES]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> FilterStats:
        read = {source: DocumentCount(**count) for source, count in value["read"].items()}
        dropped = {
            source: {reason: DocumentCount(**count) for reason, count in reasons.items()}
            for source, reasons in value["dropped"].items()
        }
        return cls(read, value["normalized"], value["encodings"], dropped, value["samples"], value["damaged"])


@dataclass(frozen=True)
class FilterResult:
    """The result of filtering a slice: its part files in order, the file of its drops, and the counts."""

    number: int
    parts: tuple[Path, ...]
    drops: Path
    stats: FilterStats


def filter_slice(job: FilterJob, tick: Callable[[int], None]) -> FilterResult:
    """Filter the slice of a job, or load the result of an earlier run."""
    result_path = job.folder / f"{job.number:06d}.stats.json"
    if not result_path.exists():
        _filter_slice(job, result_path, tick)
    result = orjson.loads(result_path.read_bytes())
    stats = FilterStats.from_json(result["stats"])
    return FilterResult(job.number, tuple(job.folder / name for name in result["parts"]), _drops_path(job), stats)


def _drops_path(job: FilterJob) -> Path:
    return job.folder / f"{job.number:06d}.drops.jsonl.zst"


def _filter_slice(job: FilterJob, result_path: Path, tick: Callable[[int], None]) -> None:
    stats, filters = FilterStats(), FilterChain(job.filters)
    unreported = 0
    with ZstdLineWriter(_drops_path(job), level=1) as drops, PartWriter(job) as parts:

        def drop(record: DroppedRecord, size: int = 0, text: str = "") -> None:
            stats.drop(record, size=size, text=text)
            if record.reason == DAMAGED_FILE:
                stats.damaged.append(f"{record.id.rpartition(':')[0]}: {record.detail}")
            drops.write(dump_drop(record, text if job.dropped_text else None))

        row: Row | None = None

        def note_row(converted: Row) -> None:
            nonlocal row
            row = converted

        for document in _without_long_texts(documents(job.source_slice, dropped=drop, converted=note_row)):
            text, data = normalize_text(document.text)
            stats.read.setdefault(document.source, DocumentCount()).add(len(data))
            if text is not document.text or (row and row.repaired):
                stats.normalized[document.source] = stats.normalized.get(document.source, 0) + 1
            if row and row.encoding:
                encodings = stats.encodings.setdefault(document.source, {})
                encodings[row.encoding] = encodings.get(row.encoding, 0) + 1
            if text is not document.text:
                document = replace(document, text=text)
            verdict = filters(PageFeatures(document, data)) if data.strip() else ("empty", "no text")
            if verdict is None:
                parts.add(document, data)
            else:
                drop(DroppedRecord(document.id, document.source, *verdict), len(data), text)
            unreported += 1
            if unreported == _DOCUMENTS_PER_TICK:
                tick(unreported)
                unreported = 0
    tick(unreported)
    _write_atomically(result_path, dump({"parts": parts.names, "stats": stats.to_json()}))


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


# -- parts


@dataclass(frozen=True)
class PartTable:
    """The columns of a part's documents, in order, that split assignment needs; the text stays on disk."""

    keys: np.ndarray
    id_hashes: np.ndarray
    sizes: np.ndarray
    sources: list[str]
    source_of: np.ndarray
    licences: list[str | None]
    licence_of: np.ndarray
    ids: list[str]

    @classmethod
    def load(cls, part: Path) -> PartTable:
        with np.load(part.with_suffix(".npz")) as arrays:
            names = orjson.loads(zstandard.decompress(arrays["names"].tobytes()))
            return cls(
                arrays["keys"], arrays["id_hashes"], arrays["sizes"], names["sources"], arrays["source_of"],
                names["licences"], arrays["licence_of"], names["ids"],
            )  # fmt: skip


class PartWriter:
    """A writer of documents into part files of bounded size."""

    def __init__(self, job: FilterJob) -> None:
        self._job = job
        self.names: list[str] = []
        self._open: ZstdLineWriter | None = None

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, document: Document, data: bytes) -> None:
        if self._open is None:
            self._begin()
        assert self._open is not None
        self._open.write(dump_document(document))
        comparable = comparable_bytes(document.text, data)
        self._keys.append(key_of_comparable(comparable))
        if self._sketches:
            self._sketches.add(comparable)
        self._sizes.append(len(data))
        self._ids.append(document.id)
        self._sources.append(document.source)
        self._licences.append(document.licence)
        self._bytes += len(data)
        if self._bytes >= self._job.part_bytes:
            self.close()

    def _begin(self) -> None:
        self.names.append(f"{self._job.number:06d}-{len(self.names):04d}.zst")
        self._open = ZstdLineWriter(self._job.folder / self.names[-1], level=1)
        self._keys: list[bytes] = []
        self._sizes: list[int] = []
        self._ids: list[str] = []
        self._sources: list[str] = []
        self._licences: list[str | None] = []
        self._bytes = 0
        self._sketches = SketchWriter(self._job.sketches) if self._job.sketches else None

    def close(self) -> None:
        if self._open is None:
            return
        self._open.close()
        self._open = None
        if self._sketches and self._job.sketches:
            save_sketches(self._job.folder / self.names[-1], self._sketches.finish(), rows=self._job.sketches.rows)
        sources, source_of = _codes(self._sources)
        licences, licence_of = _codes(self._licences)
        names = zstandard.compress(dump({"sources": sources, "licences": licences, "ids": self._ids}), level=1)
        id_hashes = list(map(hash_of_id, self._sources, self._ids))
        np.savez(
            (self._job.folder / self.names[-1]).with_suffix(".npz"),
            keys=as_keys(self._keys), id_hashes=np.array(id_hashes, np.uint64), sizes=np.array(self._sizes, np.int64),
            source_of=source_of, licence_of=licence_of, names=np.frombuffer(names, np.uint8),
        )  # fmt: skip


def _codes(values: list[Any]) -> tuple[list[Any], np.ndarray]:
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return list(numbers), np.array([numbers[value] for value in values], np.int32)


def hash_of_id(source: str, id: str) -> int:
    """Return a 64-bit hash that is equal for equal ids of a source."""
    return xxhash.xxh64_intdigest(f"{source}\0{id}".encode())


def _write_atomically(path: Path, data: bytes) -> None:
    half = path.with_suffix(".half")
    half.write_bytes(data)
    half.replace(path)
