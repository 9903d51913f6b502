"""The corpus report: documents and bytes by source, drops by reason, and licences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from vita.data.curation.decontamination import BenchmarkCounts
from vita.data.curation.filter_stats import BenchmarkHits, CutCount, FilterStats, ValueCount
from vita.data.curation.part_files import PartTable
from vita.data.curation.split_pass import SplitAssignments
from vita.spine.erasures import NOT_STATED


def build_report(
    stats: FilterStats,
    tables: Sequence[PartTable],
    assignments: SplitAssignments,
    *,
    filters: Sequence[Mapping[str, Any]],
    personal_data: Mapping[str, str],
    benchmarks: Mapping[str, BenchmarkCounts],
    keeps_contaminated: bool,
    repeats: Mapping[str, float],
    repeats_cut: Mapping[str, Mapping[str, Any]],
    held_out_setting: float,
    skipped_files: Sequence[str],
) -> dict[str, Any]:
    """Build the report as plain values that are equal on every machine."""
    sizes = np.concatenate([table.sizes for table in tables])
    is_train, is_held_out = assignments.repeat_counts > 0, assignments.held_out
    by_source = _indices_by_name([table.sources for table in tables], [table.source_of for table in tables])
    training_bytes = sizes * assignments.repeat_counts
    by_licence = _indices_by_name([table.licences for table in tables], [table.licence_of for table in tables])
    dropped = _dropped(stats)
    num_held_out = int(is_held_out.sum())
    return {
        "documents": {
            "read": sum(count.documents for count in stats.read.values()),
            "dropped": sum(count["documents"] for count in dropped.values()),
            "train": int(is_train.sum()),
            "train_with_repeats": int(assignments.repeat_counts.sum()),
            "held_out": int(is_held_out.sum()),
            "renamed": len(assignments.new_ids),
        },
        "bytes": {
            "read": sum(count.bytes for count in stats.read.values()),
            "train": int(sizes[is_train].sum()),
            "train_with_repeats": int(training_bytes.sum()),
            "held_out": int(sizes[is_held_out].sum()),
        },
        "sources": {
            source: {
                "read": _plain(stats.read.get(source)),
                "normalized": stats.normalized.get(source, 0),
                **({"encodings": dict(sorted(stats.encodings[source].items()))} if source in stats.encodings else {}),
                **({"repaired": stats.repaired[source]} if source in stats.repaired else {}),
                **({"unusable_ids": stats.unusable_ids[source]} if source in stats.unusable_ids else {}),
                "train": _count(sizes, by_source.get(source), is_train),
                "share": _share(training_bytes, by_source.get(source)),
                "held_out": _count(sizes, by_source.get(source), is_held_out),
                "dropped": {
                    reason: _plain(count) for reason, count in sorted(stats.dropped.get(source, {}).items())
                },
            }
            for source in sorted({*stats.read, *stats.dropped})
        },
        "licences": {
            licence or NOT_STATED: _count(sizes, indices, is_train | is_held_out)
            for licence, indices in sorted(by_licence.items(), key=lambda item: item[0] or "")
            if (is_train | is_held_out)[indices].any()
        },
        **({"rights": {name: _plain(count) for name, count in sorted(stats.rights.items())}} if stats.rights else {}),
        **_languages(stats, tables, sizes, is_train | is_held_out),
        "dropped": dropped,
        "kept": sorted(stats.kept, key=lambda sample: (sample["source"], sample["id"])),
        **_personal_data(stats, personal_data),
        **_contamination(stats, benchmarks, kept=keeps_contaminated),
        **_repeated_text(stats, repeats_cut),
        "filters": list(filters),
        "repeats": dict(repeats),
        "skipped_files": sorted(skipped_files),
        "damaged_files": sorted(stats.damaged),
        "advice": [held_out_advice(num_held_out)] if held_out_setting and num_held_out < MIN_HELD_OUT else [],
    }  # fmt: skip


def _languages(
    stats: FilterStats, tables: Sequence[PartTable], sizes: np.ndarray, is_kept: np.ndarray
) -> dict[str, Any]:
    """Return the documents of each language that were read, and those in the corpus; nothing if none was identified."""
    by_language = _indices_by_name([table.languages for table in tables], [table.language_of for table in tables])
    rows = {
        language: {"read": _plain(count), "corpus": _count(sizes, by_language.get(language), is_kept)}
        for language, count in sorted(stats.languages.items(), key=lambda item: (-item[1].documents, item[0]))
    }
    return {"languages": rows} if rows else {}


def _personal_data(stats: FilterStats, actions: Mapping[str, str]) -> dict[str, Any]:
    """Return the action and the counts of each kind that was searched; nothing if none was searched."""
    searched = {kind: action for kind, action in actions.items() if action != "keep"}
    counts = {kind: stats.personal_data.get(kind, ValueCount()) for kind in searched}
    rows = {kind: {"action": action, **asdict(counts[kind])} for kind, action in searched.items()}
    return {"personal_data": rows} if rows else {}


def _contamination(stats: FilterStats, benchmarks: Mapping[str, BenchmarkCounts], *, kept: bool) -> dict[str, Any]:
    """Return the size of each benchmark, the items that were found in documents, and the documents."""
    rows: dict[str, Any] = {}
    for name, counts in benchmarks.items():
        hits = stats.contamination.get(name, BenchmarkHits())
        coverage = {"items_found": len(hits.items), "share": round(len(hits.items) / max(1, counts.items), 4)}
        documents = {"documents_found": hits.documents, "documents_dropped": 0 if kept else hits.documents}
        rows[name] = {**asdict(counts), **coverage, **documents}
    return {"contamination": rows} if rows else {}


def _repeated_text(stats: FilterStats, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings and counts of each kind of repeated text that was searched; nothing if none was."""
    rows = {}
    for kind, values in settings.items():
        count = stats.cuts.get(kind, CutCount())
        samples = [{name: sample[name] for name in ("id", "source", "text")} for sample in count.samples]
        rows[kind] = {**values, **asdict(count), "samples": samples}
    return {"repeated_text": rows} if rows else {}


