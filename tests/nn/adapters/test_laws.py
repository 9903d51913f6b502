"""Laws of adapters: full rank equals full fine-tuning, merged equals base + adapter, references share the base."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vita.nn.adapters.attach import (
    BaseQuantization,
    adapted_linears,
    attach,
    disabled,
    dropout,
    merge,
    shared_copy,
    trainable,
)
from vita.nn.adapters.config import LoraConfig
from vita.nn.transformer import Transformer
from vita.testing import tiny_model

IDS = torch.randint(0, 259, (2, 12), generator=torch.Generator().manual_seed(1))


def loss_of(model: Transformer) -> torch.Tensor:
    logits = model(IDS[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), IDS[:, 1:].flatten())


def randomize(model: Transformer) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def test_a_full_rank_adapter_equals_full_fine_tuning_in_loss_and_gradient() -> None:
    full, adapted = tiny_model(), tiny_model()
    matrices = {name: matrix for name, matrix in full.named_parameters() if name.endswith("_proj.weight")}
    ranks = {"[qkvo]_proj": 32, "(gate|up)_proj": 32}  # 48 for down_proj, as its number of inputs
    alphas = {name: float(rank) for name, rank in ranks.items()}
    config = LoraConfig(rank=48, alpha=48.0, target_modules="all-linear", rank_pattern=ranks, alpha_pattern=alphas)
    attach(adapted, config)
    layers = adapted_linears(adapted)
    assert len(layers) == len(matrices) == 14
    with torch.no_grad():
        for layer in layers.values():  # y = W x + B I x: B is a full matrix in addition to W
            layer.lora_A.weight.copy_(torch.eye(layer.in_features))
    for step in range(3):
        losses = loss_of(full), loss_of(adapted)
        assert abs(losses[0] - losses[1]) <= 1e-5, step
        gradients = torch.autograd.grad(losses[0], list(matrices.values()))
        updates = torch.autograd.grad(losses[1], [layer.lora_B.weight for layer in layers.values()])
        for (name, matrix), layer, gradient, update in zip(
            matrices.items(), layers.values(), gradients, updates, strict=True
        ):
            torch.testing.assert_close(update, gradient, rtol=1e-4, atol=1e-6, msg=name)
            with torch.no_grad():  # the same step of gradient descent on both
                matrix.sub_(0.1 * gradient)
                layer.lora_B.weight.sub_(0.1 * update)
            torch.testing.assert_close(layer.merged(), matrix, rtol=1e-5, atol=1e-6, msg=name)


def test_a_step_worked_by_hand() -> None:
    model = tiny_model()
    attach(model, LoraConfig(rank=2, alpha=6.0, target_modules=(r"layers.0.self_attn.q_proj",)))
    (layer,) = adapted_linears(model).values()
    with torch.no_grad():
        layer.lora_B.weight.copy_(torch.arange(64.0).view(32, 2) / 100)
    states = torch.randn(3, 32)
    frozen, a, b = (tensor.detach() for tensor in (layer.weight, layer.lora_A.weight, layer.lora_B.weight))
    torch.testing.assert_close(layer(states), states @ frozen.T + 6 / 2 * (states @ a.T) @ b.T)
    layer(states).sum().backward()
    # d/dB sum(y) = s 1 (A x)', d/dA sum(y) = s B' 1 x'
    ones = torch.ones(3, 32)
    assert layer.lora_B.weight.grad is not None and layer.lora_A.weight.grad is not None
    torch.testing.assert_close(layer.lora_B.weight.grad, 3 * ones.T @ (states @ a.T))
    torch.testing.assert_close(layer.lora_A.weight.grad, 3 * (ones @ b).T @ states)
    assert layer.weight.grad is None


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}])
def test_an_adapter_starts_at_zero_and_merges_to_the_same_logits(options: dict[str, bool]) -> None:
    model, base = tiny_model(), tiny_model()
    attach(model, LoraConfig(rank=4, alpha=8.0, target_modules="all-linear", **options), seed=3)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(model(IDS), base(IDS), rtol=1e-5, atol=1e-5)
    randomize(model)
    logits = model(IDS)
    assert (logits - base(IDS)).abs().max() > 0.01
    with disabled(model):
        assert torch.equal(model(IDS), base(IDS))
    merge(model)
    torch.testing.assert_close(model(IDS), logits, rtol=1e-4, atol=1e-4)
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in base.named_parameters()]


def test_a_reference_shares_the_frozen_weights_and_keeps_its_adapter() -> None:
    model = tiny_model()
    attach(model, LoraConfig(rank=4, target_modules="all-linear"), quantization=BaseQuantization("nf4"))
    reference = shared_copy(model)
    before = reference(IDS)
    randomize(model)
    assert torch.equal(reference(IDS), before)
    assert (model(IDS) - before).abs().max() > 0.01
    frozen_weights = {id(parameter) for parameter in model.parameters() if not parameter.requires_grad}
    assert frozen_weights == {id(parameter) for parameter in reference.parameters() if not parameter.requires_grad}
    buffers = {id(buffer) for buffer in model.buffers()}
    assert buffers == {id(buffer) for buffer in reference.buffers()}


def test_dropout_depends_only_on_its_seed_and_is_off_outside_training() -> None:
    model = tiny_model()
    attach(model, LoraConfig(rank=4, dropout=0.5, target_modules="all-linear"))
    randomize(model)
    expected = model(IDS)

    def logits_with_dropout(*seed: int) -> torch.Tensor:
        with dropout(model, *seed):
            return model(IDS)

    first = logits_with_dropout(0, 7, 1)
    assert not torch.allclose(first, expected)
    assert not torch.allclose(first, logits_with_dropout(0, 8, 1))
    torch.manual_seed(5)
    assert torch.equal(first, logits_with_dropout(0, 7, 1))
    assert torch.equal(expected, model(IDS))
