"""Compilation by layer, as on a GPU, and activations that are computed again in the backward pass."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters

from tests.train.runs import batch
from vita.testing import tiny_model
from vita.train import compilation
from vita.train.compilation import compiles_by_layer, should_compile
from vita.train.losses import language_modelling
from vita.train.statistics import observed_activations
from vita.train.trainer import Trainer, TrainerConfig

LAYERS = 4


def trainer(**settings: object) -> Trainer:
    config = TrainerConfig.model_validate(
        {"schedule": {"steps": 4}, "precision": "float32", "compile": "no"} | settings
    )
    return Trainer(tiny_model(std=0.05, layers=LAYERS), language_modelling, config, threads=1)


def test_activations_computed_again_change_no_bit() -> None:
    plain, recomputing = trainer(), trainer(recompute_activations=True)
    assert plain.accumulate(batch(0)) == recomputing.accumulate(batch(0))
    for name, parameter in plain.master_params.items():
        gradient, recomputed = parameter.grad, recomputing.master_params[name].grad
        assert gradient is not None and recomputed is not None and torch.equal(gradient, recomputed), name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised by the compiler of PyTorch
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # likewise
def test_equal_layers_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two graphs for a step, a layer and the loss of a chunk, and two for all evaluations with observed activations.

    Losses are those without compilation.
    """
    monkeypatch.setattr(compilation, "WIDTH_BY_LAYER", tiny_model().architecture.width)
    expected = trainer().step(batch(0)).loss
    compiled = trainer(compile="yes")
    counters.clear()
    assert compiled.step(batch(0)).loss == pytest.approx(expected, rel=1e-5)
    assert counters["stats"]["unique_graphs"] == 2
    for _ in range(2):
        with observed_activations(compiled) as activations:
            compiled.evaluate(iter([batch(1)]))
        assert len(activations.figures()) == LAYERS
    assert counters["stats"]["unique_graphs"] == 4
    torch.compiler.reset()


def test_wide_models_and_those_on_a_gpu_are_compiled_by_layer() -> None:
    assert compiles_by_layer(256, device="cuda:0") and compiles_by_layer(512, device="cpu")
    assert not compiles_by_layer(511, device="cpu")


def test_a_gpu_permits_recomputation_in_compiled_layers() -> None:
    model, config = tiny_model(), trainer(recompute_activations=True, compile="auto").training
    assert compilation.obstacle(model, config, "cuda") is None
    assert compilation.obstacle(model, config, "cpu") == "cannot be combined with `recompute_activations`"
    assert not should_compile(model, config, device="cpu", flops=1e30)
