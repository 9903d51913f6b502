"""Contamination of the files of a test: whether items have passages in the training texts of the model.

The curations in the lineage of the model state which benchmark files they searched, by content digest, and how many
items they found, and whether they dropped the documents. A file that a curation did not search, and training data that
no curation has read, are reported as not measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vita.data.curation.decontamination import files_of_test
from vita.reporting.figures import stored_reports
from vita.spine.config import Settings
from vita.spine.contents import current_content
from vita.spine.lineage import lineage
from vita.spine.stage import Context

NOT_MEASURED = "not measured"
_NO_TRAINING_TEXT = ("design", "tokenize", "initialize", "upcycle", "merge", "test", "redteam", "release")
"""Stages whose files are not training data."""


@dataclass(frozen=True)
class Contamination:
    """The items of a test file that were found in the training data of a step, or that were not searched."""

    test: str
    data: str
    """The step of the lineage whose data was searched or not."""
    status: str
    """`removed` if the documents with passages were dropped, `counted` if they stayed, or `not measured`."""
    items: int | None = None
    """Items in the file."""
    items_found: int | None = None
    """Items with a passage in the sources of the corpus."""
    documents_dropped: int | None = None
    short_passages: int | None = None
    """Passages that are too short to be compared."""
    items_in_training: int | None = None
    """Items with a passage in the corpus, by the measure of the curation.

    For counted documents the largest possible number: some may be duplicates or held out.
    """


def contamination_of(config: Settings, model: str, context: Context) -> list[Contamination]:
    """Return the contamination of each test file by each step of the lineage of the model that reads training data."""
    files = {name: current_content(path) for name, path in files_of_test(config)}
    if not files:
        return []
    runs = lineage([model], context.ledger) if context.ledger is not None else []
    steps = [run for run in runs if _reads_training_data(run)]
    if not steps:
        return [Contamination(name, "training data unknown", NOT_MEASURED) for name in files]
    return [_of_step(name, digest, run, context) for name, digest in files.items() for run in steps]


def contamination_page(rows: Sequence[Contamination]) -> dict[str, Any]:
    """Return the explanation on the report page, where the details of the report are the table."""
    return {"Contamination": [_METHOD]} if rows else {}


_METHOD = (
    "Files are compared with the benchmarks of the curations in the lineage of the model by their content. Documents "
    "with a passage of an item were dropped from the corpus, or counted and kept."
)


def _reads_training_data(run: Mapping[str, Any]) -> bool:
    return run["stage"] not in _NO_TRAINING_TEXT and (run["stage"] == "curate" or _has_content(run["config"]))


def _has_content(value: Any) -> bool:
    """Return True if settings contain a file, which is recorded by its content."""
    if isinstance(value, Mapping):
        return "content" in value or any(map(_has_content, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_has_content, value))


def _of_step(test: str, digest: str | None, run: Mapping[str, Any], context: Context) -> Contamination:
    step = f"{run['life']}/{run['step']}"
    name = _benchmark_with(digest, run) if run["stage"] == "curate" else None
    if name is None or context.store is None:
        return Contamination(test, step, NOT_MEASURED)
    [report] = stored_reports(context.store, run["artifact"])
    counts = report.details["contamination"][name]
    is_counted = run["config"]["decontaminate"].get("action") == "count"
    return Contamination(
        test, step, "counted" if is_counted else "removed", counts["items"], counts["items_found"],
        counts["documents_dropped"], counts["short_passages"], counts["items_found"] if is_counted else 0,
    )  # fmt: skip


def _benchmark_with(digest: str | None, run: Mapping[str, Any]) -> str | None:
    """Return the name of the benchmark of a curation whose file has this content and whose texts were all compared."""
    benchmarks = (run["config"].get("decontaminate") or {}).get("benchmarks") or {}
    for name, file in benchmarks.items():
        path = file.get("path")
        if isinstance(path, Mapping) and path.get("content") == digest and not file.get("fields"):
            return name
    return None
