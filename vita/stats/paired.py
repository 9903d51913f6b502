"""Paired comparison of two evaluation reports, item by item, on their shared items.

for name, comparison in compare(report_a, report_b).items():
    print(name, comparison.difference, comparison.p_value)

versus(report_a, items_of_b)      # also texts, and every item with a changed verdict, with both answers
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import zstandard

from vita.spine.errors import DataError
from vita.stats.intervals import Comparison, Interval, RatioComparison, holm, mcnemar, paired_ratio

VERDICTS = ("acc", "acc_norm", "acc_bytes", "accuracy", "passed", "prompt_strict", "prompt_loose", "all_passed")
"""Tested metrics of an item; their number enters the Holm correction."""

ANSWERS = ("answer", "logprobs")
"""Columns with the answer of the model."""

Row = Mapping[str, Any]
Verdicts = Mapping[str, Mapping[str, bool]]


@dataclass(frozen=True, slots=True)
class Flip:
    """An item with a changed verdict, and the answers of both versions."""

    task: str
    id: str
    metric: str
    prompt: str
    before: str
    after: str
    gained: bool
    """True if the later version is correct, False if the earlier one is."""

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True)
class PairedComparison:
    """The comparison of a version with its parent; all p-values are corrected for multiple comparisons."""

    tasks: Mapping[str, Comparison]
    """`task/metric` -> exact McNemar test."""
    texts: Mapping[str, RatioComparison]
    """Text -> paired bootstrap of the bits per byte."""
    flips: list[Flip]

    def figures(self) -> dict[str, Interval]:
        """Return the change of every metric, later minus earlier."""
        figures = {name: comparison.difference for name, comparison in self.tasks.items()}
        return figures | {f"{name}/bits_per_byte": comparison.difference for name, comparison in self.texts.items()}


def compare(first: Path, second: Path) -> dict[str, Comparison]:
    """Compare two report folders: `task/metric` -> exact McNemar test, with Holm-corrected p-values."""
    comparisons = _compare_verdicts(*_verdicts(first, second))
    if not comparisons:
        raise _no_shared_items(str(second), first)
    corrected = holm([comparison.p_value for comparison in comparisons.values()])
    return {
        name: replace(comparison, p_value=p)
        for (name, comparison), p in zip(comparisons.items(), corrected, strict=True)
    }


def paired(first: Path, second: Path, figure: str) -> Comparison | None:
    """Return the paired test of a metric (`task/metric` or `task/group/metric`), or None without shared items."""
    task, *group, metric = figure.split("/")
    before, after = (verdicts.get(f"{task}/{metric}", {}) for verdicts in _verdicts(first, second))
    shared_ids = sorted(id for id in before.keys() & after.keys() if not group or id.startswith("/".join(group) + "/"))
    return mcnemar([before[id] for id in shared_ids], [after[id] for id in shared_ids]) if shared_ids else None


def versus(parent: Path, rows: Iterable[Row], *, seed: int) -> PairedComparison:
    """Compare the items of a version with those of its parent's report.

    Two items are the same if task, group, id and prompt (if any) are equal; two documents, if the name of the text, id
    and size are equal.
    """
    before, after = _rows_by_key(read_items(parent)), _rows_by_key(rows)
    shared_keys = _shared_keys(before, after)
    old, new = (_verdicts_of({key: rows[key] for key in shared_keys}) for rows in (before, after))
    tasks = _compare_verdicts(old, new)
    texts = {
        name: _compare_text(before, after, keys, seed=seed) for name, keys in _keys_by_text(shared_keys, after).items()
    }
    if not tasks and not texts:
        raise _no_shared_items("the tests", parent)
    corrected = holm(
        [*(comparison.p_value for comparison in tasks.values()), *(comparison.p_value for comparison in texts.values())]
    )
    return PairedComparison(
        {name: replace(comparison, p_value=p) for (name, comparison), p in zip(tasks.items(), corrected, strict=False)},
        {
            name: replace(comparison, p_value=p)
            for (name, comparison), p in zip(texts.items(), corrected[len(tasks) :], strict=True)
        },
        [flip for key in shared_keys for flip in _flips(before[key], after[key])],
    )


def read_items(folder: Path) -> list[Row]:
    """Return the items of a report."""
    try:
        content = zstandard.ZstdDecompressor().stream_reader((folder / "items.jsonl.zst").read_bytes()).read()
        return [orjson.loads(line) for line in content.splitlines()]
    except (OSError, zstandard.ZstdError, orjson.JSONDecodeError) as error:
        raise DataError(str(folder), f"its items.jsonl.zst cannot be read: {error}") from None


# -- pairs


def _compare_verdicts(before: Verdicts, after: Verdicts) -> dict[str, Comparison]:
    comparisons: dict[str, Comparison] = {}
    for name in sorted(before.keys() & after.keys()):
        shared_ids = sorted(before[name].keys() & after[name].keys())
        if shared_ids and name.rpartition("/")[2] in VERDICTS:
            comparisons[name] = mcnemar([before[name][id] for id in shared_ids], [after[name][id] for id in shared_ids])
    return comparisons


def _verdicts(first: Path, second: Path) -> tuple[Verdicts, Verdicts]:
    """Return the verdicts of both reports on their shared items."""
    before, after = _rows_by_key(read_items(first)), _rows_by_key(read_items(second))
    shared_keys = _shared_keys(before, after)
    return _verdicts_of({key: before[key] for key in shared_keys}), _verdicts_of(
        {key: after[key] for key in shared_keys}
    )


def _shared_keys(before: Mapping[str, Row], after: Mapping[str, Row]) -> list[str]:
    return [key for key in after if key in before and _same_question(before[key], after[key])]


def _verdicts_of(rows: Mapping[str, Row]) -> Verdicts:
    """Return `task/metric` -> item -> verdict, for all boolean columns."""
    verdicts: dict[str, dict[str, bool]] = {}
    for key, row in rows.items():
        if "task" in row:
            for metric, verdict in row.items():
                if isinstance(verdict, bool):
                    item_verdicts = verdicts.setdefault(f"{row['task']}/{metric}", {})
                    item_verdicts[key.removeprefix(f"{row['task']}/")] = verdict
    return verdicts


def _rows_by_key(rows: Iterable[Row]) -> dict[str, Row]:
    """Map each row to a key of task (or text), group and id; repeated keys are numbered."""
    key_counts: Counter[str] = Counter()
    rows_by_key: dict[str, Row] = {}
    for row in rows:
        key = f"{row['task']}/{row.get('group')}/{row['id']}" if "task" in row else f"text {row['text']}/{row['id']}"
        key_counts[key] += 1
        rows_by_key[key if key_counts[key] == 1 else f"{key} ({key_counts[key]})"] = row
    return rows_by_key


def _same_question(before: Row, after: Row) -> bool:
    """Return True if two rows are the same item; ids are not enough, because rows may have been edited or moved."""
    fields = [name for name in ("prompt", "item", "bytes") if name in before and name in after]
    return all(before[name] == after[name] for name in fields)


def _keys_by_text(keys: Iterable[str], rows: Mapping[str, Row]) -> dict[str, list[str]]:
    keys_keys_by_text: dict[str, list[str]] = {}
    for key in keys:
        if "text" in rows[key]:
            keys_keys_by_text.setdefault(rows[key]["text"], []).append(key)
    return keys_keys_by_text


def _compare_text(
    before: Mapping[str, Row], after: Mapping[str, Row], keys: list[str], *, seed: int
) -> RatioComparison:
    old, new = [before[key]["bits"] for key in keys], [after[key]["bits"] for key in keys]
    return paired_ratio(old, new, [after[key]["bytes"] for key in keys], seed=seed)


def _flips(before: Row, after: Row) -> Iterator[Flip]:
    for metric in VERDICTS:
        old, new = before.get(metric), after.get(metric)
        if isinstance(old, bool) and isinstance(new, bool) and old != new:
            answers = [next((str(row[name]) for name in ANSWERS if name in row), "") for row in (before, after)]
            yield Flip(str(after["task"]), str(after["id"]), metric, str(after.get("prompt", "")), *answers, gained=new)


def _no_shared_items(where: str, folder: Path) -> DataError:
    return DataError(
        where, f"has no items in common with {folder}", hint="test both models with the same tasks, limit and seed"
    )
