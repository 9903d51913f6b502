"""Part files: the documents that pass the filters, with a table of the columns that split assignment needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import xxhash
import zstandard

from vita.data.content import as_keys, comparable_bytes, key_of_comparable
from vita.data.curation.corpus import ZstdLineWriter, dump, dump_document
from vita.data.curation.deduplication import RepeatOptions
from vita.data.curation.near_duplicates import save_sketches
from vita.data.curation.repeat_index import RepeatIndexWriter
from vita.data.curation.shingles import ShingleSets, SketchOptions, concatenate, shingle_sets
from vita.data.curation.word_batch import WordBatch
from vita.data.records import Document


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
    languages: list[str | None]
    language_of: np.ndarray
    ids: list[str]

    @classmethod
    def load(cls, part: Path) -> PartTable:
        with np.load(part.with_suffix(".npz")) as arrays:
            names = orjson.loads(zstandard.decompress(arrays["names"].tobytes()))
            return cls(
                arrays["keys"], arrays["id_hashes"], arrays["sizes"], names["sources"], arrays["source_of"],
                names["licences"], arrays["licence_of"], names["languages"], arrays["language_of"], names["ids"],
            )  # fmt: skip


class PartWriter:
    """A writer of documents into part files of bounded size."""

    def __init__(
        self,
        folder: Path,
        number: int,
        *,
        part_bytes: int,
        sketches: SketchOptions | None,
        repeats: RepeatOptions | None = None,
    ) -> None:
        self._folder, self._number = folder, number
        self._part_bytes, self._sketch_options, self._repeat_options = part_bytes, sketches, repeats
        self.names: list[str] = []
        self._open: ZstdLineWriter | None = None

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def free_bytes(self) -> int:
        """Bytes of text until the part that is being written is complete."""
        return self._part_bytes - (self._bytes if self._open else 0)

    def add(self, documents: Sequence[Document], comparable: Sequence[bytes], words: WordBatch | None) -> None:
        """Write documents, with their texts in the form of `comparable_bytes` and the words of these texts.

        The words are needed if there are sketches. The part is closed when it is complete.
        """
        if not documents:
            return
        if self._open is None:
            self._begin()
        assert self._open is not None
        self._open.write(b"\n".join(map(dump_document, documents)))
        if self._sketch_options:
            assert words is not None, "sketches are computed from the words"
            self._shingles.append(shingle_sets(words, size=self._sketch_options.size))
        if self._repeats:
            self._repeats.add(documents)
        self._keys += map(key_of_comparable, comparable)
        sizes = [len(document.text.encode()) for document in documents]
        self._sizes += sizes
        self._ids += (document.id for document in documents)
        self._sources += (document.source for document in documents)
        self._licences += (document.licence for document in documents)
        self._languages += (document.metadata.get("language") for document in documents)
        self._bytes += sum(sizes)
        if self._bytes >= self._part_bytes:
            self.close()

    def add_document(self, document: Document) -> None:
        """Write one document."""
        comparable = [comparable_bytes(document.text, document.text.encode())]
        self.add([document], comparable, WordBatch.of(comparable) if self._sketch_options else None)

    def _begin(self) -> None:
        self.names.append(f"{self._number:06d}-{len(self.names):04d}.zst")
        self._open = ZstdLineWriter(self._folder / self.names[-1], level=1)
        self._keys: list[bytes] = []
        self._sizes: list[int] = []
        self._ids: list[str] = []
        self._sources: list[str] = []
        self._licences: list[str | None] = []
        self._languages: list[str | None] = []
        self._shingles: list[ShingleSets] = []
        part = self._folder / self.names[-1]
        self._repeats = RepeatIndexWriter(part, self._repeat_options) if self._repeat_options else None
        self._bytes = 0

    def close(self) -> None:
        if self._open is None:
            return
        self._open.close()
        self._open = None
        if self._sketch_options:
            shingles = concatenate(self._shingles)
            save_sketches(self._folder / self.names[-1], shingles, rows=self._sketch_options.rows)
        if self._repeats:
            self._repeats.close()
        sources, source_of = _codes(self._sources)
        licences, licence_of = _codes(self._licences)
        languages, language_of = _codes(self._languages)
        names = {"sources": sources, "licences": licences, "languages": languages, "ids": self._ids}
        id_hashes = list(map(hash_of_id, self._sources, self._ids))
        np.savez(
            (self._folder / self.names[-1]).with_suffix(".npz"),
            keys=as_keys(self._keys), id_hashes=np.array(id_hashes, np.uint64), sizes=np.array(self._sizes, np.int64),
            source_of=source_of, licence_of=licence_of, language_of=language_of,
            names=np.frombuffer(zstandard.compress(dump(names), level=1), np.uint8),
        )  # fmt: skip


def _codes(values: list[Any]) -> tuple[list[Any], np.ndarray]:
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return list(numbers), np.array([numbers[value] for value in values], np.int32)


def hash_of_id(source: str, id: str) -> int:
    """Return a 64-bit hash that is equal for equal ids of a source."""
    return xxhash.xxh64_intdigest(f"{source}\0{id}".encode())
