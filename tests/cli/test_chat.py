"""`vita chat` as a command: a full context, a long message or an interruption does not end the session."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.models import Vita, command_runner, save_chat_model
from tests.server.tool_model import WEATHER, memorizing_model
from vita.nn import int8


@pytest.fixture
def vita(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Vita:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("VITA_DEVICE", "cpu")
    monkeypatch.delenv("VITA_STORE", raising=False)
    save_chat_model(tmp_path / "model", context=256)
    return command_runner(capsys)


def _type_lines(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    text = "".join(line + "\n" for line in lines).encode("utf-8", "surrogateescape")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text), encoding="utf-8"))


@pytest.mark.slow
def test_a_full_context_drops_the_oldest_turns_with_a_notice(vita: Vita, monkeypatch: pytest.MonkeyPatch) -> None:
    _type_lines(monkeypatch, *[f"What is a cat number {number}?" for number in range(8)])
    code, out, err = vita("chat", "model", "--max-tokens", "20", "--system", "Be kind.")
    assert code == 0, err
    assert "the context is full: the oldest 2 messages were dropped" in err and "/new starts a new chat" in err
    assert out.count("\n") >= 8, "every question gets an answer"


def test_a_message_that_is_too_long_is_a_one_line_error_and_the_session_continues(
    vita: Vita, monkeypatch: pytest.MonkeyPatch
) -> None:
    _type_lines(monkeypatch, "x" * 900, "a short question", "bad \udcff bytes", "another question")
    code, out, err = vita("chat", "model", "--max-tokens", "8")
    assert code == 0, err
    assert "error message: expected at most 255 tokens" in err and "expected text in UTF-8" in err
    assert err.count("\n") == 2 and out.count("\n") >= 2


def test_chat_computes_with_quantized_weights_and_refuses_other_formats_and_devices(
    vita: Vita, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not int8.has_exact_products():
        pytest.skip("no exact 8-bit products on this processor")
    _type_lines(monkeypatch, "What is a cat?")
    code, out, err = vita("chat", "model", "--max-tokens", "8", "--temperature", "0", "--quantization", "int8")
    assert code == 0, err
    assert out.strip()
    code, _, err = vita("generate", "model", "a cat", "--quantization", "q8_0")
    assert code == 2 and "'q8_0' is not one of 'bf16', 'int8', 'int4'" in err
    monkeypatch.setenv("VITA_DEVICE", "cuda")
    code, _, err = vita("generate", "model", "a cat", "--quantization", "int8")
    assert code == 6 and "int8 weights are computed on a CPU only, got 'cuda'; set VITA_DEVICE=cpu" in err


def test_a_model_without_a_template_is_refused_before_the_first_question(
    vita: Vita, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model" / "chat_template.jinja").unlink()
    _type_lines(monkeypatch, "What is a cat?")
    code, out, err = vita("chat", "model")
    assert (code, out) == (6, "") and "no chat template" in err


@pytest.mark.slow
def test_ctrl_c_stops_an_answer_and_not_the_session(tmp_path: Path) -> None:
    """Use a real terminal: Ctrl-C during an answer, then another question, then Ctrl-D."""
    save_chat_model(tmp_path / "model", context=8192)
    leader, follower = pty.openpty()
    vita = str(Path(sys.executable).with_name("vita"))
    command = [vita, "chat", "model", "--max-tokens", "8000", "--temperature", "0"]  # greedy: it repeats itself
    environment = {**os.environ, "VITA_THREADS": "1", "VITA_STORE": str(tmp_path / "store"), "TERM": "dumb"}
    process = subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, cwd=tmp_path, env=environment,
        start_new_session=True,
    )  # fmt: skip
    os.close(follower)
    try:
        _read_until(leader, "you> ", seconds=60)
        os.write(leader, b"one\n")
        _read_until(leader, "one", seconds=20)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        output = _read_until(leader, "you> ", seconds=20)
        assert "the answer was stopped" in output
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)  # at the prompt, Ctrl-C does not end the session either
        assert "Ctrl-D ends" in _read_until(leader, "you> ", seconds=20)
        os.write(leader, b"\n")
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def _read_until(terminal: int, text: str, *, seconds: float) -> str:
    output, deadline = "", time.monotonic() + seconds
    poll = select.poll()  # `select.select` refuses descriptors from 1024 on
    poll.register(terminal, select.POLLIN)
    while text not in output:
        assert poll.poll(1000 * max(0.0, deadline - time.monotonic())), f"nothing more came after: {output[-500:]}"
        try:
            output += os.read(terminal, 65536).decode(errors="replace")
        except OSError:
            raise AssertionError(output[-2000:]) from None
    return output


@pytest.mark.slow
def test_a_closed_standard_output_ends_the_session_without_an_error(tmp_path: Path) -> None:
    save_chat_model(tmp_path / "model", context=256)
    command = [sys.executable, "-c", "from vita.cli import main; main()", "chat", "model", "--max-tokens", "8"]
    environment = {**os.environ, "VITA_DEVICE": "cpu", "VITA_THREADS": "1", "VITA_STORE": str(tmp_path / "store")}
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        command, cwd=tmp_path, env=environment, input="hi\nhi\n", text=True, stdout=writer, stderr=subprocess.PIPE,
        check=False,
    )  # fmt: skip
    os.close(writer)
    assert (process.returncode, process.stderr) == (0, "")


def test_chat_shows_tool_calls_and_passes_their_results_to_the_model(
    vita: Vita, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memorizing_model(tmp_path / "caller")
    (tmp_path / "tools.json").write_text(json.dumps([WEATHER]))
    _type_lines(monkeypatch, "Weather in Köln?", "10")
    code, out, err = vita("chat", "caller", "--tools", "tools.json", "--temperature", "0")
    assert code == 0, err
    assert '[call] weather(city="Köln")' in err and out.strip() == "It is 10 degrees."
    _type_lines(monkeypatch, "2+2?")
    code, out, err = vita("chat", "caller", "--temperature", "0")
    assert (code, out) == (0, "Two and two.\n\n4\n"), err


def test_invalid_tools_are_refused_before_the_first_question(
    vita: Vita, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _type_lines(monkeypatch, "What is a cat?")
    (tmp_path / "bad.json").write_text('[{"type": "function"}]')
    for name, problem in (("nothing", "a file, or one of calculator, lookup"), ("bad.json", "is not a list of tools")):
        code, _, err = vita("chat", "model", "--tools", name)
        assert code != 0 and problem in err and "Traceback" not in err
    plain_template = "{% for message in messages %}{{ message.content }}<|im_end|>{% endfor %}"
    (tmp_path / "model" / "chat_template.jinja").write_text(plain_template)
    code, _, err = vita("chat", "model", "--tools", "lookup")
    assert code != 0 and "does not write `tools`" in err
