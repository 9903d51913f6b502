"""The documents of a domain in tokens, some of them held out, and a sample of these to be read as they are.

    domain = Domain.read(sources, tokenizer, folder, held_out=0.05, sample=500)
    domain.learnt, domain.heldout           # Shards
    domain.kept                             # list[Document]

Which documents are held out is decided by their text, so that a copy of one is never learnt.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vita.data.hash_sampling import hash_fraction, repeat_count
from vita.data.records import Document, Drop
from vita.data.sources.read import Dropped, Source, documents
from vita.data.tokens.shards import Shards, write_shards
from vita.data.tokens.tokenizer import Tokenizer
from vita.spine.errors import DataError


@dataclass(frozen=True)
class Domain:
    """A domain on the disk."""

    learnt: Shards
    heldout: Shards
    kept: list[Document]
    """Of the held-out documents as many as were asked for."""
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
        tell: Callable[[int], None] = lambda count: None,
    ) -> Domain:
        """Writes both parts to `folder`, since a domain may be larger than the memory."""
        dropped, kept = Counter[str](), Sample(sample, seed=seed)

        def drop(one: Drop) -> None:
            dropped[one.reason] += 1

        def encoded(*, aside: bool) -> Iterator[tuple[Document, np.ndarray]]:
            for number, (document, repeat) in enumerate(_documents(sources, (lambda one: None) if aside else drop)):
                if (hash_fraction(document.text, f"{seed}/held out") < held_out) == aside:
                    if aside:
                        kept.add(document)
                    ids = np.asarray(tokenizer.encode(document.text))
                    for _ in range(1 if aside else repeat_count(repeat, document.text)):
                        yield document, ids
                if number % 500 == 0:
                    tell(number)

        about = {"vocabulary": tokenizer.vocabulary, "document": tokenizer.document, "tokenizer": tokenizer.digest}
        learnt = write_shards(folder / "train", encoded(aside=False), **about)
        heldout = write_shards(folder / "heldout", encoded(aside=True), **about)
        if not learnt.documents or not heldout.documents:
            total, what = learnt.documents + heldout.documents, "hold out" if learnt.documents else "learn from"
            hint = "more documents, or another share of `held_out`"
            raise DataError("domain", f"of its {total} documents none is left to {what}", hint=hint)
        return cls(learnt, heldout, kept.taken(), dropped)


class Sample:
    """Some of many documents, drawn by what they say: the same whatever their order."""

    def __init__(self, size: int, *, seed: int) -> None:
        self.size, self.seed = size, seed
        self._heap: list[tuple[float, str, int, Document]] = []
        self._offered = 0

    def add(self, document: Document) -> None:
        """Offer a document."""
        self._offered += 1  # tells two like documents apart
        entry = (-hash_fraction(document.text, f"{self.seed}/sample"), document.id, self._offered, document)
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, entry)
        elif entry[:2] > self._heap[0][:2]:
            heapq.heapreplace(self._heap, entry)

    def taken(self) -> list[Document]:
        """Those with the lowest draws."""
        return [document for *_, document in sorted(self._heap, key=lambda entry: entry[:2], reverse=True)]


def sample_of(shards: Shards, tokenizer: Tokenizer, *, size: int, seed: int = 0) -> list[Document]:
    """Some documents of a token stream as text again."""
    sample = Sample(size, seed=seed)
    for span in shards.documents_between(0, shards.tokens):
        ids = shards.read(span.start + 1, span.stop).tolist()  # after the token that begins it
        document = Document(span.id, tokenizer.decode(ids), span.source, span.licence)
        if document.text:
            sample.add(document)
    return sample.taken()


def _documents(sources: Sequence[Source], drop: Dropped) -> Iterator[tuple[Document, float]]:
    """Each document, and how often its source is to be passed over in training."""
    for source in sources:
        for document in documents(source, dropped=drop):
            if document.text.strip():
                yield document, source.repeat
            else:
                drop(Drop(document.id, document.source, "empty"))
