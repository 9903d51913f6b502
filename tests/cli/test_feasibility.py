"""`vita plan` names criteria that can never be decided before a step runs, and no report shows unbounded intervals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_cli import LIFE, Vita, vita
from vita.stats.intervals import student, wilson

__all__ = ["vita"]

GATED = """
gates:
  release: {model: sft, bars: [{report: check, figure: FIGURE, LIMIT}]}
ask:"""


def life(held_out: str, figure: str = "heldout/bits_per_byte", limit: str = "at_most: 9", test: str = "") -> str:
    text = LIFE.replace("filters: []", f"filters: [], held_out: {held_out}").replace("ask:", GATED, 1)
    check = f"  check: {{stage: test, prompts: []{test}}}\n\ngates:"
    return text.replace("\ngates:", check, 1).replace("FIGURE", figure).replace("LIMIT", limit)


def plan(vita: Vita, tmp_path: Path, text: str) -> str:
    (tmp_path / "life.yaml").write_text(text)
    code, out, err = vita("plan", "life.yaml")
    assert code == 0, err
    return out


def test_plan_warns_of_a_single_held_out_document(vita: Vita, tmp_path: Path) -> None:
    out = plan(vita, tmp_path, life("1"))
    assert "warning: curate: only 1 document is held out: no interval can be determined" in out
    assert "warning: gate release, criterion check:heldout/bits_per_byte: can never be decided" in out
    assert "hold out more (`held_out: 100` of curate" in out
    assert "warning: " not in plan(vita, tmp_path, life("8"))
    assert "can never be decided" in plan(vita, tmp_path, life("8", test=", documents: 1"))
    assert "can never be decided" not in plan(vita, tmp_path, life("1", limit="at_most: 9, by: value"))


def test_plan_warns_of_a_criterion_that_no_result_can_pass(vita: Vita, tmp_path: Path) -> None:
    tasks = ", tasks: {blimp: {path: items.jsonl, limit: 20}}"
    (tmp_path / "items.jsonl").write_text("{}\n")
    out = plan(vita, tmp_path, life("8", "blimp/acc", "at_least: 0.9", tasks))
    assert (
        "can never be passed: even a perfect result on 20 items has an interval that does not meet the limit 0.9" in out
    )
    assert "can never be passed" not in plan(vita, tmp_path, life("8", "blimp/acc", "at_least: 0.8", tasks))
    assert wilson(20, 20).low < 0.9


@pytest.mark.slow
def test_the_number_of_held_out_documents_appears_in_the_next_plan_and_the_gate(vita: Vita, tmp_path: Path) -> None:
    (tmp_path / "life.yaml").write_text(life("1e-9"))
    out = vita("live", "life.yaml")[1]
    assert "only 1 document is held out: no interval can be determined" in " ".join(out.split())
    out = plan(vita, tmp_path, life("1e-9"))
    assert "warning: curate: only 1 document is held out" in out and "can never be decided" in out
    verdict = vita("gate", "tiny/release")[1]
    assert "interval not determinable from 1 observation" in verdict and "inf" not in verdict
    details = vita("show", "tiny/check")[1]
    assert "-inf" not in details and "nan" not in details
    assert json.loads(vita("plan", "life.yaml", "--json")[1])[1]["warnings"]


@pytest.mark.parametrize("values", [[], [1.5]])
def test_an_unbounded_interval_is_printed_in_words(values: list[float]) -> None:
    assert "not determinable from" in str(student(values)) and "inf" not in str(student(values))
