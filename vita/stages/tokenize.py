"""Train a tokenizer on the corpus, or use the tokenizer of a model, and encode all documents.

The tokenizer is a byte-level BPE, so that every text can be encoded. Each document starts with `<|endoftext|>`, which
teaches a model the boundaries of documents.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from pydantic import Field

from vita.data.curation.corpus import read_corpus
from vita.data.records import Document
from vita.data.tokens import bpe
from vita.data.tokens.shards import SHARD_TOKENS, Shards, write_shards
from vita.data.tokens.tokenizer import Tokenizer
from vita.reporting.figures import ReportContent
from vita.reporting.page import write_report_pages
from vita.spine.config import Settings, neutral
from vita.spine.errors import DataError
from vita.spine.plan import Context, Draft
from vita.stages.kinds import Corpus, Model, Tokens

VERSION = 2

SPLITS: tuple[Literal["train", "heldout"], ...] = ("train", "heldout")
BATCH_BYTES = 4 * 2**20
"""Bytes of text per batch of the encoder."""
CHECKED_BYTES = 32 * 2**20
"""Bytes of text, spread over the corpus, that are decoded again and whose words are counted."""


class Config(Settings):
    """The vocabulary and the size of the token files."""

    vocabulary: int = Field(4096, ge=259, le=2**31)
    """Size of the vocabulary: 256 bytes, 3 special tokens and merges. A larger one shortens texts and enlarges the
    model. Not used with the tokenizer of an input model."""
    digits: Literal[1, 2, 3] = 1
    """Largest number of digits in a token. llama.cpp can split numbers into groups of 1 or 3 digits, not of 2: a model
    whose tokenizer has 2 cannot be exported to GGUF. Not used with the tokenizer of an input model."""
    objective: Literal["next_token", "masked"] = neutral("next_token")
    """masked trains a tokenizer for an encoder, with the special tokens [CLS], [SEP], [PAD] and [MASK]. Not used with
    the tokenizer of an input model."""
    sample_bytes: int = Field(128 * 2**20, ge=2**16)
    """Maximum bytes of text that train the tokenizer, spread evenly over the corpus; limits memory and time."""
    shard_tokens: int = Field(SHARD_TOKENS, ge=1)
    """Tokens per file of the token stream."""


@dataclass(frozen=True)
class Inputs:
    corpus: Corpus
    model: Model | None = None
    """The model whose tokenizer is used without changes."""


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Tokens]:
    folder = context.draft_folder()
    sizes = {split: _bytes_in(read_corpus(inputs.corpus.path, split)) for split in SPLITS}
    if not sizes["train"]:
        raise DataError("tokenize", "the corpus holds no text to train on", hint="see its report of dropped documents")
    start = time.monotonic()
    tokenizer = _tokenizer(config, inputs, context, total=sizes["train"])
    tokenizer.save(folder / "tokenizer")
    context.record["learning_seconds"] = round(time.monotonic() - start, 3)

    tallies: dict[str, _Tally] = {}
    shards: dict[str, Shards] = {}
    for split in SPLITS:
        total = sizes[split]
        tally = tallies[split] = _Tally(tokenizer, share=min(1.0, CHECKED_BYTES / max(total, 1)))
        start = time.monotonic()
        shards[split] = write_shards(
            folder / split,
            _encoded(read_corpus(inputs.corpus.path, split), tokenizer, tally, context, total=total),
            vocabulary=tokenizer.vocabulary,
            document=tokenizer.document,
            tokenizer=tokenizer.digest,
            shard_tokens=config.shard_tokens,
        )
        seconds = max(time.monotonic() - start, 1e-9)
        context.record[f"{split}_bytes_per_second"] = round(total / seconds)
    report = _report(tokenizer, tallies, shards, trained=inputs.model is None)
    content = ReportContent.of("tokenize", details=report)
    origin = "trained on this corpus" if inputs.model is None else "the model's own"
    lead = f"A vocabulary of {tokenizer.vocabulary:,} tokens, {origin}. Each document has one more token, at its start."
    write_report_pages(content, folder, title="Tokens", lead=lead)
    facts = {
        "vocabulary": tokenizer.vocabulary,
        "train_tokens": shards["train"].tokens,
        "heldout_tokens": shards["heldout"].tokens,
        "documents": shards["train"].documents,
        "bytes_per_token": report["train"]["all"]["bytes_per_token"],
        "round_trip": report["train"]["all"]["round_trip"],
    }
    return Draft(Tokens, folder, facts)


# -- the tokenizer


def _tokenizer(config: Config, inputs: Inputs, context: Context, *, total: int) -> Tokenizer:
    if inputs.model is not None:
        tokenizer = Tokenizer.load(inputs.model.path)
        context.emit("note", text=f"uses the model's own tokenizer of {tokenizer.vocabulary:,} tokens")
        return tokenizer
    progress = _Progress(context, total=total)
    texts = (progress.count(document.text) for document in read_corpus(inputs.corpus.path, "train"))
    sample = bpe.sample(texts, limit=config.sample_bytes, total=total)
    masked = config.objective == "masked"
    return Tokenizer.train(sample, vocabulary=config.vocabulary, digits=config.digits, masked=masked)


def _bytes_in(documents: Iterable[Document]) -> int:
    return sum(_size(document.text) for document in documents)


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


# -- encoding


def _encoded(
    documents: Iterable[Document], tokenizer: Tokenizer, tally: _Tally, context: Context, *, total: int
) -> Iterator[tuple[Document, np.ndarray]]:
    """Yield each document with its tokens, encoded in batches of some megabytes."""
    progress = _Progress(context, total=total)
    for batch in _batches(documents):
        encoded = tokenizer.encode_batch([document.text for document in batch], threads=context.machine.threads)
        tally.used += np.bincount(np.concatenate(encoded), minlength=tokenizer.vocabulary)
        for document, ids in zip(batch, encoded, strict=True):
            tally.add(document, ids)
            progress.count(document.text)
            yield document, ids if tokenizer.separator is None else np.append(ids, np.uint32(tokenizer.separator))


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Progress:
    """Reports the number of processed bytes, every few megabytes."""

    def __init__(self, context: Context, *, total: int) -> None:
        self._emit, self._total, self._done, self._reported = context.emit, total, 0, 0

    def count(self, text: str) -> str:
        self._done += _size(text)
        if self._done - self._reported >= BATCH_BYTES or self._done == self._total:
            self._reported = self._done
            self._emit("progress", done=self._done, total=self._total, unit="bytes")
        return text


# -- the report


@dataclass
class _Counts:
    """Counts of one source."""

    documents: int = 0
    bytes: int = 0
    tokens: int = 0
    checked: int = 0
    restored: int = 0
    words: int = 0
    tokens_of_words: int = 0

    def __add__(self, other: _Counts) -> _Counts:
        return _Counts(*(getattr(self, name) + getattr(other, name) for name in vars(self)))

    def figures(self) -> dict[str, Any]:
        return {
            "documents": self.documents,
            "bytes": self.bytes,
            "tokens": self.tokens,
            "bytes_per_token": _ratio(self.bytes, self.tokens),
            "tokens_per_word": _ratio(self.tokens_of_words, self.words),
            "checked": self.checked,
            "round_trip": _ratio(self.restored, self.checked),
        }


@dataclass
class _Tally:
    """Counts of tokens by source, and of words and exact round trips in a share of the documents."""

    tokenizer: Tokenizer
    share: float
    by_source: dict[str, _Counts] = field(default_factory=dict)
    bytes_seen: int = 0
    checked: int = 0
    used: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.used = np.zeros(self.tokenizer.vocabulary, dtype=np.int64)

    def add(self, document: Document, ids: np.ndarray) -> None:
        counts = self.by_source.setdefault(document.source, _Counts())
        size = _size(document.text)
        counts.documents += 1
        counts.bytes += size
        counts.tokens += len(ids)
        self.bytes_seen += size
        if self.checked + size <= self.bytes_seen * self.share:
            self.checked += size
            counts.checked += 1
            counts.restored += self.tokenizer.decode(ids.tolist()) == document.text
            counts.words += len(document.text.split())
            counts.tokens_of_words += len(ids)


def _report(
    tokenizer: Tokenizer, tallies: dict[str, _Tally], shards: dict[str, Shards], *, trained: bool
) -> dict[str, Any]:
    used = tallies["train"].used
    ordinary = np.array([i not in tokenizer.special_ids for i in range(tokenizer.vocabulary)])
    longest_first = sorted(range(tokenizer.vocabulary), key=lambda i: (-len(tokenizer.token_bytes(i)), i))
    report: dict[str, Any] = {
        "tokenizer": {
            "digest": tokenizer.digest,
            "trained": trained,
            "vocabulary": tokenizer.vocabulary,
            "special": tokenizer.specials,
            "used": int((used > 0).sum()),
            "unused_share": _ratio(int(((used == 0) & ordinary).sum()), int(ordinary.sum())),
            "rare": int(((used > 0) & (used < 10)).sum()),
            "longest": [
                tokenizer.token_bytes(i).decode("utf-8", "replace")
                for i in longest_first
                if i not in tokenizer.special_ids
            ][:20],
        }
    }
    for split, tally in tallies.items():
        total = sum(tally.by_source.values(), _Counts())
        report[split] = {
            "stream_tokens": shards[split].tokens,
            "all": total.figures(),
            "sources": {name: counts.figures() for name, counts in sorted(tally.by_source.items())},
        }
    return report


def _ratio(part: int, total: int) -> float | None:
    return round(part / total, 6) if total else None
