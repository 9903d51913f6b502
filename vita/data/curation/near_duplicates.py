"""Search of near duplicates: MinHash bands select pairs of documents, and the exact Jaccard index decides.

Documents are processed in order of rank. A document is dropped if the Jaccard index of its shingles and those of an
earlier document *that stays* is at least the threshold. No two documents that stay are therefore near copies, and every
dropped document has a verified copy: similarity is not transitive, and chains of small changes are not merged.

The bands of all documents are read one band at a time, and shingles only for the documents that are compared, so memory
does not grow with the text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt32, UInt64

from vita.data.curation.shingles import ShingleSets, band_keys, signatures
from vita.data.curation.words import MIX_A


class NearDuplicates(NamedTuple):
    """The result of the search for all documents."""

    copy_of: Int64[np.ndarray, "N"]
    """Index of the document that stays; a document's own index if it has no copy before it."""
    jaccard: Float64[np.ndarray, "N"]
    """Jaccard index of the document and its copy; NaN for documents without a copy."""
    num_compared: int
    """Number of compared pairs."""


def save_sketches(path: Path, shingles: ShingleSets, *, rows: int) -> None:
    """Write the shingles and bands of the documents of a part beside its text."""
    np.save(path.with_suffix(".shingles.npy"), shingles.hashes)
    np.save(path.with_suffix(".counts.npy"), shingles.counts)
    np.save(path.with_suffix(".bands.npy"), band_keys(signatures(shingles), rows=rows))


class Sketches:
    """The shingles and bands of all parts; documents are numbered over the parts in order."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self._parts = parts
        counts = [np.load(part.with_suffix(".counts.npy")) for part in parts]
        self.starts = np.cumsum([0, *map(len, counts)])
        self.counts = np.concatenate(counts)
        self._offsets = [np.cumsum(np.concatenate([[0], part_counts])) for part_counts in counts]
        self._shingles = [_memory_map(part.with_suffix(".shingles.npy")) for part in parts]

    @cached_property
    def num_bands(self) -> int:
        return len(_memory_map(self._parts[0].with_suffix(".bands.npy")))

    def band(self, number: int) -> UInt32[np.ndarray, "N"]:
        """Return the keys of a band for all documents."""
        keys = []
        for part, count in zip(self._parts, np.diff(self.starts).tolist(), strict=True):
            path = part.with_suffix(".bands.npy")
            # The bands are the end of the file. Reading its header for each band would take longer than the keys.
            offset = path.stat().st_size - (self.num_bands - number) * count * np.dtype(np.uint32).itemsize
            keys.append(np.fromfile(path, np.uint32, count, offset=offset))
        return np.concatenate(keys)

    def shingles(self, document: int) -> UInt32[np.ndarray, "S"]:
        """Return the distinct shingles of a document in ascending order."""
        part = int(np.searchsorted(self.starts, document, side="right")) - 1
        offsets, row = self._offsets[part], document - self.starts[part]
        return self._shingles[part][offsets[row] : offsets[row + 1]]


def _memory_map(path: Path) -> np.ndarray:
    array = np.load(path, mmap_mode="r")
    return array if array.size else np.asarray(array)


def jaccard_index(first: UInt32[np.ndarray, "A"], second: UInt32[np.ndarray, "B"]) -> float:
    """Return the number of common elements divided by the number of elements in either set."""
    merged = np.sort(np.concatenate([first, second]))
    common = int(np.count_nonzero(merged[1:] == merged[:-1]))
    return common / max(1, len(merged) - common)


def find_near_duplicates(sketches: Sketches, ranked: Int64[np.ndarray, "R"], *, threshold: float) -> NearDuplicates:
    """Find the near duplicates among the documents `ranked`, which are in the order in which they should stay."""
    copy_of = np.arange(len(sketches.counts))
    jaccard = np.full(len(sketches.counts), np.nan)
    ranked = ranked[sketches.counts[ranked] > 0]
    members, groups = _candidate_groups(sketches, ranked)
    kept_of_group: dict[int, list[int]] = defaultdict(list)
    num_compared = 0
    boundaries = np.flatnonzero(np.diff(members, prepend=-1, append=-1))
    for start, stop in zip(boundaries[:-1].tolist(), boundaries[1:].tolist(), strict=True):
        position, document_groups = int(members[start]), groups[start:stop].tolist()
        document = int(ranked[position])
        candidates = sorted(set().union(*(kept_of_group[group] for group in document_groups)))
        shingles = sketches.shingles(document) if candidates else None
        for candidate in candidates:
            other = int(ranked[candidate])
            small, large = sorted((sketches.counts[document], sketches.counts[other]))
            if small < threshold * large:
                continue  # the index is at most the ratio of the sizes
            num_compared += 1
            assert shingles is not None
            similarity = jaccard_index(shingles, sketches.shingles(other))
            if similarity >= threshold:
                copy_of[document], jaccard[document] = other, similarity
                break
        else:
            for group in document_groups:
                kept_of_group[group].append(position)
    return NearDuplicates(copy_of, jaccard, num_compared)


def _candidate_groups(
    sketches: Sketches, ranked: Int64[np.ndarray, "R"]
) -> tuple[Int64[np.ndarray, "M"], Int64[np.ndarray, "M"]]:
    """Return (position in `ranked`, group) of all documents that share a band with another one, in order of position.

    Copies share many bands; equal groups of documents are returned once.
    """
    weights = _weights(len(ranked))
    known = np.zeros(0, np.uint64)
    members: list[np.ndarray] = [np.zeros(0, np.int64)]
    groups: list[np.ndarray] = [np.zeros(0, np.int64)]
    num_groups = 0
    indices = np.arange(len(ranked), dtype=np.uint64)
    for band in range(sketches.num_bands if len(ranked) else 0):
        # A sort of keys with their positions takes a fraction of the time of a stable sort of indices.
        ordered = np.sort((sketches.band(band)[ranked].astype(np.uint64) << np.uint64(32)) | indices)
        keys = (ordered >> np.uint64(32)).astype(np.uint32)
        shared = _in_groups(keys)
        positions, keys = ordered[shared].astype(np.uint32).astype(np.int64), keys[shared]
        if not len(positions):
            continue
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        sizes = np.diff(starts, append=len(keys))
        identities = np.add.reduceat(weights[positions], starts)  # equal for equal sets of documents
        is_new = ~np.isin(identities, known)
        known = np.concatenate([known, identities[is_new]])
        members.append(positions[np.repeat(is_new, sizes)])
        groups.append(np.repeat(num_groups + np.arange(int(is_new.sum())), sizes[is_new]))
        num_groups += int(is_new.sum())
    all_members, all_groups = np.concatenate(members), np.concatenate(groups)
    order = np.argsort(all_members, kind="stable")
    return all_members[order], all_groups[order]


def _in_groups(ordered: UInt32[np.ndarray, "R"]) -> Bool[np.ndarray, "R"]:
    """Return a mask of the values that equal a neighbour."""
    equals_next = np.append(ordered[1:] == ordered[:-1], False)
    return equals_next | np.roll(equals_next, 1)


def _weights(count: int) -> UInt64[np.ndarray, "N"]:
    """Return pseudorandom numbers, whose sums identify sets of documents."""
    values = (np.arange(count, dtype=np.uint64) + np.uint64(1)) * MIX_A
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
