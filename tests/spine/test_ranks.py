"""Several processes of one run on the command line: all follow the decision of the first process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cli.models import save_chat_model
from vita.spine.errors import ConfigError
from vita.spine.ledger import Ledger
from vita.spine.machine import Machine
from vita.spine.ranks import connect

VITA = [sys.executable, "-c", "import vita.cli; vita.cli.main()"]
SFT = ("sft", "dialogues.jsonl", "--model", "base", "--steps", "4", "--batch-size", "2", "--replay", "0", "--set",
       "allow_no_improvement=true")  # fmt: skip


def start(folder: Path, arguments: Sequence[str], *, size: int = 2) -> list[subprocess.Popen[str]]:
    """Start the processes of one run as a job scheduler does, with a rank and the address of the first process."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    group_settings = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    machine_settings = {
        "OMP_NUM_THREADS": "1",
        "VITA_THREADS": "1",
        "VITA_DEVICE": "cpu",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    environments = [
        {**os.environ, **group_settings, **machine_settings, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        for rank in range(size)
    ]
    return [
        subprocess.Popen(
            [*VITA, *arguments],
            cwd=folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for environment in environments
    ]


def finish(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Return (exit code, output) of each process."""
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


def run_states(folder: Path) -> list[str]:
    ledger = Ledger(folder / "vita-store" / "ledger.db")
    states = [run.state for run in ledger.find(stage="sft")]
    ledger.close()
    return states


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("VITA_STORE", "VITA_LEDGER"):
        monkeypatch.delenv(name, raising=False)
    save_chat_model(tmp_path / "base")
    rows = [
        {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"{n} it is"}]}
        for n in range(20)
    ]
    (tmp_path / "dialogues.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.slow
def test_all_processes_run_a_step_reuse_its_result_and_rerun_it(folder: Path) -> None:
    for arguments, states in ((SFT, ["done"]), (SFT, ["done"]), ((*SFT, "--rerun"), ["done", "done"])):
        for code, output in finish(start(folder, arguments)):
            assert code == 0 and "Traceback" not in output, output
        assert run_states(folder) == states


@pytest.mark.slow
def test_all_processes_use_the_result_that_the_first_process_waited_for(folder: Path) -> None:
    [(code, output)] = finish(start(folder, SFT, size=1))
    assert code == 0, output
    ledger = Ledger(folder / "vita-store" / "ledger.db")
    [run] = ledger.find(stage="sft")
    run_fields = {"life": run.life, "step": run.step, "stage": run.stage, "version": run.version, "config": run.config}
    claim = ledger.claim(run.key, **run_fields, inputs=ledger.inputs(run.id), after=None)
    assert isinstance(claim, int) and run.artifact is not None
    processes = start(folder, (*SFT, "--rerun"))
    assert processes[0].stdout is not None
    assert any("another process is running this step" in line for line in processes[0].stdout)
    ledger.finish(claim, artifact=run.artifact, record={})
    ledger.close()
    for code, output in finish(processes):
        assert code == 0 and "Traceback" not in output, output
    assert run_states(folder) == ["done", "done"]


@pytest.mark.slow
def test_a_failed_check_of_the_first_process_stops_all_processes(folder: Path) -> None:
    arguments = [word.replace("allow_no_improvement=true", "learning_rate=1e-30") for word in SFT]
    (code, output), (other_code, other_output) = finish(start(folder, arguments))
    assert code == 7 and "error" in output, output
    assert other_code == 2 and "process 0 of the run stopped: " in other_output, other_output
    assert run_states(folder) == ["failed"]


def test_an_unset_master_address_is_refused_with_advice() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MASTER_ADDR", raising=False)
        with pytest.raises(ConfigError, match="MASTER_ADDR expected, but not set; start the processes with `torchrun`"):
            connect(Machine(rank=1, world_size=2))
