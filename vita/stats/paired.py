"""Is B really better than A? Two reports compared item by item, on the items that both hold.

for name, found in compare(report_a, report_b).items():
    print(name, found.difference, found.p_value)

versus(report_a, items_of_b)      # texts too, and every item on which the verdict flipped, with both answers
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

VERDICTS = ("acc", "acc_norm", "acc_bytes", "right", "prompt_strict", "prompt_loose", "all_held")
"""What is tested of every item; the more, the more each is held to (Holm)."""

ANSWERS = ("answer", "logprobs")
"""Where a row holds what the model said."""

Row = Mapping[str, Any]
Verdicts = Mapping[str, Mapping[str, bool]]


@dataclass(frozen=True, slots=True)
class Flip:
    """An item on which the verdict changed, and what each version answered."""

    task: str
    id: str
    metric: str
    prompt: str
    before: str
    after: str
    gained: bool
    """Whether the later version is the one that is right."""

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True)
class Versus:
    """A version beside its parent; p-values of all of it are corrected for their number."""

    tasks: Mapping[str, Comparison]
    """`task/metric` -> exact McNemar test."""
    texts: Mapping[str, RatioComparison]
    """text -> paired bootstrap of the bits per byte."""
    flips: list[Flip]

    def figures(self) -> dict[str, Interval]:
        """The change of every metric, later minus earlier."""
        found = {name: one.difference for name, one in self.tasks.items()}
        return found | {f"{name}/bits_per_byte": one.difference for name, one in self.texts.items()}


def compare(first: Path, second: Path) -> dict[str, Comparison]:
    """`task/metric` -> exact McNemar test of two report folders, p-values corrected for their number (Holm 1979)."""
    found = _tested(*_verdicts(first, second))
    if not found:
        raise _nothing_in_common(str(second), first)
    corrected = holm([one.p_value for one in found.values()])
    return {name: replace(one, p_value=p) for (name, one), p in zip(found.items(), corrected, strict=True)}


def paired(first: Path, second: Path, figure: str) -> Comparison | None:
    """The paired test of one figure (`task/metric` or `task/group/metric`), if both reports hold its items."""
    task, *group, metric = figure.split("/")
    before, after = (found.get(f"{task}/{metric}", {}) for found in _verdicts(first, second))
    both = sorted(id for id in before.keys() & after.keys() if not group or id.startswith("/".join(group) + "/"))
    return mcnemar([before[id] for id in both], [after[id] for id in both]) if both else None


def versus(parent: Path, rows: Iterable[Row], *, seed: int) -> Versus:
    """The items of a version beside those of its parent's report.

    An item is the same when its task, group, id and (where it has one) prompt are; a document, when its text's name,
    id and size are.
    """
    before, after = _keyed(read_items(parent)), _keyed(rows)
    same = _in_both(before, after)
    old, new = (_of_rows({key: rows[key] for key in same}) for rows in (before, after))
    tasks = _tested(old, new)
    texts = {name: _texts(before, after, keys, seed=seed) for name, keys in _by_text(same, after).items()}
    if not tasks and not texts:
        raise _nothing_in_common("the tests", parent)
    corrected = holm([*(one.p_value for one in tasks.values()), *(one.p_value for one in texts.values())])
    return Versus(
        {name: replace(one, p_value=p) for (name, one), p in zip(tasks.items(), corrected, strict=False)},
        {name: replace(one, p_value=p) for (name, one), p in zip(texts.items(), corrected[len(tasks) :], strict=True)},
        [flip for key in same for flip in _flips(before[key], after[key])],
    )


def read_items(folder: Path) -> list[Row]:
    """Every item of a report."""
    try:
        content = zstandard.ZstdDecompressor().stream_reader((folder / "items.jsonl.zst").read_bytes()).read()
        return [orjson.loads(line) for line in content.splitlines()]
    except (OSError, zstandard.ZstdError, orjson.JSONDecodeError) as error:
        raise DataError(str(folder), f"its items.jsonl.zst cannot be read: {error}") from None


# -- pairs


def _tested(before: Verdicts, after: Verdicts) -> dict[str, Comparison]:
    found: dict[str, Comparison] = {}
    for name in sorted(before.keys() & after.keys()):
        both = sorted(before[name].keys() & after[name].keys())
        if both and name.rpartition("/")[2] in VERDICTS:
            found[name] = mcnemar([before[name][id] for id in both], [after[name][id] for id in both])
    return found


def _verdicts(first: Path, second: Path) -> tuple[Verdicts, Verdicts]:
    """Of the items that both reports hold."""
    before, after = _keyed(read_items(first)), _keyed(read_items(second))
    same = _in_both(before, after)
    return _of_rows({key: before[key] for key in same}), _of_rows({key: after[key] for key in same})


def _in_both(before: Mapping[str, Row], after: Mapping[str, Row]) -> list[str]:
    return [key for key in after if key in before and _same_question(before[key], after[key])]


def _of_rows(rows: Mapping[str, Row]) -> Verdicts:
    """`task/metric` -> item -> verdict, of whatever is true or false of an item."""
    found: dict[str, dict[str, bool]] = {}
    for key, row in rows.items():
        if "task" in row:
            for metric, verdict in row.items():
                if isinstance(verdict, bool):
                    own = found.setdefault(f"{row['task']}/{metric}", {})
                    own[key.removeprefix(f"{row['task']}/")] = verdict
    return found


def _keyed(rows: Iterable[Row]) -> dict[str, Row]:
    """Each row by its task (or text), group and id; of several with the same, the second gets a number, and so on."""
    seen: Counter[str] = Counter()
    found: dict[str, Row] = {}
    for row in rows:
        key = f"{row['task']}/{row.get('group')}/{row['id']}" if "task" in row else f"text {row['text']}/{row['id']}"
        seen[key] += 1
        found[key if seen[key] == 1 else f"{key} ({seen[key]})"] = row
    return found


def _same_question(before: Row, after: Row) -> bool:
    """Not told by the id alone, since the rows of a file may have been edited or moved."""
    told = [name for name in ("prompt", "item", "bytes") if name in before and name in after]
    return all(before[name] == after[name] for name in told)


def _by_text(keys: Iterable[str], rows: Mapping[str, Row]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key in keys:
        if "text" in rows[key]:
            found.setdefault(rows[key]["text"], []).append(key)
    return found


def _texts(before: Mapping[str, Row], after: Mapping[str, Row], keys: list[str], *, seed: int) -> RatioComparison:
    old, new = [before[key]["bits"] for key in keys], [after[key]["bits"] for key in keys]
    return paired_ratio(old, new, [after[key]["bytes"] for key in keys], seed=seed)


def _flips(before: Row, after: Row) -> Iterator[Flip]:
    for metric in VERDICTS:
        old, new = before.get(metric), after.get(metric)
        if isinstance(old, bool) and isinstance(new, bool) and old != new:
            said = [next((str(row[name]) for name in ANSWERS if name in row), "") for row in (before, after)]
            yield Flip(str(after["task"]), str(after["id"]), metric, str(after.get("prompt", "")), *said, gained=new)


def _nothing_in_common(where: str, other: Path) -> DataError:
    return DataError(
        where, f"has no items in common with {other}", hint="test both models with the same tasks, limit and seed"
    )
