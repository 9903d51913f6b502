"""Labelled documents for the classifier of text quality: rows with labels or scores, or a reference and raw text."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from vita.data.content import Keys, as_keys, comparable_bytes, key_of_comparable, normalize_text
from vita.data.records import Document
from vita.data.sources.read import Source, documents
from vita.data.sources.records_from_rows import Dropped
from vita.spine.errors import DataError

MIN_DOCUMENTS = 10
"""Smallest number of documents of each class."""
_LABELS = ("label", "score")
_GOOD, _OTHER = {"1", "true", "good", "high", "yes"}, {"0", "false", "bad", "low", "no", "other"}


class Examples(NamedTuple):
    """The documents of both classes in the form of `comparable_bytes`, in the order of their content keys."""

    texts: list[bytes]
    is_good: Bool[np.ndarray, "R"]
    keys: Keys


def labelled_examples(
    sources: Sequence[Source], *, threshold: float | None, limit: int, dropped: Dropped | None = None
) -> Examples:
    """Return documents whose field `label` or `score` states the class; numbers from `threshold` are good.

    Without a threshold, labels are 0 or 1, true or false, good or bad. `limit` is the maximum number of documents of a
    class, selected by content. Erased documents are passed to `dropped`.
    """
    classes: dict[bool, list[Document]] = {True: [], False: []}
    for source in sources:
        for document in documents(source, dropped=dropped):
            classes[_is_good(document, threshold)].append(document)
    return _examples(classes[True], classes[False], limit=limit, where=", ".join(map(Source.label, sources)))


def reference_examples(
    reference: Sequence[Source], raw: Sequence[Source], *, limit: int, dropped: Dropped | None = None
) -> Examples:
    """Return the documents of `reference` as good, and those of `raw` without them as others.

    Erased documents are passed to `dropped`.
    """
    where = ", ".join(map(Source.label, [*reference, *raw]))
    return _examples(_read(reference, dropped), _read(raw, dropped), limit=limit, where=where, exclude_good=True)


def _read(sources: Iterable[Source], dropped: Dropped | None) -> Iterator[Document]:
    for source in sources:
        yield from documents(source, dropped=dropped)


def _is_good(document: Document, threshold: float | None) -> bool:
    field = next((name for name in _LABELS if document.metadata.get(name) is not None), None)
    where = f"{document.source}: {document.id}"
    if field is None:
        raise DataError(where, expected="a field `label` or `score`", got=", ".join(document.metadata) or "none")
    value: Any = document.metadata[field]
    if threshold is not None:
        if isinstance(value, (int, float)):
            return value >= threshold
        raise DataError(f"{where}: {field}", expected="a number, because there is a threshold", got=value, quoted=value)
    text = str(int(value) if isinstance(value, float) and value.is_integer() else value).strip().lower()
    if text not in _GOOD | _OTHER:
        hint = "use `--threshold` for scores: documents from it are good"
        raise DataError(f"{where}: {field}", expected="0 or 1, good or bad", got=value, hint=hint, quoted=value)
    return text in _GOOD


def _examples(
    good: Iterable[Document], other: Iterable[Document], *, limit: int, where: str, exclude_good: bool = False
) -> Examples:
    good_texts = _distinct(good, limit=limit)
    other_texts = _distinct(other, limit=limit, exclude=good_texts if exclude_good else {})
    for name, texts in (("good", good_texts), ("other", other_texts)):
        if len(texts) < MIN_DOCUMENTS:
            raise DataError(where, expected=f"at least {MIN_DOCUMENTS} different {name} documents", got=len(texts))
    rows = sorted([(key, True, text) for key, text in good_texts.items()] + [
        (key, False, text) for key, text in other_texts.items()
    ])  # fmt: skip
    return Examples(
        [text for _, _, text in rows], np.array([row[1] for row in rows]), as_keys([row[0] for row in rows])
    )


def _distinct(
    items: Iterable[Document], *, limit: int, exclude: dict[bytes, bytes] | None = None
) -> dict[bytes, bytes]:
    """Return content key -> text of the documents with the smallest keys, at most `limit`."""
    texts: dict[bytes, bytes] = {}
    largest: list[int] = []  # a heap of the negative keys
    for document in items:
        comparable = comparable_bytes(*normalize_text(document.text))
        key = key_of_comparable(comparable)
        if not comparable or key in texts or (exclude and key in exclude):
            continue
        if len(texts) == limit:
            if -largest[0] <= int.from_bytes(key):
                continue
            del texts[(-heapq.heappop(largest)).to_bytes(len(key))]
        texts[key] = comparable
        heapq.heappush(largest, -int.from_bytes(key))
    return texts
