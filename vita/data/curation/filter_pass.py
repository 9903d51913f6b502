"""The first pass of curation: read one slice of a source, normalize and filter its text, and mask personal data.

Documents that pass are written to part files on disk; dropped documents are written to a second file with their reason.
A finished slice is not processed again after the run was killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from vita.data.curation.corpus import ZstdLineWriter, dump
from vita.data.curation.filter_stats import FilterStats
from vita.data.curation.part_files import PartWriter
from vita.data.curation.slice_filter import FilterSteps, SliceFilter
from vita.data.records import Document
from vita.data.sources.read import SourceSlice, documents
from vita.data.sources.readers import PART_BYTES, Row, cut_parts
from vita.spine.disk import exclusive_lock

_DOCUMENTS_PER_TICK = 200  # documents between two calls of `tick`


@dataclass(frozen=True)
class FilterJob:
    """A slice of a source to filter, the steps, and the folder for the output."""

    number: int
    source_slice: SourceSlice
    steps: FilterSteps
    folder: Path


@dataclass(frozen=True)
class FilterResult:
    """The result of filtering a slice: its part files in order, the file of its drops, and the counts."""

    number: int
    parts: tuple[Path, ...]
    drops: Path
    stats: FilterStats


def filter_slice(job: FilterJob, tick: Callable[[int], None]) -> FilterResult:
    """Filter the slice of a job, or load the result of an earlier run; other processes wait for the result."""
    result_path = job.folder / f"{job.number:06d}.stats.json"
    if not result_path.exists():
        with exclusive_lock(job.folder / f"{job.number:06d}.lock"):
            if not result_path.exists():
                _filter_slice(job, result_path, tick)
    result = orjson.loads(result_path.read_bytes())
    stats = FilterStats.from_json(result["stats"])
    return FilterResult(job.number, tuple(job.folder / name for name in result["parts"]), _drops_path(job), stats)


def _drops_path(job: FilterJob) -> Path:
    return job.folder / f"{job.number:06d}.drops.jsonl.zst"


def _filter_slice(job: FilterJob, result_path: Path, tick: Callable[[int], None]) -> None:
    stats, unreported = FilterStats(), 0
    steps = job.steps
    parts = PartWriter(
        job.folder, job.number, part_bytes=steps.part_bytes, sketches=steps.sketches, repeats=steps.repeats
    )
    with ZstdLineWriter(_drops_path(job), level=1) as drops, parts:
        slice_filter = SliceFilter(steps, stats, drops, parts, erasures=job.source_slice.erasures)
        row: Row | None = None

        def note_row(converted: Row) -> None:
            nonlocal row
            row = converted

        rows = documents(job.source_slice, dropped=slice_filter.drop_row, converted=note_row)
        for document in _without_long_texts(rows):
            slice_filter.add(document, row)
            unreported += 1
            if unreported == _DOCUMENTS_PER_TICK:
                tick(unreported)
                unreported = 0
        slice_filter.finish()
    tick(unreported)
    _write_atomically(result_path, dump({"parts": parts.names, "stats": stats.to_json()}))


def _without_long_texts(rows: Iterable[Document]) -> Iterator[Document]:
    """Divide documents above twice `PART_BYTES` as text files are divided, because features need much memory."""
    for document in rows:
        if len(document.text) < PART_BYTES // 2:
            yield document
            continue
        data = document.text.encode("utf-8", "surrogatepass")
        if len(data) < 2 * PART_BYTES:
            yield document
            continue
        empty = replace(document, text="")
        del document
        for number, (part, _) in enumerate(cut_parts([data]), 1):
            yield replace(empty, id=f"{empty.id}#part{number}", text=part.decode("utf-8", "surrogatepass"))


def _write_atomically(path: Path, data: bytes) -> None:
    half = path.with_suffix(".half")
    half.write_bytes(data)
    half.replace(path)
