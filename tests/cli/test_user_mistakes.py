"""Bad input gives a one-line error and a documented exit code in every command, never a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.models import Vita, command_runner, save_chat_model
from vita.spine.errors import DataError

DOCUMENTED_CODES = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 20}
VITA = str(Path(sys.executable).with_name("vita"))


@pytest.fixture
def vita(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Vita:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("VITA_DEVICE", "cpu")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
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
trace-document x
feedback collect --since x
feedback collect --since 0001-01-01
findings show 1
findings show -1
findings close 1 --by n --reason w
findings accept 1 --by n --reason w --expires 99999-01-01
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
live cat --rerun nope
live --tracker nope cat
serve text
curate text
plan cat --set sft.gate=[1]
restore text out
design --tokens text
design --budget never
design --config text
design --config empty.yaml
design --parameters inf
curate binary
curate empty.yaml
curate text --set sources=5
curate text --set filters=nope
curate text --held-out -1
curate text --seed 1.5
tokenize
tokenize nope
tokenize text --corpus text
initialize
initialize --scheme nope
initialize --blueprint text --tokens text
pretrain
pretrain text
pretrain text --tokens text --blueprint text
pretrain nope --steps -1
test
test text
test binary
test text --set tasks=[nope]
adapt
adapt text
adapt text --model text
adapt nope --model text
sft
sft text
sft text --model text
sft binary --model text
sft nope --model nope
sft text --model text --learning-rate nan
reward text --model text
reward text
rlhf text --model text
rlhf text
rlhf text --model text --set rewards=[nope.py:x]
dpo text --model text
dpo
dpo binary --model text
redteam text
redteam
redteam text --regressions binary
release text
release
release text --version a/b
refine
refine --feedback text
retire text --reason x
retire
canary
canary text --release text --serving text
pilot
pilot text --release text
pilot --recorded-feedback text --release text
initialize --life ../x
curate text --life a/b
curate text --name
data show empty.yaml
data show cat --step nope
generate text --temperature nan x
generate text --max-tokens 0 x
chat text --top-p 2
serve text --replicas 0
serve text --port 99999
serve text --set in_flight=x
serve text --set nope=1
serve text --host nope
story text
card .
restore nope out
restore text text
restore binary out
people revoke x
people add x --public-key binary
people add x --public-key text
people add x --public-key nope
verify
recipes extra
trace text
trace-document x --erase
trace-document x --source y
monitor --every 1
monitor text
review create text text --prompts text --name t
review create . --prompts world --name t
review serve t
--ledger /proc/x/y ls
--ledger mysql://u@127.0.0.1:1/d ls
--store file:///proc/x ls
--store http://127.0.0.1:9/x ls
curate http://127.0.0.1:9/x.jsonl
curate nope://x
plan /dev/null
plan .
plan cat --set sft.sources=[{path:5}]
plan cat --set stages.sft.nope=1
plan cat --until nope
live cat --set design.depth=0
""".strip().splitlines()
SECONDS = 60
"""Time limit of one command, generous for a busy machine."""


class CommandTimeout(BaseException):
    """A command exceeded its time limit."""


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Interrupt the main thread after this many seconds."""

    def interrupt(_signal: int, _frame: object) -> None:
        raise CommandTimeout

    previous_handler = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous_handler)


def fault(vita: Vita, command: str) -> str | None:
    """Return a description of the fault in the response to a command with bad input, or None."""
    try:
        with time_limit(SECONDS):
            code, out, err = vita(*command.split())
    except CommandTimeout:
        return f"does not end within {SECONDS} s"
    lines = [line for line in err.splitlines() if line.startswith("error")]
    if "Traceback" in out + err or code not in DOCUMENTED_CODES:
        return f"exit code {code}: {err[-300:]}"
    if len(lines) > 1 or (0 < code < 10 and not lines):
        return f"{len(lines)} error lines with exit code {code}: {err[-300:]}"
    return None


@pytest.mark.slow
def test_every_command_reports_bad_input_in_one_line(vita: Vita) -> None:
    faults = {command: description for command in COMMANDS if (description := fault(vita, command))}
    assert not faults


def test_a_folder_of_another_kind_is_not_added_to_the_store(vita: Vita, tmp_path: Path) -> None:
    for command, kind in (
        ("initialize --blueprint text --tokens text", "blueprint.json"), ("refine --feedback text", "feedback.jsonl"),
        ("tokenize --corpus text", "train/*.jsonl.zst"), ("test text", "config.json"),
    ):  # fmt: skip
        code, _, err = vita(*command.split())
        assert code in (3, 4, 6) and f"error text: holds no {kind}; " in err, (command, err)
    assert not list((tmp_path / "vita-store" / "artifacts").iterdir())
    assert vita("trace-document", "x")[0] == 0, "an artifact that was refused has no effect on other commands"


@pytest.mark.slow
def test_names_that_are_not_utf_8_work_or_are_a_one_line_error(vita: Vita, tmp_path: Path) -> None:
    name = "caf\udce9"
    (tmp_path / "text" / f"{name}.txt").write_text("another text of some words\n" * 20)
    save_chat_model(tmp_path / "model")
    for command in (
        ("--store", name, "ls"), ("--ledger", f"{name}.db", "ls"), ("plan", f"{name}.yaml"), ("show", name),
        ("generate", name, "x"), ("generate", "model", name), ("curate", name), ("curate", "text", "--filters", "x"),
        ("plan", "cat", "--set", f"sft.steps={name}"), ("keys", "create", name), ("report", name),
        ("trace-document", name),
    ):  # fmt: skip
        code, out, err = vita(*command)
        assert code in DOCUMENTED_CODES and "Traceback" not in out + err, (command, code, err)


def test_an_internal_error_is_one_line_that_names_the_log(
    vita: Vita, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vita.spine.store import Store

    def fail(_self: Store) -> list[str]:
        raise RuntimeError("a defect\nof two lines")

    monkeypatch.setattr(Store, "digests", fail)
    code, _, err = vita("verify")
    assert code == 70 and err.count("\n") == 1 and "error internal error: RuntimeError: a defect of two lines" in err
    (log,) = (tmp_path / "cache" / "vita" / "errors").glob("*.log")
    assert str(log) in err and "Traceback" in log.read_text()


@pytest.mark.slow
def test_closed_streams_pipes_and_plain_terminals_are_not_errors(tmp_path: Path) -> None:
    environment = {**os.environ, "VITA_STORE": str(tmp_path / "store"), "PYTHONIOENCODING": "ascii", "LANG": "C"}
    for command in ("recipes | head -1", "recipes >&-", "ls <&-", "recipes | cat"):
        process = subprocess.run(
            ["bash", "-o", "pipefail", "-c", f"{VITA} {command}"], capture_output=True, text=True, cwd=tmp_path,
            env=environment, check=False, timeout=60,
        )  # fmt: skip
        assert process.returncode == 0 and "Traceback" not in process.stderr and "Exception" not in process.stderr, (
            process
        )


def test_an_error_names_a_path_once() -> None:
    assert str(DataError("notes", "notes: holds no files", hint="look again")) == "notes: holds no files; look again"
    assert str(DataError("curate.sources.0", "notes: holds no files")) == "curate.sources.0: notes: holds no files"
