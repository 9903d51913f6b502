"""The search for the largest micro-batch, with a meter of known memory, and training with its result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.train.runs import LENGTH, ROWS, batch, run_training
from vita.spine.errors import ConfigError
from vita.testing import tiny_model
from vita.train import trainer as trainer_module
from vita.train.losses import language_modelling
from vita.train.micro_batch_search import USABLE, largest_micro_batch, memory_meter
from vita.train.microbatches import MICRO_TOKENS
from vita.train.trainer import Trainer, TrainerConfig

AUTO = {"precision": "float32", "compile": "no", "micro_batch_tokens": "auto"}


class LinearMeter:
    """A device on which a micro-batch needs `base` bytes and `per_row` bytes for each row."""

    def __init__(self, *, available: float, base: int = 100, per_row: int = 10) -> None:
        self.available, self.base, self.per_row = int(available), base, per_row
        self.rows = 0
        self.measured: list[int] = []

    def run(self, rows: int) -> None:
        self.rows = rows

    def peak(self, function: Callable[[], None]) -> int | None:
        function()
        self.measured.append(self.rows)
        needed = self.base + self.per_row * self.rows
        return None if needed > self.available else needed


@pytest.mark.parametrize(
    ("rows", "fitting", "expected"),
    [(64, 64, 64), (64, 63, 32), (64, 1, 1), (48, 20, 16), (48, 24, 24), (7, 6, 1), (36, 13, 12)],
)
def test_the_largest_divisor_that_fits_is_found(rows: int, fitting: int, expected: int) -> None:
    meter = LinearMeter(available=(100 + 10 * fitting) / USABLE + 1)
    assert largest_micro_batch(rows, tokens_per_row=1, meter=meter, run=meter.run) == expected


def test_a_size_that_would_not_fit_is_not_tried() -> None:
    """After 1 and 2 rows the memory of larger sizes is known: 64 and more rows are never computed."""
    meter = LinearMeter(available=(100 + 10 * 40) / USABLE + 1)
    assert largest_micro_batch(1024, tokens_per_row=1, meter=meter, run=meter.run) == 32
    assert meter.measured == [1, 2, 4, 8, 16, 32]


def test_a_micro_batch_has_at_most_the_useful_number_of_tokens() -> None:
    meter = LinearMeter(available=10**9)
    assert largest_micro_batch(256, tokens_per_row=1024, meter=meter, run=meter.run) == 64


def test_a_row_that_does_not_fit_is_refused_with_the_settings_that_help() -> None:
    meter = LinearMeter(available=50)
    with pytest.raises(ConfigError, match="row of 2,048 tokens does not fit") as refusal:
        largest_micro_batch(8, tokens_per_row=2048, meter=meter, run=meter.run)
    assert "recompute_activations: true" in str(refusal.value)


class MeterOfTheTrainer:
    """A meter on which the first size fits, and larger ones run out of memory after their computation."""

    available = 1000

    def __init__(self) -> None:
        self.calls = 0

    def peak(self, function: Callable[[], None]) -> int | None:
        function()
        self.calls += 1
        return 10 if self.calls == 1 else None


def test_a_measurement_changes_neither_losses_nor_the_state_of_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = MeterOfTheTrainer()
    monkeypatch.setattr(trainer_module, "memory_meter", lambda device: meter)

    def trainer(**settings: object) -> Trainer:
        config = TrainerConfig.model_validate({"schedule": {"steps": 4}, **AUTO, **settings})
        return Trainer(tiny_model(std=0.05), language_modelling, config, threads=1)

    measured, fixed = trainer(), trainer(micro_batch_tokens=LENGTH)
    results = [(measured.step(batch(step)), fixed.step(batch(step))) for step in range(4)]
    assert measured.micro_tokens == LENGTH and meter.calls == 2
    assert all(result == expected for result, expected in results)
    whole = trainer(micro_batch_tokens=ROWS * LENGTH).step(batch(0))
    assert results[0][0].loss == pytest.approx(whole.loss, rel=1e-6)
    assert results[0][0].gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-5)


def test_a_resumed_run_keeps_the_measured_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = MeterOfTheTrainer()
    monkeypatch.setattr(trainer_module, "memory_meter", lambda device: meter)
    with pytest.raises(KeyboardInterrupt):
        run_training(tmp_path, AUTO, stop_at=5)
    calls = meter.calls
    result = run_training(tmp_path, AUTO)
    assert result.record["micro_batch_tokens"] == LENGTH and meter.calls == calls


def test_without_a_limit_of_memory_auto_is_the_default() -> None:
    assert memory_meter("cpu") is None
    config = TrainerConfig.model_validate({"schedule": {"steps": 1}, **AUTO})
    trainer = Trainer(tiny_model(), language_modelling, config, threads=1)
    trainer.step(batch(0))
    assert trainer.micro_tokens == config.planned_micro_tokens == MICRO_TOKENS
    assert not torch.are_deterministic_algorithms_enabled()
