"""Ctrl-C and SIGTERM during training: a checkpoint of the last step, exit code 130, and a resume to the same bytes."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.stages.chat_models import create_chat_model, write_rows
from tests.train.runs import EAGER, run_training

VITA = [sys.executable, "-c", "import vita.cli; vita.cli.main()", "--store", "store"]
LIFE = """
name: my
stages:
  design: {parameters: 60k, vocabulary: 300, context: 32, steps: 150}
  curate: {sources: [{world: {things: 20, documents: 300}}], filters: []}
  tokenize: {vocabulary: 300}
  initialize: {}
  pretrain: {batch_size: 2}
"""
COMMANDS = {
    "pretrain": ["live", "life.yaml"],
    "adapt": ["adapt", "texts.jsonl", "--model", "base", "--steps", "150", "--batch-size", "2", "--replay", "0"],
    "sft": ["sft", "dialogues.jsonl", "--model", "base", "--steps", "150", "--batch-size", "2"],
    "reward": ["reward", "pairs.jsonl", "--model", "base", "--steps", "150", "--batch-size", "2"],
    "dpo": ["dpo", "pairs.jsonl", "--model", "base", "--steps", "150", "--batch-size", "2", "--learning-rate", "1e-5"],
    "rlhf": [
        *("rlhf", "pairs.jsonl", "--model", "base", "--steps", "60", "--prompts-per-step", "2"),
        *("--num-generations", "2"),
        *("--epochs", "2", "--max-tokens", "4", "--eval-prompts", "2", "--set", "rewards=[{use: random_reward}]"),
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    create_chat_model(tmp_path / "base")
    write_rows(tmp_path)
    (tmp_path / "life.yaml").write_text(LIFE, encoding="utf-8")
    for name, row in {
        "dialogues.jsonl": lambda n: {
            "messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"{n} it is"}]
        },
        "texts.jsonl": lambda n: {"text": f"The kettle of the house number {n} is a kettle like all the others. " * 3},
    }.items():
        (tmp_path / name).write_text("".join(json.dumps(row(n)) + "\n" for n in range(80)), encoding="utf-8")
    return tmp_path


def start(folder: Path, stage: str, store: str) -> subprocess.Popen[str]:
    command = [*VITA[:-1], store, *COMMANDS[stage]]
    environment = {**os.environ, "VITA_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def run_to_end(folder: Path, stage: str, store: str) -> str:
    process = start(folder, stage, store)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def scratch_of_run(folder: Path) -> Path | None:
    return next((path.parent for path in folder.glob("store/scratch/*/metrics.jsonl")), None)


def last_step(scratch: Path | None) -> int:
    lines = (scratch / "metrics.jsonl").read_text().splitlines() if scratch else []
    return json.loads(lines[-1])["step"] if lines else 0


def weights(folder: Path, store: str, stage: str) -> str:
    listing = subprocess.run(
        [*VITA[:-1], store, "ls", "--json"], cwd=folder, text=True, capture_output=True, check=True
    )
    [row] = [row for row in json.loads(listing.stdout) if f"my/{stage}" in row["names"]]
    return hashlib.sha256((folder / row["folder"] / "model.safetensors").read_bytes()).hexdigest()


def interrupt(folder: Path, stage: str, signal_number: signal.Signals) -> tuple[int, int, str]:
    """Send a signal after some steps: (last step, step of the newest checkpoint, output)."""
    process = start(folder, stage, "store")
    scratch, deadline = None, time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and last_step(scratch) < 6:
        time.sleep(0.005)
        scratch = scratch_of_run(folder)
    process.send_signal(signal_number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output, output
    assert scratch is not None
    checkpoints = sorted(int(path.name.removeprefix("step-")) for path in scratch.glob("checkpoints/step-*"))
    return last_step(scratch), checkpoints[-1] if checkpoints else 0, output


def assert_no_step_is_lost(folder: Path, stage: str, signal_number: signal.Signals) -> None:
    step, checkpoint, output = interrupt(folder, stage, signal_number)
    assert checkpoint == step >= 6, output
    assert "stopping: writes a checkpoint" in output and "the same command continues" in output
    assert f"resumes after step {step} " in run_to_end(folder, stage, "store")
    run_to_end(folder, stage, "straight")
    assert weights(folder, "store", stage) == weights(folder, "straight", stage)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "signal_number"),
    list(zip(COMMANDS, itertools.cycle([signal.SIGTERM, signal.SIGINT]), strict=False)),
)
def test_a_signal_during_any_training_stage_loses_no_step(
    folder: Path, stage: str, signal_number: signal.Signals
) -> None:
    assert_no_step_is_lost(folder, stage, signal_number)


SLOW_STEP = """
import json, sys, time
from pathlib import Path
from tests.train import runs

def slow_batch(step, **options):
    if step == 4:
        print("in step 5", flush=True)
        time.sleep(float(sys.argv[2]))
    return batch(step, **options)

batch, runs.batch = runs.batch, slow_batch
runs.run_training(Path(sys.argv[1]), runs.EAGER, checkpoint_seconds=1e6)
"""


def start_slow_step(folder: Path, *, seconds: float) -> subprocess.Popen[str]:
    """Start a training run of 12 steps with a slow fifth step and return during that step."""
    command = [sys.executable, "-c", SLOW_STEP, str(folder), str(seconds)]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert next(line for line in process.stdout if line == "in step 5\n")
    return process


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_a_step_loses_no_step_and_the_run_resumes_to_the_same_bytes(
    tmp_path: Path, signal_number: signal.Signals
) -> None:
    process = start_slow_step(tmp_path / "stopped", seconds=0.5)
    process.send_signal(signal_number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0 and "KeyboardInterrupt" in errors and "stopping: writes a checkpoint" in errors
    assert [path.name for path in (tmp_path / "stopped/checkpoints").iterdir()] == ["step-00000005"]
    assert run_training(tmp_path / "stopped", EAGER).record["resumed_at_step"] == 5
    run_training(tmp_path / "straight", EAGER)
    weights = [(tmp_path / run / "model/model.safetensors").read_bytes() for run in ("straight", "stopped")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    process = start_slow_step(tmp_path, seconds=60)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=50)
    assert "KeyboardInterrupt" in errors
