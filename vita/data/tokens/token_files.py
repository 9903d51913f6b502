"""Files of tokens in the format of llm.c, which benchmarks publish: text that is already encoded.

    file = open_token_file("fineweb_val_000000.bin")        # TokenFile(path, tokens=100_000_000)
    for document, ids in read_documents([file], document_token=50256, source="fineweb"):
        ...                                                 # ids begin with the document token

A file has a header of 256 little-endian int32 (magic number, version, number of tokens, zeros) and one uint16 per
token. Each document begins with the document token. Files continue one another: a document may begin at the end of a
file and end in the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from vita.spine.errors import DataError

MAGIC, VERSION = 20240520, 1
HEADER_NUMBERS = 256
HEADER_BYTES = 4 * HEADER_NUMBERS
TOKEN = np.dtype("<u2")
COUNTED_AT_ONCE = 10_000_000
"""Tokens that are counted at once, which limits the memory."""
_HINT = "download the file again, or leave it out"


@dataclass(frozen=True, slots=True)
class TokenFile:
    """A file of tokens whose header and size were checked."""

    path: Path
    tokens: int
    """Number of tokens."""

    def read(self) -> np.ndarray:
        """Return all tokens as a memory map of uint16."""
        return np.memmap(self.path, dtype=TOKEN, mode="r", offset=HEADER_BYTES, shape=(self.tokens,))


@dataclass(frozen=True, slots=True)
class TokenDocument:
    """A document whose text is not known, as the owner of rights (`vita.data.record_rights.RightsHolder`)."""

    id: str
    """Name of the file and number of the document in it: `fineweb_val_000000.bin#12`."""
    source: str
    licence: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def open_token_file(path: str | Path) -> TokenFile:
    """Open a file after a check of its header and its size; raise `DataError` for another format or a wrong size."""
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = np.frombuffer(file.read(HEADER_BYTES), dtype=np.uint8)
    except OSError as error:
        raise DataError(str(path), f"cannot be read: {error.strerror}") from None
    if len(header) < HEADER_BYTES:
        raise DataError(str(path), expected=f"a header of {HEADER_BYTES} bytes", got=f"{size} bytes", hint=_HINT)
    magic, version, tokens = header.view("<i4")[:3].tolist()
    if magic != MAGIC:
        hint = "only tokens of the GPT-2 data of llm.c in 16 bits are read; encode text with `tokenize`"
        raise DataError(str(path), expected=f"a file of tokens with the magic number {MAGIC}", got=magic, hint=hint)
    if version != VERSION:
        raise DataError(str(path), expected=f"version {VERSION} of the format", got=version)
    if tokens < 1:
        raise DataError(str(path), expected="at least 1 token in the header", got=tokens, hint=_HINT)
    if size != (whole := HEADER_BYTES + tokens * TOKEN.itemsize):
        expected = f"{whole:,} bytes for the {tokens:,} tokens of its header"
        raise DataError(str(path), expected=expected, got=f"{size:,} bytes", hint=_HINT)
    return TokenFile(path, tokens)


def write_token_file(path: str | Path, tokens: Sequence[int] | np.ndarray) -> None:
    """Write a file of tokens; raise `DataError` for ids that need more than 16 bits."""
    ids = np.asarray(tokens)
    if len(ids) == 0 or int(ids.min()) < 0 or int(ids.max()) > np.iinfo(TOKEN).max:
        limits = "no tokens" if len(ids) == 0 else f"{int(ids.min())} to {int(ids.max())}"
        raise DataError(str(path), expected="at least one token, each from 0 to 65535", got=limits)
    header = np.zeros(HEADER_NUMBERS, dtype="<i4")
    header[:3] = MAGIC, VERSION, len(ids)
    Path(path).write_bytes(header.tobytes() + ids.astype(TOKEN).tobytes())


def count_tokens(file: TokenFile, *, vocabulary: int, limit: int | None = None) -> np.ndarray:
    """Return the occurrences of each id in the first `limit` tokens, as int64 of shape (vocabulary,).

    An id that is not below `vocabulary` raises a `DataError` with its position.
    """
    counts = np.zeros(np.iinfo(TOKEN).max + 1, dtype=np.int64)
    tokens = file.read()[:limit]
    for start in range(0, len(tokens), COUNTED_AT_ONCE):
        counts += np.bincount(tokens[start : start + COUNTED_AT_ONCE], minlength=len(counts))
    if counts[vocabulary:].any():
        position = int(np.flatnonzero(tokens >= vocabulary)[0])
        hint = "the tokenizer is not that of the file"
        expected = f"tokens below the vocabulary of {vocabulary}"
        raise DataError(f"{file.path}, token {position}", expected=expected, got=int(tokens[position]), hint=hint)
    return counts[:vocabulary]


def read_documents(
    files: Sequence[TokenFile],
    *,
    document_token: int,
    source: str,
    licence: str | None = None,
    limit: int | None = None,
) -> Iterator[tuple[TokenDocument, np.ndarray]]:
    """Yield each document with its tokens; together they are the first `limit` tokens of the files, unchanged.

    A document begins with `document_token`, except the part of a document that a file continues, which counts as a
    document of its own.
    """
    remaining = sum(file.tokens for file in files) if limit is None else limit
    for file in files:
        tokens = file.read()[:remaining]
        remaining -= len(tokens)
        starts = np.flatnonzero(tokens == document_token)
        edges = np.unique(np.concatenate([[0], starts, [len(tokens)]])).tolist()
        for number, (start, stop) in enumerate(pairwise(edges)):
            yield TokenDocument(f"{file.path.name}#{number}", source, licence), tokens[start:stop]
