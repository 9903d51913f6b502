"""The second pass of curation: assign each document to training, held out or dropped, and write the splits.

Assignments are computed on arrays of content keys; the text of each part file is then read once more and written.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import orjson
from jaxtyping import Bool, Float64, Int64, UInt64

from vita.data.curation.corpus import ZstdLineWriter, dump, dump_drop, read_lines
from vita.data.curation.dedup import first_equal
from vita.data.curation.filter_stats import SAMPLES, FilterStats
from vita.data.curation.near_duplicates import Sketches, find_near_duplicates
from vita.data.curation.part_files import PartTable, hash_of_id
from vita.data.curation.repeated_text import PartCuts, cut_document
from vita.data.hash_sampling import hash_fractions, held_out_mask, repeat_counts
from vita.data.records import DroppedRecord
from vita.data.sources.erased import text_hash
from vita.spine.erasures import NOT_STATED

_SAMPLED_SOURCES = 10
"""Sources with the most training documents, of which the report has samples."""


@dataclass(frozen=True)
class SplitOptions:
    """The settings of split assignment."""

    deduplicate: Literal["near", "exact", "none"]
    """The documents that are dropped as duplicates: near copies as well, equal texts only, or none."""
    threshold: float
    """Jaccard index from which documents are near copies."""
    held_out: float
    """A share of the documents if below 1, otherwise a number of documents."""
    seed: int
    end_pieces: int = 0
    """Number of last documents that are the end of a single text and are held out instead of a sample."""


@dataclass(frozen=True)
class SplitAssignments:
    """The split assignment of each document; all parts are concatenated."""

    first: Int64[np.ndarray, "N"]
    """The index of the document that stays in place of this one; its own index if it is no duplicate."""
    jaccard: Float64[np.ndarray, "N"]
    """Jaccard index of a near duplicate and the document that stays; NaN for all others."""
    held_out: Bool[np.ndarray, "N"]
    repeat_counts: Int64[np.ndarray, "N"]
    """Number of times that the document occurs in the training text."""
    new_ids: Mapping[int, str]
    """Document index -> new id, where another text of the same source has the same id."""

    @property
    def repeated(self) -> Bool[np.ndarray, "N"]:
        return self.first != np.arange(len(self.first))


def assign_splits(
    tables: Sequence[PartTable],
    settings: SplitOptions,
    *,
    repeat: Float64[np.ndarray, "P"],
    reserved: Bool[np.ndarray, "P"],
    sketches: Sketches | None = None,
) -> SplitAssignments:
    """Assign the documents of all parts to splits; `repeat` and `reserved` (held out entirely) have one value per part.

    Equal texts are always in the same split, with and without deduplication. Documents are held out after the
    deduplication, so that no near copy of a held-out document is in training. `sketches` are needed to find near
    duplicates.
    """
    counts = [len(table.sizes) for table in tables]
    keys = np.concatenate([table.keys for table in tables])
    reserved = np.repeat(reserved, counts)
    # Held-out documents come first, so that the copy in training is dropped.
    equal = first_equal(keys, rank=(~reserved).astype(np.int8))
    first, jaccard = np.arange(len(keys)), np.full(len(keys), np.nan)
    if settings.deduplicate != "none":
        first = equal
    if settings.deduplicate == "near":
        assert sketches is not None, "near duplicates are found by sketches"
        stays = np.flatnonzero(equal == np.arange(len(keys)))
        ranked = stays[np.argsort(~reserved[stays], kind="stable")]
        near = find_near_duplicates(sketches, ranked, threshold=settings.threshold)
        first, jaccard = near.copy_of[equal], near.jaccard[equal]
    is_first = first == np.arange(len(keys))
    candidates = ~reserved[equal]
    eligible = candidates & is_first
    held_out = ~candidates
    fractions = hash_fractions(keys[eligible], seed=settings.seed, purpose=1)
    selected = held_out_mask(fractions, settings.held_out)
    if selected.all() and settings.held_out < 1 and not reserved.any():
        # A share below 1 is not all: one text is used for training, and the text if there is only one.
        selected[fractions == fractions.max(initial=0)] = False
    if settings.end_pieces:
        selected = np.flatnonzero(eligible) >= len(keys) - settings.end_pieces
    held_out[np.flatnonzero(eligible)[selected]] = True
    repetitions = repeat_counts(hash_fractions(keys, seed=settings.seed, purpose=2), np.repeat(repeat, counts))
    repetitions[~is_first | held_out] = 0
    return SplitAssignments(first, jaccard, held_out & is_first, repetitions, _unique_ids(tables, is_first))


def _unique_ids(tables: Sequence[PartTable], is_first: Bool[np.ndarray, "N"]) -> dict[int, str]:
    """Return new ids for documents whose id another document of their source has: the next free `id#2`, `id#3`."""
    hashes = np.concatenate([table.id_hashes for table in tables])
    duplicates = np.flatnonzero(is_first)[_occurrences(hashes[is_first]) > 0]
    if not len(duplicates):
        return {}
    used_hashes = np.unique(hashes)  # includes dropped documents, so that an id in the drops is unique
    part_starts = part_starts_of(tables)
    new_ids: dict[int, str] = {}
    assigned: set[int] = set()
    counts: dict[int, int] = {}
    for document, part in zip(
        duplicates.tolist(), (np.searchsorted(part_starts, duplicates, side="right") - 1).tolist(), strict=True
    ):
        table, row = tables[part], document - part_starts[part]
        count = counts.get(int(hashes[document]), 1)
        while True:
            count += 1
            new_id = f"{table.ids[row]}#{count}"
            new_hash = hash_of_id(table.sources[table.source_of[row]], new_id)
            position = int(np.searchsorted(used_hashes, np.uint64(new_hash)))
            if new_hash not in assigned and (position == len(used_hashes) or used_hashes[position] != new_hash):
                break
        counts[int(hashes[document])] = count
        assigned.add(new_hash)
        new_ids[document] = new_id
    return new_ids


def part_starts_of(tables: Sequence[PartTable]) -> list[int]:
    """Return the index of the first document of each part, followed by the total."""
    return [0, *itertools.accumulate(len(table.sizes) for table in tables)]


def _occurrences(hashes: UInt64[np.ndarray, "K"]) -> Int64[np.ndarray, "K"]:
    """Return how often each hash occurred before."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    is_group_start = np.ones(len(hashes), bool)
    is_group_start[1:] = ordered[1:] != ordered[:-1]
    positions = np.arange(len(hashes))
    counts = np.empty(len(hashes), np.int64)
    counts[order] = positions - np.maximum.accumulate(np.where(is_group_start, positions, 0))
    return counts


