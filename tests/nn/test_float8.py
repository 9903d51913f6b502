"""Products in float8: values beside an emulation in float32, gradients, unsuitable sizes, and a short training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vita.nn import float8
from vita.nn.feedforward import Linear, use_float8
from vita.spine.errors import ConfigError
from vita.testing import tiny_model
from vita.train import hardware
from vita.train.hardware import choose_precision
from vita.train.losses import language_modelling
from vita.train.schedule import Schedule
from vita.train.trainer import StepBatch, Trainer, TrainerConfig


def rounded_by_hand(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the values after rounding to float8 with the scale of the largest magnitude."""
    largest = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}[dtype]
    scale = float(values.abs().max()) / largest
    return (values / scale).to(dtype).float() * scale


def random_values(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def test_a_product_and_its_gradients_are_those_of_the_rounded_matrices() -> None:
    states = random_values(2, 16, 48, seed=0, scale=30.0).requires_grad_()
    weight = random_values(32, 48, seed=1, scale=0.01).requires_grad_()
    gradient = random_values(2, 16, 32, seed=2, scale=1e-6)
    float8.product(states, weight).backward(gradient)
    left, right = (rounded_by_hand(tensor.detach(), torch.float8_e4m3fn) for tensor in (states, weight))
    by_output = rounded_by_hand(gradient, torch.float8_e5m2)
    with torch.no_grad():
        torch.testing.assert_close(float8.product(states, weight), left @ right.T, rtol=1e-5, atol=1e-5)
    assert states.grad is not None and weight.grad is not None
    torch.testing.assert_close(states.grad, by_output @ right, rtol=1e-5, atol=1e-13)
    expected = by_output.flatten(0, 1).T @ left.flatten(0, 1)
    torch.testing.assert_close(weight.grad, expected, rtol=1e-4, atol=1e-10)


def test_the_operator_of_torch_gives_the_same_product() -> None:
    left, left_scale = float8.rounded(random_values(16, 48, seed=0), float8.GRADIENT_FORMAT)
    right, right_scale = float8.rounded(random_values(32, 48, seed=1), float8.INPUT_FORMAT)
    expected = (left.float() @ right.float().T) * left_scale * right_scale
    product = float8.kernel(left, right.t(), left_scale, right_scale, torch.float32)
    torch.testing.assert_close(product, expected, rtol=1e-5, atol=1e-5)


def test_zeros_and_one_large_number_stay_finite() -> None:
    weight = random_values(16, 16, seed=0)
    assert torch.equal(float8.product(torch.zeros(16, 16), weight), torch.zeros(16, 16))
    states = torch.zeros(16, 16)
    states[3, 4] = 3e30
    outputs = float8.product(states, weight / weight.abs().max())
    assert outputs.isfinite().all() and outputs[3].abs().max() > 1e30


def test_other_sizes_are_computed_without_rounding() -> None:
    layer = Linear(48, 32)
    torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    assert use_float8(torch.nn.ModuleDict({"layers": torch.nn.ModuleList([layer])})) == 1
    for rows, is_exact in ((15, True), (16, False)):
        states = random_values(rows, 48, seed=3)
        assert torch.equal(layer(states), F.linear(states, layer.weight)) == is_exact
    assert (
        use_float8(torch.nn.ModuleDict({"layers": torch.nn.ModuleList([Linear(48, 30)]), "head": Linear(48, 32)})) == 0
    )


def losses(precision: str, compile: str = "no") -> tuple[list[float], Trainer]:
    settings: dict[str, Any] = {"schedule": Schedule(steps=100), "precision": precision, "compile": compile}
    model = tiny_model(width=64, feedforward=96)
    trainer = Trainer(model, language_modelling, TrainerConfig.model_validate(settings), threads=1)
    ids = torch.randint(40, (8, 17), generator=torch.Generator().manual_seed(0))
    return [trainer.step(StepBatch({"ids": ids}, targets=128)).loss for _ in range(25)], trainer


def test_a_training_in_float8_follows_the_one_in_bfloat16() -> None:
    exact, _ = losses("bfloat16")
    approximate, trainer = losses("float8")
    assert trainer.precision.name == "float8" and trainer.numerics()["precision"] == "float8"
    layers = [module for module in trainer.learner.modules() if isinstance(module, Linear) and module.uses_float8]
    assert len(layers) == 7 * trainer.model.architecture.layers, "the projections of attention and feed-forward"
    assert approximate != exact and exact[-1] < exact[0] / 2
    assert approximate == pytest.approx(exact, abs=0.3), "of 7.1 at the beginning"
    assert losses("float8")[0] == approximate, "the same bits in every run"


def test_a_gpu_without_float8_units_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.torch.cuda, "get_device_capability", lambda: (8, 0))
    with pytest.raises(ConfigError, match="expected a GPU of capability 8.9 or higher for float8, got capability 8.0"):
        choose_precision("cuda", "float8")
    with pytest.raises(ConfigError, match="expected a CUDA device or a CPU for float8, got 'mps'"):
        choose_precision("mps", "float8")
