"""The two passes of curation over all slices and parts, with worker processes and reports of progress."""

from __future__ import annotations

import time
from pathlib import Path

from vita.data.curation.corpus import TextShardWriter, ZstdLineWriter, read_lines
from vita.data.curation.filter_pass import FilterJob, FilterResult, filter_slice
from vita.data.curation.filter_stats import FilterStats
from vita.data.curation.split_pass import SplitJob, write_splits
from vita.data.curation.worker_pool import Pool
from vita.spine.stage import Context


def filter_all(jobs: list[FilterJob], pool: Pool, context: Context) -> list[FilterResult]:
    """Filter all slices, the largest first; return the results in the order of the sources.

    Parts of large files are filtered last and in order, so that each process reads a compressed file forward.
    """
    spans = [job for job in jobs if job.source_slice.is_span]
    others = [job for job in jobs if not job.source_slice.is_span]
    largest_first = [*sorted(others, key=lambda job: -job.source_slice.size), *spans]
    progress = _Progress(context, sum(job.source_slice.size for job in jobs))
    answers = []
    for job, answer in zip(
        largest_first, pool.in_order(filter_slice, largest_first, watch=progress.watch), strict=True
    ):
        progress.finished(job.source_slice.size, sum(count.documents for count in answer.stats.read.values()))
        answers.append(answer)
    return sorted(answers, key=lambda answer: answer.number)


class _Progress:
    """Reports the number of processed documents; the total is estimated from the finished files."""

    def __init__(self, context: Context, size: int) -> None:
        self._context, self._size = context, size
        self._finished_size = self._finished_documents = 0
        self._reported_at = 0.0

    def finished(self, size: int, documents: int) -> None:
        self._finished_size += size
        self._finished_documents += documents

    def watch(self, done: int) -> None:
        now = time.monotonic()
        if now - self._reported_at < 0.2:
            return
        self._reported_at = now
        total = None
        if self._finished_size:
            total = max(done, round(self._finished_documents * self._size / self._finished_size))
        self._context.emit("progress", done=done, total=total, unit="documents", doing="filtering")


def write_all(
    split_tasks: list[SplitJob],
    results: list[FilterResult],
    stats: FilterStats,
    folder: Path,
    pool: Pool,
    context: Context,
) -> dict[int, int]:
    """Write the splits; return the sizes of the documents from which repeated text was cut."""
    (folder / "train").mkdir()
    (folder / "heldout").mkdir()
    total = sum(len(task.assignments.first) for task in split_tasks)
    held_out = TextShardWriter(folder / "heldout")
    sizes: dict[int, int] = {}
    with ZstdLineWriter(folder / "drops.jsonl.zst") as drops:
        for result in results:
            for line in read_lines(result.drops):
                drops.write(line)

        def watch(done: int) -> None:
            context.emit("progress", done=done, total=total, unit="documents", doing="writing")

        for answer in pool.in_order(write_splits, split_tasks, watch=watch):
            stats.merge(answer.stats)
            sizes |= answer.sizes
            for line in answer.drops:
                drops.write(line)
            for line in answer.held_out:
                held_out.write(line)
    held_out.close()
    return sizes
