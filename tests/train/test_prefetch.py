"""Batches prepared in a thread: the same batches and metrics as without it."""

from __future__ import annotations

import threading

import pytest

from tests.train.runs import batch
from vita.testing import tiny_model
from vita.train.losses import language_modelling
from vita.train.prefetch import PrefetchedBatches
from vita.train.trainer import StepBatch, Trainer, TrainerConfig


def test_metrics_are_identical_to_those_without_prefetching() -> None:
    def trainer() -> Trainer:
        config = TrainerConfig.model_validate({"schedule": {"steps": 6}, "precision": "float32", "compile": "no"})
        return Trainer(tiny_model(std=0.05), language_modelling, config, threads=1)

    plain, prefetching = trainer(), trainer()
    expected = [plain.step(batch(step)) for step in range(6)]
    with PrefetchedBatches(batch, steps=6, device="cpu") as batches:
        assert [prefetching.step(batches(step)) for step in range(6)] == expected


def test_the_next_batch_is_read_before_it_is_requested() -> None:
    requested: list[int] = []
    second = threading.Event()

    def batches(step: int) -> StepBatch:
        requested.append(step)
        if step == 1:
            second.set()
        return batch(step)

    with PrefetchedBatches(batches, steps=2, device="cpu") as prefetched:
        prefetched(0)
        assert second.wait(timeout=30)
        assert requested == [0, 1]
        prefetched(1)
    assert requested == [0, 1]


def test_another_step_than_the_next_one_is_read_again() -> None:
    """A pause or a new start may request any step."""
    with PrefetchedBatches(batch, steps=10, device="cpu") as prefetched:
        prefetched(0)
        assert prefetched(7).tensors["ids"].equal(batch(7).tensors["ids"])


def test_an_error_is_raised_at_its_step() -> None:
    def batches(step: int) -> StepBatch:
        if step == 1:
            raise ValueError("unreadable")
        return batch(step)

    with PrefetchedBatches(batches, steps=3, device="cpu") as prefetched:
        prefetched(0)
        with pytest.raises(ValueError, match="unreadable"):
            prefetched(1)
