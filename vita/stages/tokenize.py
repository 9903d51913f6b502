"""Train a tokenizer on the corpus, or use the tokenizer of a model, and encode all documents.

The tokenizer is a byte-level BPE, so that every text can be encoded. Each document starts with `<|endoftext|>`, which
teaches a model the boundaries of documents.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

from vita.data.curation.corpus import read_corpus
from vita.data.curation.language import UNKNOWN
from vita.data.records import Document
from vita.data.tokens.shards import SHARD_TOKENS, Shards, write_shards
from vita.data.tokens.token_counts import TokenTally, language_of, ratio, text_bytes
from vita.data.tokens.tokenizer import Tokenizer
from vita.data.tokens.training_sample import sample, sample_rates
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
    language_temperature: float = neutral(1.0, ge=1)
    """Balance of the languages in the text that trains the tokenizer: 1 keeps their proportions, and larger values give
    rare languages more of the vocabulary (share of language i: n_i ** (1 / temperature), at most 4 copies of its text).
    The languages are those that curation identified."""
    shard_tokens: int = Field(SHARD_TOKENS, ge=1)
    """Tokens per file of the token stream."""


@dataclass(frozen=True)
class Inputs:
    corpus: Corpus
    model: Model | None = None
    """The model whose tokenizer is used without changes."""


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Tokens]:
    folder = context.draft_folder()
    languages = {split: _bytes_by_language(read_corpus(inputs.corpus.path, split)) for split in SPLITS}
    sizes = {split: counts.total() for split, counts in languages.items()}
    if not sizes["train"]:
        raise DataError("tokenize", "the corpus holds no text to train on", hint="see its report of dropped documents")
    start = time.monotonic()
    tokenizer = _tokenizer(config, inputs, context, sizes=languages["train"])
    tokenizer.save(folder / "tokenizer")
    context.record["learning_seconds"] = round(time.monotonic() - start, 3)

    tallies: dict[str, TokenTally] = {}
    shards: dict[str, Shards] = {}
    for split in SPLITS:
        total = sizes[split]
        tally = tallies[split] = TokenTally(tokenizer, share=min(1.0, CHECKED_BYTES / max(total, 1)))
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


def _tokenizer(config: Config, inputs: Inputs, context: Context, *, sizes: Counter[str]) -> Tokenizer:
    if inputs.model is not None:
        tokenizer = Tokenizer.load(inputs.model.path)
        context.emit("note", text=f"uses the model's own tokenizer of {tokenizer.vocabulary:,} tokens")
        return tokenizer
    progress = _Progress(context, total=sizes.total())
    balanced = config.language_temperature != 1
    rates = sample_rates(
        sizes if balanced else {"": sizes.total()},
        limit=config.sample_bytes,
        temperature=config.language_temperature,
    )
    if balanced:
        context.record["language_rates"] = {name or UNKNOWN: round(rate, 4) for name, rate in sorted(rates.items())}
    texts = (
        (language_of(document) if balanced else "", progress.count(document.text))
        for document in read_corpus(inputs.corpus.path, "train")
    )
    masked = config.objective == "masked"
    return Tokenizer.train(sample(texts, rates), vocabulary=config.vocabulary, digits=config.digits, masked=masked)


def _bytes_by_language(documents: Iterable[Document]) -> Counter[str]:
    sizes: Counter[str] = Counter()
    for document in documents:
        sizes[language_of(document)] += text_bytes(document.text)
    return sizes


# -- encoding


def _encoded(
    documents: Iterable[Document], tokenizer: Tokenizer, tally: TokenTally, context: Context, *, total: int
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
        self._done += text_bytes(text)
        if self._done - self._reported >= BATCH_BYTES or self._done == self._total:
            self._reported = self._done
            self._emit("progress", done=self._done, total=self._total, unit="bytes")
        return text


# -- the report


def _report(
    tokenizer: Tokenizer, tallies: dict[str, TokenTally], shards: dict[str, Shards], *, trained: bool
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
            "unused_share": ratio(int(((used == 0) & ordinary).sum()), int(ordinary.sum())),
            "rare": int(((used > 0) & (used < 10)).sum()),
            "longest": [
                tokenizer.token_bytes(i).decode("utf-8", "replace")
                for i in longest_first
                if i not in tokenizer.special_ids
            ][:20],
        }
    }
    for split, tally in tallies.items():
        report[split] = {"stream_tokens": shards[split].tokens, **tally.figures()}
    return report
