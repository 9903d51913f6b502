"""A small training run that tests start, stop, kill and restart: `python -m tests.train.runs FOLDER SETTINGS STEPS`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from vita.nn import hf
from vita.spine.events import Emit
from vita.testing import tiny_model
from vita.train.loop import EvalHook, TrainResult, train
from vita.train.losses import language_modelling
from vita.train.parallel.mesh import ProcessMesh
from vita.train.trainer import StepBatch, Trainer, TrainerConfig

ROWS, LENGTH = 4, 16
EAGER = {"precision": "bfloat16", "compile": "no"}


def batch(step: int, *, rank: int = 0, size: int = 1) -> StepBatch:
    """Return rows of ascending token ids, which a model can learn."""
    generator = torch.Generator().manual_seed(step)
    ids = (torch.randint(200, (ROWS, 1), generator=generator) + torch.arange(LENGTH + 1)) % 259
    return StepBatch({"ids": ids[rank * ROWS // size : (rank + 1) * ROWS // size]}, targets=ROWS * LENGTH)


def run_training(
    folder: Path,
    settings: dict[str, Any],
    *,
    steps: int = 12,
    stop_at: int | None = None,
    world: ProcessMesh | None = None,
    checkpoint_seconds: float = 0.0,
    threads: int = 1,
    emit: Emit = lambda event, **fields: None,
) -> TrainResult:
    """Train to the end and save the model; `stop_at` interrupts the run after that step."""
    training = TrainerConfig.model_validate({"schedule": {"steps": steps, "warmup": 2}, **settings})
    group = world or ProcessMesh()
    trainer = Trainer(tiny_model(std=0.05), language_modelling, training, world=group, threads=threads)

    def evaluate(evaluated_trainer: Trainer) -> dict[str, float]:
        if evaluated_trainer.done == stop_at:
            raise KeyboardInterrupt
        heldout = batch(10_000, rank=group.rank, size=group.size)
        return {"heldout_loss": evaluated_trainer.evaluate(iter([heldout]))["loss"]}

    result = train(
        trainer,
        lambda step: batch(step, rank=group.rank, size=group.size),
        folder=folder,
        emit=emit,
        hooks=[EvalHook(1 if stop_at else 5, evaluate, at_start=True)],
        tokens_per_step=ROWS * LENGTH,
        flops_per_token=1e5,
        checkpoint_seconds=checkpoint_seconds,
    )
    trained = trainer.trained()
    if group.leads:
        hf.save(trained, folder / "model")
    return result


if __name__ == "__main__":
    run_training(Path(sys.argv[1]), json.loads(sys.argv[2]), steps=int(sys.argv[3]))
