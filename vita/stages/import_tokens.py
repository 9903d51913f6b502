"""Import text that is already encoded, with the tokenizer that encoded it.

Benchmarks publish such files, so that all runs train on the same tokens. The files are those of the GPT-2 data of
llm.c; the token streams are copied without a change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator

from vita.data.records import Document
from vita.data.sources.erased import ErasureIndex
from vita.data.tokens.shards import SHARD_TOKENS, Shards, write_shards
from vita.data.tokens.token_counts import ratio
from vita.data.tokens.token_files import TokenDocument, TokenFile, count_tokens, open_token_file, read_documents
from vita.data.tokens.tokenizer import DOCUMENT, Tokenizer
from vita.formats.hub_datasets import DatasetFiles
from vita.formats.model_source import ModelSource, pinned_commits
from vita.reporting.figures import ReportContent
from vita.reporting.page import write_report_pages
from vita.spine.config import Settings, neutral
from vita.spine.contents import current_erasures
from vita.spine.disk import file_sha256
from vita.spine.erasures import NOT_STATED
from vita.spine.errors import ConfigError, DataError
from vita.spine.plan import Context, Draft
from vita.stages.kinds import Tokens

VERSION = 1
APPLIES_ERASURES = True

_TRAIN, _HELDOUT = "train", "heldout"
_LEAD = "Token files, copied without a change. Documents that a file boundary divides count as two."
_PROGRESS_DOCUMENTS = 5000


class Config(Settings):
    """The files, and the tokenizer that encoded them."""

    train: DatasetFiles
    """Files of training tokens: a file, a folder, a glob, or `hf://datasets/OWNER/NAME@REVISION/FILES`."""
    validation: DatasetFiles
    """Files of validation tokens, which are not trained on."""
    tokenizer: ModelSource
    """The tokenizer that encoded the files: a model folder, or an id of the Hugging Face Hub, of which only the
    tokenizer is downloaded."""
    vocabulary: int | None = Field(None, ge=2, le=2**16)
    """Rows of the embedding of the model, at least the tokens of the tokenizer. GPUs multiply matrices faster whose
    sizes are multiples of 64. By default the tokens of the tokenizer."""
    validation_tokens: int | None = Field(None, ge=1)
    """Number of predicted tokens of the validation files, from the beginning; by default all."""
    source: str = Field("tokens", min_length=1)
    """Source name of the documents."""
    licence: str | None = neutral(None)
    """The licence of the documents."""
    shard_tokens: int = neutral(SHARD_TOKENS, ge=1)
    """Tokens per file of the token stream."""

    @model_validator(mode="after")
    def _other_files(self) -> Self:
        if self.train == self.validation:
            raise ValueError("`train` and `validation` are the same files")
        return self


@dataclass(frozen=True)
class Inputs:
    """Imported tokens have no inputs: they begin a lineage."""


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Tokens]:
    """Check the files, copy their tokens, and report their counts and digests."""
    folder = context.draft_folder()
    tokenizer = _tokenizer(config, context)
    vocabulary = config.vocabulary or tokenizer.vocabulary
    if vocabulary < tokenizer.vocabulary:
        expected = f"at least {tokenizer.vocabulary}, the tokens of the tokenizer"
        raise ConfigError("import_tokens.vocabulary", expected=expected, got=vocabulary)
    files = {
        _TRAIN: [open_token_file(path) for path in config.train.paths(where="import_tokens.train")],
        _HELDOUT: [open_token_file(path) for path in config.validation.paths(where="import_tokens.validation")],
    }
    context.record["files"] = digests = _digests(files)
    limits = {_TRAIN: None, _HELDOUT: _validation_limit(config, files[_HELDOUT])}
    counts = {split: _counts(split, files[split], tokenizer, limit=limits[split]) for split in files}
    tokenizer.save(folder / "tokenizer")
    shards = {
        split: write_shards(
            folder / split,
            _without_erased(
                _with_progress(
                    read_documents(
                        files[split],
                        document_token=tokenizer.document,
                        source=config.source,
                        licence=config.licence,
                        limit=limits[split],
                    ),
                    context,
                    total=int(counts[split].sum()),
                ),
                tokenizer,
            ),
            vocabulary=vocabulary,
            document=tokenizer.document,
            tokenizer=tokenizer.digest,
            shard_tokens=config.shard_tokens,
            add_document_token=False,
        )
        for split in files
    }
    if not shards[_TRAIN].documents:
        raise DataError("import_tokens.train", "no document is left: all were erased", hint="see `vita erasures`")
    report = _report(tokenizer, vocabulary, counts, shards, digests)
    content = ReportContent.of("import_tokens", details=report)
    write_report_pages(content, folder, title="Imported tokens", lead=_LEAD)
    facts = {
        "vocabulary": vocabulary,
        "train_tokens": shards[_TRAIN].tokens,
        "heldout_tokens": shards[_HELDOUT].tokens,
        "documents": shards[_TRAIN].documents,
        "bytes_per_token": report[_TRAIN]["bytes_per_token"],
        "sources": {config.source: {"documents": shards[_TRAIN].documents, "tokens": shards[_TRAIN].tokens}},
        "licences": [config.licence or NOT_STATED],
    }
    return Draft(Tokens, folder, facts)


def _tokenizer(config: Config, context: Context) -> Tokenizer:
    """Return the tokenizer, named so that transformers opens it in a folder of another model family."""
    folder = config.tokenizer.path
    if (reference := config.tokenizer.hub) is not None:
        from vita.formats.hub import download_tokenizer, resolve_commit

        commit = pinned_commits.get(str(config.tokenizer)) or resolve_commit(reference)
        folder = download_tokenizer(reference, commit)
        context.record["tokenizer"] = {"hub": reference.id, "revision": commit}
    tokenizer = Tokenizer.load(folder)
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for role in ("bos_token", "eos_token"):
        if tokenizer.name_of(role) is None and tokenizer.id_of(DOCUMENT) is not None:
            settings[role] = DOCUMENT
    return tokenizer.with_settings(**settings)


def _digests(files: dict[str, list[TokenFile]]) -> dict[str, str]:
    """Return name -> sha256 of all files; refuse a validation file that is also a training file, and equal names."""
    digests = {split: {file.path.name: file_sha256(file.path) for file in files[split]} for split in files}
    trained = {digest: name for name, digest in digests[_TRAIN].items()}
    for name, digest in digests[_HELDOUT].items():
        if digest in trained:
            hint = "leave the validation files out of `train`"
            raise DataError("import_tokens.train", f"{trained[digest]} is the validation file {name}", hint=hint)
    names = Counter(file.path.name for split in files.values() for file in split)
    if repeated := [name for name, count in names.items() if count > 1]:
        hint = "rename a file: the name of a file is a part of the ids of its documents"
        raise DataError("import_tokens", f"several files have the name {repeated[0]}", hint=hint)
    return digests[_TRAIN] | digests[_HELDOUT]


def _validation_limit(config: Config, files: Sequence[TokenFile]) -> int:
    """Return the number of validation tokens, the last of which is only predicted."""
    available = sum(file.tokens for file in files)
    if config.validation_tokens is None:
        return available
    if (needed := config.validation_tokens + 1) > available:
        expected = f"at least {needed:,} tokens, of which the first is not predicted"
        hint = "set a smaller `validation_tokens`, or give more files"
        raise DataError("import_tokens.validation", expected=expected, got=f"{available:,} tokens", hint=hint)
    return needed


def _counts(split: str, files: Sequence[TokenFile], tokenizer: Tokenizer, *, limit: int | None) -> np.ndarray:
    """Return the occurrences of each id; refuse ids beyond the tokenizer and files without a document."""
    counts = np.zeros(tokenizer.vocabulary, dtype=np.int64)
    remaining = sum(file.tokens for file in files) if limit is None else limit
    for file in files:
        if taken := min(remaining, file.tokens):
            counts += count_tokens(file, vocabulary=tokenizer.vocabulary, limit=taken)
            remaining -= taken
    if not counts[tokenizer.document]:
        name = {_TRAIN: "train", _HELDOUT: "validation"}[split]
        problem = f"no document begins in the files: the document token {tokenizer.document} does not occur"
        raise DataError(f"import_tokens.{name}", problem, hint="the tokenizer is not that of the files")
    return counts


def _without_erased(
    documents: Iterator[tuple[TokenDocument, np.ndarray]], tokenizer: Tokenizer
) -> Iterator[tuple[TokenDocument, np.ndarray]]:
    """Yield the documents that no erasure covers, by their id, source, licence or decoded text."""
    if not (erasures := current_erasures()):
        yield from documents
        return
    index = ErasureIndex(erasures)
    for document, ids in documents:
        text = tokenizer.decode(ids.tolist())
        if index.find(Document(document.id, text, document.source, document.licence)) is None:
            yield document, ids


def _with_progress(
    documents: Iterator[tuple[TokenDocument, np.ndarray]], context: Context, *, total: int
) -> Iterator[tuple[TokenDocument, np.ndarray]]:
    done = 0
    for number, (document, ids) in enumerate(documents, 1):
        done += len(ids)
        if number % _PROGRESS_DOCUMENTS == 0 or done == total:
            context.emit("progress", done=done, total=total, unit="tokens")
        yield document, ids


def _report(
    tokenizer: Tokenizer,
    vocabulary: int,
    counts: dict[str, np.ndarray],
    shards: dict[str, Shards],
    digests: dict[str, str],
) -> dict[str, Any]:
    """Return the counts of both splits; bytes are those of the tokens, without document tokens."""
    sizes = np.array([len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocabulary)])
    sizes[sorted(tokenizer.special_ids)] = 0
    report: dict[str, Any] = {
        "tokenizer": {
            "digest": tokenizer.digest,
            "tokens": tokenizer.vocabulary,
            "vocabulary": vocabulary,
            "document_token": tokenizer.document,
            "used": int((counts[_TRAIN] > 0).sum()),
        },
        "files": digests,
    }
    for split, split_counts in counts.items():
        text_bytes = int(split_counts @ sizes)
        text_tokens = int(split_counts.sum() - split_counts[sorted(tokenizer.special_ids)].sum())
        report[split] = {
            "documents": shards[split].documents,
            "tokens": shards[split].tokens,
            "bytes": text_bytes,
            "bytes_per_token": ratio(text_bytes, text_tokens),
        }
    return report
