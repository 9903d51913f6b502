"""A run that is stopped, killed or damaged gives the same bytes and the same curve as an uninterrupted run."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.train.runs import EAGER, batch, run_training
from vita.testing import tiny_model
from vita.train import loop
from vita.train.loop import EvalHook, train
from vita.train.losses import language_modelling
from vita.train.schedule import Schedule
from vita.train.trainer import Trainer, TrainerConfig

ROOT = Path(__file__).resolve().parents[2]


def model_bytes(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def interrupt_run(folder: Path, settings: dict, *, at: int, threads: int = 1) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_training(folder, settings, stop_at=at, threads=threads)


@pytest.mark.parametrize("settings", [EAGER, {**EAGER, "precision": "float32", "micro_batch_tokens": 16}])
def test_a_run_stopped_twice_resumes_to_the_same_bytes(tmp_path, settings):
    uninterrupted = run_training(tmp_path / "straight", settings)
    interrupt_run(tmp_path / "stopped", settings, at=3)
    interrupt_run(tmp_path / "stopped", settings, at=8)
    resumed = run_training(tmp_path / "stopped", settings)
    assert resumed.record["resumed_at_step"] == 7
    assert model_bytes(tmp_path / "straight") == model_bytes(tmp_path / "stopped")
    losses = [[row.get("loss") for row in result.curve] for result in (uninterrupted, resumed)]
    assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised by the compiler of PyTorch
def test_a_stopped_compiled_run_resumes_to_the_same_bytes(tmp_path):
    settings = {**EAGER, "compile": "yes"}
    run_training(tmp_path / "straight", settings, threads=2)
    interrupt_run(tmp_path / "stopped", settings, at=5, threads=2)
    torch.compiler.reset()
    run_training(tmp_path / "stopped", settings, threads=2)
    assert model_bytes(tmp_path / "straight") == model_bytes(tmp_path / "stopped")


def kill_repeatedly(folder: Path, settings: dict, *, kills: int, steps: int, seed: int) -> int:
    """Start the run repeatedly, kill each process shortly after training began, and return the number of kills."""
    random_source = random.Random(seed)
    command = [sys.executable, "-m", "tests.train.runs", str(folder), json.dumps(settings), str(steps)]
    kill_count = 0
    while kill_count < kills:
        process = subprocess.Popen(command, cwd=ROOT)
        previous_checkpoints = _checkpoint_names(folder)
        while process.poll() is None and _checkpoint_names(folder) == previous_checkpoints:
            time.sleep(0.005)
        time.sleep(random_source.random() * 0.3)
        process.kill()
        if process.wait() == 0:
            break
        kill_count += 1
    subprocess.run(command, cwd=ROOT, check=True)
    return kill_count


def _checkpoint_names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in (folder / loop.CHECKPOINTS).glob("step-*")))


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bytes(tmp_path):
    run_training(tmp_path / "straight", EAGER, steps=60)
    assert kill_repeatedly(tmp_path / "killed", EAGER, kills=1, steps=60, seed=0) == 1
    assert model_bytes(tmp_path / "straight") == model_bytes(tmp_path / "killed")
    assert curve(tmp_path / "straight") == curve(tmp_path / "killed")


@pytest.mark.slow
def test_a_run_killed_ten_times_resumes_to_the_same_bytes(tmp_path):
    run_training(tmp_path / "straight", EAGER, steps=400)
    assert kill_repeatedly(tmp_path / "killed", EAGER, kills=10, steps=400, seed=1) > 3
    assert model_bytes(tmp_path / "straight") == model_bytes(tmp_path / "killed")
    assert curve(tmp_path / "straight") == curve(tmp_path / "killed")


def curve(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / loop.METRICS).read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in loop.TIMING_METRICS} for row in rows]


def test_a_run_with_a_damaged_checkpoint_resumes_from_the_previous_one(tmp_path):
    run_training(tmp_path / "straight", EAGER)
    interrupt_run(tmp_path / "damaged", EAGER, at=9)
    newest = sorted((tmp_path / "damaged" / loop.CHECKPOINTS).glob("step-*"))[-1]
    (newest / "tensors-00000.safetensors").write_bytes(b"no")
    resumed = run_training(tmp_path / "damaged", EAGER)
    assert resumed.record["resumed_at_step"] == 7
    assert model_bytes(tmp_path / "straight") == model_bytes(tmp_path / "damaged")


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = run_training(tmp_path, EAGER)
    second = run_training(tmp_path, EAGER)
    assert second.record["resumed_at_step"] == 12 and second.curve == first.curve


def test_metrics_are_one_complete_curve_after_a_truncated_line(tmp_path):
    interrupt_run(tmp_path, EAGER, at=6)
    with (tmp_path / loop.METRICS).open("a") as file:
        file.write('{"step": 9, "loss": 1.0}\n{"step": 10, "lo')
    result = run_training(tmp_path, EAGER)
    steps = [row["step"] for row in curve(tmp_path)]
    assert steps == list(range(13)) == [row["step"] for row in result.curve]
    assert result.curve[0]["heldout_loss"] > result.curve[-1]["heldout_loss"]


def test_a_changed_environment_of_a_resumed_run_is_reported(tmp_path):
    notes: list[str] = []

    def record_note(event: str, **fields: object) -> None:
        if event == "note":
            notes.append(str(fields["text"]))

    def run_once(stop_steps: list[int], **settings: object) -> None:
        training = TrainerConfig.model_validate({"schedule": Schedule(steps=4), "compile": "no", **settings})
        trainer = Trainer(tiny_model(), language_modelling, training, threads=1)

        def interrupt(evaluated_trainer: Trainer) -> dict[str, float]:
            if evaluated_trainer.done in stop_steps:
                raise KeyboardInterrupt
            return {}

        train(trainer, batch, folder=tmp_path, emit=record_note, hooks=[EvalHook(1, interrupt)], checkpoint_seconds=0)

    with pytest.raises(KeyboardInterrupt):
        run_once([3], precision="float32")
    assert notes == ["matrices are multiplied in float32 (as set), not compiled"]
    notes.clear()
    run_once([], precision="bfloat16")
    assert (
        notes[0] == "the environment has changed (precision: float32 -> bfloat16): results may differ in the last bits"
    )
    assert notes[1].startswith("resumes after step 2 of 4")


def test_progress_and_metrics_are_reported(tmp_path):
    events: list[tuple[str, dict]] = []
    training = TrainerConfig(schedule=Schedule(steps=30), precision="float32", compile="no")
    trainer = Trainer(tiny_model(), language_modelling, training, threads=1)
    train(
        trainer, batch, folder=tmp_path, emit=lambda event, **fields: events.append((event, fields)),
        tokens_per_step=64, flops_per_token=1e5,
    )  # fmt: skip
    last = [fields for event, fields in events if event == "progress"][-1]
    assert (last["done"], last["total"], last["unit"]) == (30, 30, "steps")
    assert {"loss", "tokens_per_second", "seconds_left", "mfu", "gradient_norm"} <= last.keys()
    assert [fields["step"] for event, fields in events if event == "metrics"] == list(range(1, 31))
