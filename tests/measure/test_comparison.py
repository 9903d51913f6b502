"""Two reports on the same items."""

from __future__ import annotations

from pathlib import Path

import pytest

from vita.measure.comparison import compare
from vita.measure.findings import Findings
from vita.measure.ranking import Outcome
from vita.measure.statistics import holm
from vita.spine.errors import DataError


def report(folder: Path, right: list[bool], *, task: str = "piqa") -> Path:
    folder.mkdir()
    outcomes = [Outcome(str(n), "", (-1.0, -2.0), 0.5, {"acc": value}, False) for n, value in enumerate(right)]
    Findings(tasks={task: outcomes}).write_items(folder / "items.jsonl.zst")
    return folder


def test_items_are_paired_by_their_names_and_only_those_in_both_count(tmp_path: Path) -> None:
    found = compare(report(tmp_path / "a", [True] + [False] * 6), report(tmp_path / "b", [False] + [True] * 6 + [True]))
    assert (found["piqa/acc"].n, found["piqa/acc"].p_value) == (7, 0.125)
    assert found["piqa/acc"].difference.value == pytest.approx(5 / 7)


def test_reports_without_common_items_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no items in common"):
        compare(report(tmp_path / "a", [True]), report(tmp_path / "b", [True], task="arc_easy"))
    with pytest.raises(DataError, match="cannot be read"):
        compare(tmp_path / "a", tmp_path / "absent")


def test_many_comparisons_are_held_to_more() -> None:
    # 0.01 x 3, 0.02 x 2, 0.6 x 1
    assert holm([0.6, 0.01, 0.02]) == [0.6, 0.03, 0.04]
    assert holm([0.5, 0.5]) == [1.0, 1.0]
