"""Counts of an encoded corpus: bytes, characters and words per token, by source and by language.

Tokens per word (fertility) and characters per token tell how well a vocabulary fits a language.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vita.data.records import Document
from vita.data.tokens.tokenizer import Tokenizer


@dataclass
class TokenCounts:
    """Counts of some documents; words and round trips are counted for a part of them."""

    documents: int = 0
    bytes: int = 0
    characters: int = 0
    tokens: int = 0
    checked: int = 0
    restored: int = 0
    words: int = 0
    tokens_of_words: int = 0

    def __add__(self, other: TokenCounts) -> TokenCounts:
        return TokenCounts(*(getattr(self, name) + getattr(other, name) for name in vars(self)))

    def figures(self) -> dict[str, Any]:
        """Return the counts and their ratios; a ratio is None if its denominator is 0."""
        return {
            "documents": self.documents,
            "bytes": self.bytes,
            "tokens": self.tokens,
            "bytes_per_token": ratio(self.bytes, self.tokens),
            "characters_per_token": ratio(self.characters, self.tokens),
            "tokens_per_word": ratio(self.tokens_of_words, self.words),
            "checked": self.checked,
            "round_trip": ratio(self.restored, self.checked),
        }


@dataclass
class TokenTally:
    """Counts of tokens by source and language, and of words and exact round trips in a share of the documents."""

    tokenizer: Tokenizer
    share: float
    """Share of the bytes that are decoded again and whose words are counted."""
    by_source: dict[str, TokenCounts] = field(default_factory=dict)
    by_language: dict[str, TokenCounts] = field(default_factory=dict)
    """Counts of the documents whose language is stated."""
    bytes_seen: int = 0
    checked: int = 0
    used: np.ndarray = field(init=False)
    """Occurrences of each token id."""

    def __post_init__(self) -> None:
        self.used = np.zeros(self.tokenizer.vocabulary, dtype=np.int64)

    def add(self, document: Document, ids: np.ndarray) -> None:
        """Count a document and its tokens."""
        size = text_bytes(document.text)
        counts = TokenCounts(1, size, len(document.text), len(ids))
        self.bytes_seen += size
        if self.checked + size <= self.bytes_seen * self.share:
            self.checked += size
            counts.checked = 1
            counts.restored = int(self.tokenizer.decode(ids.tolist()) == document.text)
            counts.words = len(document.text.split())
            counts.tokens_of_words = len(ids)
        groups = [(self.by_source, document.source)]
        if language := language_of(document):
            groups.append((self.by_language, language))
        for group, name in groups:
            group[name] = group[name] + counts if name in group else counts

    def figures(self) -> dict[str, Any]:
        """Return the figures of all documents, of each source, and of each stated language."""
        content: dict[str, Any] = {
            "all": sum(self.by_source.values(), TokenCounts()).figures(),
            "sources": {name: counts.figures() for name, counts in sorted(self.by_source.items())},
        }
        if self.by_language:
            content["languages"] = {name: counts.figures() for name, counts in sorted(self.by_language.items())}
        return content


def language_of(document: Document) -> str:
    """Return the language that the metadata of a document states, or an empty string."""
    language = document.metadata.get("language")
    return language if isinstance(language, str) else ""


def text_bytes(text: str) -> int:
    """Return the size of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def ratio(part: int, total: int) -> float | None:
    """Return `part / total`, or None if `total` is 0."""
    return round(part / total, 6) if total else None
