"""The tokenized documents of a domain, split into training and held-out shards, with a sample of held-out documents.

    domain = Domain.read(sources, tokenizer, folder, held_out=0.05, sample=500)
    domain.train, domain.heldout            # Shards
    domain.samples                          # list[Document]

Held-out documents are selected by the hash of their text, so that no copy of them is in the training shards.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vita.data.hash_sampling import hash_fraction, repeat_count
from vita.data.records import Document, DroppedRecord
from vita.data.sources.read import Dropped, Source, documents
from vita.data.tokens.shards import Shards, write_shards
from vita.data.tokens.tokenizer import Tokenizer
from vita.spine.errors import DataError


@dataclass(frozen=True)
class Domain:
    """The shards of a domain on disk."""

    train: Shards
    heldout: Shards
    samples: list[Document]
    """A sample of the held-out documents, of the requested size."""
    dropped: Counter[str]

    @classmethod
    def read(
        cls,
        sources: Sequence[Source],
        tokenizer: Tokenizer,
        folder: Path,
        *,
        held_out: float,
        sample: int,
        seed: int = 0,
        on_progress: Callable[[int], None] = lambda count: None,
    ) -> Domain:
        """Tokenize the sources and write both parts to `folder`, since a domain may exceed the memory."""
        dropped, samples = Counter[str](), DocumentSample(sample, seed=seed)

        def count_drop(drop: DroppedRecord) -> None:
            dropped[drop.reason] += 1

        def encode_part(*, is_held_out: bool) -> Iterator[tuple[Document, np.ndarray]]:
            on_drop = (lambda drop: None) if is_held_out else count_drop  # the second pass counts no drops again
            for number, (document, repeat) in enumerate(_documents(sources, on_drop)):
                if (hash_fraction(document.text, f"{seed}/held out") < held_out) == is_held_out:
                    if is_held_out:
                        samples.add(document)
                    ids = np.asarray(tokenizer.with_end(tokenizer.encode(document.text)))
                    for _ in range(1 if is_held_out else repeat_count(repeat, document.text)):
                        yield document, ids
                if number % 500 == 0:
                    on_progress(number)

        about = {"vocabulary": tokenizer.vocabulary, "document": tokenizer.document, "tokenizer": tokenizer.digest}
        train = write_shards(folder / "train", encode_part(is_held_out=False), **about)
        heldout = write_shards(folder / "heldout", encode_part(is_held_out=True), **about)
        if not train.documents or not heldout.documents:
            total, purpose = train.documents + heldout.documents, "hold out" if train.documents else "learn from"
            hint = "more documents, or another share of `held_out`"
            raise DataError("domain", f"of its {total} documents none is left to {purpose}", hint=hint)
        return cls(train, heldout, samples.documents(), dropped)


class DocumentSample:
    """A sample of documents, selected by the hash of their text, independent of their order."""

    def __init__(self, size: int, *, seed: int) -> None:
        self.size, self.seed = size, seed
        self._heap: list[tuple[float, str, int, Document]] = []
        self._offered = 0

    def add(self, document: Document) -> None:
        """Add a document to the candidates."""
        self._offered += 1  # distinguishes two equal documents
        entry = (-hash_fraction(document.text, f"{self.seed}/sample"), document.id, self._offered, document)
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, entry)
        elif entry[:2] > self._heap[0][:2]:
            heapq.heapreplace(self._heap, entry)

    def documents(self) -> list[Document]:
        """Return the sampled documents, those with the smallest hashes."""
        return [document for *_, document in sorted(self._heap, key=lambda entry: entry[:2], reverse=True)]


def sample_documents(shards: Shards, tokenizer: Tokenizer, *, size: int, seed: int = 0) -> list[Document]:
    """Return a sample of the documents of a token stream, decoded to text."""
    sample = DocumentSample(size, seed=seed)
    for span in shards.documents_between(0, shards.tokens):
        ids = shards.read(span.start + 1, span.stop).tolist()  # after the token that begins it
        document = Document(span.id, tokenizer.decode(ids), span.source, span.licence)
        if document.text:
            sample.add(document)
    return sample.documents()


def _documents(sources: Sequence[Source], drop: Dropped) -> Iterator[tuple[Document, float]]:
    """Yield each document that is not empty, with the `repeat` of its source."""
    for source in sources:
        for document in documents(source, dropped=drop):
            if document.text.strip():
                yield document, source.repeat
            else:
                drop(DroppedRecord(document.id, document.source, "empty"))
