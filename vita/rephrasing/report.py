"""The report of rephrasing as plain values, and its page with passages beside their rewrites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vita.data.curation.filter_stats import DocumentCount
from vita.rephrasing.collection import RewriteCollection, StyleCount
from vita.rephrasing.corpus_copy import CorpusSurvey
from vita.rephrasing.styles import PROMPT_VERSION
from vita.spine.erasures import NOT_STATED

MAX_SAMPLE_CHARACTERS = 2000
"""Longest text of a sample on the page."""


def build_report(
    survey: CorpusSurvey, collection: RewriteCollection, weights: Mapping[str, float], *, benchmarks: list[str]
) -> dict[str, Any]:
    """Build the report as values that are equal on every machine."""
    budget = collection.budget
    reasons = collection.reasons()
    if survey.erased:
        reasons["erased"] = reasons.get("erased", 0) + survey.erased
    new_bytes = sum(style.bytes for style in collection.styles.values())
    report: dict[str, Any] = {
        "prompt_version": PROMPT_VERSION,
        "share_allowed": budget.share,
        "share": round(budget.actual, 6),
        "model": dict(collection.model),
        "documents": {
            "read": survey.train.distinct.documents + survey.heldout.distinct.documents,
            "requested": collection.requested,
            "rewrites": collection.accepted,
            "dropped": sum(reasons.values()),
            "train": survey.train.distinct.documents + collection.accepted,
            "train_with_repeats": survey.train.count.documents + collection.accepted,
            "held_out": survey.heldout.distinct.documents,
        },
        "bytes": {
            "natural": budget.natural_bytes,
            "rewrites": budget.rewrite_bytes,
            "train": survey.train.distinct.bytes + new_bytes,
            "train_with_repeats": survey.train.count.bytes + new_bytes,
            "held_out": survey.heldout.distinct.bytes,
        },
        "styles": {name: _style(collection.styles.get(name), weight) for name, weight in sorted(weights.items())},
        "dropped": {reason: {"documents": count} for reason, count in reasons.items()},
        "sources": _sources(survey, collection),
        "licences": _licences(survey, collection),
    }
    if benchmarks:
        counts = collection.checks.contaminated
        report["contamination"] = {name: {"rewrites_found": counts.get(name, 0)} for name in benchmarks}
    return report


def samples_page(collection: RewriteCollection) -> dict[str, Any]:
    """Return the passages and their rewrites, for the page."""
    samples = sorted(collection.samples, key=lambda sample: sample.style)
    return {
        "Samples": [
            {
                "prompt": _shortened(sample.passage),
                "how": f"{sample.style} of {sample.origin}",
                "text": _shortened(sample.text),
            }
            for sample in samples
        ]
    }


def _style(count: StyleCount | None, weight: float) -> dict[str, Any]:
    count = count or StyleCount()
    return {
        "weight": weight,
        "requested": count.requested,
        "rewrites": count.accepted,
        "bytes": count.bytes,
        "mean_bytes": _mean(count.bytes, count.accepted),
        "mean_source_bytes": _mean(count.source_bytes, count.accepted),
        "length_ratio": round(count.bytes / count.source_bytes, 3) if count.source_bytes else None,
    }


def _mean(total: int, count: int) -> int | None:
    return round(total / count) if count else None


def _sources(survey: CorpusSurvey, collection: RewriteCollection) -> dict[str, Any]:
    """Return documents and bytes of each source in the training part, and the share of its bytes."""
    counts = {name: DocumentCount(count.documents, count.bytes) for name, count in survey.train.sources.items()}
    for style, count in collection.styles.items():
        if count.accepted:
            group = counts.setdefault(f"rephrase/{style}", DocumentCount())
            group.documents += count.accepted
            group.bytes += count.bytes
    return {
        name: {
            "train": {"documents": count.documents, "bytes": count.bytes},
            "held_out": _plain(survey.heldout.sources.get(name)),
        }
        for name, count in sorted(counts.items())
    }


def _licences(survey: CorpusSurvey, collection: RewriteCollection) -> dict[str, Any]:
    totals: dict[str | None, DocumentCount] = {}
    for part in (survey.train, survey.heldout):
        for licence, count in part.licences.items():
            group = totals.setdefault(licence, DocumentCount())
            group.documents, group.bytes = group.documents + count.documents, group.bytes + count.bytes
    for licence, documents in collection.licences.items():
        group = totals.setdefault(licence, DocumentCount())
        group.documents += documents
        group.bytes += collection.licence_bytes[licence]
    return {licence or NOT_STATED: _plain(totals[licence]) for licence in sorted(totals, key=lambda name: name or "")}


def _plain(count: DocumentCount | None) -> dict[str, int]:
    return {"documents": count.documents, "bytes": count.bytes} if count else {"documents": 0, "bytes": 0}


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_SAMPLE_CHARACTERS else text[:MAX_SAMPLE_CHARACTERS] + " ..."
