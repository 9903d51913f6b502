"""Several commands on one store at the same time: each completes, and none ends with a traceback."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.request_logs import feedback_row, request_row, write_log
from vita.spine.ledger import Ledger


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start `vita` in a folder, in a separate process."""
    command = [sys.executable, "-c", "from vita.cli import main; main()", *words]
    return subprocess.Popen(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_feedback_is_collected_by_several_processes_at_once(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "vita-store" / "ledger.db")) as ledger:
        numbers = range(3000)
        write_log(ledger, [request_row(number) for number in numbers], [feedback_row(number) for number in numbers])
    processes = [start(tmp_path, "feedback", "collect", "--life", "cat") for _ in range(4)]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert "3000 voices" in out or "3,000" in out
    assert not list((tmp_path / "vita-store" / "scratch").iterdir()), "no process leaves its scratch folder behind"
