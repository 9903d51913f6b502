"""The tokens of one source as a stream of their own, without copying them.

names, codes = document_sources(shards)                     # the source of each document
wiki = SourceTokens(shards, np.flatnonzero(codes == names.index("wiki")))
wiki.read(0, 100)                                           # the first tokens of the source's documents
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from vita.data.tokens.shards import DocumentSpan, Shards


def document_sources(shards: Shards) -> tuple[list[str], Int64[np.ndarray, "N"]]:
    """Return the names of the sources, sorted, and the index of the name of each document."""
    import pyarrow.parquet

    column = pyarrow.parquet.read_table(shards.folder / "documents.parquet", columns=["source"])["source"]
    encoded = column.combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    ordered = sorted(names)
    position = np.array([ordered.index(name) for name in names], np.int64)
    return ordered, position[encoded.indices.to_numpy()]


class SourceTokens:
    """The documents of one source, in order, as one stream of tokens (`TokenStream`)."""

    def __init__(self, shards: Shards, documents: Int64[np.ndarray, "D"]) -> None:
        self._shards = shards
        self._begins = np.asarray(shards.starts)[documents]
        lengths = np.asarray(shards.starts)[documents + 1] - self._begins
        self._ends = np.cumsum(lengths, dtype=np.int64)
        """End of each document in this stream; `_begins` are the starts in the stream of all documents."""

    @property
    def folder(self) -> Path:
        return self._shards.folder

    @property
    def tokens(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read tokens [start, stop) of this stream."""
        pieces = [self._shards.read(begin, end) for begin, end in self._pieces(start, stop)]
        return np.concatenate(pieces) if pieces else np.zeros(0, self._shards.dtype)

    def documents_between(self, start: int, stop: int) -> list[DocumentSpan]:
        """Return the documents in tokens [start, stop), with their positions in the stream of all documents."""
        return [span for piece in self._pieces(start, stop) for span in self._shards.documents_between(*piece)]

    def positions_of(self, spans: Sequence[DocumentSpan]) -> list[DocumentSpan]:
        """Return spans of documents of this source with their positions in this stream."""
        result = []
        for span in spans:
            document = int(np.searchsorted(self._begins, span.start, side="right")) - 1
            start = self._start(document) + span.start - int(self._begins[document])
            result.append(replace(span, start=start, stop=start + span.stop - span.start))
        return result

    def _start(self, document: int) -> int:
        return int(self._ends[document - 1]) if document else 0

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges of the stream of all documents that tokens [start, stop) consist of."""
        document = int(np.searchsorted(self._ends, start, side="right"))
        while start < stop:
            end = min(stop, int(self._ends[document]))
            begin = int(self._begins[document]) + start - self._start(document)
            yield begin, begin + end - start
            start, document = end, document + 1
