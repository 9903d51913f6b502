"""Search of text that occurs several times in the corpus: paragraphs, lines, and long runs of words.

The documents of the corpus are compared in order, held-out documents first, so that text of a held-out document is cut
from training. All three kinds are searched in the texts as they are before any cut. A cut range equals an earlier one,
so every text stays in the corpus at least once.

A run of words is cut where each of its windows of `min_words` words occurred before (Lee et al. 2022, "Deduplicating
training data makes language models better", section 4.1: substrings of 50 tokens). Windows with equal hashes are
compared by their text.

Memory is bounded by the number of keys: keys are sorted in ranges of their values, about `KEYS_AT_ONCE` at a time.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from vita.data.curation.deduplication import UNIT_KINDS, RepeatOptions
from vita.data.curation.filter_stats import FilterStats
from vita.data.curation.text_units import word_starts

KEYS_AT_ONCE = 2**21
"""Approximate number of keys that are sorted at once."""


class DocumentOrder(NamedTuple):
    """The order in which the documents of all parts are compared."""

    ranks: Int64[np.ndarray, "N"]
    """Position of each document; -1 for documents that are not in the corpus."""
    complete: Bool[np.ndarray, "N"]
    """True for documents that are never cut."""
    part_starts: Sequence[int]
    """Index of the first document of each part."""


@dataclass
class PartCuts:
    """The ranges to cut in the documents of a part, by kind and row of the document."""

    units: dict[str, dict[int, list[tuple[int, int]]]] = field(default_factory=dict)
    """Kind -> row -> ranges of characters."""
    words: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """Row -> ranges of words."""

    def __contains__(self, row: int) -> bool:
        """Return True if something is cut from the document at `row`."""
        return row in self.words or any(row in rows for rows in self.units.values())

    def of(self, row: int, text: str) -> dict[str, list[tuple[int, int]]]:
        """Return kind -> ranges of characters to cut in a document."""
        ranges = {kind: rows[row] for kind, rows in self.units.items() if row in rows}
        if row in self.words:
            starts = [*word_starts(text), len(text)]
            ranges["substrings"] = [(starts[first], starts[stop]) for first, stop in self.words[row]]
        return ranges


def find_repeated_text(parts: Sequence[Path], options: RepeatOptions, order: DocumentOrder) -> list[PartCuts]:
    """Return the ranges to cut in each part."""
    cuts = [PartCuts() for _ in parts]
    for kind in UNIT_KINDS:
        if (unit_options := options.units(kind)) is not None:
            _find_units(parts, kind, order, unit_options.max_occurrences, cuts)
    if options.substrings:
        _find_windows(parts, options.substrings.min_words, order, options.substrings.max_occurrences, cuts)
    return cuts


def cut_document(row: dict[str, Any], cuts: PartCuts, number: int, stats: FilterStats) -> dict[str, Any]:
    """Return the row of a document without its repeated text; `metadata.cut` records the ranges of characters.

    The ranges refer to the text before the cuts. The text is empty if all of it is repeated.
    """
    text, ranges = row["text"], cuts.of(number, row["text"])
    for kind, kind_ranges in ranges.items():
        cut_texts = [text[start:stop] for start, stop in kind_ranges]
        stats.count_cuts(kind, id=row["id"], source=row["source"], texts=cut_texts)
    shortened = cut_ranges(text, [pair for kind_ranges in ranges.values() for pair in kind_ranges])
    return {**row, "text": shortened, "metadata": {**row["metadata"], "cut": ranges}}


def cut_ranges(text: str, ranges: Sequence[tuple[int, int]]) -> str:
    """Return the text without the ranges of characters, which may overlap."""
    pieces, position = [], 0
    for start, stop in sorted(ranges):
        pieces.append(text[position:start])
        position = max(position, stop)
    pieces.append(text[position:])
    return "".join(pieces).strip()


# -- paragraphs and lines


def _find_units(
    parts: Sequence[Path], kind: str, order: DocumentOrder, max_occurrences: int, cuts: list[PartCuts]
) -> None:
    keys = [_memory_map(part.with_suffix(f".{kind}.keys.npy")) for part in parts]
    positions = [_memory_map(part.with_suffix(f".{kind}.positions.npy")) for part in parts]
    repeated = [np.zeros(len(part_keys), bool) for part_keys in keys]
    for entries in _entries(keys, lambda part, indices: positions[part][indices, 0], order):
        _mark(repeated, entries, entries.occurrences() >= max_occurrences, order)
    for part, mask in enumerate(repeated):
        rows: dict[int, list[tuple[int, int]]] = {}
        for row, start, stop in positions[part][mask].tolist():
            rows.setdefault(row, []).append((start, stop))
        cuts[part].units[kind] = rows


# -- runs of words


def _find_windows(
    parts: Sequence[Path], size: int, order: DocumentOrder, max_occurrences: int, cuts: list[PartCuts]
) -> None:
    windows = [_Windows(part, size) for part in parts]
    repeated = [np.zeros(len(part.hashes), bool) for part in windows]
    for entries in _entries([part.hashes for part in windows], lambda part, at: windows[part].rows(at), order):
        occurrences = _verified_occurrences(entries, windows)
        _mark(repeated, entries, occurrences >= max_occurrences, order)
    for part, mask in enumerate(repeated):
        cuts[part].words = windows[part].word_ranges(np.flatnonzero(mask))


class _Windows:
    """The windows of words of a part."""

    def __init__(self, part: Path, size: int) -> None:
        self._size = size
        self.hashes = _memory_map(part.with_suffix(".windows.npy"))[:, None]
        self._offsets = _memory_map(part.with_suffix(".offsets.npy"))
        self._text = _mapped_bytes(part.with_suffix(".words.txt"))
        counts = np.load(part.with_suffix(".counts.words.npy"))
        self._first_words = np.concatenate([[0], np.cumsum(counts)])
        self._first_windows = np.concatenate([[0], np.cumsum(np.maximum(0, counts - size + 1))])

    def rows(self, windows: Int64[np.ndarray, "E"]) -> Int64[np.ndarray, "E"]:
        """Return the row of the document of each window."""
        return np.searchsorted(self._first_windows, windows, side="right") - 1

    def text(self, window: int) -> bytes:
        """Return the words of a window."""
        row = int(np.searchsorted(self._first_windows, window, side="right")) - 1
        word = int(self._first_words[row] + window - self._first_windows[row])
        return self._text[self._offsets[word] : self._offsets[word + self._size] - 1]

    def word_ranges(self, windows: Int64[np.ndarray, "R"]) -> dict[int, list[tuple[int, int]]]:
        """Return row -> the ranges of words that the windows cover."""
        rows = self.rows(windows)
        words = windows - self._first_windows[rows]
        ranges: dict[int, list[tuple[int, int]]] = {}
        for row, word in zip(rows.tolist(), words.tolist(), strict=True):
            row_ranges = ranges.setdefault(row, [])
            if row_ranges and word <= row_ranges[-1][1]:
                row_ranges[-1] = row_ranges[-1][0], word + self._size
            else:
                row_ranges.append((word, word + self._size))
        return ranges


def _verified_occurrences(entries: _Entries, windows: Sequence[_Windows]) -> Int64[np.ndarray, "E"]:
    """Return the number of earlier windows with the same words; equal hashes of different words are resolved."""
    occurrences = entries.occurrences()
    starts = np.flatnonzero(occurrences == 0)
    stops = np.append(starts[1:], len(occurrences))
    for start, stop in zip(starts[stops - starts > 1].tolist(), stops[stops - starts > 1].tolist(), strict=True):
        counts: Counter[bytes] = Counter()
        for entry in range(start, stop):
            text = windows[entries.parts[entry]].text(int(entries.indices[entry]))
            occurrences[entry] = counts[text]
            counts[text] += 1
    return occurrences


# -- keys in order


class _Entries(NamedTuple):
    """Keys in ascending order; equal keys are in the order of their documents and their position."""

    parts: Int64[np.ndarray, "E"]
    indices: Int64[np.ndarray, "E"]
    """Index of each key in its part."""
    documents: Int64[np.ndarray, "E"]
    is_first: Bool[np.ndarray, "E"]
    """True where a key differs from the one before."""

    def occurrences(self) -> Int64[np.ndarray, "E"]:
        """Return the number of equal keys before each key."""
        positions = np.arange(len(self.is_first))
        return positions - np.maximum.accumulate(np.where(self.is_first, positions, 0))


def _entries(
    keys: Sequence[UInt64[np.ndarray, "K C"]],
    rows: Callable[[int, Int64[np.ndarray, "S"]], Int64[np.ndarray, "S"]],
    order: DocumentOrder,
) -> Iterator[_Entries]:
    """Yield the keys of the documents in the corpus, one range of key values at a time."""
    bits = max(0, (sum(map(len, keys)) // KEYS_AT_ONCE).bit_length())
    for number in range(1 << bits):
        selected = [
            np.flatnonzero(part_keys[:, 0] >> np.uint64(64 - bits) == number) if bits else np.arange(len(part_keys))
            for part_keys in keys
        ]
        documents = [rows(part, indices) + order.part_starts[part] for part, indices in enumerate(selected)]
        in_corpus = [order.ranks[part_documents] >= 0 for part_documents in documents]
        selected = [indices[mask] for indices, mask in zip(selected, in_corpus, strict=True)]
        all_documents = np.concatenate([d[mask] for d, mask in zip(documents, in_corpus, strict=True)])
        parts = np.repeat(np.arange(len(keys)), list(map(len, selected)))
        indices = np.concatenate(selected)
        values = np.concatenate([part_keys[at] for part_keys, at in zip(keys, selected, strict=True)])
        sorting = np.lexsort((indices, order.ranks[all_documents], *values.T))
        values = values[sorting]
        is_first = np.ones(len(values), bool)
        is_first[1:] = (values[1:] != values[:-1]).any(axis=1)
        yield _Entries(parts[sorting], indices[sorting], all_documents[sorting], is_first)


def _mark(
    repeated: Sequence[Bool[np.ndarray, "..."]],
    entries: _Entries,
    is_repeat: Bool[np.ndarray, "E"],
    order: DocumentOrder,
) -> None:
    """Set the mask of each part at the repeats in documents that may be cut."""
    chosen = np.flatnonzero(is_repeat & ~order.complete[entries.documents])
    for part in np.unique(entries.parts[chosen]).tolist():
        repeated[part][entries.indices[chosen[entries.parts[chosen] == part]]] = True


def _memory_map(path: Path) -> np.ndarray:
    array = np.load(path, mmap_mode="r")
    return array if array.size else np.asarray(array)


def _mapped_bytes(path: Path) -> bytes | mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
