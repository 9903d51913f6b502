"""Linear layers with 8-bit weights and 8-bit products, for inference on a CPU.

    linear = Int8Linear.of(weight, bias)
    linear(states)

Each output of the matrix has a scale, and its weights are codes from -127 to 127. Each row of the input is quantized in
the same way when it is multiplied (dynamic quantization). With input scale a and weight scale w, a product is

    y[o] = a w[o] sum_i(x_code[i] w_code[o, i]) + bias[o].

The sum is an exact integer. A row therefore has the same bits for every number of rows and threads. The products are
computed by oneDNN, which uses the VNNI instructions of a processor that has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int8, UInt8
from torch import Tensor, nn

from vita.nn.frozen_linear import FrozenLinear

# N rows, I inputs, O outputs

MAX_CODE = 127
OFFSET = 128
"""Code of zero in an input, because oneDNN multiplies unsigned by signed numbers."""
SMALLEST_SCALE = 1e-30
"""Scale of a row of zeros."""


class Int8Linear(FrozenLinear):
    """A linear layer with 8-bit weights; its bias keeps full precision."""

    codes: Tensor
    """The codes in the layout of oneDNN."""
    scales: Float[Tensor, "O"]
    zero_points: Tensor

    def __init__(self, codes: Int8[Tensor, "O I"], scales: Float[Tensor, "O"], bias: nn.Parameter | None) -> None:
        super().__init__()
        self.out_features, self.in_features = codes.shape
        self.bias = bias
        # Not persistent: they follow from the weights of the model, and no file holds them.
        self.register_buffer("codes", torch.ops.onednn.qlinear_prepack(codes, None), persistent=False)
        self.register_buffer("scales", scales, persistent=False)
        self.register_buffer("zero_points", torch.zeros(len(scales), dtype=torch.int32), persistent=False)

    @classmethod
    @torch.no_grad()
    def of(cls, weight: Float[Tensor, "O I"], bias: nn.Parameter | None = None) -> Int8Linear:
        """Return a linear layer with a quantized copy of `weight`."""
        return cls(*weight_codes(weight.detach()), bias)

    @classmethod
    def join(cls, layers: Sequence[nn.Module]) -> Int8Linear | None:
        """Return one layer with the outputs of several layers for the same input; None if they cannot be joined."""
        joined = [layer for layer in layers if isinstance(layer, Int8Linear)]
        biases: list[Tensor] = [layer.bias for layer in joined if layer.bias is not None]
        if len(joined) < len(layers) or len(biases) not in (0, len(layers)):
            return None
        bias = nn.Parameter(torch.cat(biases), requires_grad=False) if biases else None
        codes = torch.cat([layer.codes.to_dense().T for layer in joined])
        return cls(codes, torch.cat([layer.scales for layer in joined]), bias)

    def split(self, sizes: Sequence[int]) -> list[Int8Linear]:
        """Return the layers that were joined, which have these numbers of outputs."""
        biases = [None] * len(sizes) if self.bias is None else [nn.Parameter(b) for b in self.bias.split(list(sizes))]
        codes = self.codes.to_dense().T.split(list(sizes))
        parts = zip(codes, self.scales.split(list(sizes)), biases, strict=True)
        return [Int8Linear(part.contiguous(), scales.clone(), bias) for part, scales, bias in parts]

    def dense(self, dtype: torch.dtype) -> Float[Tensor, "O I"]:
        """Return the dequantized matrix."""
        return (self.codes.to_dense().T.float() * self.scales[:, None]).to(dtype)

    def forward(self, states: Float[Tensor, "*N I"]) -> Float[Tensor, "*N O"]:
        return self.of_codes(*row_codes(states.reshape(-1, self.in_features)), shape=states.shape[:-1])

    def of_codes(
        self, codes: UInt8[Tensor, "N I"], scales: Float[Tensor, "N 1"], *, shape: torch.Size
    ) -> Float[Tensor, "*N O"]:
        """Return the output for quantized rows, which have this shape in the output."""
        output = self.integer_products(codes).mul_(scales)
        if self.bias is not None:
            output += self.bias
        return output.view(*shape, self.out_features)

    def integer_products(self, codes: UInt8[Tensor, "N I"]) -> Float[Tensor, "N O"]:
        """Return the sums of products of codes, multiplied by the scale of each weight row."""
        # Not `self.codes`: a search for attributes of modules takes time.
        weight = self._buffers
        # Arguments: input, its scale and zero point, weight, its scales and zero points, bias, scale and zero point of
        # the output, its type, and an operation that follows.
        return _multiply()(
            codes, 1.0, OFFSET, weight["codes"], weight["scales"], weight["zero_points"], None, 1.0, 0, torch.float32,
            "none", [], "",
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}"


def weight_codes(weight: Float[Tensor, "O I"]) -> tuple[Int8[Tensor, "O I"], Float[Tensor, "O"]]:
    """Return the codes -127 to 127 of a matrix, and the scale of each output."""
    scales = weight.abs().amax(1).clamp_min(SMALLEST_SCALE) / MAX_CODE
    return (weight / scales[:, None]).round().to(torch.int8).contiguous(), scales


def row_codes(rows: Float[Tensor, "N I"]) -> tuple[UInt8[Tensor, "N I"], Float[Tensor, "N 1"]]:
    """Return the codes of each row of an input, from 1 to 255, and the scale of the row."""
    scales = rows.abs().amax(-1, keepdim=True).clamp_min_(SMALLEST_SCALE).div_(MAX_CODE)
    # The conversion drops the fraction, so that 0.5 rounds to the nearest code.
    return (rows / scales).add_(OFFSET + 0.5).to(torch.uint8), scales


def linear_products(states: Float[Tensor, "*N I"], *layers: nn.Module) -> list[Tensor]:
    """Return the outputs of several layers for the same input, which 8-bit layers quantize once."""
    if not all(isinstance(layer, Int8Linear) for layer in layers):
        return [layer(states) for layer in layers]
    codes, scales = row_codes(states.reshape(-1, states.shape[-1]))
    int8_layers = [layer for layer in layers if isinstance(layer, Int8Linear)]
    return [layer.of_codes(codes, scales, shape=states.shape[:-1]) for layer in int8_layers]


@lru_cache
def has_exact_products() -> bool:
    """Return True if this build of torch and this processor compute the sums of 8-bit products exactly.

    Processors without VNNI add pairs of products in 16 bits, where large codes overflow.
    """
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.onednn, "qlinear_prepack"):
        return False
    rows, inputs, outputs = 3, 96, 32
    weight_values = torch.full((outputs, inputs), MAX_CODE, dtype=torch.int8)
    weight_values[1::2] = -MAX_CODE
    input_values = torch.full((rows, inputs), OFFSET + MAX_CODE, dtype=torch.uint8)
    input_values[1] = OFFSET - MAX_CODE
    expected = (input_values.int() - OFFSET) @ weight_values.int().T
    try:
        linear = Int8Linear(weight_values, torch.ones(outputs), None)
        return torch.equal(linear.integer_products(input_values), expected.float())
    except RuntimeError:
        return False


@lru_cache
def _multiply() -> Any:
    # The overload itself, because a search for it at each call takes time.
    return torch.ops.onednn.qlinear_pointwise.default
