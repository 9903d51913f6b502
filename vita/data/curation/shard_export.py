"""Export of a corpus to a folder of the user: shards in zstd JSON Lines or Parquet, with the decision on each document.

export_corpus(corpus, Path("clean"), form="parquet")

train/00000.parquet     id, text, source, licence, metadata, split
heldout/00000.parquet   the same columns
dropped/00000.parquet   id, text, source, reason, detail, repeats
report.html, report.json, report.md, figures
croissant.json          metadata in the Croissant format
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import orjson

from vita.data.curation.corpus import TextShardWriter, dump, read_lines
from vita.data.curation.croissant import write_croissant

ShardForm = Literal["jsonl", "parquet"]
FIGURES = "figures"
SHARD_BYTES = 64 * 2**20
_ROW_GROUP_BYTES = 8 * 2**20
_COLUMNS = {
    "documents": ("id", "text", "source", "licence", "metadata", "split"),
    "drops": ("id", "text", "source", "licence", "reason", "detail", "repeats"),
}
"""Columns of a Parquet file; `metadata` and `repeats` are JSON."""


class _Writer(Protocol):
    def write(self, line: bytes) -> None: ...
    def close(self) -> None: ...


def export_corpus(corpus: Path, folder: Path, *, form: ShardForm, report: Mapping[str, Any]) -> None:
    """Write the documents, drops and reports of a corpus to an existing folder; equal corpora give equal files.

    `report` are the details of its report (`vita.data.curation.report`).
    """
    for split, name in (("train", "train"), ("heldout", "held_out")):
        ending = f',"split":"{name}"}}'.encode()
        shards = sorted((corpus / split).glob("*.jsonl.zst"))
        lines = (line[:-1] + ending for shard in shards for line in read_lines(shard))
        _write_shards(lines, folder / split, form, _COLUMNS["documents"])
    _write_shards(read_lines(corpus / "drops.jsonl.zst"), folder / "dropped", form, _COLUMNS["drops"])
    for page in sorted(corpus.glob("report.*")):
        shutil.copyfile(page, folder / page.name)
    if (corpus / FIGURES).is_dir():
        shutil.copytree(corpus / FIGURES, folder / FIGURES)
    columns = {"train": _COLUMNS["documents"], "heldout": _COLUMNS["documents"], "dropped": _COLUMNS["drops"]}
    write_croissant(folder, report, columns)


def _write_shards(lines: Iterator[bytes], folder: Path, form: ShardForm, columns: tuple[str, ...]) -> None:
    folder.mkdir()
    writer: _Writer = TextShardWriter(folder) if form == "jsonl" else _ParquetWriter(folder, columns)
    for line in lines:
        writer.write(line)
    writer.close()


class _ParquetWriter:
    """A writer of JSON lines into numbered Parquet files of bounded size, with columns of text."""

    def __init__(self, folder: Path, columns: tuple[str, ...]) -> None:
        self._folder, self._columns = folder, columns
        self._number = 0
        self._file: Any = None
        self._file_bytes = self._group_bytes = 0
        self._rows: list[dict[str, Any]] = []

    def write(self, line: bytes) -> None:
        self._rows.append(orjson.loads(line))
        self._group_bytes += len(line)
        if self._group_bytes >= _ROW_GROUP_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        import pyarrow
        from pyarrow import parquet

        schema = pyarrow.schema([(name, pyarrow.string()) for name in self._columns])
        if self._file is None:
            path = self._folder / f"{self._number:05d}.parquet"
            self._file = parquet.ParquetWriter(path, schema, compression="zstd")
            self._number += 1
        values = {name: [_as_text(row.get(name)) for row in self._rows] for name in self._columns}
        self._file.write_table(pyarrow.table(values, schema=schema))
        self._file_bytes += self._group_bytes
        self._rows, self._group_bytes = [], 0
        if self._file_bytes >= SHARD_BYTES:
            self._close_file()

    def _close_file(self) -> None:
        self._file.close()
        self._file, self._file_bytes = None, 0

    def close(self) -> None:
        if self._rows:
            self._write_group()
        if self._file is not None:
            self._close_file()


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else dump(value).decode()
