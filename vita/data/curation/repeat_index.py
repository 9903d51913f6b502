"""The paragraphs, lines and word windows of a part's documents as arrays on disk, for the search of repeated text.

The files lie beside the part. `.lines.keys.npy` and `.lines.positions.npy` contain the content key and the position of
each line, and those of `paragraphs` the same. For substrings, `.words.txt` contains the words of all documents,
`.offsets.npy` the position of each word in it, and `.windows.npy` a hash of each window of `min_words` words.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vita.data.content import as_keys, content_key
from vita.data.curation.deduplication import UNIT_KINDS, RepeatOptions
from vita.data.curation.text_units import UnitKind, plain_words, text_units
from vita.data.curation.word_batch import WordBatch
from vita.data.curation.words import hash_words, word_boundaries
from vita.data.records import Document


class RepeatIndexWriter:
    """Writes the units and windows of the documents of a part beside the part."""

    def __init__(self, part: Path, options: RepeatOptions) -> None:
        self._part, self._options = part, options
        self._num_documents = 0
        self._keys: dict[str, list[bytes]] = {kind: [] for kind in UNIT_KINDS}
        self._positions: dict[str, list[tuple[int, int, int]]] = {kind: [] for kind in UNIT_KINDS}
        self._windows = _WindowWriter(part, options.substrings.min_words) if options.substrings else None

    def add(self, documents: Sequence[Document]) -> None:
        """Add the next documents of the part."""
        for row, document in enumerate(documents, self._num_documents):
            for kind in UNIT_KINDS:
                if (options := self._options.units(kind)) is not None:
                    self._add_units(kind, row, document.text, options.min_characters)
        if self._windows:
            self._windows.add([plain_words(document.text, document.text.encode()) for document in documents])
        self._num_documents += len(documents)

    def _add_units(self, kind: UnitKind, row: int, text: str, min_characters: int) -> None:
        for unit in text_units(text, kind):
            # Separators such as rules of tables repeat by design.
            if len(unit.text) >= min_characters and any(map(str.isalnum, unit.text)):
                self._keys[kind].append(content_key(unit.text, unit.text.encode()))
                self._positions[kind].append((row, unit.start, unit.stop))

    def close(self) -> None:
        """Write the arrays."""
        for kind in UNIT_KINDS:
            if self._options.units(kind):
                np.save(self._part.with_suffix(f".{kind}.keys.npy"), as_keys(self._keys[kind]))
                positions = np.array(self._positions[kind], np.int64).reshape(-1, 3)
                np.save(self._part.with_suffix(f".{kind}.positions.npy"), positions)
        if self._windows:
            self._windows.close()


class _WindowWriter:
    """Writes the words of the documents, their positions, and the hashes of the windows."""

    def __init__(self, part: Path, size: int) -> None:
        self._part, self._size = part, size
        self._file = part.with_suffix(".words.txt").open("wb")
        self._num_bytes = 0
        self._offsets: list[np.ndarray] = []
        self._counts: list[np.ndarray] = []
        self._hashes: list[np.ndarray] = []

    def add(self, texts: Sequence[bytes]) -> None:
        """Add documents in the form of `plain_words`."""
        data = b"".join(text + b"\n" for text in texts if text)
        starts, stops = word_boundaries(np.frombuffer(data, np.uint8))
        counts = np.array([text.count(b" ") + 1 if text else 0 for text in texts], np.int64)
        documents = np.repeat(np.arange(len(texts)), counts)
        batch = WordBatch(hash_words(data, starts, stops - starts), documents, len(texts))
        self._file.write(data)
        self._offsets.append(starts + self._num_bytes)
        self._counts.append(counts)
        self._hashes.append(batch.ngrams(self._size).hashes)
        self._num_bytes += len(data)

    def close(self) -> None:
        self._file.close()
        np.save(self._part.with_suffix(".offsets.npy"), np.concatenate([*self._offsets, [self._num_bytes]]))
        np.save(self._part.with_suffix(".counts.words.npy"), np.concatenate(self._counts))
        np.save(self._part.with_suffix(".windows.npy"), np.concatenate(self._hashes))
