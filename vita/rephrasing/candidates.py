"""The passages to rewrite, in a fixed order: documents by the hash of their content, each with styles by weight.

    for candidate in candidates(corpus, survey, settings): candidate.id, candidate.style, candidate.passage

Texts are loaded in chunks, so that memory does not grow with the corpus.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vita.data.curation.corpus import read_corpus
from vita.data.hash_sampling import hash_fraction
from vita.data.records import Document
from vita.data.rewrites import RewriteOrigin
from vita.data.sources.erased import text_hash
from vita.rephrasing.corpus_copy import CorpusSurvey
from vita.rephrasing.styles import STYLES, Style

CHUNK = 16384
"""Documents whose passages are in memory at once."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A passage and the style in which it is to be rewritten."""

    id: str
    """The id of the rewrite."""
    style: Style
    passage: str
    document: Document
    """The document of the passage, without its text."""
    origin: RewriteOrigin
    document_bytes: int
    seed: int
    """Seed of the sampling."""


@dataclass(frozen=True)
class CandidateSettings:
    """The choice of documents and styles."""

    weights: Mapping[str, float]
    """Style -> its weight."""
    per_document: int
    """Rewrites of a document, in different styles."""
    max_source_bytes: int
    """Bytes at the beginning of a document that are rewritten."""
    seed: int


def candidates(corpus: Path, survey: CorpusSurvey, settings: CandidateSettings) -> Iterator[Candidate]:
    """Yield the first rewrite of every document, then the second, and so on; existing rewrites are not repeated."""
    order = survey.order(settings.seed)
    for number in range(min(settings.per_document, len(settings.weights))):
        for start in range(0, len(order), CHUNK):
            positions = order[start : start + CHUNK]
            documents = _load(corpus, set(positions.tolist()), settings.max_source_bytes)
            for position in positions.tolist():
                candidate = _candidate(documents[position], number, settings)
                if candidate.id not in survey.rewrite_ids:
                    yield candidate


def style_order(content: str, weights: Mapping[str, float], *, seed: int) -> list[str]:
    """Return the styles of a document: a weighted sample without replacement by hash.

    Style i has the key -ln(u_i) / w_i with a hash fraction u_i; the smallest key is first (Efraimidis and Spirakis
    2006), so that a style is first with probability w_i / sum(w).
    """

    def key(style: str) -> float:
        return -math.log(1 - hash_fraction(content, f"{seed}/rephrase/{style}")) / weights[style]

    return sorted(weights, key=lambda style: (key(style), style))


def cut_passage(text: str, limit: int) -> str:
    """Return the beginning of a text with at most `limit` bytes, up to the end of a paragraph, line, sentence or word.

    The cut is in the second half of the limit, if such an end exists there.
    """
    data = text.encode("utf-8")
    if len(data) <= limit:
        return text
    head = data[:limit].decode("utf-8", errors="ignore")
    for end in ("\n\n", "\n", ". ", "。", " "):
        position = head.rfind(end)
        if position >= len(head) // 2:
            return head[: position + len(end)].rstrip()
    return head


@dataclass(frozen=True, slots=True)
class _Passage:
    text: str
    document: Document
    origin: RewriteOrigin
    document_bytes: int


def _load(corpus: Path, positions: set[int], limit: int) -> dict[int, _Passage]:
    passages: dict[int, _Passage] = {}
    for position, document in enumerate(read_corpus(corpus, "train")):
        if position in positions:
            data = document.text.encode("utf-8")
            origin = RewriteOrigin(
                document.id, document.source, text_hash(document.text), hashlib.sha256(data).hexdigest(),
                document.licence,
            )  # fmt: skip
            empty = Document(document.id, "", document.source, document.licence, document.metadata)
            passages[position] = _Passage(cut_passage(document.text, limit), empty, origin, len(data))
            if len(passages) == len(positions):
                break
    return passages


def _candidate(passage: _Passage, number: int, settings: CandidateSettings) -> Candidate:
    style = style_order(passage.origin.content, settings.weights, seed=settings.seed)[number]
    origin = passage.origin
    id = f"{origin.source}/{origin.id}#{style}"
    seed = int(hash_fraction(f"{origin.content}/{style}", f"{settings.seed}/sampling") * 2**31)
    return Candidate(id, STYLES[style], passage.text, passage.document, origin, passage.document_bytes, seed)


def num_candidates(survey: CorpusSurvey, settings: CandidateSettings) -> int:
    """Return the largest possible number of candidates."""
    return int(np.int64(survey.num_candidates) * min(settings.per_document, len(settings.weights)))
