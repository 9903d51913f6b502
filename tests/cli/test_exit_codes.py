"""Each exit code has one meaning, and the table in docs/trouble.md lists them all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vita.cli import main
from vita.cli.app import EXIT_CODES as HELP_CODES
from vita.cli.monitor import FIRING
from vita.gates.policy import EXIT_CODES, WAITING_FOR_APPROVAL
from vita.spine import errors

DOCS = Path(__file__).parents[2] / "docs"


def _error_codes() -> set[int]:
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    return {value.exit_code for value in classes if issubclass(value, errors.VitaError)}


def test_verdicts_and_alerts_share_no_exit_code_with_errors() -> None:
    verdicts = {code for code in EXIT_CODES.values() if code} | {WAITING_FOR_APPROVAL}
    assert len(verdicts) == 4 and FIRING not in verdicts
    assert not _error_codes() & {0, FIRING, *verdicts}


def test_the_documentation_lists_every_exit_code() -> None:
    rows = re.findall(r"^\| (\d+)(?: to (\d+))? \|", (DOCS / "trouble.md").read_text(encoding="utf-8"), re.MULTILINE)
    documented = {code for low, high in rows for code in range(int(low), int(high or low) + 1)}
    assert documented == {0, *_error_codes(), *range(10, 15), FIRING, 70, 130}


def test_the_help_of_vita_lists_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    rows = re.findall(r"^ +(\d+)(?:-(\d+))?  \S", capsys.readouterr().out.partition("Exit codes:")[2], re.MULTILINE)
    listed = {code for low, high in rows for code in range(int(low), int(high or low) + 1)}
    assert listed == {0, *_error_codes(), *range(10, 15), FIRING, 70, 130}


def test_the_documentation_and_the_help_state_the_same_meaning_of_each_exit_code() -> None:
    rows = re.findall(r"^\| (\d+(?: to \d+)?) \| ([^|]+) \|", (DOCS / "trouble.md").read_text(), re.MULTILINE)
    assert {code.replace(" to ", "-"): meaning for code, meaning in rows} == HELP_CODES


def test_errors_verdicts_and_alerts_have_separate_ranges() -> None:
    assert max(_error_codes()) <= 9
    assert {*EXIT_CODES.values(), WAITING_FOR_APPROVAL} - {0} <= set(range(10, 15))
    assert FIRING == 20


def test_gate_with_an_unknown_name_is_an_error_and_not_a_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_info:
        main(["gate", "cat/nothing"])
    assert exit_info.value.code in _error_codes(), capsys.readouterr().err
