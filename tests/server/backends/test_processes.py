"""A program ends with the process that started it, and its errors are reported without its secret."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vita.server.backends import guardian
from vita.server.backends.engine_process import EngineProcess
from vita.server.backends.llama_cpp import TokensOfText
from vita.spine import machine
from vita.spine.errors import ModelError
from vita.testing import byte_tokenizer

CHILD = (
    "import subprocess, sys, time; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); time.sleep(600)"
)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("ending", ["the parent closes the pipe", "the command is killed"])
def test_all_processes_of_a_program_end_together(tmp_path: Path, ending: str) -> None:
    folder = tmp_path / "socket"
    folder.mkdir()
    command = [sys.executable, "-I", guardian.__file__, "--remove", str(folder), sys.executable, "-I", "-c", CHILD]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdin is not None
    grandchild = int(process.stdout.readline())
    if ending == "the command is killed":
        stat = Path(f"/proc/{grandchild}/stat").read_text().rpartition(")")[2].split()
        os.kill(int(stat[1]), 9)
    else:
        process.stdin.close()
    code = process.wait(60)
    process.stdout.close()
    process.stdin.close()
    deadline = time.monotonic() + 60
    while is_running(grandchild):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert code in (137, 143, 1) and not folder.exists()


def test_the_address_is_found_after_a_part_of_another_line() -> None:
    code = "import time; print('0.00.016 W ', end=''); print('http://127.0.0.1:5', flush=True); time.sleep(600)"
    process = EngineProcess("llama.cpp", [sys.executable, "-I", "-c", code], {}, secret="")
    process.wait_ready(lambda: process.address is not None, seconds=60)
    process.stop()
    assert process.address == "http://127.0.0.1:5"


def test_a_program_that_does_not_start_is_reported_with_its_first_exception_and_without_its_secret() -> None:
    code = "import sys; print('INFO sk-1'); sys.exit('ValueError: no memory for sk-1\\nRuntimeError: see above')"
    process = EngineProcess("vllm", [sys.executable, "-I", "-c", code], {}, secret="sk-1")
    with pytest.raises(ModelError, match=r"backend vllm: ended before it was ready: ValueError: no memory for \*\*\*$"):
        process.wait_ready(lambda: False, seconds=60)
    process.stop()


def test_the_environment_of_a_program_contains_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "VITA_STORE", "VLLM_API_KEY", "VLLM_LOGGING_LEVEL"):
        monkeypatch.setenv(name, "x")
    environment = machine.environment_of_engine(VITA_ENGINE_SECRET="new")
    assert environment["VITA_ENGINE_SECRET"] == "new" and environment["VLLM_LOGGING_LEVEL"] == "x"
    assert "PATH" in environment
    assert not {"OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "VITA_STORE", "VLLM_API_KEY"} & environment.keys()


def test_the_tokens_of_a_text_are_found_by_their_bytes() -> None:
    tokens = TokensOfText(byte_tokenizer())
    assert tokens.find("é".encode(), 2) == [0xC3, 0xA9]
    assert tokens.find(b"\xe2\x98", 2) == [0xE2, 0x98]
    assert tokens.find(b"ab", 1) is None and tokens.find(b"a", 2) is None
