"""Tokens on disk: one long stream cut into flat little-endian files, opened by memory map.

tokens-00000.bin ...   uint16 (uint32 above 65,536 ids), every document after its document token
starts.bin             int64: where each document starts in the stream, and where the stream ends
documents.parquet      id, source and rights of each document, in the same order
index.json             sizes and sha256 of all of these, the vocabulary and the tokenizer's digest
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vita.data.record_rights import RightsHolder, rights_of
from vita.spine.errors import DataError, StoreError

FORMAT = 1
SHARD_TOKENS = 100_000_000

_COLUMNS = ("id", "source", "licence", "robots", "opt_out", "consent")
"""Columns of the side file; the last three are missing in the files of earlier versions."""
_ROWS_AT_ONCE = 50_000
_GROUPS_KEPT = 16


@dataclass(frozen=True, slots=True)
class DocumentSpan:
    """A document's part [start, stop) of the token stream."""

    id: str
    source: str
    licence: str | None
    start: int
    stop: int
    robots: str | None = None
    opt_out: bool | None = None
    consent: str | None = None


def write_shards(
    folder: str | Path,
    tokenized: Iterable[tuple[RightsHolder, np.ndarray]],
    *,
    vocabulary: int,
    document: int,
    tokenizer: str = "",
    shard_tokens: int = SHARD_TOKENS,
    add_document_token: bool = True,
) -> Shards:
    """Write documents with their tokens, each after the token `document`, in bounded memory.

    `tokenizer` is the digest of the tokenizer that gave the tokens. Without `add_document_token`, the tokens are
    written as they are: those of a document contain its document token.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _Writer(folder, vocabulary=vocabulary, document=document, shard_tokens=shard_tokens) as writer:
        for provenance, ids in tokenized:
            writer.add(provenance, ids, add_document_token=add_document_token)
    writer.finish(tokenizer)
    return Shards.open(folder)


class Shards:
    """An opened folder of token shards: one stream of tokens that knows its documents."""

    def __init__(self, folder: Path, index: Mapping[str, Any]) -> None:
        self.folder, self.index = folder, index
        self.tokens: int = index["tokens"]
        self.documents: int = index["documents"]
        self.vocabulary: int = index["vocabulary"]
        self.document_token: int = index["document_token"]
        self.tokenizer: str = index["tokenizer"]
        self.dtype = np.dtype(index["dtype"]).newbyteorder("<")
        self._ends = np.cumsum([shard["tokens"] for shard in index["shards"]], dtype=np.int64)
        self._maps: dict[int, np.ndarray] = {}
        self._groups: dict[int, Any] = {}

    @classmethod
    def open(cls, folder: str | Path) -> Shards:
        """Open the shards in `folder`; refuse missing files and files of another size than written."""
        folder = Path(folder)
        try:
            index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            hint = "`vita tokenize` writes token shards"
            raise StoreError(str(folder), "holds no token shards (index.json is missing)", hint=hint) from None
        except (ValueError, OSError) as error:
            raise StoreError(str(folder / "index.json"), f"cannot be read ({error})") from None
        if not isinstance(index, dict) or index.get("format") != FORMAT:
            got = index.get("format") if isinstance(index, dict) else index
            raise StoreError(str(folder / "index.json"), expected=f"token shards of format {FORMAT}", got=got)
        for entry in _files(index):
            path = folder / entry["file"]
            if not path.is_file():
                raise StoreError(str(path), "is missing", hint="tokenize the corpus again")
            if (size := path.stat().st_size) != entry["bytes"]:
                expected = f"{entry['bytes']:,} bytes"
                raise StoreError(str(path), expected=expected, got=f"{size:,} bytes", hint="tokenize the corpus again")
        return cls(folder, index)

    def verify(self) -> None:
        """Read every file and refuse one whose content was altered."""
        for entry in _files(self.index):
            with (self.folder / entry["file"]).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != entry["sha256"]:
                problem = "was altered since it was written (its sha256 differs)"
                raise StoreError(str(self.folder / entry["file"]), problem, hint="tokenize the corpus again")

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read tokens [start, stop) of the stream, in their stored type."""
        if not 0 <= start <= stop <= self.tokens:
            raise DataError(str(self.folder), expected=f"a range within 0 to {self.tokens}", got=f"{start} to {stop}")
        parts = []
        shard = int(np.searchsorted(self._ends, start, side="right"))
        while start < stop:
            begin = int(self._ends[shard - 1]) if shard else 0
            end = min(stop, int(self._ends[shard]))
            parts.append(self._map(shard)[start - begin : end - begin])
            start, shard = end, shard + 1
        if len(parts) == 1:
            return np.asarray(parts[0])
        return np.concatenate(parts) if parts else np.zeros(0, dtype=self.dtype)

    def documents_between(self, start: int, stop: int) -> list[DocumentSpan]:
        """Return the documents in tokens [start, stop), each with its part of the range."""
        if not 0 <= start <= stop <= self.tokens:
            raise DataError(str(self.folder), expected=f"a range within 0 to {self.tokens}", got=f"{start} to {stop}")
        if start == stop:
            return []
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        last = int(np.searchsorted(self.starts, stop, side="left"))
        rows = self._rows(first, last)
        return [
            DocumentSpan(
                row["id"], row["source"], row["licence"], max(begin, start), min(end, stop),
                row.get("robots"), row.get("opt_out"), row.get("consent"),
            )
            for row, begin, end in zip(
                rows, self.starts[first:last].tolist(), self.starts[first + 1 : last + 1].tolist(), strict=True
            )
        ]  # fmt: skip

    def files_of(self, spans: Iterable[DocumentSpan]) -> list[str]:
        """Return the names of the token files that contain the spans."""
        numbers = {
            shard
            for span in spans
            for shard in range(
                int(np.searchsorted(self._ends, span.start, side="right")),
                int(np.searchsorted(self._ends, span.stop - 1, side="right")) + 1,
            )
        }
        return [self.index["shards"][number]["file"] for number in sorted(numbers)]

    @cached_property
    def starts(self) -> np.ndarray:
        """Return the start of each document; the last entry is the end of the stream."""
        return np.memmap(self.folder / "starts.bin", dtype="<i8", mode="r")

    @cached_property
    def _parquet(self) -> Any:
        import pyarrow.parquet

        return pyarrow.parquet.ParquetFile(self.folder / "documents.parquet")

    def _map(self, shard: int) -> np.ndarray:
        if shard not in self._maps:
            path = self.folder / self.index["shards"][shard]["file"]
            self._maps[shard] = np.memmap(path, dtype=self.dtype, mode="r")
        return self._maps[shard]

    def _rows(self, first: int, last: int) -> list[dict[str, Any]]:
        """Read rows [first, last) of the side file, from the groups that contain them."""
        rows: list[dict[str, Any]] = []
        for group in range(first // _ROWS_AT_ONCE, (last - 1) // _ROWS_AT_ONCE + 1):
            at = group * _ROWS_AT_ONCE
            if group not in self._groups:
                if len(self._groups) == _GROUPS_KEPT:
                    del self._groups[next(iter(self._groups))]
                self._groups[group] = self._parquet.read_row_group(group)
            table = self._groups[group]
            begin = max(first - at, 0)
            rows += table.slice(begin, min(last - at, table.num_rows) - begin).to_pylist()
        return rows


class _Writer:
    """Writes the stream as it comes; what is kept in memory is one group of document rows."""

    def __init__(self, folder: Path, *, vocabulary: int, document: int, shard_tokens: int) -> None:
        self._folder, self._vocabulary, self._document = folder, vocabulary, document
        self._shard_tokens = shard_tokens
        self._dtype = np.dtype("<u2" if vocabulary <= 2**16 else "<u4")
        self._tokens = self._documents = 0
        self._shards: list[dict[str, Any]] = []
        self._shard: _HashedFile | None = None
        self._by_source: dict[str, Counter[str]] = {}
        self._rows: list[tuple[str | bool | None, ...]] = []

    def __enter__(self) -> _Writer:
        import pyarrow
        import pyarrow.parquet

        types = {name: pyarrow.bool_() if name == "opt_out" else pyarrow.string() for name in _COLUMNS}
        self._schema = pyarrow.schema(types)
        self._parquet = pyarrow.parquet.ParquetWriter(
            self._folder / "documents.parquet", self._schema, compression="zstd"
        )
        self._starts = _HashedFile(self._folder / "starts.bin")
        return self

    def __exit__(self, *error: object) -> None:
        self._starts.write(np.array([self._tokens], dtype="<i8"))
        self._flush()
        self._parquet.close()
        self._starts.close()
        if self._shard:
            self._close_shard()

    def add(self, record: RightsHolder, ids: np.ndarray, *, add_document_token: bool = True) -> None:
        """Add the next document, after the document token or as it is."""
        if len(ids) and int(ids.max()) >= self._vocabulary:
            expected = f"tokens below the vocabulary of {self._vocabulary}"
            raise DataError(f"document {record.id}", expected=expected, got=int(ids.max()))
        self._starts.write(np.array([self._tokens], dtype="<i8"))
        first = int(add_document_token)
        tokens = np.empty(first + len(ids), dtype=self._dtype)
        tokens[:first], tokens[first:] = self._document, ids
        rights = rights_of(record)
        self._rows.append((record.id, record.source, rights.licence, rights.robots, rights.opt_out, rights.consent))
        if len(self._rows) == _ROWS_AT_ONCE:
            self._flush()
        counts = self._by_source.setdefault(record.source, Counter())
        counts.update(documents=1, tokens=len(tokens))
        self._documents += 1
        self._tokens += len(tokens)
        while len(tokens):
            if self._shard is None:
                self._shard = _HashedFile(self._folder / f"tokens-{len(self._shards):05d}.bin")
            room = self._shard_tokens - self._shard.size // self._dtype.itemsize
            self._shard.write(tokens[:room])
            tokens = tokens[room:]
            if self._shard.size == self._shard_tokens * self._dtype.itemsize:
                self._close_shard()

    def finish(self, tokenizer: str) -> None:
        """Write the index, which makes the folder whole."""
        documents = self._folder / "documents.parquet"
        with documents.open("rb") as file:
            sha = hashlib.file_digest(file, "sha256").hexdigest()
        index = {
            "format": FORMAT,
            "dtype": self._dtype.name,
            "tokens": self._tokens,
            "documents": self._documents,
            "vocabulary": self._vocabulary,
            "document_token": self._document,
            "tokenizer": tokenizer,
            "sources": {name: dict(counts) for name, counts in sorted(self._by_source.items())},
            "shards": self._shards,
            "side": [
                self._starts.entry(),
                {"file": documents.name, "bytes": documents.stat().st_size, "sha256": sha},
            ],
        }
        (self._folder / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")

    def _close_shard(self) -> None:
        assert self._shard is not None
        self._shard.close()
        self._shards.append({**self._shard.entry(), "tokens": self._shard.size // self._dtype.itemsize})
        self._shard = None

    def _flush(self) -> None:
        import pyarrow

        if self._rows:
            columns = [
                pyarrow.array(column, field.type)
                for column, field in zip(zip(*self._rows, strict=True), self._schema, strict=True)
            ]
            self._parquet.write_table(pyarrow.Table.from_arrays(columns, schema=self._schema), _ROWS_AT_ONCE)
            self._rows = []


class _HashedFile:
    """A file with its size and sha256 so far."""

    def __init__(self, path: Path) -> None:
        self._path, self.size, self._sha = path, 0, hashlib.sha256()
        self._file: BinaryIO = path.open("wb")

    def write(self, array: np.ndarray) -> None:
        data = array.data.cast("B") if array.size else b""
        self._file.write(data)
        self._sha.update(data)
        self.size += array.nbytes

    def close(self) -> None:
        self._file.close()

    def entry(self) -> dict[str, Any]:
        return {"file": self._path.name, "bytes": self.size, "sha256": self._sha.hexdigest()}


def _files(index: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*index["shards"], *index["side"]]
