"""`vita scaling`: the list of runs, refusals, and a ladder on text that is trained once and then reused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_cli import Vita
from tests.cli.test_cli import vita as vita
from tests.docs import material

SMALL = ("--vocabulary", "300", "--context", "32", "--sizes", "3")


def test_a_dry_run_lists_the_runs_of_the_default_ladder(vita: Vita, tmp_path: Path) -> None:
    code, out, err = vita("scaling", "notes/", "--budget", "2e15", "--dry-run", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert len(document["runs"]) == 12
    assert {run["flops"] for run in document["runs"]} == {2e15 / 100, 2e15 / 40, 2e15 / 16}
    assert document["flops"] == pytest.approx(4 * 2e15 * (1 / 100 + 1 / 40 + 1 / 16))
    assert not (tmp_path / "vita-store" / "ledger.db").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--budget", "soon"), 'expected FLOPs such as 1e15, or a time such as "2 h"'),
        (("--budget", "90"), "expected FLOPs between 1e9 and 1e30, or a time with its unit, got '90'"),
        (("--budget", "1e15", "--ladder", "1e13"), "expected two or more budgets in FLOPs"),
        (("--budget", "1e15", "--ladder", "1e13,x"), "expected two or more budgets in FLOPs"),
        (("--budget", "1e11", "--dry-run"), "use larger budgets, fewer sizes or a smaller vocabulary"),
    ],
)
def test_a_wrong_budget_is_refused(vita: Vita, options: tuple[str, ...], message: str) -> None:
    code, out, err = vita("scaling", "notes/", *options)
    assert code == 2 and message in err and len(err.splitlines()) == 1 and not out


@pytest.mark.slow
def test_missing_data_ends_with_the_error_of_the_stage(vita: Vita) -> None:
    code, out, err = vita("scaling", "missing.jsonl", "--budget", "2e13", *SMALL)
    assert code in (2, 3) and "missing.jsonl" in err and not out


@pytest.mark.slow
def test_a_ladder_is_trained_once_and_predicts_a_size_that_was_not_fitted(vita: Vita, tmp_path: Path) -> None:
    material.write_notes(tmp_path / "notes", files=400)
    command = ("scaling", "notes/", "--budget", "8e11", "--ladder", "2e11,4e11", *SMALL)
    code, out, err = vita(*command, "--check", "--set", "eval_tokens=512", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert len(document["runs"]) == 6 and all(run["memory_bytes"] > 1e8 for run in document["runs"])
    fitted = {run["matrix_parameters"] for run in document["runs"]}
    assert document["check"]["matrix_parameters"] not in fitted
    assert set(document["check"]["errors"]) == {"bits per byte", "training time", "processor time", "peak memory"}
    page = Path(document["files"]["report"]).read_text()
    assert "IsoFLOP curves" in page and page.count("<svg") >= 2

    runs = len(json.loads(vita("ls", "--json")[1]))
    code, out, err = vita(*command, "--set", "eval_tokens=512")
    assert code == 0, err
    assert "run 6 of 6" in out and "plan it: vita design --depth" in out
    assert len(json.loads(vita("ls", "--json")[1])) == runs

    code, out, err = vita("design", "--depth", "2", "--timed-steps", "0", "--law", document["files"]["law"], "--json")
    assert code == 0, err
    predicted = json.loads(out)["facts"]["bits_per_byte"]
    code, out, err = vita("design", "--depth", "2", "--timed-steps", "0", "--json")
    assert predicted != json.loads(out)["facts"]["bits_per_byte"]


@pytest.mark.filterwarnings("default")  # torch warns of its own code when it is imported
def test_a_file_that_is_no_law_is_refused(vita: Vita, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}\n")
    code, out, err = vita("design", "--depth", "2", "--law", "other.json")
    assert "expected a law.json of `vita scaling`" in err and code == 2 and not out
