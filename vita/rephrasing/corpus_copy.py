"""The copy of the input corpus into the output, with the figures and keys that rephrasing needs.

    survey = copy_corpus(corpus, draft, erasures=erasures, dropped=drops.append)
    survey.order(seed=0)          # positions of the documents that can be rewritten, in the order of their hash

Documents that an erasure covers are left out.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import xxhash
from jaxtyping import Int64, UInt64

from vita.data.content import Keys, as_keys, content_key, normalize_text
from vita.data.curation.corpus import TextShardWriter, dump_document, read_corpus
from vita.data.curation.filter_stats import DocumentCount
from vita.data.hash_sampling import hash_fractions
from vita.data.records import Document, DroppedRecord
from vita.data.rewrites import origin_of
from vita.data.sources.erased import without_erased
from vita.data.sources.erased_rewrites import without_erased_rewrites
from vita.spine.erasures import Erasure


@dataclass
class PartSurvey:
    """The documents of the training part or of the held-out part."""

    count: DocumentCount = field(default_factory=DocumentCount)
    distinct: DocumentCount = field(default_factory=DocumentCount)
    """Without the copies of repeated documents."""
    sources: dict[str, DocumentCount] = field(default_factory=dict)
    licences: dict[str | None, DocumentCount] = field(default_factory=dict)
    keys: list[bytes] = field(default_factory=list)
    """Content keys of the distinct documents."""


class CorpusSurvey:
    """The figures of both parts, and the training documents in the order in which they are rewritten."""

    def __init__(self) -> None:
        self.train, self.heldout = PartSurvey(), PartSurvey()
        self.rewrites = DocumentCount()
        """Rewrites that the input contains, in the training part."""
        self.rewrite_ids: set[str] = set()
        self.erased = 0
        self._positions = array("q")
        self._candidate_keys: list[bytes] = []

    def add_candidate(self, position: int, key: bytes) -> None:
        """Add the document at a position of the training part."""
        self._positions.append(position)
        self._candidate_keys.append(key)

    def order(self, seed: int) -> Int64[np.ndarray, "N"]:
        """Return the positions of the documents that can be rewritten, by the hash of their content and the seed."""
        fractions = hash_fractions(as_keys(self._candidate_keys), seed=seed, purpose=REPHRASE_PURPOSE)
        return np.frombuffer(self._positions, np.int64)[np.argsort(fractions, kind="stable")]

    @property
    def num_candidates(self) -> int:
        """Return the number of documents that can be rewritten."""
        return len(self._positions)


REPHRASE_PURPOSE = 4
"""Purpose of the hash that orders documents, other than those of curation."""


class KeySet:
    """The contents of many documents, in eight bytes each."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._hashes: UInt64[np.ndarray, "N"] = np.sort(as_keys(list(keys))[:, 0])
        self._added: set[int] = set()

    def __contains__(self, key: bytes) -> bool:
        hash_value = _first_half(key)
        index = int(np.searchsorted(self._hashes, hash_value))
        return hash_value in self._added or (index < len(self._hashes) and int(self._hashes[index]) == hash_value)

    def add(self, key: bytes) -> None:
        """Add the content of a document."""
        self._added.add(_first_half(key))


def _first_half(key: bytes) -> int:
    keys: Keys = as_keys([key])
    return int(keys[0, 0])


def copy_corpus(
    corpus: Path,
    folder: Path,
    *,
    erasures: Sequence[Erasure],
    dropped: Callable[[DroppedRecord], None],
    watch: Callable[[int], None] = lambda done: None,
) -> CorpusSurvey:
    """Copy both parts of a corpus to `folder` without erased documents, and count them."""
    survey = CorpusSurvey()
    for part in ("train", "heldout"):
        (folder / part).mkdir()
        part_survey: PartSurvey = getattr(survey, part)
        seen: set[int] = set()

        def drop(record: DroppedRecord) -> None:
            survey.erased += 1
            dropped(record)

        with TextShardWriter(folder / part) as writer:
            for position, document in _kept(corpus, part, erasures, drop):
                writer.write(dump_document(document))
                identity = xxhash.xxh3_64_intdigest(
                    f"{document.source}\0{document.id}".encode("utf-8", "surrogatepass")
                )
                is_new = identity not in seen
                seen.add(identity)
                _count(survey, part_survey, document, position, is_new=is_new, can_rewrite=part == "train")
                if part_survey.count.documents % 1000 == 0:
                    watch(part_survey.count.documents)
    return survey


def _kept(
    corpus: Path, part: Literal["train", "heldout"], erasures: Sequence[Erasure], drop: Callable[[DroppedRecord], None]
) -> Iterator[tuple[int, Document]]:
    """Yield (position in the part, document) without erased documents."""
    position = -1

    def documents() -> Iterator[Document]:
        nonlocal position
        for position, document in enumerate(read_corpus(corpus, part)):  # noqa: B007 (read below)
            yield document

    for document in without_erased(without_erased_rewrites(documents(), erasures, drop), erasures, drop):
        yield position, document


def _count(
    survey: CorpusSurvey, part: PartSurvey, document: Document, position: int, *, is_new: bool, can_rewrite: bool
) -> None:
    text, data = normalize_text(document.text)
    part.count.add(len(data))
    is_rewrite = origin_of(document.metadata) is not None
    if is_rewrite and can_rewrite:
        survey.rewrites.add(len(data))
        survey.rewrite_ids.add(document.id)
    if not is_new:
        return
    part.distinct.add(len(data))
    part.sources.setdefault(document.source, DocumentCount()).add(len(data))
    part.licences.setdefault(document.licence, DocumentCount()).add(len(data))
    key = content_key(text, data)
    part.keys.append(key)
    if can_rewrite and not is_rewrite:
        survey.add_candidate(position, key)