# -- writing one part


@dataclass(frozen=True)
class SplitJob:
    """The job for a part: its assignments, and the training file of each repetition (None if it has no documents)."""

    part: Path
    train: tuple[Path | None, ...]
    assignments: SplitAssignments
    start_index: int
    """Index of the part's first document among all documents."""
    first_ids: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Index of a first document -> its (source, id), for each duplicate in this part."""
    dropped_text: bool = False
    """True to store the text of dropped documents."""
    cuts: PartCuts | None = None
    """The repeated text to cut."""
    samples: frozenset[int] = frozenset()
    """Numbers of the documents of this part that are samples for the report."""


@dataclass(frozen=True)
class SplitResult:
    """The lines that are written to files shared by all parts, the counts, and the sizes of changed documents."""

    held_out: list[bytes]
    drops: list[bytes]
    stats: FilterStats
    sizes: dict[int, int] = field(default_factory=dict)
    """Index among all documents -> bytes of text after the cuts; 0 for a document of which no text is left."""


def split_jobs(
    parts: Sequence[Path],
    tables: Sequence[PartTable],
    assignments: SplitAssignments,
    folder: Path,
    *,
    dropped_text: bool = False,
    cuts: Sequence[PartCuts] = (),
) -> list[SplitJob]:
    """Return the job of each part; training files are numbered over all parts and repetitions."""
    part_starts = part_starts_of(tables)
    repeated = np.flatnonzero(assignments.repeated)
    first_ids = _ids_of(np.unique(assignments.first[repeated]), tables, part_starts)
    first_ids |= {
        at: (first_ids[at][0], assignments.new_ids[at]) for at in first_ids.keys() & assignments.new_ids.keys()
    }
    samples = _sampled(tables, assignments)
    numbers = itertools.count()
    highest_count = int(assignments.repeat_counts.max())
    # Each repetition covers all parts before the next one begins, so that repeats of a text are far apart.
    files: list[list[Path | None]] = [[] for _ in parts]
    for repetition in range(highest_count):
        for index in range(len(parts)):
            has_documents = (assignments.repeat_counts[part_starts[index] : part_starts[index + 1]] > repetition).any()
            files[index].append(folder / "train" / f"{next(numbers):05d}.jsonl.zst" if has_documents else None)
    jobs = []
    for index, part in enumerate(parts):
        part_assignments = _slice_assignments(assignments, part_starts[index], part_starts[index + 1])
        repeated_documents = part_assignments.first[
            part_assignments.first != np.arange(part_starts[index], part_starts[index + 1])
        ]
        ids = {int(first): first_ids[int(first)] for first in repeated_documents}
        part_cuts = cuts[index] if cuts else None
        inside = samples[(samples >= part_starts[index]) & (samples < part_starts[index + 1])] - part_starts[index]
        jobs.append(
            SplitJob(
                part, tuple(files[index]), part_assignments, part_starts[index], ids, dropped_text, part_cuts,
                frozenset(inside.tolist()),
            )
        )  # fmt: skip
    return jobs


def _sampled(tables: Sequence[PartTable], assignments: SplitAssignments) -> Int64[np.ndarray, "S"]:
    """Return the training documents with the smallest hash of the id, a few for each of the sources with the most."""
    sources: dict[str, int] = {}
    numbers = [np.array([sources.setdefault(name, len(sources)) for name in table.sources], int) for table in tables]
    source_of = np.concatenate([number[table.source_of] for number, table in zip(numbers, tables, strict=True)])
    training = np.flatnonzero(assignments.repeat_counts > 0)
    hashes = np.concatenate([table.id_hashes for table in tables])
    counts = np.bincount(source_of[training], minlength=len(sources))
    largest = np.argsort(-counts, kind="stable")[:_SAMPLED_SOURCES]
    chosen = []
    for source in largest.tolist():
        documents = training[source_of[training] == source]
        chosen.append(documents[np.argsort(hashes[documents], kind="stable")[:SAMPLES]])
    return np.sort(np.concatenate(chosen))


def _ids_of(documents: np.ndarray, tables: Sequence[PartTable], part_starts: list[int]) -> dict[int, tuple[str, str]]:
    """Return document index -> (source, original id)."""
    parts = np.searchsorted(part_starts, documents, side="right") - 1
    ids = {}
    for document, part in zip(documents.tolist(), parts.tolist(), strict=True):
        table, row = tables[part], document - part_starts[part]
        ids[document] = (table.sources[table.source_of[row]], table.ids[row])
    return ids


def write_splits(job: SplitJob, tick: Callable[[int], None]) -> SplitResult:
    """Write the training files of a part and return its held-out lines and drops."""
    assignments, result = job.assignments, SplitResult([], [], FilterStats())
    shards = [ZstdLineWriter(path) if path else None for path in job.train]
    for number, line in enumerate(read_lines(job.part)):
        first, repeat_count = int(assignments.first[number]), int(assignments.repeat_counts[number])
        if (new_id := assignments.new_ids.get(job.start_index + number)) is not None:
            line = _renamed(line, new_id)
        if job.cuts and number in job.cuts:
            row = cut_document(orjson.loads(line), job.cuts, number, result.stats)
            result.sizes[job.start_index + number] = len(row["text"].encode())
            if not row["text"]:
                detail = "all of its text occurs in documents before it"
                _record_drop(result, line, "repeated_text", detail, keep_text=job.dropped_text)
                continue
            line = dump(row)
        if first != job.start_index + number:
            original, jaccard = job.first_ids[first], float(assignments.jaccard[number])
            reason, detail = "duplicate", f"repeats {original[1]}"
            if not math.isnan(jaccard):
                reason, detail = "near_duplicate", f"Jaccard index {jaccard:.4f} with {original[1]}"
            _record_drop(result, line, reason, detail, repeats=original, keep_text=job.dropped_text)
        elif assignments.held_out[number]:
            result.held_out.append(line)
        elif not repeat_count:
            detail = "not selected for the fractional part of `repeat`"
            _record_drop(result, line, "repeat", detail, keep_text=job.dropped_text)
        if number in job.samples:
            row = orjson.loads(line)
            result.stats.keep(row["source"], row["id"], row["text"])
        for shard in shards[:repeat_count]:
            assert shard is not None, "a repetition with documents has a file"
            shard.write(line)
    for shard in shards:
        if shard:
            shard.close()
    tick(len(assignments.first))
    return result


def _slice_assignments(assignments: SplitAssignments, start: int, stop: int) -> SplitAssignments:
    """Return the assignments of a range of documents; `first` and `new_ids` keep indices over all parts."""
    selection = slice(start, stop)
    new_ids = {index: id for index, id in assignments.new_ids.items() if start <= index < stop}
    return SplitAssignments(
        assignments.first[selection], assignments.jaccard[selection], assignments.held_out[selection],
        assignments.repeat_counts[selection], new_ids,
    )  # fmt: skip


def _renamed(line: bytes, new_id: str) -> bytes:
    return dump({**orjson.loads(line), "id": new_id})


def _record_drop(
    result: SplitResult,
    line: bytes,
    reason: str,
    detail: str,
    *,
    repeats: tuple[str, str] | None = None,
    keep_text: bool = False,
) -> None:
    row = orjson.loads(line)
    content = text_hash(row["text"]) if reason == "near_duplicate" else None
    licence = row["licence"] or NOT_STATED
    drop = DroppedRecord(row["id"], row["source"], reason, detail, repeats, content, licence=licence)
    result.stats.drop(drop, size=len(row["text"].encode()), text=row["text"])
    result.drops.append(dump_drop(drop, row["text"] if keep_text else None))
