"""`vita findings` lists, changes and exports findings, and refuses invalid changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
import zstandard

from vita.cli import main
from vita.redteam import findings
from vita.redteam.probe import ProbeInputs, built_in_goals, plain
from vita.redteam.probes import PROBES
from vita.reporting.figures import ReportContent, write_report
from vita.spine.ledger import Ledger
from vita.stages.kinds import Report

Vita = Callable[..., tuple[int, str, str]]
ITEMS = [item for item in PROBES["harm"].items(ProbeInputs(goals=built_in_goals("held_out")[:2])) if not item.twin]


@pytest.fixture
def vita(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Vita:
    """Return a function that runs `vita findings` in a folder whose ledger holds two findings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    ledger = Ledger(tmp_path / "ledger.db")
    rows = [
        {"task": "harm", "id": item.id, "group": item.group, "twin": False, "outcome": "harmful", "prompt": "asked",
         "answer": "said [b]", "test": plain(item.test)}
        for item in ITEMS
    ]  # fmt: skip
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "items.jsonl.zst").write_bytes(zstandard.compress(b"".join(orjson.dumps(row) + b"\n" for row in rows)))
    write_report(ReportContent.of("redteam"), folder)
    run = ledger.claim("k", life="cat", step="redteam", stage="redteam", version=1, config={}, inputs={})
    assert isinstance(run, int)
    ledger.finish(run, artifact="r" * 64, record={})
    findings.track(Report("r" * 64, folder), "m" * 64, ledger)
    ledger.close()

    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            main(["--ledger", str(tmp_path / "ledger.db"), "findings", *words])
            code = 0
        except SystemExit as exit_info:
            code = exit_info.code if isinstance(exit_info.code, int) else 1
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.mark.slow
def test_findings_change_from_open_to_closed_with_a_name_and_a_reason(vita, tmp_path):
    code, out, _ = vita()
    assert code == 0 and out.count("open") == 2
    assert vita("triage", "1", "--by", "Anna", "--reason", "real")[0] == 0
    assert vita("accept", "2", "--by", "Anna", "--reason", "a tale", "--expires", "2999-01-01")[0] == 0
    rows = json.loads(vita("list", "--json")[1])
    assert [row["state"] for row in rows] == ["triaged", "accepted"]
    code, out, _ = vita("show", "1")
    assert "said [b]" in out and "triaged by Anna: real" in out
    assert vita("close", "--life", "cat", "--probe", "harm", "--by", "Tom", "--reason", "done")[1].startswith(
        "2 findings"
    )
    assert vita()[1].strip() == "no findings"
    assert vita("export", "-o", "old.jsonl")[0] == 0
    assert len((tmp_path / "old.jsonl").read_bytes().splitlines()) == 2
    vita("false-positive", "1", "--by", "Tom", "--reason", "harmless")
    assert len(vita("export")[1].splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "expected_code", "message"),
    [
        (("list", "--state", "opne"), 2, "--state: `opne` is not known here; did you mean `open`?"),
        (("show", "9"), 5, "finding 9: there is none of this number"),
        (("close", "--by", "A", "--reason", "x"), 2, "no finding is selected; give numbers, or --life and --probe"),
        (("accept", "1", "--by", "A", "--reason", "x", "--expires", "soon"), 2, "--expires: expected a date such as"),
        (("accept", "1", "--by", "A", "--reason", "x", "--expires", "2000-01-01"), 5, "expected a day in the future"),
    ],
)
def test_an_invalid_command_is_a_one_line_error(vita, words, expected_code, message):
    code, _, err = vita(*words)
    assert code == expected_code and message in err
