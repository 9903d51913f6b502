"""Quantized storage of frozen matrices: NF4 (4 bits) and int8, dequantized at each use.

    linear = QuantizedLinear.of(linear, "nf4", double=True)
    linear(states)                               # equals F.linear(states, linear.dense(states.dtype))

NF4 (Dettmers et al. 2023, sec. 3) equals the format of bitsandbytes: 16 code values, blocks of 64 numbers with the
largest absolute value as scale, and optionally scales that are quantized again, in blocks of 256, after their mean is
subtracted. Two codes are packed in a byte, the first one in the upper half. int8 has one scale per row.
On a CUDA device bitsandbytes, if it is installed, does the same with fused kernels.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from vita.nn.adapters.settings import Quantization
from vita.nn.frozen_linear import FrozenLinear

# N outputs, M inputs; B blocks of a matrix

BLOCK, SCALE_BLOCK = 64, 256
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The quantiles of a normal distribution that NF4 uses as code values (Dettmers et al. 2023, app. E)."""


class QuantizedLinear(FrozenLinear):
    """A linear layer with a frozen matrix in 4 or 8 bits; its bias keeps full precision."""

    codes: Tensor
    scales: Tensor
    scale_codes: Tensor | None
    scale_mean: Tensor | None
    bias: nn.Parameter | None

    def __init__(self, inputs: int, outputs: int, kind: Quantization, *, double: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = inputs, outputs
        self.kind, self.double_scales = kind, double and kind == "nf4"
        blocks = -(-inputs * outputs // BLOCK)
        if kind == "nf4":
            self._buffer("codes", torch.empty(-(-inputs * outputs // 2), dtype=torch.uint8))
            scale_blocks = -(-blocks // SCALE_BLOCK)
            self._buffer("scales", torch.empty(scale_blocks if self.double_scales else blocks))
        else:
            self._buffer("codes", torch.empty((outputs, inputs), dtype=torch.int8))
            self._buffer("scales", torch.empty(outputs))
        self._buffer("scale_codes", torch.empty(blocks, dtype=torch.uint8) if self.double_scales else None)
        self._buffer("scale_mean", torch.empty(()) if self.double_scales else None)
        self.bias = None

    @classmethod
    @torch.no_grad()
    def of(cls, linear: nn.Linear, kind: Quantization, *, double: bool = True) -> QuantizedLinear:
        """Return a linear layer with the quantized matrix of `linear`, and its bias."""
        with torch.device("meta"):
            quantized = cls(linear.in_features, linear.out_features, kind, double=double)
        quantized.bias = linear.bias
        weight = linear.weight.detach()
        if weight.is_meta:
            return quantized
        if kind == "int8":
            quantized.codes, quantized.scales = int8_codes(weight)
        else:
            quantized.codes, scales = nf4_codes(weight)
            if quantized.double_scales:
                quantized.scale_mean = scales.mean()
                quantized.scale_codes, quantized.scales = dynamic_codes(scales - quantized.scale_mean)
            else:
                quantized.scales = scales
        return quantized

    def dense(self, dtype: torch.dtype) -> Float[Tensor, "N M"]:
        """Return the dequantized matrix."""
        if self.kind == "int8":
            return (self.codes.float() * (self.scales[:, None] / 127)).to(dtype)
        shape = self.out_features, self.in_features
        if self.codes.device.type == "cuda" and importlib.util.find_spec("bitsandbytes"):
            return _dequantize_on_cuda(self.codes, self._block_scales(), shape, dtype)
        return dequantize_nf4(self.codes, self._block_scales(), shape).to(dtype)

    def effective_weight(self, dtype: torch.dtype) -> Float[Tensor, "N M"]:
        """Return the matrix that the layer multiplies by."""
        return self.dense(dtype)

    def forward(self, states: Float[Tensor, "*B M"]) -> Float[Tensor, "*B N"]:
        return frozen_linear(states, self)

    def _block_scales(self) -> Float[Tensor, "B"]:
        if self.scale_codes is None or self.scale_mean is None:
            return self.scales
        return dequantize_dynamic(self.scale_codes, self.scales) + self.scale_mean

    def _buffer(self, name: str, value: Tensor | None) -> None:
        # Not persistent: they follow from the base model, and no file holds them.
        self.register_buffer(name, value, persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> QuantizedLinear:
        """Move the buffers with the model, and keep the scales in float32."""
        scales, mean = self.scales, self.scale_mean
        super()._apply(fn, recurse)
        if self.scales.dtype != torch.float32:
            self.scales = scales.to(self.codes.device)
            self.scale_mean = None if mean is None else mean.to(self.codes.device)
        return self


def frozen_linear(states: Float[Tensor, "*B M"], layer: QuantizedLinear) -> Float[Tensor, "*B N"]:
    """Compute a linear layer whose dense matrix is not kept for the backward pass, but dequantized again."""
    return _FrozenLinear.apply(states, layer)


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        bias = None if layer.bias is None else layer.bias.to(states.dtype)
        return F.linear(states, layer.dense(states.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None]:
        gradient = gradients[0]
        return gradient @ ctx.layer.dense(gradient.dtype), None


# -- NF4


def nf4_codes(weight: Tensor) -> tuple[UInt8[Tensor, "P"], Float[Tensor, "B"]]:
    """Return the packed codes of a matrix and the scale of each block of 64 numbers, in the order of its rows."""
    flat = weight.float().flatten()
    blocks = F.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(1)
    table = torch.tensor(NF4, device=weight.device)
    borders = (table[1:] + table[:-1]) / 2
    # A block of zeros has the scale 0; its codes are those of 0.
    normalized = blocks * torch.where(scales > 0, 1 / scales, 0.0)[:, None]
    codes = torch.bucketize(normalized, borders).to(torch.uint8).flatten()[: len(flat)]
    codes = F.pad(codes, (0, len(codes) % 2))
    return (codes[0::2] << 4) | codes[1::2], scales


def dequantize_nf4(codes: UInt8[Tensor, "P"], scales: Float[Tensor, "B"], shape: tuple[int, int]) -> Tensor:
    """Return the float32 matrix of packed codes and block scales."""
    table = torch.tensor(NF4, device=codes.device)
    size = shape[0] * shape[1]
    values = table[torch.stack((codes >> 4, codes & 15), dim=1).flatten().int()][:size]
    padded = F.pad(values, (0, -size % BLOCK)).view(-1, BLOCK) * scales[:, None]
    return padded.flatten()[:size].view(shape)


def _dequantize_on_cuda(codes: Tensor, scales: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    from bitsandbytes.functional import (  # pyright: ignore[reportMissingImports]
        QuantState,
        dequantize_4bit,
        get_4bit_type,
    )

    code = get_4bit_type("nf4", device=codes.device)
    state = QuantState(scales, shape=torch.Size(shape), code=code, blocksize=BLOCK, quant_type="nf4", dtype=dtype)
    return dequantize_4bit(codes[:, None], state)


# -- scales of scales


def dynamic_table() -> Float[Tensor, "256"]:
    """Return the 256 values of the dynamic 8-bit format of bitsandbytes (Dettmers et al. 2022, sec. 1.3).

    A value has a sign, an exponent of base 10 in unary form, and a linear fraction with the remaining bits.
    """
    values = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1)
        means = (edges[:-1] + edges[1:]) / 2
        scaled = (10 ** (exponent - 6)) * means
        values += [*scaled.tolist(), *(-scaled).tolist()]
    return torch.tensor(sorted(values))


def dynamic_codes(values: Float[Tensor, "B"]) -> tuple[UInt8[Tensor, "B"], Float[Tensor, "S"]]:
    """Return the dynamic 8-bit codes of numbers and the largest absolute value of each block of 256."""
    blocks = F.pad(values, (0, -len(values) % SCALE_BLOCK)).view(-1, SCALE_BLOCK)
    largest = blocks.abs().amax(1)
    table = dynamic_table().to(values.device)
    borders = (table[1:] + table[:-1]) / 2
    normalized = blocks * torch.where(largest > 0, 1 / largest, 0.0)[:, None]
    codes = torch.bucketize(normalized, borders).to(torch.uint8)
    return codes.flatten()[: len(values)], largest


def dequantize_dynamic(codes: UInt8[Tensor, "B"], largest: Float[Tensor, "S"]) -> Float[Tensor, "B"]:
    """Return the numbers of dynamic codes and block maxima."""
    values = dynamic_table().to(codes.device)[codes.int()]
    blocks = F.pad(values, (0, -len(values) % SCALE_BLOCK)).view(-1, SCALE_BLOCK) * largest[:, None]
    return blocks.flatten()[: len(codes)]


# -- int8


def int8_codes(weight: Tensor) -> tuple[Tensor, Float[Tensor, "N"]]:
    """Return the codes -127 to 127 of each row, and the largest absolute value of the row as its scale."""
    values = weight.float()
    scales = values.abs().amax(1)
    factors = torch.where(scales > 0, 127 / scales, 0.0)
    return (values * factors[:, None]).round().to(torch.int8), scales
