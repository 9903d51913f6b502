"""Read the small files of artifacts: figures of reports, learning curves, JSON.

figures_in(stored_reports(store, digest))["heldout/bits_per_byte"]     # an Interval, as a gate would read it
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from vita.reporting.figures import ReportContent
from vita.spine.errors import DataError
from vita.spine.store import REQUIRES, Store
from vita.stats.intervals import Interval


def figures_in(reports: Iterable[ReportContent]) -> dict[str, Interval]:
    """Return every figure of these reports, in their order."""
    return {row.name: row.figure.interval for report in reports for row in report.rows()}


def model_in(reports: Iterable[ReportContent]) -> str | None:
    """Return the digest of the model that these reports are about."""
    return next((report.model for report in reports if report.model), None)


def as_json(store: Store, digest: str, name: str) -> Any:
    """Read a JSON file of an artifact; None if it has no file of that name."""
    if name not in store.manifest(digest).files:
        return None
    try:
        return json.loads(store.read(digest, name))
    except ValueError as error:
        raise DataError(f"{digest[:12]}, file {name}", f"is not valid JSON: {error}") from None


def model_config(store: Store, digest: str) -> dict[str, Any]:
    """Read the `config.json` of a model; that of its base model for an adapter, {} if there is none."""
    for model in (digest, *store.manifest(digest).facts.get(REQUIRES, ())):
        config = as_json(store, model, "config.json") if store.has(model) else None
        if isinstance(config, dict):
            return config
    return {}


def curve(store: Store, digest: str) -> list[dict[str, Any]]:
    """Read the metrics of each step of a training run, oldest first; empty if the artifact was not trained."""
    names = [name for name in store.manifest(digest).files if name.rpartition("/")[2] == "metrics.jsonl"]
    rows: list[dict[str, Any]] = []
    for name in names[:1]:
        for line in store.read(digest, name).splitlines():
            row = json.loads(line)
            if isinstance(row, dict):
                rows.append(row)
    return rows
