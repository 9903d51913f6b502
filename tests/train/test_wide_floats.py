"""Training and generation create no float64 tensor on a device that has none, such as an Apple GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.train.runs import LENGTH, ROWS, batch
from tests.train.test_routing import model_of
from vita.infer.sampler import Sampler
from vita.infer.sampling import Sampling
from vita.nn import inspection, wide_floats
from vita.nn.transformer import Transformer
from vita.testing import tiny_model
from vita.train.losses import language_modelling
from vita.train.statistics import observed_activations, parameter_statistics
from vita.train.trainer import StepBatch, Trainer, TrainerConfig


class NoFloat64(TorchDispatchMode):
    """Refuses operations that return float64 tensors, as `mps` does."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if any(isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64 for leaf in tree_leaves(result)):
            raise TypeError(f"{function} returns float64")
        return result


@pytest.fixture
def device_without_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(wide_floats, "WITHOUT_FLOAT64", {"cpu"})
    with NoFloat64():
        yield


def train_and_evaluate(model: Transformer, **settings: Any) -> list[float]:
    values = {"schedule": {"steps": 4, "warmup": 1}, "compile": "no", "precision": "float32", **settings}
    trainer = Trainer(model, language_modelling, TrainerConfig.model_validate(values))
    ids = batch(0).tensors["ids"] % model.architecture.vocabulary
    losses = [trainer.step(StepBatch({"ids": ids}, targets=ROWS * LENGTH)).loss for _ in range(3)]
    parameter_statistics(trainer)
    with observed_activations(trainer) as activations:
        trainer.evaluate(iter([StepBatch({"ids": ids}, targets=ROWS * LENGTH)]))
    assert activations.figures()
    return losses


@pytest.mark.parametrize("kind", ["dense", "mixture"])
def test_training_needs_no_float64(kind: str, device_without_float64: None) -> None:
    settings = {} if kind == "dense" else {"router_balance_loss": 0.1, "router_z_loss": 0.01}
    losses = train_and_evaluate(tiny_model(std=0.05) if kind == "dense" else model_of(router="softmax"), **settings)
    assert all(torch.isfinite(torch.tensor(losses)))


def test_inspection_and_sampling_need_no_float64(device_without_float64: None) -> None:
    inspection.report(tiny_model(std=0.1), torch.arange(24).view(2, 12))
    sampler = Sampler([Sampling(temperature=0.8, seed=1), Sampling(temperature=0)], tokens=20)
    tokens, _ = sampler(torch.linspace(-1, 1, 40).view(2, 20))
    assert int(tokens[1]) == 19


def test_the_check_finds_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match="returns float64"), NoFloat64():
        train_and_evaluate(tiny_model(std=0.05))
