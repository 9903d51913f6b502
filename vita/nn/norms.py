"""Norms of the residual stream, of queries and of keys, computed in fp32."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vita.nn.architecture import Architecture


class RMSNorm(nn.Module):
    """RMSNorm: x / rms(x) * (offset + weight) (Zhang & Sennrich 2019)."""

    def __init__(self, width: int, eps: float, offset: int = 0) -> None:
        super().__init__()
        self.eps, self.offset = eps, offset
        self.weight = nn.Parameter(torch.full((width,), 1.0 - offset))

    def forward(self, states: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        weight = self.weight.float() + self.offset if self.offset else self.weight.float()
        return F.rms_norm(states.float(), weight.shape, weight, self.eps).type_as(states)


class LayerNorm(nn.Module):
    """LayerNorm (Ba et al. 2016)."""

    def __init__(self, width: int, eps: float, *, bias: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, states: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        weight, bias = self.weight.float(), None if self.bias is None else self.bias.float()
        return F.layer_norm(states.float(), weight.shape, weight, bias, self.eps).type_as(states)


def norm(architecture: Architecture, width: int) -> RMSNorm | LayerNorm:
    """Return the norm of an architecture."""
    if architecture.norm == "layer":
        return LayerNorm(width, architecture.norm_eps, bias=architecture.norm_bias)
    return RMSNorm(width, architecture.norm_eps, architecture.norm_offset)
