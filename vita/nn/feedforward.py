"""The feed-forward network of a layer."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vita.nn import float8
from vita.nn.architecture import Architecture
from vita.nn.int8 import Int8Linear, linear_products
from vita.nn.packed import product

VECTOR = 16
"""Numbers that elementwise kernels process together; what remains at the end is rounded differently."""

# D width, N tokens, I inputs, O outputs

ACTIVATIONS = {"silu": F.silu, "gelu": F.gelu, "gelu_tanh": lambda states: F.gelu(states, approximate="tanh")}


class Linear(nn.Linear):
    """A linear layer, initialized to zero."""

    packable = True
    """True if only `forward` reads the weight, so that it may be packed (`vita.nn.packed`)."""
    uses_float8 = False
    """True if its matrix products are in float8 where their sizes are suitable (`vita.nn.float8`)."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__(inputs, outputs, bias=bias)

    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, input: Float[Tensor, "*N I"]) -> Float[Tensor, "*N O"]:
        """Multiply by the weight, which may be packed; a bias in float32 is rounded to the dtype of the input."""
        bias = None if self.bias is None else self.bias.to(input.dtype)
        if self.uses_float8 and float8.is_suitable(input, self.weight):
            outputs = float8.product(input, self.weight)
            return outputs if bias is None else outputs + bias
        return product(input, self.weight, bias)


def use_float8(model: nn.Module) -> int:
    """Let the linear layers of the layers of a model compute in float8; return their number."""
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, Linear) and ".layers." in f".{name}" and not float8.has_other_sizes(module.weight)
    ]
    for layer in layers:
        layer.uses_float8 = True
    return len(layers)


class FeedForward(nn.Module):
    """The feed-forward network: gated, as SwiGLU (Shazeer 2020), or with a single inner projection."""

    gate_up_proj: Int8Linear | None

    def __init__(self, architecture: Architecture, inner_width: int | None = None, *, bias: bool | None = None) -> None:
        super().__init__()
        width, inner = architecture.width, inner_width or architecture.feedforward
        has_bias = "feedforward" in architecture.biases if bias is None else bias
        self.activation = ACTIVATIONS[architecture.activation]
        if architecture.gated:
            self.gate_proj = Linear(width, inner, bias=has_bias)
        self.up_proj = Linear(width, inner, bias=has_bias)
        self.down_proj = Linear(inner, width, bias=has_bias)
        self.gated, self.inner = architecture.gated, inner
        self.register_module("gate_up_proj", None)  # 8-bit weights of both projections, which replace them

    def forward(self, states: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        if self.gated:
            gate, up = self._gate_and_up(states)
            return self.down_proj(self.activation(gate) * up)
        return self.down_proj(self.activation(self.up_proj(states)))

    def _gate_and_up(self, states: Float[Tensor, "*N D"]) -> Sequence[Tensor]:
        joined = self.gate_up_proj
        if joined is not None:
            return joined(states).chunk(2, dim=-1)
        return linear_products(states, self.gate_proj, self.up_proj)

    def join_projections(self) -> None:
        """Compute the projections of the input as one product, if they have 8-bit weights."""
        # Activations of an incomplete vector at the end of a row would be rounded differently.
        if not self.gated or self.inner % VECTOR:
            return
        if (joined := Int8Linear.join((self.gate_proj, self.up_proj))) is not None:
            self.gate_up_proj = joined
            del self.gate_proj, self.up_proj

    def split_projections(self) -> None:
        """Undo `join_projections`, between the passes of another thread or beside them."""
        if self.gate_up_proj is not None:
            self.gate_proj, self.up_proj = self.gate_up_proj.split([self.inner] * 2)
            self.gate_up_proj = None
