"""Feed-forward networks of a layer, and mixtures of them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vita.nn.architecture import Architecture, Experts

# B batch, T position, D width, N tokens, I inputs, O outputs

ACTIVATIONS = {"silu": F.silu, "gelu": F.gelu, "gelu_tanh": lambda states: F.gelu(states, approximate="tanh")}


class Linear(nn.Linear):
    """A linear layer, initialized to zero."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__(inputs, outputs, bias=bias)

    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, input: Float[Tensor, "*N I"]) -> Float[Tensor, "*N O"]:
        """Multiply by the weight; a bias in float32 is rounded to the dtype of the input."""
        return F.linear(input, self.weight, None if self.bias is None else self.bias.to(input.dtype))


class FeedForward(nn.Module):
    """The feed-forward network: gated, as SwiGLU (Shazeer 2020), or with a single inner projection."""

    def __init__(self, architecture: Architecture, inner_width: int | None = None, *, bias: bool | None = None) -> None:
        super().__init__()
        width, inner = architecture.width, inner_width or architecture.feedforward
        has_bias = "feedforward" in architecture.biases if bias is None else bias
        self.activation = ACTIVATIONS[architecture.activation]
        if architecture.gated:
            self.gate_proj = Linear(width, inner, bias=has_bias)
        self.up_proj = Linear(width, inner, bias=has_bias)
        self.down_proj = Linear(inner, width, bias=has_bias)
        self.gated = architecture.gated

    def forward(self, states: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        if self.gated:
            return self.down_proj(self.activation(self.gate_proj(states)) * self.up_proj(states))
        return self.down_proj(self.activation(self.up_proj(states)))


class MixtureOfExperts(nn.Module):
    """A router, and the experts that it selects for each token (Shazeer et al. 2017; Jiang et al. 2024)."""

    def __init__(self, architecture: Architecture, experts: Experts) -> None:
        super().__init__()
        self.router = Linear(architecture.width, experts.count)
        self.experts = nn.ModuleList(
            FeedForward(architecture, experts.feedforward, bias=False) for _ in range(experts.count)
        )
        self.active, self.normalized = experts.active, experts.normalized

    def forward(self, states: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        tokens = states.flatten(0, 1)
        weights, chosen = self.router(tokens).float().softmax(-1).topk(self.active, dim=-1)
        if self.normalized:
            weights = weights / weights.sum(-1, keepdim=True)
        mixed = torch.zeros_like(tokens)
        for index, expert in enumerate(self.experts):
            rows, slots = (chosen == index).nonzero(as_tuple=True)
            output = expert(tokens[rows]) * weights[rows, slots, None].type_as(tokens)
            mixed = mixed.index_add(0, rows, output)
        return mixed.view_as(states)
