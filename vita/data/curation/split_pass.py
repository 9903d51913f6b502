"""The second pass of curation: with every key known, each document is placed in training, held out, or dropped.

Decisions are made on arrays of keys; the text of a part is read once more, to be written where it belongs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson
from jaxtyping import Bool, Float64, Int64, UInt64

from vita.data.curation.corpus import ZstdLines, dump, dump_drop, read_lines
from vita.data.curation.dedup import first_equal
from vita.data.curation.filter_pass import PartTable, Tally, hash_of_id
from vita.data.hash_sampling import draw, hold_out, passes
from vita.data.records import Drop


@dataclass(frozen=True)
class Wanted:
    """What the decisions follow."""

    deduplicate: bool
    held_out: float
    """A share below 1, a number of documents from 1 on."""
    seed: int


@dataclass(frozen=True)
class Decisions:
    """What becomes of each document, all parts in one row."""

    first: Int64[np.ndarray, "N"]
    """The document that this one repeats; itself where it repeats none."""
    held_out: Bool[np.ndarray, "N"]
    passes: Int64[np.ndarray, "N"]
    """How often it stands in the training text."""
    new_ids: Mapping[int, str]
    """Document -> its new id, where another text of the same source has its id."""

    @property
    def repeated(self) -> Bool[np.ndarray, "N"]:
        return self.first != np.arange(len(self.first))


def decide(
    tables: Sequence[PartTable], wanted: Wanted, *, repeat: Float64[np.ndarray, "P"], reserved: Bool[np.ndarray, "P"]
) -> Decisions:
    """Decide for the documents of all parts; `repeat` and `reserved` (wholly held out) are given by part.

    Equal texts are never on both sides, whether or not they are deduplicated.
    """
    counts = [len(table.sizes) for table in tables]
    keys = np.concatenate([table.keys for table in tables])
    reserved = np.repeat(reserved, counts)
    # Held-out documents come first, so that the copy in training is the one to go.
    first = first_equal(keys, rank=(~reserved).astype(np.int8))
    candidates = ~reserved[first]
    held_out = ~candidates
    chosen = hold_out(draw(keys[candidates], seed=wanted.seed, purpose=1), wanted.held_out)
    if chosen.all() and wanted.held_out < 1 and not reserved.any():
        chosen[:] = False  # a share of a single text: training on it is what was asked for
    held_out[np.flatnonzero(candidates)[chosen]] = True
    if not wanted.deduplicate:
        first = np.arange(len(keys))
    kept = first == np.arange(len(keys))
    times = passes(draw(keys, seed=wanted.seed, purpose=2), np.repeat(repeat, counts))
    times[~kept | held_out] = 0
    return Decisions(first, held_out & kept, times, _unique_ids(tables, kept))


def _unique_ids(tables: Sequence[PartTable], kept: Bool[np.ndarray, "N"]) -> dict[int, str]:
    """New ids for kept documents whose id another kept text of their source has: the next free `id#2`, `id#3`."""
    hashes = np.concatenate([table.id_hashes for table in tables])
    again = np.flatnonzero(kept)[_occurrences(hashes[kept]) > 0]
    if not len(again):
        return {}
    taken = np.unique(hashes)  # also of dropped documents, so that an id in the drops means one document
    begins = _begins(tables)
    new_ids: dict[int, str] = {}
    assigned: set[int] = set()
    counts: dict[int, int] = {}
    for document, part in zip(again.tolist(), (np.searchsorted(begins, again, side="right") - 1).tolist(), strict=True):
        table, row = tables[part], document - begins[part]
        count = counts.get(int(hashes[document]), 1)
        while True:
            count += 1
            new_id = f"{table.ids[row]}#{count}"
            new_hash = hash_of_id(table.sources[table.source_of[row]], new_id)
            at = int(np.searchsorted(taken, np.uint64(new_hash)))
            if new_hash not in assigned and (at == len(taken) or taken[at] != new_hash):
                break
        counts[int(hashes[document])] = count
        assigned.add(new_hash)
        new_ids[document] = new_id
    return new_ids


def _begins(tables: Sequence[PartTable]) -> list[int]:
    """The first document of each part, and the end of the last."""
    return [0, *itertools.accumulate(len(table.sizes) for table in tables)]


def _occurrences(hashes: UInt64[np.ndarray, "K"]) -> Int64[np.ndarray, "K"]:
    """How often each hash came before."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    begins = np.ones(len(hashes), bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    places = np.arange(len(hashes))
    answer = np.empty(len(hashes), np.int64)
    answer[order] = places - np.maximum.accumulate(np.where(begins, places, 0))
    return answer


