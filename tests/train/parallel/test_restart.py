"""A life in two processes, one of which is killed: torchrun starts both again, and they finish with the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

LIFE: dict[str, Any] = {
    "name": "pair",
    "settings": {"seed": 0, "vocabulary": 300, "context": 32},
    "stages": {
        "design": {"depth": 2, "width": 32, "steps": 30, "tokens_per_step": 256, "timed_steps": 0},
        "curate": {"sources": ["text.jsonl"], "filters": [], "held_out": 0.1},
        "tokenize": {},
        "initialize": {},
        "pretrain": {"checkpoint_seconds": 0, "eval_tokens": 256, "num_evals": 2, "allow_no_improvement": True},
    },
}


def start(store: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start two processes that run the life in `folder`."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["--max-restarts=2", "--monitor-interval=0.1", "-m", "vita", "--store", store, "live", "life.json"]
    root = str(Path(__file__).resolve().parents[3])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VITA_DEVICE": "cpu", "PYTHONPATH": root}
    return subprocess.Popen(command, env=environment, cwd=folder)


def test_a_killed_process_is_started_again_and_the_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    words = ["the cat sat on the mat", "a dog ran to the red house", "birds fly over green hills and rivers"]
    rows = [{"text": " ".join(words[(i + j * j) % 3] for j in range(12 + i % 5))} for i in range(120)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "life.json").write_text(json.dumps(LIFE))
    assert start("straight", tmp_path).wait() == 0
    launcher = start("killed", tmp_path)
    while launcher.poll() is None and not [*tmp_path.glob("killed/scratch/*/checkpoints/step-0000001*")]:
        time.sleep(0.05)
    workers = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    assert len(workers) == 2, "the run ended before it was killed"
    os.kill(int(workers[1]), signal.SIGKILL)
    assert launcher.wait() == 0
    models = [
        {path.parent.name: path.read_bytes() for path in tmp_path.glob(f"{store}/folders/*/model.safetensors")}
        for store in ("straight", "killed")
    ]
    assert len(models[0]) == 2 and models[0] == models[1]
