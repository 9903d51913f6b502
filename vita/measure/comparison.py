"""Is B really better than A? Two reports compared item by item, on the items that both hold.

for name, found in compare(report_a, report_b).items():
    print(name, found.difference, found.p_value)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import zstandard

from vita.measure.statistics import Comparison, holm, mcnemar
from vita.spine.errors import DataError

VERDICTS = ("acc", "acc_norm", "acc_bytes", "right")


def compare(first: Path, second: Path) -> dict[str, Comparison]:
    """`task/metric` -> exact McNemar test of two report folders, p-values corrected for their number (Holm 1979)."""
    before, after = _verdicts(first), _verdicts(second)
    found: dict[str, Comparison] = {}
    for name in sorted(before.keys() & after.keys()):
        both = sorted(before[name].keys() & after[name].keys())
        if both:
            found[name] = mcnemar([before[name][id] for id in both], [after[name][id] for id in both])
    if not found:
        hint = "test both models with the same tasks, limit and seed"
        raise DataError(str(second), f"has no items in common with {first}", hint=hint)
    corrected = holm([one.p_value for one in found.values()])
    return {name: replace(one, p_value=p) for (name, one), p in zip(found.items(), corrected, strict=True)}


def paired(first: Path, second: Path, figure: str) -> Comparison | None:
    """The paired test of one figure (`task/metric` or `task/group/metric`), if both reports hold its items."""
    task, *group, metric = figure.split("/")
    before, after = (_verdicts(folder).get(f"{task}/{metric}", {}) for folder in (first, second))
    both = sorted(id for id in before.keys() & after.keys() if not group or id.startswith("/".join(group) + "/"))
    return mcnemar([before[id] for id in both], [after[id] for id in both]) if both else None


def _verdicts(folder: Path) -> Mapping[str, Mapping[str, bool]]:
    try:
        content = zstandard.ZstdDecompressor().stream_reader((folder / "items.jsonl.zst").read_bytes()).read()
    except (OSError, zstandard.ZstdError) as error:
        raise DataError(str(folder), f"its items.jsonl.zst cannot be read: {error}") from None
    found: dict[str, dict[str, bool]] = {}
    for line in content.splitlines():
        row: dict[str, Any] = orjson.loads(line)
        for metric in VERDICTS:
            if "task" in row and metric in row:
                found.setdefault(f"{row['task']}/{metric}", {})[f"{row.get('group')}/{row['id']}"] = row[metric]
    return found
