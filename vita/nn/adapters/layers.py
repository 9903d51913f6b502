"""A linear layer with a low-rank adapter: LoRA (Hu et al. 2021), rsLoRA and DoRA (Liu et al. 2024).

LoRA:  y = W x + b + s B A dropout(x), with s = alpha / rank, or alpha / sqrt(rank) for rsLoRA.
DoRA:  y = (m / n) (W x + s B A x) + b, where n is the norm of each row of W + s B A, without gradient (sec. 4.3).

W and b are frozen. W may be quantized. Names of parameters follow peft.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vita.nn.feedforward import Linear
from vita.nn.frozen_linear import FrozenLinear
from vita.nn.packed import dense, product

# N outputs, M inputs, R rank

BaseLinear = nn.Linear | FrozenLinear


class LowRankFactor(nn.Module):
    """One factor of the update."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None


class AdaptedLinear(nn.Module):
    """A frozen linear layer with a trainable low-rank update."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    quantized: FrozenLinear | None

    def __init__(
        self, base: BaseLinear, *, rank: int, scale: float, dropout: float = 0.0, dora: bool = False, bias: bool = False
    ) -> None:
        """Wrap `base`, whose parameters keep their names; `bias` adds one to the update (`lora_bias` in peft)."""
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.rank, self.scale, self.dropout, self.dora = rank, scale, dropout, dora
        self.enabled = True
        self.dropout_seed: int | None = None
        """Seed of the dropout mask; without one there is no dropout."""
        if isinstance(base, FrozenLinear):
            self.quantized, self.bias = base, base.bias
            base.bias = None
        else:
            self.quantized, self.bias = None, base.bias
            self.weight = cast(nn.Parameter, base.weight)
        self.lora_A = LowRankFactor(base.in_features, rank)
        self.lora_B = LowRankFactor(rank, base.out_features, bias=bias)
        if dora:
            self.lora_magnitude_vector = nn.Parameter(torch.zeros(base.out_features))

    @property
    def packable(self) -> bool:
        """Return True if the frozen matrix may be packed."""
        return self.quantized is None

    def dense(self, dtype: torch.dtype) -> Float[Tensor, "N M"]:
        """Return the frozen matrix."""
        return dense(self.weight).to(dtype) if self.quantized is None else self.quantized.dense(dtype)

    def replace_base(self, base: FrozenLinear) -> None:
        """Replace the frozen matrix by one in another storage format."""
        del self.weight
        self.quantized = base

    @torch.no_grad()
    def start(self, chance: torch.Generator) -> None:
        """Initialize the update to 0: A as in a linear layer, B = 0, and the magnitude from the frozen matrix."""
        bound = 1 / math.sqrt(self.in_features)
        weight = torch.empty(self.lora_A.weight.shape, device="cpu").uniform_(-bound, bound, generator=chance)
        self.lora_A.weight.copy_(weight)
        self.lora_B.weight.zero_()
        if self.dora:
            self.lora_magnitude_vector.copy_(self.row_norms())

    def update(self) -> Float[Tensor, "N M"]:
        """Return s B A in float32."""
        return self.scale * (self.lora_B.weight.float() @ self.lora_A.weight.float())

    def row_norms(self) -> Float[Tensor, "N"]:
        """Return the norm of each row of W + s B A in float32."""
        return torch.linalg.vector_norm(self.dense(torch.float32) + self.update(), dim=1)

    def merged(self) -> Float[Tensor, "N M"]:
        """Return the matrix with the adapter in float32."""
        matrix = self.dense(torch.float32) + self.update()
        if not self.dora:
            return matrix
        factors = self.lora_magnitude_vector.float() / torch.linalg.vector_norm(matrix, dim=1)
        return factors[:, None] * matrix

    def effective_weight(self, dtype: torch.dtype) -> Float[Tensor, "N M"]:
        """Return the matrix that the layer multiplies by, without dropout."""
        return (self.merged() if self.enabled else self.dense(torch.float32)).to(dtype)

    def merged_bias(self) -> Tensor | None:
        """Return the bias with the adapter in float32."""
        extra = self.lora_B.bias
        if extra is None:
            return None if self.bias is None else self.bias.float()
        update = self.scale * extra.float()
        if self.dora:
            update = update * (self.lora_magnitude_vector.float() / self.row_norms())
        return update if self.bias is None else self.bias.float() + update

    def forward(self, states: Float[Tensor, "*B M"]) -> Float[Tensor, "*B N"]:
        bias = None if self.bias is None else self.bias.to(states.dtype)
        plain = self._base(states, bias)
        if not self.enabled:
            return plain
        inputs = self._dropped(states)
        extra = self.lora_B.bias
        narrow = F.linear(inputs, self.lora_A.weight.to(states.dtype))
        low_rank = F.linear(narrow, self.lora_B.weight.to(states.dtype), None if extra is None else extra.to(states))
        if not self.dora:
            return plain + low_rank * self.scale
        factors = (self.lora_magnitude_vector / self.row_norms().detach()).to(states.dtype)
        unbiased = self._base(inputs, None) if bias is not None or inputs is not states else plain
        return plain + (factors - 1) * unbiased + factors * low_rank * self.scale

    def _base(self, states: Float[Tensor, "*B M"], bias: Tensor | None) -> Float[Tensor, "*B N"]:
        if self.quantized is None:
            return product(states, self.weight if self.weight.is_mkldnn else self.weight.to(states.dtype), bias)
        output = self.quantized(states)
        return output if bias is None else output + bias

    def _dropped(self, states: Tensor) -> Tensor:
        """Return the input of the adapter; a mask depends on the seed alone, so that a resumed run repeats it."""
        if self.dropout_seed is None or not self.dropout:
            return states
        chance = torch.Generator(states.device).manual_seed(self.dropout_seed)
        mask = torch.rand(states.shape, device=states.device, generator=chance) >= self.dropout
        return states * mask / (1 - self.dropout)

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, rank={self.rank}, scale={self.scale:g}, dora={self.dora}"


def plain_linear(weight: Tensor, bias: Tensor | None, *, trainable: bool) -> nn.Linear:
    """Return a linear layer with these tensors, without a copy."""
    with torch.device("meta"):
        linear = Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = _parameter(weight, trainable)
    if bias is not None:
        linear.bias = _parameter(bias, trainable)
    return linear


def _parameter(tensor: Any, trainable: bool) -> nn.Parameter:
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=trainable)