# -- writing one part


@dataclass(frozen=True)
class Placing:
    """A part, what becomes of each of its documents, and the file of each pass (None where that pass has none)."""

    part: Path
    train: tuple[Path | None, ...]
    decisions: Decisions
    begins: int
    """Its first document among those of all parts."""
    first_ids: dict[int, tuple[str, str]] = field(default_factory=dict)
    """(source, id) of each document that one of this part repeats."""


@dataclass(frozen=True)
class Placed:
    """What does not go into the part's own files."""

    held_out: list[bytes]
    drops: list[bytes]
    tally: Tally


def placings_of(
    parts: Sequence[Path], tables: Sequence[PartTable], decisions: Decisions, folder: Path
) -> list[Placing]:
    """The job of each part; its training files are numbered over all parts and passes."""
    begins = _begins(tables)
    repeated = np.flatnonzero(decisions.repeated)
    first_ids = _ids_of(np.unique(decisions.first[repeated]), tables, begins)
    first_ids |= {at: (first_ids[at][0], decisions.new_ids[at]) for at in first_ids.keys() & decisions.new_ids.keys()}
    numbers = itertools.count()
    most = int(decisions.passes.max())
    # Every pass over all parts comes before the next pass, so that repeats of a text lie far apart.
    files: list[list[Path | None]] = [[] for _ in parts]
    for time_over in range(most):
        for index in range(len(parts)):
            any_left = (decisions.passes[begins[index] : begins[index + 1]] > time_over).any()
            files[index].append(folder / "train" / f"{next(numbers):05d}.jsonl.zst" if any_left else None)
    placings = []
    for index, part in enumerate(parts):
        own = _cut(decisions, begins[index], begins[index + 1])
        needed = own.first[own.first != np.arange(begins[index], begins[index + 1])]
        ids = {int(first): first_ids[int(first)] for first in needed}
        placings.append(Placing(part, tuple(files[index]), own, begins[index], ids))
    return placings


def _ids_of(documents: np.ndarray, tables: Sequence[PartTable], begins: list[int]) -> dict[int, tuple[str, str]]:
    """Document -> (source, id as it was read)."""
    parts = np.searchsorted(begins, documents, side="right") - 1
    answer = {}
    for document, part in zip(documents.tolist(), parts.tolist(), strict=True):
        table, row = tables[part], document - begins[part]
        answer[document] = (table.sources[table.source_of[row]], table.ids[row])
    return answer


def place(job: Placing, tick: Callable[[int], None]) -> Placed:
    """Write a part's training files; hand back its held-out lines and its drops."""
    decisions, placed = job.decisions, Placed([], [], Tally())
    shards = [ZstdLines(path) if path else None for path in job.train]
    for number, line in enumerate(read_lines(job.part)):
        first, times = int(decisions.first[number]), int(decisions.passes[number])
        if (new_id := decisions.new_ids.get(job.begins + number)) is not None:
            line = _renamed(line, new_id)
        if first != job.begins + number:
            original = job.first_ids[first]
            _drop(placed, line, "duplicate", f"repeats {original[1]}", repeats=original)
        elif decisions.held_out[number]:
            placed.held_out.append(line)
        elif not times:
            _drop(placed, line, "repeat", "not among those drawn for this share of a pass")
        for shard in shards[:times]:
            assert shard is not None, "a pass with documents has a file"
            shard.write(line)
    for shard in shards:
        if shard:
            shard.close()
    tick(len(decisions.first))
    return placed


def _cut(decisions: Decisions, begins: int, ends: int) -> Decisions:
    """The decisions for some documents in a row; `first` and `new_ids` still count over all."""
    cut = slice(begins, ends)
    new_ids = {at: id for at, id in decisions.new_ids.items() if begins <= at < ends}
    return Decisions(decisions.first[cut], decisions.held_out[cut], decisions.passes[cut], new_ids)


def _renamed(line: bytes, new_id: str) -> bytes:
    return dump({**orjson.loads(line), "id": new_id})


def _drop(placed: Placed, line: bytes, reason: str, detail: str, *, repeats: tuple[str, str] | None = None) -> None:
    row = orjson.loads(line)
    drop = Drop(row["id"], row["source"], reason, detail, repeats)
    placed.tally.drop(drop, size=len(row["text"].encode()), text=row["text"])
    placed.drops.append(dump_drop(drop))
