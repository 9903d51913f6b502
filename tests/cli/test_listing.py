"""Lists and errors show full names in the form that the user gave."""

from __future__ import annotations

import json
import os
import pty
import re
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cli.models import Vita, command_runner, save_chat_model
from vita.gates.services import ServicePresence
from vita.spine.ledger import Ledger
from vita.spine.store import Draft, Store
from vita.stages.kinds import Model, Report

NAME = "a-life-with-a-rather-long-name/a_step_with_a_rather_long_name_of_its_own"


@pytest.fixture
def vita(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Vita:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("VITA_DEVICE", "cpu")
    monkeypatch.delenv("VITA_STORE", raising=False)
    monkeypatch.delenv("VITA_LEDGER", raising=False)
    return command_runner(capsys)


def test_ls_shows_full_names_at_80_columns(vita: Vita, tmp_path: Path) -> None:
    store, folder = Store(tmp_path / "vita-store"), tmp_path / "draft"
    folder.mkdir()
    (folder / "report.md").write_text("a report")
    facts = {"a_long_fact_name": "a long value of a fact that needs room", "another": 1.5}
    artifact = store.commit(Draft(Report, folder, facts))
    ledger = Ledger(store.root / "ledger.db")
    ledger.name(NAME, artifact.digest)
    ledger.close()
    code, out, err = vita("ls")
    assert code == 0, err
    assert NAME in out and artifact.digest[:12] in out and "…" not in out
    assert "a long value of a fact that needs room" in out


def terminal_output(folder: Path, *words: str, columns: int) -> list[str]:
    """Return the lines that `vita` prints to a terminal of this width, without colours."""
    parent, child = pty.openpty()
    command = [sys.executable, "-c", "from vita.cli import main; main()", *words]
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=child, stderr=subprocess.STDOUT)
    os.close(child)
    text = b""
    with suppress(OSError):  # Linux reports the end of a terminal as an error
        while chunk := os.read(parent, 4096):
            text += chunk
    os.close(parent)
    assert process.wait(60) == 0, text
    return re.sub(r"\x1b\[[0-9;]*m", "", text.decode()).splitlines()


def test_ls_keeps_an_artifact_on_one_line_of_a_terminal_with_80_columns(vita: Vita, tmp_path: Path) -> None:
    store, names = Store(tmp_path / "vita-store"), ["cat/pretrain", "my-long-life-name/test_base", NAME]
    ledger = Ledger(store.root / "ledger.db")
    for number, name in enumerate(names):
        folder = tmp_path / f"draft-{number}"
        folder.mkdir()
        (folder / "report.md").write_text(name)
        artifact = store.commit(Draft(Report, folder, {"a_long_fact_name": "a long value of a fact", "other": number}))
        ledger.name(name, artifact.digest)
    ledger.close()
    lines = terminal_output(tmp_path, "ls", columns=80)
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["name", "kind", "state", "digest", "size", "created"]
    for name in names[:2]:
        (row,) = (line for line in lines if line.startswith(name))
        assert row.split()[1] == "report" and row.split()[-1] == "B"
    assert NAME in "".join(line[:36].strip() for line in lines), "a long name is folded, never truncated"


def test_ls_shows_the_present_state_of_each_model(vita: Vita, tmp_path: Path) -> None:
    store, states = Store(tmp_path / "vita-store"), ["candidate", "approved", "serving", "deprecated", "retired"]
    ledger = Ledger(store.root / "ledger.db")
    expected_states = {"candidate": "candidate", "approved": "approved", "serving": "serving", "deprecated": "retired",
             "retired": "retired"}  # fmt: skip
    served_versions = []
    for number, state in enumerate(states):
        folder = tmp_path / f"draft-{number}"
        folder.mkdir()
        (folder / "model.safetensors").write_text(state)
        facts = {"chat": True, "steps": 300, "heldout_loss": 1.25, "heldout_accuracy": 0.5}
        digest = store.commit(Draft(Model, folder, facts)).digest
        ledger.name(f"cat/{state}", digest)
        if state != "candidate":
            ledger.move(digest, state, who="ann", why="a test", sunset=1.0)
        if state in ("candidate", "serving"):
            served_versions.append({"version": f"cat:{number}", "model": digest, "share": 0.5})
    presence = ServicePresence(ledger, "cat", "http://127.0.0.1:1")
    presence.heartbeat(served_versions)
    rows = {row["names"][0].removeprefix("cat/"): row for row in json.loads(vita("ls", "--json")[1])}
    assert {name: row["state"] for name, row in rows.items()} == expected_states
    assert sorted(name for name, row in rows.items() if row["served"]) == ["candidate", "serving"]
    lines = terminal_output(tmp_path, "ls", columns=80)
    assert max(map(len, lines)) <= 80
    for name, state in expected_states.items():
        (line,) = [line for line in lines if f"cat/{name} " in line]
        assert line.split()[1:3] == ["model", state] and rows[name]["digest"][:12] in line
    assert sum("(served)" in line for line in lines) == 1
    presence.end()
    ledger.close()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="lists open files in /proc")
def test_a_command_closes_its_ledger(vita: Vita, tmp_path: Path) -> None:
    ledger = str(tmp_path / "vita-store" / "ledger.db")
    Store(tmp_path / "vita-store")
    vita("ls")
    assert vita("show", "missing")[0] == 4
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]  # without that of the listing
    open_files = [str(link.readlink()) for link in links]
    assert Path(ledger).is_file() and not [path for path in open_files if path.startswith(ledger)]


def test_an_error_about_a_folder_of_the_user_names_that_folder(vita: Vita, tmp_path: Path) -> None:
    save_chat_model(tmp_path / "mine")
    (tmp_path / "mine" / "tokenizer.json").write_text("{")
    (tmp_path / "prompts.txt").write_text("What is a cat?\n")
    save_chat_model(tmp_path / "other", seed=1)
    create = ("review", "create", "mine", "other", "--prompts", "prompts.txt", "--name", "t")
    for command in (create, ("chat", "mine"), ("data", "show", "prompts.txt", "--model", "mine")):
        code, _, err = vita(*command)
        assert code not in (0, 70), err
        assert "mine" in err and "vita-store" not in err, err


@pytest.mark.parametrize("name", ["passwd", "notes.txt"])
def test_a_file_of_another_kind_is_not_called_a_corrupt_ledger(vita: Vita, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("root:x:0:0:root:/root:/bin/bash\n" * 100)
    content = (tmp_path / name).read_bytes()
    code, _, err = vita("--ledger", name, "ls")
    assert code == 5 and "is not a ledger; choose another file with --ledger" in err, err
    assert (tmp_path / name).read_bytes() == content


def test_a_database_of_another_program_is_refused_and_unchanged(vita: Vita, tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "places.sqlite")
    database.execute("create table bookmarks (url text)")
    database.commit()
    database.close()
    code, _, err = vita("--ledger", "places.sqlite", "ls")
    assert code == 5 and "is a database of another program (it contains bookmarks)" in err, err
    database = sqlite3.connect(tmp_path / "places.sqlite")
    assert database.execute("select name from sqlite_master where type = 'table'").fetchall() == [("bookmarks",)]
    database.close()


def test_the_error_for_a_damaged_ledger_recommends_a_backup(vita: Vita, tmp_path: Path) -> None:
    (tmp_path / "vita-store").mkdir()
    (tmp_path / "vita-store" / "ledger.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    code, _, err = vita("ls")
    assert code == 5 and "restore it from a backup" in err, err
