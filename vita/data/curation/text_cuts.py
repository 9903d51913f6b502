"""Repeated text after the assignment of the documents to splits: the search in all parts, and the sizes after cuts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from vita.data.curation.deduplication import RepeatOptions
from vita.data.curation.part_files import PartTable
from vita.data.curation.repeated_text import DocumentOrder, PartCuts, find_repeated_text
from vita.data.curation.split_pass import SplitAssignments, part_starts_of


def find_cuts(
    parts: Sequence[Path],
    tables: Sequence[PartTable],
    assignments: SplitAssignments,
    options: RepeatOptions,
    *,
    reserved: Bool[np.ndarray, "P"],
) -> list[PartCuts]:
    """Return the repeated text to cut in each part; the documents of `reserved` parts are compared, and never cut."""
    in_corpus = assignments.held_out | (assignments.repeat_counts > 0)
    documents = np.flatnonzero(in_corpus)
    ordered = documents[np.argsort(~assignments.held_out[documents], kind="stable")]
    ranks = np.full(len(in_corpus), -1)
    ranks[ordered] = np.arange(len(ordered))
    complete = np.repeat(reserved, [len(table.sizes) for table in tables])
    return find_repeated_text(parts, options, DocumentOrder(ranks, complete, part_starts_of(tables)))


def with_sizes(
    tables: Sequence[PartTable], assignments: SplitAssignments, sizes: Mapping[int, int]
) -> tuple[list[PartTable], SplitAssignments]:
    """Return tables and assignments after cuts: `sizes` are the bytes of changed documents, 0 for removed ones."""
    if not sizes:
        return list(tables), assignments
    all_sizes = np.concatenate([table.sizes for table in tables])
    all_sizes[list(sizes)] = list(sizes.values())
    is_removed = np.zeros(len(all_sizes), bool)
    is_removed[[index for index, size in sizes.items() if not size]] = True
    pieces = np.split(all_sizes, part_starts_of(tables)[1:-1])
    return [replace(table, sizes=piece) for table, piece in zip(tables, pieces, strict=True)], replace(
        assignments,
        held_out=assignments.held_out & ~is_removed,
        repeat_counts=np.where(is_removed, 0, assignments.repeat_counts),
    )
