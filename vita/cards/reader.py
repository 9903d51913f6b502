"""What artifacts tell of themselves, read from their small files alone: figures, learning curves, JSON.

figures(store, digest)["heldout/bits_per_byte"]     # an Interval, as a gate would read it
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vita.spine.errors import DataError
from vita.spine.store import Store
from vita.stats.intervals import Interval

Figures = Mapping[str, Interval]
"""`name/metric` -> its value and interval."""


def figures(store: Store, digest: str) -> dict[str, Interval]:
    """Return every figure of every report in an artifact, in the order of the reports."""
    return figures_in(reports(store, digest))


def figures_in(reports: Iterable[Mapping[str, Any]]) -> dict[str, Interval]:
    """Return every figure of these reports, in their order."""
    return {f"{name}/{metric}": figure for _, name, metric, figure in grouped(reports)}


def grouped(reports: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str, str, Interval]]:
    """Yield (group, name, metric, figure) for every figure of these reports."""
    for report in reports:
        for group, names in _mapping(report["figures"]).items():
            for name, metrics in _mapping(names).items():
                for metric, value in _mapping(metrics).items():
                    if isinstance(value, Mapping) and "value" in value:
                        yield group, name, metric, interval(value)


def reports(store: Store, digest: str) -> Iterator[dict[str, Any]]:
    """The content of every `report.json` with figures: the artifact's own, or one that lies beside a model."""
    for name in sorted(store.manifest(digest).files, key=lambda name: (name.count("/"), name)):
        if name.rpartition("/")[2] == "report.json":
            found = as_json(store, digest, name)
            if isinstance(found, dict) and isinstance(found.get("figures"), dict):
                yield found


def measured_model(store: Store, digest: str) -> str | None:
    """Return the digest of the model that the reports of an artifact are about."""
    return model_in(reports(store, digest))


def model_in(reports: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the digest of the model that these reports are about."""
    return next((str(report["model"]) for report in reports if report.get("model")), None)


def as_json(store: Store, digest: str, name: str) -> Any:
    """A JSON file of an artifact; None where it has none of that name."""
    if name not in store.manifest(digest).files:
        return None
    try:
        return json.loads(store.read(digest, name))
    except ValueError as error:
        raise DataError(f"{digest[:12]}, file {name}", f"is no JSON: {error}") from None


def curve(store: Store, digest: str) -> list[dict[str, Any]]:
    """What was told of each step of a training run, oldest first; nothing where the artifact was not trained."""
    found = [name for name in store.manifest(digest).files if name.rpartition("/")[2] == "metrics.jsonl"]
    rows: list[dict[str, Any]] = []
    for name in found[:1]:
        for line in store.read(digest, name).splitlines():
            row = json.loads(line)
            if isinstance(row, dict):
                rows.append(row)
    return rows


def interval(value: Mapping[str, Any]) -> Interval:
    """A figure as a report spells it; an end that is None is not known."""
    low, high, n = value.get("low"), value.get("high"), value.get("n")
    return Interval(
        math.nan if value.get("value") is None else float(value["value"]),
        -math.inf if low is None else float(low),
        math.inf if high is None else float(high),
        int(n or 0),
    )


def shown(one: Interval) -> str:
    """A figure with its range, where it has one."""
    if not math.isfinite(one.value):
        return "unknown"
    if math.isfinite(one.low) and math.isfinite(one.high):
        return str(one)
    return f"{one.value:.3f} (range unknown)"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
