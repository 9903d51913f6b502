"""Quantized storage: NF4 worked by hand, parity with bitsandbytes, size and gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vita.nn.adapters.attach import BaseQuantization, attach, dequantize_linears
from vita.nn.adapters.config import LoraConfig
from vita.nn.adapters.quantization import BLOCK, NF4, QuantizedLinear, dynamic_table
from vita.testing import tiny_model


def linear(rows: int, columns: int, *, dtype: torch.dtype = torch.float32) -> nn.Linear:
    layer = nn.Linear(columns, rows, bias=False)
    values = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))
    values[0] = 0
    layer.weight.data = values.to(dtype)
    return layer


def test_nf4_worked_by_hand() -> None:
    layer = nn.Linear(64, 1, bias=False)
    values = torch.zeros(64)
    values[:4] = torch.tensor([-2.0, 1.0, 0.1, 2.0])
    layer.weight.data = values[None]
    quantized = QuantizedLinear.of(layer, "nf4", double=False)
    # The scale is 2. -1 is code 0; 0.5 is nearest to 0.4407 (12); 0.05 to 0.0796 (8); 1 is 15; 0 is 7.
    assert quantized.scales.tolist() == [2.0]
    assert quantized.codes[:3].tolist() == [0 << 4 | 12, 8 << 4 | 15, 7 << 4 | 7]
    expected = torch.tensor([-2.0, 2 * NF4[12], 2 * NF4[8], 2.0, 0.0])
    assert torch.equal(quantized.dense(torch.float32)[0, :5], expected)


@pytest.mark.parametrize("shape", [(32, 64), (3, 65), (40, 256)])
def test_dequantized_values_are_the_nearest_code_values(shape: tuple[int, int]) -> None:
    layer = linear(*shape)
    dense = QuantizedLinear.of(layer, "nf4", double=False).dense(torch.float32)
    flat = F.pad(layer.weight.detach().flatten(), (0, -layer.weight.numel() % BLOCK)).view(-1, BLOCK)
    scales = flat.abs().amax(1, keepdim=True)
    candidates = (torch.tensor(NF4) * scales[:, :, None]).expand(-1, BLOCK, -1)
    nearest = (candidates - flat[:, :, None]).abs().argmin(2)
    expected = candidates.gather(2, nearest[:, :, None])[:, :, 0].flatten()[: layer.weight.numel()].view(shape)
    assert torch.equal(dense, expected)


def test_the_formats_equal_those_of_bitsandbytes() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    assert torch.equal(functional.create_dynamic_map(), dynamic_table())
    for dtype in (torch.float32, torch.bfloat16):
        layer = linear(128, 256, dtype=dtype)
        codes, state = functional.quantize_4bit(layer.weight.data, quant_type="nf4", blocksize=BLOCK)
        quantized = QuantizedLinear.of(layer, "nf4", double=False)
        assert torch.equal(codes.flatten(), quantized.codes) and torch.equal(state.absmax, quantized.scales)
        assert torch.equal(functional.dequantize_4bit(codes, state), quantized.dense(dtype))
        codes, state = functional.quantize_4bit(
            layer.weight.data, quant_type="nf4", blocksize=BLOCK, compress_statistics=True
        )
        assert torch.equal(functional.dequantize_4bit(codes, state), QuantizedLinear.of(layer, "nf4").dense(dtype))
    layer = linear(8, 16, dtype=torch.float16)
    codes, scales, _ = functional.int8_vectorwise_quant(layer.weight.data)
    quantized = QuantizedLinear.of(layer, "int8")
    assert torch.equal(codes, quantized.codes) and torch.equal(scales.float(), quantized.scales)


@pytest.mark.parametrize(("kind", "bits"), [("nf4", 4.127), ("int8", 8.063)])
def test_quantized_layers_have_the_expected_size_error_and_gradient(kind: str, bits: float) -> None:
    layer = linear(512, 512)
    quantized = QuantizedLinear.of(layer, kind)  # pyright: ignore[reportArgumentType]
    stored = sum(buffer.numel() * buffer.element_size() for buffer in quantized.buffers())
    assert stored * 8 / layer.weight.numel() == pytest.approx(bits, abs=0.005)
    error = (quantized.dense(torch.float32) - layer.weight).abs().mean() / layer.weight.abs().mean()
    assert error < (0.1 if kind == "nf4" else 0.01)
    states = torch.randn(3, 512, requires_grad=True)
    output = quantized(states)
    assert torch.equal(output, F.linear(states, quantized.dense(torch.float32)))
    (gradient,) = torch.autograd.grad(output.sum(), states)
    torch.testing.assert_close(gradient, torch.ones(3, 512) @ quantized.dense(torch.float32))


def test_a_dequantized_model_gives_the_same_logits() -> None:
    model = tiny_model()
    attach(model, LoraConfig(rank=2, target_modules=("q_proj",)), quantization=BaseQuantization("nf4"))
    ids = torch.randint(0, 259, (1, 9))
    logits = model(ids)
    assert not any("quantized" in name for name, _ in model.named_parameters())
    dequantize_linears(model)
    assert torch.equal(model(ids), logits)
