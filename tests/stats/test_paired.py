"""Paired comparison of two reports on the same items."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
import zstandard

from vita.evals.multiple_choice import ItemResult
from vita.evals.results import EvalResults
from vita.spine.errors import DataError
from vita.stats.intervals import holm
from vita.stats.paired import compare, versus


def report(folder: Path, right: list[bool], *, task: str = "piqa") -> Path:
    folder.mkdir()
    outcomes = [
        ItemResult(str(n), "", (-1.0, -2.0), 0.5, {"acc": value}, False, f"question {n}")
        for n, value in enumerate(right)
    ]
    EvalResults(tasks={task: outcomes}).write_items(folder / "items.jsonl.zst")
    return folder


def test_items_are_paired_by_name_and_only_common_items_count(tmp_path: Path) -> None:
    comparisons = compare(
        report(tmp_path / "a", [True] + [False] * 6), report(tmp_path / "b", [False] + [True] * 6 + [True])
    )
    assert (comparisons["piqa/acc"].n, comparisons["piqa/acc"].p_value) == (7, 0.125)
    assert comparisons["piqa/acc"].difference.value == pytest.approx(5 / 7)


def test_reports_without_common_items_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no items in common"):
        compare(report(tmp_path / "a", [True]), report(tmp_path / "b", [True], task="arc_easy"))
    with pytest.raises(DataError, match="cannot be read"):
        compare(tmp_path / "a", tmp_path / "absent")


def test_holm_corrects_several_comparisons() -> None:
    # 0.01 x 3, 0.02 x 2, 0.6 x 1
    assert holm([0.6, 0.01, 0.02]) == [0.6, 0.03, 0.04]
    assert holm([0.5, 0.5]) == [1.0, 1.0]


def document(id: str, bits: float, *, size: int = 10) -> dict[str, object]:
    return {"text": "heldout", "id": id, "source": "s", "bytes": size, "tokens": 5, "bits": bits}


def answer_row(id: str, right: bool, *, prompt: str = "What?") -> dict[str, object]:
    return {"task": "world", "id": id, "group": "seen", "prompt": prompt, "answer": f"{right}", "accuracy": right}


def write_items(folder: Path, rows: list[dict[str, object]]) -> Path:
    folder.mkdir()
    lines = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    (folder / "items.jsonl.zst").write_bytes(zstandard.compress(lines))
    return folder


def test_a_version_is_compared_with_its_parent_with_all_flips(tmp_path: Path) -> None:
    parent = write_items(tmp_path / "a", [answer_row("cat", False), answer_row("dog", True), document("1", 20.0)])
    comparison = versus(parent, [answer_row("cat", True), answer_row("dog", True), document("1", 10.0)], seed=0)
    (flip,) = comparison.flips
    assert (flip.id, flip.before, flip.after, flip.gained) == ("cat", "False", "True", True)
    assert comparison.figures()["world/accuracy"].value == 0.5
    assert comparison.texts["heldout"].difference.value == pytest.approx(-1.0)


def test_only_equal_items_are_paired(tmp_path: Path) -> None:
    rows = [answer_row("cat", True), answer_row("dog", True, prompt="Another?"), document("1", 2.0), document("2", 2.0)]
    parent = write_items(tmp_path / "a", rows)
    rows_after = [answer_row("cat", True), answer_row("dog", False), document("1", 1.0), document("2", 1.0, size=11)]
    comparison = versus(parent, rows_after, seed=0)
    assert comparison.tasks["world/accuracy"].n == 1 and comparison.texts["heldout"].n == 1 and not comparison.flips
    with pytest.raises(DataError, match="has no items in common"):
        versus(parent, [answer_row("owl", True)], seed=0)


def test_documents_with_equal_names_are_compared_separately(tmp_path: Path) -> None:
    parent = write_items(tmp_path / "a", [document("1", 2.0), document("1", 4.0)])
    assert versus(parent, [document("1", 2.0), document("1", 4.0)], seed=0).texts["heldout"].n == 2


def test_p_values_of_tasks_and_texts_are_corrected_together(tmp_path: Path) -> None:
    first = [answer_row(f"{n}", n > 6) for n in range(20)] + [document(f"{n}", 20.0) for n in range(10)]
    second = [answer_row(f"{n}", True) for n in range(20)] + [document(f"{n}", 20.0 - n / 9) for n in range(10)]
    comparison = versus(write_items(tmp_path / "a", first), second, seed=0)
    # exact McNemar test of 7 gains and no loss: 2 / 2^7, times 1; lowest p-value of the bootstrap, times 2
    assert comparison.tasks["world/accuracy"].p_value == pytest.approx(2 / 2**7)
    assert comparison.texts["heldout"].p_value == pytest.approx(2 * 2 / 2001)
