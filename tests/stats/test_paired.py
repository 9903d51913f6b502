"""Two reports on the same items."""

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


def document(id: str, bits: float, *, size: int = 10) -> dict[str, object]:
    return {"text": "heldout", "id": id, "source": "s", "bytes": size, "tokens": 5, "bits": bits}


def answered(id: str, right: bool, *, prompt: str = "What?") -> dict[str, object]:
    return {"task": "world", "id": id, "group": "seen", "prompt": prompt, "answer": f"{right}", "accuracy": right}


def written(folder: Path, rows: list[dict[str, object]]) -> Path:
    folder.mkdir()
    lines = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    (folder / "items.jsonl.zst").write_bytes(zstandard.compress(lines))
    return folder


def test_a_version_stands_beside_its_parent_with_every_flip_and_both_answers(tmp_path: Path) -> None:
    parent = written(tmp_path / "a", [answered("cat", False), answered("dog", True), document("1", 20.0)])
    found = versus(parent, [answered("cat", True), answered("dog", True), document("1", 10.0)], seed=0)
    (flip,) = found.flips
    assert (flip.id, flip.before, flip.after, flip.gained) == ("cat", "False", "True", True)
    assert found.figures()["world/accuracy"].value == 0.5
    assert found.texts["heldout"].difference.value == pytest.approx(-1.0)


def test_only_what_is_the_same_question_is_paired(tmp_path: Path) -> None:
    rows = [answered("cat", True), answered("dog", True, prompt="Another?"), document("1", 2.0), document("2", 2.0)]
    parent = written(tmp_path / "a", rows)
    now = [answered("cat", True), answered("dog", False), document("1", 1.0), document("2", 1.0, size=11)]
    found = versus(parent, now, seed=0)
    assert found.tasks["world/accuracy"].n == 1 and found.texts["heldout"].n == 1 and not found.flips
    with pytest.raises(DataError, match="has no items in common"):
        versus(parent, [answered("owl", True)], seed=0)


def test_documents_of_the_same_name_are_kept_apart(tmp_path: Path) -> None:
    parent = written(tmp_path / "a", [document("1", 2.0), document("1", 4.0)])
    assert versus(parent, [document("1", 2.0), document("1", 4.0)], seed=0).texts["heldout"].n == 2


def test_p_values_of_tasks_and_texts_are_corrected_together(tmp_path: Path) -> None:
    first = [answered(f"{n}", n > 6) for n in range(20)] + [document(f"{n}", 20.0) for n in range(10)]
    second = [answered(f"{n}", True) for n in range(20)] + [document(f"{n}", 20.0 - n / 9) for n in range(10)]
    found = versus(written(tmp_path / "a", first), second, seed=0)
    # exact McNemar of 7 gains and no loss: 2 / 2^7, times 1; the bootstrap's least value, times 2
    assert found.tasks["world/accuracy"].p_value == pytest.approx(2 / 2**7)
    assert found.texts["heldout"].p_value == pytest.approx(2 * 2 / 2001)
