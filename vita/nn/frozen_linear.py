"""The interface of linear layers whose matrix is not trained and has a storage format of its own."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

# N tokens, I inputs, O outputs


class FrozenLinear(nn.Module):
    """A linear layer with a matrix that is not a parameter, for example a quantized one."""

    in_features: int
    out_features: int
    bias: nn.Parameter | None

    def dense(self, dtype: torch.dtype) -> Float[Tensor, "O I"]:
        """Return the matrix in the ordinary layout."""
        raise NotImplementedError

    def forward(self, states: Float[Tensor, "*N I"]) -> Float[Tensor, "*N O"]:
        """Multiply by the matrix, and add the bias."""
        raise NotImplementedError