MIN_HELD_OUT = 2
"""Smallest number of held-out documents for an interval: the spread between documents needs two."""


def held_out_advice(held_out: int) -> str:
    """Return the advice for a held-out set that is too small for an interval."""
    problem = "nothing is held out" if not held_out else f"only {held_out} document is held out"
    return (
        f"{problem}: no interval can be determined from it and no gate on its figures can be decided; "
        "set `held_out` to a number of documents (`held_out: 100`), or cut the text into more (`cut_at: blank_lines`)"
    )


def _indices_by_name(names: Sequence[Sequence[Any]], codes: Sequence[np.ndarray]) -> dict[Any, np.ndarray]:
    """Return name -> the indices of its documents, over all parts."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(name for part in names for name in part))}
    lookup = [np.array([numbers[name] for name in part], np.int64) for part in names]
    all_codes = np.concatenate([table[code] for table, code in zip(lookup, codes, strict=True)])
    return {name: np.flatnonzero(all_codes == number) for name, number in numbers.items()}


def _count(sizes: np.ndarray, indices: np.ndarray | None, mask: np.ndarray) -> dict[str, int]:
    indices = indices[mask[indices]] if indices is not None else np.zeros(0, np.int64)
    return {"documents": len(indices), "bytes": int(sizes[indices].sum())}


def _share(sizes: np.ndarray, indices: np.ndarray | None) -> float:
    """Return the share of all bytes at `indices`."""
    return round(float(sizes[indices].sum() / sizes.sum()), 6) if indices is not None and sizes.any() else 0.0


def _plain(count: Any) -> dict[str, int]:
    return {"documents": count.documents, "bytes": count.bytes} if count else {"documents": 0, "bytes": 0}


def _dropped(stats: FilterStats) -> dict[str, dict[str, Any]]:
    totals: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for reasons in stats.dropped.values():
        for reason, count in reasons.items():
            totals[reason] += count.documents
            sizes[reason] += count.bytes
    return {
        reason: {
            "documents": totals[reason],
            "bytes": sizes[reason],
            "samples": [
                {name: sample[name] for name in ("id", "source", "detail", "text")} for sample in stats.samples[reason]
            ],
        }
        for reason in sorted(totals)
    }
