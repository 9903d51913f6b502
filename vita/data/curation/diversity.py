"""The diversity of a corpus: topics and styles of a sample of its documents, and their effective numbers.

    documents = sample_documents(read_corpus(folder, "train"), limit=2000)
    diversity_report(documents)["topics"]["effective_number"]

Topics are clusters of TF-IDF vectors of words, and styles are clusters of `STYLE_FEATURES`. The effective number is
exp(entropy) of the documents' shares.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from vita.data.curation.clusters import cluster, effective_number
from vita.data.curation.part_files import hash_of_id
from vita.data.records import Document

TOPICS, STYLES = 20, 8
"""Maximum numbers of clusters."""
MIN_DOCUMENTS = 20
"""Smallest sample that is clustered."""
_CHARACTERS = 20_000
"""Characters of a document that are compared, from its beginning."""
_VOCABULARY = 4096
_MAX_SHARE, _MIN_DOCUMENTS_OF_WORD = 0.3, 3
"""Words in more of the documents, or in fewer documents, are not compared."""
_WORD = re.compile(r"[^\W\d_]{3,}")
_FIRST_UNSPACED = "⺀"
"""First character of the East Asian scripts; their words are replaced by pairs of characters."""


def _rate(pattern: str, per: Callable[[str], int] = len) -> Callable[[str], float]:
    compiled = re.compile(pattern)
    return lambda text: sum(1 for _ in compiled.finditer(text)) / max(per(text), 1)


def _words(text: str) -> int:
    return len(text.split())


def _lines(text: str) -> int:
    return text.count("\n") + 1


STYLE_FEATURES: dict[tuple[str, str], Callable[[str], float]] = {
    ("long words", "short words"): lambda text: len("".join(text.split())) / max(_words(text), 1),
    ("long sentences", "short sentences"): lambda text: np.log(
        _words(text) / max(len(re.findall(r"[.!?。！？]+", text)), 1) + 1
    ),
    ("long lines", "short lines"): lambda text: np.log(len(text) / _lines(text) + 1),
    ("many lists", "few lists"): _rate(r"(?m)^\s*(?:[-*•]|\d+[.)])\s", _lines),
    ("many digits", "few digits"): _rate(r"\d"),
    ("many quotations", "few quotations"): _rate(r"[\"“”«»„]"),
    ("many questions and exclamations", "few questions and exclamations"): _rate(r"[?!？！]", _words),
    ("many symbols of code", "few symbols of code"): _rate(r"[{}<>=;\\|_]"),
    ("many capital letters", "few capital letters"): _rate(r"[A-ZÀ-Þ]"),
    ("often first or second person", "rarely first or second person"): _rate(
        r"(?i)\b(?:i|me|my|we|our|you|your)\b", _words
    ),
    ("varied words", "repeated words"): lambda text: (
        len(set(text.lower().split()[:500])) / max(len(text.split()[:500]), 1)
    ),
}
"""(Description of high values, of low values) -> value of a text. A style is described by the features whose mean
differs most from that of all documents."""


def sample_documents(documents: Iterable[Document], *, limit: int) -> list[Document]:
    """Return the documents with the smallest hash of source and id, a uniform sample that ignores the order."""
    ranked = ((hash_of_id(document.source, document.id), document) for document in documents)
    return [document for _, document in heapq.nsmallest(limit, ranked, key=lambda pair: pair[0])]


def diversity_report(documents: Sequence[Document], *, seed: int = 0) -> dict[str, Any]:
    """Return topics, styles and their effective numbers, for all documents and by source."""
    if len(documents) < MIN_DOCUMENTS:
        return {"sampled_documents": len(documents), "problem": f"fewer than {MIN_DOCUMENTS} documents"}
    texts = [document.text[:_CHARACTERS] for document in documents]
    vectors, vocabulary = _topic_vectors(texts)
    topics, topic_means = cluster(vectors, TOPICS, seed=seed)
    styles_of_texts = np.array([[feature(text) for feature in STYLE_FEATURES.values()] for text in texts], np.float64)
    spread = styles_of_texts.std(0)
    scores = (styles_of_texts - styles_of_texts.mean(0)) / np.where(spread > 1e-12, spread, 1.0)
    styles, style_means = cluster(scores, STYLES, seed=seed)
    sources = [document.source for document in documents]
    return {
        "sampled_documents": len(documents),
        "mean_similarity": round(_mean_similarity(vectors), 4),
        "topics": _clusters(topics, sources, list(_topic_words(topic_means, vocabulary))),
        "styles": _clusters(styles, sources, list(_style_words(style_means))),
        "sources": [
            {
                "source": source,
                "sampled_documents": int(rows.sum()),
                "effective_topics": round(effective_number(np.bincount(topics[rows])), 2),
                "effective_styles": round(effective_number(np.bincount(styles[rows])), 2),
            }
            for source in sorted(set(sources))
            for rows in [np.array([name == source for name in sources])]
        ],
    }


def _clusters(labels: Int64[np.ndarray, "N"], sources: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    counts = np.bincount(labels, minlength=len(names))
    number = effective_number(counts)
    rows = []
    for k, name in enumerate(names):
        source, documents = Counter(np.array(sources, object)[labels == k]).most_common(1)[0]
        share = round(int(counts[k]) / len(labels), 4)
        rows.append({"description": name, "share": share, "main_source": source,
                     "share_of_main_source": round(documents / int(counts[k]), 4)})  # fmt: skip
    return {
        "clusters": len(names),
        "entropy_bits": round(float(np.log2(number)), 4),
        "effective_number": round(number, 2),
        "rows": rows,
    }


def _words_of(text: str) -> Iterator[str]:
    for word in _WORD.findall(text.lower()):
        if word[0] < _FIRST_UNSPACED:
            yield word
        else:
            yield from (word[at : at + 2] for at in range(len(word) - 1))


def _topic_vectors(texts: Sequence[str]) -> tuple[Float64[np.ndarray, "N V"], list[str]]:
    """Return TF-IDF vectors of length 1, with 1 + ln(count) and ln(N / documents), and the words of the columns."""
    counts = [Counter(_words_of(text)) for text in texts]
    documents = Counter(word for count in counts for word in count)
    most = max(_MAX_SHARE * len(texts), _MIN_DOCUMENTS_OF_WORD)
    usable = [word for word, number in documents.items() if _MIN_DOCUMENTS_OF_WORD <= number <= most]
    vocabulary = sorted(usable, key=lambda word: (-documents[word], word))[:_VOCABULARY]
    column = {word: index for index, word in enumerate(vocabulary)}
    vectors = np.zeros((len(texts), max(len(vocabulary), 1)))
    for row, count in enumerate(counts):
        for word, number in count.items():
            if word in column:
                vectors[row, column[word]] = (1 + np.log(number)) * np.log(len(texts) / documents[word])
    lengths = np.sqrt((vectors**2).sum(1, keepdims=True))
    return vectors / np.where(lengths > 0, lengths, 1.0), vocabulary


def _topic_words(means: Float64[np.ndarray, "K V"], vocabulary: Sequence[str]) -> Iterator[str]:
    for mean in means:
        best = [int(index) for index in np.argsort(-np.round(mean, 9), kind="stable")[:6] if mean[index] > 0]
        yield ", ".join(vocabulary[index] for index in best) or "no common words"


def _style_words(means: Float64[np.ndarray, "K F"]) -> Iterator[str]:
    names = list(STYLE_FEATURES)
    for mean in means:
        best = np.argsort(-np.abs(np.round(mean, 9)), kind="stable")[:3]
        yield ", ".join(names[index][0 if mean[index] > 0 else 1] for index in best)


def _mean_similarity(vectors: Float64[np.ndarray, "N V"]) -> float:
    """Return the mean cosine similarity of two different documents."""
    count = len(vectors)
    total = vectors.sum(0)
    return float((total @ total - (vectors**2).sum()) / (count * (count - 1)))
