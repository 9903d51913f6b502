"""Linear layers with 4-bit weights, for inference on a CPU: the weights of each group of 32 have a scale and an offset.

    linear = Int4Linear.of(weight, bias)
    linear(states)

The weights of a group are codes from 0 to 15: weight = (code - 8) scale + offset. Scale and offset are stored in
bfloat16, which makes 5 bits per weight. Inputs and outputs of the products are bfloat16 and sums are float32.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import BFloat16, Float, Int
from torch import Tensor, nn

from vita.nn.frozen_linear import FrozenLinear

# N rows, I inputs, O outputs, G groups of a row

GROUP = 32
"""Inputs that share a scale and an offset."""
OUTPUTS = 16
"""The kernel computes a multiple of this number of outputs."""
MIDDLE, MAX_CODE = 8, 15


class Int4Linear(FrozenLinear):
    """A linear layer with 4-bit weights; its bias keeps full precision."""

    codes: Tensor
    """The codes in the layout of the kernel."""
    scales: BFloat16[Tensor, "G O 2"]
    """Scale and offset of each group."""

    def __init__(self, codes: Int[Tensor, "O I"], scales: BFloat16[Tensor, "G O 2"], bias: nn.Parameter | None) -> None:
        super().__init__()
        self.out_features, self.in_features = codes.shape
        self.bias = bias
        # Not persistent: they follow from the weights of the model, and no file holds them.
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
        self.register_buffer("codes", packed, persistent=False)
        self.register_buffer("scales", scales, persistent=False)

    @classmethod
    @torch.no_grad()
    def of(cls, weight: Float[Tensor, "O I"], bias: nn.Parameter | None = None) -> Int4Linear:
        """Return a linear layer with a quantized copy of `weight`."""
        return cls(*weight_codes(weight.detach()), bias)

    def dense(self, dtype: torch.dtype) -> Float[Tensor, "O I"]:
        """Return the dequantized matrix, rounded to bfloat16."""
        return self._product(torch.eye(self.in_features, dtype=torch.bfloat16)).T.to(dtype)

    def forward(self, states: Float[Tensor, "*N I"]) -> Float[Tensor, "*N O"]:
        rows = states.reshape(-1, self.in_features).to(torch.bfloat16)
        output = self._product(rows).to(states.dtype)
        if self.bias is not None:
            output += self.bias
        return output.view(*states.shape[:-1], self.out_features)

    def _product(self, rows: BFloat16[Tensor, "N I"]) -> BFloat16[Tensor, "N O"]:
        return torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.codes, GROUP, self.scales)

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}"


def weight_codes(weight: Float[Tensor, "O I"]) -> tuple[Int[Tensor, "O I"], BFloat16[Tensor, "G O 2"]]:
    """Return the codes 0 to 15 of a matrix, and scale and offset of each group."""
    groups = weight.float().unflatten(1, (-1, GROUP))
    low, high = groups.amin(-1), groups.amax(-1)
    scales = ((high - low) / MAX_CODE).clamp_min(1e-30).to(torch.bfloat16)
    offsets = (low + MIDDLE * scales.float()).to(torch.bfloat16)
    # The codes are those of the rounded scales and offsets.
    positions = (groups - offsets.float()[..., None]) / scales.float()[..., None]
    codes = (positions + MIDDLE).round().clamp(0, MAX_CODE).to(torch.int32).flatten(1)
    return codes, torch.stack((scales, offsets), dim=-1).transpose(0, 1).contiguous()


def fits(outputs: int, inputs: int) -> bool:
    """Return True if the kernel can multiply by a matrix of this shape."""
    return inputs % GROUP == 0 and outputs % OUTPUTS == 0


@lru_cache
def has_kernel() -> bool:
    """Return True if this build of torch multiplies by 4-bit weights on this processor."""
    try:
        linear = Int4Linear.of(torch.eye(GROUP))
        return bool((linear(torch.eye(GROUP)) - torch.eye(GROUP)).abs().max() < 0.1)
    except (AttributeError, RuntimeError):
        return False
