"""Control of a run by files: a pause and a stop do not change the result, and a fork continues from a checkpoint."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.train.runs import EAGER, batch, run_training
from vita.spine.errors import ConfigError
from vita.testing import tiny_model
from vita.train import run_control
from vita.train.checkpoint import Checkpoints
from vita.train.loop import TrainResult, train
from vita.train.losses import language_modelling
from vita.train.run_control import is_paused, request
from vita.train.run_files import CHECKPOINTS, read_metrics
from vita.train.trainer import Trainer, TrainerConfig


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()


def when(condition: Callable[[], bool], then: Callable[[], None]) -> threading.Thread:
    """Start a thread that calls `then` once the condition is true."""

    def wait() -> None:
        until = time.monotonic() + 60
        while not condition() and time.monotonic() < until:
            time.sleep(0.005)
        then()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


STEPS = 40


@pytest.fixture(autouse=True)
def often_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run read its control file before each step, so that short runs see the requests."""
    monkeypatch.setattr(run_control, "CHECK_SECONDS", 0.0)


@pytest.mark.slow
def test_a_paused_run_waits_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    run_training(tmp_path / "whole", EAGER, steps=STEPS, checkpoint_seconds=1000)
    folder, paused_at = tmp_path / "paused", list[int]()

    def resume() -> None:
        if is_paused(folder):
            paused_at.append(len(read_metrics(folder)))
        request(folder, None)

    first = when(lambda: len(read_metrics(folder)) > 3, lambda: request(folder, "pause"))
    second = when(lambda: is_paused(folder), resume)
    run_training(folder, EAGER, steps=STEPS, checkpoint_seconds=1000)
    first.join()
    second.join()
    assert paused_at and paused_at[0] < STEPS
    assert not is_paused(folder)
    assert digest(folder) == digest(tmp_path / "whole")


def test_a_stopped_run_ends_with_a_checkpoint_and_continues_to_the_same_bytes(tmp_path: Path) -> None:
    run_training(tmp_path / "whole", EAGER, steps=STEPS, checkpoint_seconds=1000)
    folder = tmp_path / "stopped"
    thread = when(lambda: len(read_metrics(folder)) > 3, lambda: request(folder, "stop"))
    with pytest.raises(KeyboardInterrupt):
        run_training(folder, EAGER, steps=STEPS, checkpoint_seconds=1000)
    thread.join()
    assert Checkpoints(folder / CHECKPOINTS).newest_folder() is not None
    result = run_training(folder, EAGER, steps=STEPS, checkpoint_seconds=1000)
    assert result.steps == STEPS and digest(folder) == digest(tmp_path / "whole")


def fork(folder: Path, start_from: Path, *, steps: int, optimizer: str = "muon") -> TrainResult:
    """Train from a checkpoint of another run."""
    training = TrainerConfig.model_validate(
        {"schedule": {"steps": steps, "warmup": 2}, "optimization": {"matrices": optimizer}, **EAGER}
    )
    trainer = Trainer(tiny_model(std=0.05), language_modelling, training, threads=1)
    return train(trainer, batch, folder=folder, emit=lambda event, **fields: None, start_from=start_from)


def test_a_fork_with_the_same_settings_repeats_the_run(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_training(tmp_path / "first", EAGER, steps=12, stop_at=7)
    checkpoint = Checkpoints(tmp_path / "first" / CHECKPOINTS).newest_folder()
    assert checkpoint is not None
    result = fork(tmp_path / "fork", checkpoint, steps=12)
    whole = run_training(tmp_path / "whole", EAGER, steps=12)
    assert result.curve[0]["step"] == int(checkpoint.name.removeprefix("step-")) + 1
    losses = {row["step"]: row["loss"] for row in whole.curve if "loss" in row}
    assert all(losses[row["step"]] == row["loss"] for row in result.curve)


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_training(tmp_path / "first", EAGER, steps=12, stop_at=7)
    checkpoint = Checkpoints(tmp_path / "first" / CHECKPOINTS).newest_folder()
    assert checkpoint is not None
    with pytest.raises(ConfigError, match="expected a checkpoint before step 3, got step"):
        fork(tmp_path / "short", checkpoint, steps=3)
    with pytest.raises(ConfigError, match="does not fit the model or the optimizer"):
        fork(tmp_path / "other", checkpoint, steps=12, optimizer="adamw")
