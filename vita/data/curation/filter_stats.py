"""Counts of read and dropped documents by source and reason, with samples, which are merged over all slices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from vita.data.curation.decontamination import Match
from vita.data.curation.part_files import hash_of_id
from vita.data.record_rights import GIVEN, REFUSED, Rights
from vita.data.records import DroppedRecord

SAMPLES = 3
"""Number of sample documents in the report for each drop reason, and of kept ones for each source."""


@dataclass
class DocumentCount:
    """A number of documents and the bytes of their text."""

    documents: int = 0
    bytes: int = 0

    def add(self, size: int, documents: int = 1) -> None:
        self.documents += documents
        self.bytes += size


def count_document(counts: dict[str, DocumentCount], name: str, size: int) -> None:
    """Count a document under a name."""
    count = counts.get(name)
    if count is None:
        count = counts[name] = DocumentCount()
    count.documents += 1
    count.bytes += size


@dataclass
class ValueCount:
    """A number of values of personal data, and of the documents that contain them."""

    values: int = 0
    documents: int = 0
    dropped_documents: int = 0

    def add(self, other: ValueCount) -> None:
        self.values += other.values
        self.documents += other.documents
        self.dropped_documents += other.dropped_documents


@dataclass
class BenchmarkHits:
    """The documents that contain passages of a benchmark, and the numbers of the benchmark's items."""

    documents: int = 0
    items: list[int] = field(default_factory=list)

    def add(self, documents: int, items: Iterable[int]) -> None:
        self.documents += documents
        self.items = sorted({*self.items, *items})


@dataclass
class CutCount:
    """The ranges of repeated text of a kind that were cut, the documents that contain them, and sample texts."""

    ranges: int = 0
    documents: int = 0
    bytes: int = 0
    samples: list[dict[str, Any]] = field(default_factory=list)
    """The samples with the smallest hash of the document's id."""

    def add(self, other: CutCount) -> None:
        self.ranges += other.ranges
        self.documents += other.documents
        self.bytes += other.bytes
        self.samples = _smallest(self.samples + other.samples)


