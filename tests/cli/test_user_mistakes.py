"""No mistake of a user ends in a traceback: bad input gives one line and a documented exit code, in every command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.models import Vita, command_runner, save_chat_model

DOCUMENTED = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 20}
VITA = str(Path(sys.executable).with_name("vita"))


@pytest.fixture
def vita(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Vita:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("VITA_DEVICE", "cpu")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("VITA_STORE", "VITA_LEDGER"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("a text of some words\n" * 20)
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 8)
    (tmp_path / "empty.yaml").write_text("")
    return command_runner(capsys)


COMMANDS = """
"
show x
show .
trace /
trace x
verify extra
card x
story x
story a/../b
ls --kind nothing --json x
data show text
data show nope --model nope
data show text --model text -n -5
data show binary --model binary
generate text hello
generate nope hello
chat text
chat binary
live
live nope
live binary
live text
live empty.yaml
live cat --until nope
plan binary
plan ./binary
plan empty.yaml
plan cat --set a
plan cat --set =
plan cat --set variables=5
plan cat --set stages=5
plan cat --set gates=x
plan cat --set ask=1
plan cat --set settings.seed=99999999999999999999999999
plan cat --set name=../x
gate x
gate a/b
approve x --gate a/b --by n
waive x --gate a/b --by n --reason r --expires 9999999999d
deprecate x --sunset soon --by n
restore x y
who-saw x
feedback collect --since x
feedback collect --since 0001-01-01
findings show 1
findings show -1
findings close 1 --by n --why w
findings accept 1 --by n --why w --expires 99999-01-01
findings list --state x
findings export -o text
review create a b --prompts nope --name t
review rate t --rater r
review judge t
review judge t --rule x
review report t
review export t
monitor --minutes nan
monitor --minutes inf
monitor --alerts text
monitor --alerts binary
retest s a/b
retest s a/b --every never
keys create a --days nan
keys create a --days 1e300
keys create a --per-minute inf
keys create a --scope x
keys revoke x
fleet status
fleet roll x --share nan
fleet drain x
fleet promote
fleet rollback
serve nope
curate nope
curate --config binary
design --depth 1e300
design --depth nan
design --set a.b
tokenize --vocabulary inf
tokenize --corpus text
nope
--store
--store binary ls
--store /proc/nothing ls
--ledger binary ls
--ledger text ls
--ledger x://y ls
--ledger postgresql://u@127.0.0.1:1/d ls
--store nope://x ls
""".strip().splitlines()


@pytest.mark.slow
def test_every_command_answers_bad_input_with_one_line(vita: Vita) -> None:
    wrong = []
    for command in COMMANDS:
        code, out, err = vita(*command.split())
        lines = [line for line in err.splitlines() if line.startswith("error")]
        if "Traceback" in out + err or code not in DOCUMENTED or len(lines) > 1 or (code and code < 10 and not lines):
            wrong.append((command, code, err[-300:]))
    assert not wrong


def test_names_that_are_not_utf_8_are_one_line_or_work(vita: Vita, tmp_path: Path) -> None:
    name = "caf\udce9"
    (tmp_path / "text" / f"{name}.txt").write_text("another text of some words\n" * 20)
    save_chat_model(tmp_path / "model")
    for command in (
        ("--store", name, "ls"), ("--ledger", f"{name}.db", "ls"), ("plan", f"{name}.yaml"), ("show", name),
        ("generate", name, "x"), ("generate", "model", name), ("curate", name), ("curate", "text", "--filters", "x"),
        ("plan", "cat", "--set", f"sft.steps={name}"), ("keys", "create", name), ("story", name), ("who-saw", name),
    ):  # fmt: skip
        code, out, err = vita(*command)
        assert code in DOCUMENTED and "Traceback" not in out + err, (command, code, err)


def test_a_defect_is_one_line_that_names_the_log(vita: Vita, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vita.spine.store import Store

    def fail(_self: Store) -> list[str]:
        raise RuntimeError("a defect\nof two lines")

    monkeypatch.setattr(Store, "digests", fail)
    code, _, err = vita("verify")
    assert code == 70 and err.count("\n") == 1 and "error internal error: RuntimeError: a defect of two lines" in err
    (log,) = (tmp_path / "cache" / "vita" / "errors").glob("*.log")
    assert str(log) in err and "Traceback" in log.read_text()


@pytest.mark.slow
def test_closed_streams_pipes_and_plain_terminals_are_no_errors(tmp_path: Path) -> None:
    environment = {**os.environ, "VITA_STORE": str(tmp_path / "store"), "PYTHONIOENCODING": "ascii", "LANG": "C"}
    for command in ("recipes | head -1", "recipes >&-", "ls <&-", "recipes | cat"):
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", f"{VITA} {command}"], capture_output=True, text=True, cwd=tmp_path,
            env=environment, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0 and "Traceback" not in done.stderr and "Exception" not in done.stderr, done
