"""The setting `determinism`, and training with the sums that a GPU uses with `exact`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.train.runs import batch, run_training
from vita.nn import row_sums
from vita.spine.config import build
from vita.spine.errors import ConfigError
from vita.testing import tiny_model
from vita.train.losses import language_modelling
from vita.train.settings import TrainingSettings
from vita.train.trainer import Trainer, TrainerConfig

FLOAT32 = {"precision": "float32", "compile": "no"}


@pytest.mark.parametrize(("choice", "is_deterministic"), [("exact", True), ("fast", False)])
def test_exact_computes_gradients_with_deterministic_algorithms(choice: str, is_deterministic: bool) -> None:
    modes: list[bool] = []

    def loss(model, tensors):
        modes.append(torch.are_deterministic_algorithms_enabled())
        return language_modelling(model, tensors)

    settings = TrainerConfig.model_validate({"schedule": {"steps": 1}, "determinism": choice, **FLOAT32})
    Trainer(tiny_model(std=0.05), loss, settings, threads=1).step(batch(0))
    assert modes == [is_deterministic]
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_run_records_the_choice_and_a_change_at_a_resume_is_reported(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_training(tmp_path, FLOAT32, stop_at=5)
    notes: list[str] = []
    settings = {**FLOAT32, "determinism": "fast"}
    result = run_training(tmp_path, settings, emit=lambda event, **fields: notes.append(fields.get("text", "")))
    assert result.record["determinism"] == "fast"
    assert any("determinism: exact -> fast" in note for note in notes)


def test_an_unknown_choice_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match="'exact' or 'fast'"):
        build(TrainingSettings, {"determinism": "random"}, where="pretrain")


def test_losses_with_sums_in_order_equal_those_of_the_ordinary_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels of a GPU with `exact`, in training on a CPU: embedding and head receive the same gradients."""

    def losses() -> list[float]:
        settings = TrainerConfig.model_validate({"schedule": {"steps": 6}, **FLOAT32})
        trainer = Trainer(tiny_model(std=0.05), language_modelling, settings, threads=1)
        return [trainer.step(batch(step)).loss for step in range(6)]

    expected = losses()
    monkeypatch.setattr(row_sums, "sums_in_order", lambda tensor: True)
    assert losses() == pytest.approx(expected, rel=1e-5)