@dataclass
class FilterStats:
    """Counts of read and dropped documents by source, with sample drops that do not depend on the order of work."""

    read: dict[str, DocumentCount] = field(default_factory=dict)
    normalized: dict[str, int] = field(default_factory=dict)
    encodings: dict[str, dict[str, int]] = field(default_factory=dict)
    """source -> encoding other than UTF-8 -> number of documents."""
    repaired: dict[str, int] = field(default_factory=dict)
    """source -> documents whose encoding was repaired."""
    unusable_ids: dict[str, int] = field(default_factory=dict)
    """source -> documents whose `id` cannot be an id, and is replaced by the file and row."""
    languages: dict[str, DocumentCount] = field(default_factory=dict)
    """language -> documents that were read."""
    dropped: dict[str, dict[str, DocumentCount]] = field(default_factory=dict)
    """source -> drop reason -> count."""
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """drop reason -> the samples with the smallest hash of their id."""
    kept: list[dict[str, Any]] = field(default_factory=list)
    """Samples of documents of the corpus, as they are after all steps."""
    rights: dict[str, DocumentCount] = field(default_factory=dict)
    """Statement of rights, such as `opted out` and `consent given` -> documents of sources that state it."""
    damaged: list[str] = field(default_factory=list)
    """Files that could not be read to the end, each with its problem."""
    personal_data: dict[str, ValueCount] = field(default_factory=dict)
    """Kind of personal data -> count."""
    contamination: dict[str, BenchmarkHits] = field(default_factory=dict)
    """Benchmark -> hits."""
    cuts: dict[str, CutCount] = field(default_factory=dict)
    """Kind of repeated text -> count."""

    def count_rights(self, rights: Rights, size: int) -> None:
        """Count the statements of a document about an opt-out and consent."""
        if rights.opt_out is not None:
            self.rights.setdefault("opted out" if rights.opt_out else "no opt-out", DocumentCount()).add(size)
        if rights.consent is not None:
            statement = rights.consent if rights.consent in (GIVEN, REFUSED) else "with other text"
            self.rights.setdefault(f"consent {statement}", DocumentCount()).add(size)

    def count_personal_data(self, counts: Mapping[str, int], *, dropped: bool) -> None:
        """Count the personal data of a document, by kind."""
        for kind, values in counts.items():
            self.personal_data.setdefault(kind, ValueCount()).add(ValueCount(values, 1, int(dropped)))

    def count_contamination(self, matches: Sequence[Match]) -> None:
        """Count the passages of benchmarks in a document."""
        for benchmark in dict.fromkeys(match.benchmark for match in matches):
            items = [match.item for match in matches if match.benchmark == benchmark]
            self.contamination.setdefault(benchmark, BenchmarkHits()).add(1, items)

    def count_cuts(self, kind: str, *, id: str, source: str, texts: Sequence[str]) -> None:
        """Count the repeated texts of a kind that were cut from a document."""
        size = sum(len(text.encode()) for text in texts)
        sample = {"rank": hash_of_id(source, id), "id": id, "source": source, "text": _excerpt(texts[0])}
        self.cuts.setdefault(kind, CutCount()).add(CutCount(len(texts), 1, size, [sample]))

    def drop(self, drop: DroppedRecord, *, size: int, text: str) -> None:
        """Count a drop, and store it as a sample if its hash is among the smallest."""
        self.dropped.setdefault(drop.source, {}).setdefault(drop.reason, DocumentCount()).add(size)
        rank = hash_of_id(drop.source, drop.id)
        reason_samples = self.samples.setdefault(drop.reason, [])
        if len(reason_samples) < SAMPLES or rank < reason_samples[-1]["rank"]:
            reason_samples.append({"rank": rank, **asdict(drop), "text": _excerpt(text)})
            self.samples[drop.reason] = _smallest(reason_samples)

    def keep(self, source: str, id: str, text: str) -> None:
        """Store a document of the corpus as a sample."""
        self.kept.append({"source": source, "id": id, "text": _excerpt(text)})

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
        for source, count in other.repaired.items():
            self.repaired[source] = self.repaired.get(source, 0) + count
        for source, count in other.unusable_ids.items():
            self.unusable_ids[source] = self.unusable_ids.get(source, 0) + count
        for language, count in other.languages.items():
            self.languages.setdefault(language, DocumentCount()).add(count.bytes, count.documents)
        for source, reasons in other.dropped.items():
            for reason, count in reasons.items():
                self.dropped.setdefault(source, {}).setdefault(reason, DocumentCount()).add(
                    count.bytes, count.documents
                )
        for statement, count in other.rights.items():
            self.rights.setdefault(statement, DocumentCount()).add(count.bytes, count.documents)
        self.damaged += other.damaged
        for kind, count in other.personal_data.items():
            self.personal_data.setdefault(kind, ValueCount()).add(count)
        for benchmark, hits in other.contamination.items():
            self.contamination.setdefault(benchmark, BenchmarkHits()).add(hits.documents, hits.items)
        for reason, samples in other.samples.items():
            self.samples[reason] = _smallest(self.samples.get(reason, []) + samples)
        for kind, count in other.cuts.items():
            self.cuts.setdefault(kind, CutCount()).add(count)
        self.kept += other.kept

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> FilterStats:
        read = {source: DocumentCount(**count) for source, count in value["read"].items()}
        dropped = {
            source: {reason: DocumentCount(**count) for reason, count in reasons.items()}
            for source, reasons in value["dropped"].items()
        }
        return cls(
            read=read,
            normalized=value["normalized"],
            encodings=value["encodings"],
            repaired=value["repaired"],
            unusable_ids=value["unusable_ids"],
            languages={name: DocumentCount(**count) for name, count in value["languages"].items()},
            dropped=dropped,
            samples=value["samples"],
            kept=value["kept"],
            rights={name: DocumentCount(**count) for name, count in value["rights"].items()},
            damaged=value["damaged"],
            personal_data={kind: ValueCount(**count) for kind, count in value["personal_data"].items()},
            cuts={kind: CutCount(**count) for kind, count in value["cuts"].items()},
            contamination={name: BenchmarkHits(**hits) for name, hits in value["contamination"].items()},
        )


def _smallest(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(samples, key=lambda sample: (sample["rank"], sample["id"]))[:SAMPLES]


def _excerpt(text: str) -> str:
    return " ".join(text[:600].split())[:160]
