"""A run that is stopped, killed or damaged ends in the same bytes and the same curve as one that was left alone."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.train.runs import EAGER, batch, go
from vita.testing import tiny_model
from vita.train import loop
from vita.train.loop import EvalHook, train
from vita.train.losses import language_modelling
from vita.train.schedule import Schedule
from vita.train.trainer import Trainer, TrainerConfig

ROOT = Path(__file__).resolve().parents[2]


def model_bytes(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def interrupted(folder: Path, settings: dict, *, at: int, threads: int = 1) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(folder, settings, stop_at=at, threads=threads)


@pytest.mark.parametrize("settings", [EAGER, {**EAGER, "precision": "float32", "micro_batch_tokens": 16}])
def test_a_run_stopped_twice_ends_in_the_same_bytes(tmp_path, settings):
    straight = go(tmp_path / "straight", settings)
    interrupted(tmp_path / "stopped", settings, at=3)
    interrupted(tmp_path / "stopped", settings, at=8)
    resumed = go(tmp_path / "stopped", settings)
    assert resumed.record["resumed_at_step"] == 7
    assert model_bytes(tmp_path / "straight") == model_bytes(tmp_path / "stopped")
    losses = [[row.get("loss") for row in one.curve] for one in (straight, resumed)]
    assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's compiler gives them by itself
def test_a_compiled_run_stopped_ends_in_the_same_bytes(tmp_path):
    settings = {**EAGER, "compile": "yes"}
    go(tmp_path / "straight", settings, threads=2)
    interrupted(tmp_path / "stopped", settings, at=5, threads=2)
    torch.compiler.reset()
    go(tmp_path / "stopped", settings, threads=2)
    assert model_bytes(tmp_path / "straight") == model_bytes(tmp_path / "stopped")


def killed_until_done(folder: Path, settings: dict, *, kills: int, steps: int, seed: int) -> int:
    """Starts the run again and again, each time killed a little after training began; how often it was killed."""
    chance = random.Random(seed)
    command = [sys.executable, "-m", "tests.train.runs", str(folder), json.dumps(settings), str(steps)]
    done = 0
    while done < kills:
        process = subprocess.Popen(command, cwd=ROOT)
        already = _written(folder)
        while process.poll() is None and _written(folder) == already:
            time.sleep(0.005)
        time.sleep(chance.random() * 0.3)
        process.kill()
        if process.wait() == 0:
            break
        done += 1
    subprocess.run(command, cwd=ROOT, check=True)
    return done


def _written(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in (folder / loop.CHECKPOINTS).glob("step-*")))


@pytest.mark.slow
def test_a_killed_run_ends_in_the_same_bytes(tmp_path):
    go(tmp_path / "straight", EAGER, steps=60)
    assert killed_until_done(tmp_path / "killed", EAGER, kills=1, steps=60, seed=0) == 1
    assert model_bytes(tmp_path / "straight") == model_bytes(tmp_path / "killed")
    assert curve(tmp_path / "straight") == curve(tmp_path / "killed")


@pytest.mark.slow
def test_a_run_killed_ten_times_ends_in_the_same_bytes(tmp_path):
    go(tmp_path / "straight", EAGER, steps=400)
    assert killed_until_done(tmp_path / "killed", EAGER, kills=10, steps=400, seed=1) > 3
    assert model_bytes(tmp_path / "straight") == model_bytes(tmp_path / "killed")
    assert curve(tmp_path / "straight") == curve(tmp_path / "killed")


def curve(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / loop.METRICS).read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in loop.TIMING_METRICS} for row in rows]


def test_a_damaged_checkpoint_costs_steps_and_changes_nothing(tmp_path):
    go(tmp_path / "straight", EAGER)
    interrupted(tmp_path / "hurt", EAGER, at=9)
    newest = sorted((tmp_path / "hurt" / loop.CHECKPOINTS).glob("step-*"))[-1]
    (newest / "tensors.safetensors").write_bytes(b"no")
    resumed = go(tmp_path / "hurt", EAGER)
    assert resumed.record["resumed_at_step"] == 7
    assert model_bytes(tmp_path / "straight") == model_bytes(tmp_path / "hurt")


def test_a_run_that_was_at_its_end_does_nothing_again(tmp_path):
    first = go(tmp_path, EAGER)
    again = go(tmp_path, EAGER)
    assert again.record["resumed_at_step"] == 12 and again.curve == first.curve


def test_metrics_are_one_clean_curve_also_after_a_line_was_cut(tmp_path):
    interrupted(tmp_path, EAGER, at=6)
    with (tmp_path / loop.METRICS).open("a") as file:
        file.write('{"step": 9, "loss": 1.0}\n{"step": 10, "lo')
    learnt = go(tmp_path, EAGER)
    steps = [row["step"] for row in curve(tmp_path)]
    assert steps == list(range(13)) == [row["step"] for row in learnt.curve]
    assert learnt.curve[0]["heldout_loss"] > learnt.curve[-1]["heldout_loss"]


def test_what_changed_around_a_resumed_run_is_said(tmp_path):
    told: list[str] = []

    def say(event: str, **fields: object) -> None:
        if event == "note":
            told.append(str(fields["text"]))

    def once(steps_of_look: list[int], **settings: object) -> None:
        training = TrainerConfig.model_validate({"schedule": Schedule(steps=4), "compile": "no", **settings})
        trainer = Trainer(tiny_model(), language_modelling, training, threads=1)

        def look(one: Trainer) -> dict[str, float]:
            if one.done in steps_of_look:
                raise KeyboardInterrupt
            return {}

        train(trainer, batch, folder=tmp_path, emit=say, hooks=[EvalHook(1, look)], checkpoint_seconds=0)

    with pytest.raises(KeyboardInterrupt):
        once([3], precision="float32")
    assert told == ["matrices are multiplied in float32 (as set), not compiled"]
    told.clear()
    once([], precision="bfloat16")
    assert (
        told[0] == "the environment has changed (precision: float32 -> bfloat16): results may differ in the last bits"
    )
    assert told[1].startswith("resumes after step 2 of 4")


def test_progress_and_metrics_are_told(tmp_path):
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
