"""Quantized weights for inference: the values of the products, equal bits for every batch, memory, and refusals."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from vita.nn import int4, int8
from vita.nn.adapters.attach import attach
from vita.nn.adapters.config import LoraConfig
from vita.nn.int4 import Int4Linear
from vita.nn.int8 import Int8Linear
from vita.nn.transformer import Transformer
from vita.nn.weight_format import WeightFormat
from vita.nn.weight_quantization import quantize_weights, require_kernels, weight_bytes
from vita.spine.errors import ModelError
from vita.testing import tiny_model

needs_int8 = pytest.mark.skipif(not int8.has_exact_products(), reason="no exact 8-bit products on this processor")
needs_int4 = pytest.mark.skipif(
    not (int8.has_exact_products() and int4.has_kernel()), reason="no kernels for 4-bit weights"
)
FORMATS = [pytest.param("int8", marks=needs_int8), pytest.param("int4", marks=needs_int4)]


def random_matrix(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@needs_int8
def test_an_8_bit_product_equals_the_value_worked_out_by_hand() -> None:
    # Scales 1/127 and 2/127: the codes are (127, -64) and (32, 127). The input has the scale 4/127: codes (127, -32).
    linear = Int8Linear.of(torch.tensor([[1.0, -0.5], [0.5, 2.0]]))
    sums = torch.tensor([127 * 127 + 64 * 32, 127 * 32 - 32 * 127], dtype=torch.float64)
    expected = sums * torch.tensor([1 / 127, 2 / 127], dtype=torch.float64) * (4 / 127)
    torch.testing.assert_close(linear(torch.tensor([[4.0, -1.0]]))[0].double(), expected, rtol=1e-6, atol=0)


@needs_int8
def test_8_bit_codes_round_to_nearest_and_a_row_of_zeros_gives_the_bias() -> None:
    codes, scales = int8.row_codes(torch.tensor([[127.0, -127.0, 0.4, 0.6, -0.4, -0.6], [0.0] * 6]))
    assert codes.tolist() == [[255, 1, 128, 129, 128, 127], [128] * 6]
    assert scales[0] == 1
    linear = Int8Linear.of(random_matrix(3, 6), torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0])))
    assert torch.equal(linear(torch.zeros(1, 6)), torch.tensor([[1.0, 2.0, 3.0]]))
    assert torch.equal(Int8Linear.of(torch.zeros(2, 6))(torch.ones(1, 6)), torch.zeros(1, 2))


@needs_int8
@pytest.mark.parametrize(("outputs", "inputs"), [(33, 70), (96, 384), (512, 96)])
def test_an_8_bit_product_has_the_error_of_its_two_roundings(outputs: int, inputs: int) -> None:
    weight, states = random_matrix(outputs, inputs), random_matrix(2, 5, inputs, seed=1)
    exact = states.double() @ weight.double().T
    # Each rounding changes a number by at most half a code.
    input_step = states.abs().amax(-1, keepdim=True).double() / 127
    weight_step = weight.abs().amax(-1).double() / 127
    bound = (
        0.5 * input_step * weight.abs().sum(-1)
        + 0.5 * weight_step * states.abs().sum(-1, keepdim=True)
        + 0.25 * inputs * input_step * weight_step
    )
    difference = (Int8Linear.of(weight)(states).double() - exact).abs()
    assert bool((difference <= bound).all())
    assert difference.norm() < 0.02 * exact.norm()


@needs_int4
def test_4_bit_weights_equal_the_values_worked_out_by_hand() -> None:
    # The group ranges from -8 to 7, so that the scale is 1 and the offset 0: whole numbers are stored exactly.
    weight = torch.arange(32).remainder(16).sub(8).float().repeat(16, 1)
    linear = Int4Linear.of(weight)
    assert torch.equal(linear.dense(torch.float32), weight)
    assert torch.equal(linear(torch.eye(32)), weight.T)
    codes, scales = int4.weight_codes(weight)
    assert codes[0].tolist() == [*range(16), *range(16)]
    assert scales[0, 0].tolist() == [1.0, 0.0]


@needs_int4
def test_a_4_bit_weight_differs_by_at_most_half_a_code() -> None:
    weight = random_matrix(48, 96)
    bias = random_matrix(48, seed=3)
    linear = Int4Linear.of(weight, torch.nn.Parameter(bias))
    groups = weight.unflatten(1, (-1, int4.GROUP))
    steps = (groups.amax(-1) - groups.amin(-1)) / int4.MAX_CODE
    difference = (linear.dense(torch.float32) - weight).abs().unflatten(1, (-1, int4.GROUP)).amax(-1)
    assert bool((difference <= 0.5 * steps + 0.02).all())  # scales, offsets and values are rounded to bfloat16
    states = random_matrix(5, 96, seed=1)
    expected = states @ linear.dense(torch.float32).T + bias
    assert (linear(states) - expected).norm() < 0.01 * expected.norm()


@needs_int8
@pytest.mark.parametrize(("outputs", "inputs"), [(64, 96), (1_000, 64), (96, 1_024)])
def test_a_row_of_an_8_bit_product_has_the_same_bits_for_every_number_of_rows(outputs: int, inputs: int) -> None:
    linear, states = Int8Linear.of(random_matrix(outputs, inputs)), random_matrix(65, inputs, seed=1)
    together = linear(states)
    for count in (1, 2, 3, 7, 16, 33, 64):
        assert torch.equal(linear(states[:count]), together[:count])
    assert torch.equal(linear(states.flip(0)).flip(0), together)


@needs_int8
def test_layers_with_the_same_input_give_the_same_bits_together_and_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [Int8Linear.of(random_matrix(outputs, 64, seed=outputs)) for outputs in (32, 16, 48)]
    states = random_matrix(2, 5, 64)
    expected = [layer(states) for layer in layers]
    calls: list[torch.Tensor] = []
    quantize = int8.row_codes
    monkeypatch.setattr(int8, "row_codes", lambda rows: calls.append(rows) or quantize(rows))
    outputs = int8.linear_products(states, *layers)
    assert all(torch.equal(output, other) for output, other in zip(outputs, expected, strict=True))
    assert len(calls) == 1  # the input is quantized once
    mixed = int8.linear_products(states, layers[0], torch.nn.Linear(64, 8))
    assert torch.equal(mixed[0], expected[0]) and mixed[1].shape == (2, 5, 8)


@needs_int8
@pytest.mark.parametrize(
    "sizes",
    [{}, {"qk_norm": "none"}, {"biases": ("qkv",)}, {"feedforward": 40}],
    ids=["plain", "no norm", "bias", "odd"],
)
def test_joined_projections_have_the_bits_of_separate_ones_and_can_be_split_again(sizes: dict[str, Any]) -> None:
    model, ids = tiny_model(**{"width": 64, "feedforward": 128, **sizes}), torch.arange(24).view(2, 12)
    separate = copy.deepcopy(model)
    with torch.inference_mode():
        quantize_weights(model, "int8")
        for name, module in list(separate.named_modules()):
            if name.endswith("_proj") and isinstance(module, torch.nn.Linear):
                parent, _, last = name.rpartition(".")
                setattr(separate.get_submodule(parent), last, Int8Linear.of(module.weight, module.bias))
        separate.quantized_head = model.quantized_head
        expected = separate(ids)
        names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
        assert "qkv_proj" in names and "q_proj" not in names
        assert ("gate_up_proj" in names) is ("feedforward" not in sizes)  # 40 are not whole vectors
        assert torch.equal(model(ids), expected)
        model.split_projections()
        assert torch.equal(model(ids), expected)
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    assert {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"} < names
    assert not {"qkv_proj", "gate_up_proj"} & names


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_weights_always_give_the_same_codes(kind: WeightFormat) -> None:
    weight = random_matrix(64, 96)
    first, second = (int8.Int8Linear.of(weight) if kind == "int8" else Int4Linear.of(weight) for _ in range(2))
    assert torch.equal(first.dense(torch.float32), second.dense(torch.float32))
    assert torch.equal(first.scales, second.scales)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("tied", [True, False])
def test_a_quantized_model_computes_nearly_the_same_in_less_memory(kind: WeightFormat, tied: bool) -> None:
    model = tiny_model(tied=tied, width=64, feedforward=128, std=0.1)
    embedding = model.model.embed_tokens.weight
    matrices = sum(parameter.numel() for name, parameter in model.named_parameters() if "proj" in name)
    ids = torch.arange(24).view(2, 12)
    with torch.inference_mode():
        expected, before = model(ids), weight_bytes(model)
        quantize_weights(model, kind)
        model.pack()  # packs nothing: no float32 matrix remains
        result = model(ids)
    assert model.packed_head is None
    assert (result - expected).norm() < (0.05 if kind == "int8" else 0.3) * expected.norm()
    assert not any("proj" in name or "lm_head" in name for name, _ in model.named_parameters())
    head = embedding.numel() * (1 if tied else 1 - 4)  # a tied head is a copy, another one replaces 4 bytes by 1
    saved = matrices * (4 - (1 if kind == "int8" else 5 / 8))
    scales = 8 * (sum(len(tensor) for name, tensor in model.named_buffers() if name.endswith("zero_points")))
    assert weight_bytes(model) == before - saved + head + scales


@needs_int8
@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"lora_bias": True}])
def test_an_adapter_on_a_quantized_model_computes_nearly_the_same(options: dict[str, Any]) -> None:
    plain, ids = tiny_model(tied=False, width=64), torch.arange(24).view(2, 12)
    quantized, quantized_later = copy.deepcopy(plain), copy.deepcopy(plain)
    quantize_weights(quantized, "int8")
    config = LoraConfig(rank=4, alpha=8, target_modules=("q_proj", "down_proj"), **options)
    results: list[torch.Tensor] = []
    for model in (plain, quantized, quantized_later):
        attach(model, config, seed=1)
        _change_adapter(model)
        if model is quantized_later:
            quantize_weights(model, "int8")
        with torch.no_grad():
            results.append(model(ids))
    assert (results[1] - results[0]).norm() < 0.05 * results[0].norm()
    if not options.get("use_dora"):  # the rounded magnitudes start differently
        # A bias is added inside the product or after it, which rounds differently on some processors.
        torch.testing.assert_close(results[1], results[2], rtol=1e-5, atol=1e-5)


def _change_adapter(model: Transformer) -> None:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@needs_int8
def test_routers_and_stacked_experts_stay_in_float32() -> None:
    model = tiny_model(experts={"count": 4, "active": 2, "feedforward": 32})
    ids = torch.arange(24).view(2, 12)
    with torch.inference_mode():
        expected = model(ids)
        quantize_weights(model, "int8")
        result = model(ids)
    names = [name for name, _ in model.named_parameters()]
    assert any("router" in name for name in names) and any(".experts." in name for name in names)
    assert not any("q_proj" in name for name in names)
    assert (result - expected).norm() < 0.2 * expected.norm()


def test_quantized_weights_are_refused_where_they_cannot_be_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ModelError, match=r"quantization: int8 weights are computed on a CPU only, got 'cuda'; set VITA_DEVICE=cpu"
    ):
        require_kernels("int8", device="cuda")
    with pytest.raises(ModelError, match="expected a model in float32, got 'torch.bfloat16'"):
        quantize_weights(tiny_model().to(torch.bfloat16), "int8")
    monkeypatch.setattr(int4, "has_kernel", lambda: False)
    with pytest.raises(ModelError, match="cannot multiply by 4-bit weights"):
        require_kernels("int4")
    monkeypatch.setattr(int8, "has_exact_products", lambda: False)
    for kind in ("int8", "int4"):
        with pytest.raises(ModelError, match="has no exact 8-bit products"):
            require_kernels(kind)
