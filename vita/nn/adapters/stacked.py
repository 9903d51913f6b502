"""Adapters and quantized storage of the stacked matrices of experts.

peft adapts the experts of a layer by `target_parameters`: `gate_up_proj`, which joins the rows of gate and up
projection, and `down_proj`. Each expert has factors of its own. In files A is [experts x rank, inputs], and B is
[outputs, rank x experts] with the expert last.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vita.nn.adapters.quantization import QuantizedLinear
from vita.nn.adapters.settings import Quantization
from vita.nn.experts import ExpertStack, StackedLinear
from vita.nn.grouped import Groups, frozen_grouped_linear, grouped_linear

# E experts, R rank, I inputs, O outputs, P pairs of token and expert, N tokens of one expert

PROJECTIONS = {"gate_up_proj": "lora_gate_up", "down_proj": "lora_down"}
"""Parameters of experts in peft, in the order of its wrappers, and the own modules of their adapters."""


class StackedUpdate(nn.Module):
    """A low-rank update of a projection of all experts: s B A for each."""

    def __init__(self, count: int, inputs: int, outputs: int, *, rank: int, scale: float) -> None:
        super().__init__()
        self.rank, self.scale, self.enabled = rank, scale, True
        self.A: Float[Tensor, "E R I"] = nn.Parameter(torch.zeros(count, rank, inputs))
        self.B: Float[Tensor, "E O R"] = nn.Parameter(torch.zeros(count, outputs, rank))

    @torch.no_grad()
    def start(self, chance: torch.Generator) -> None:
        """Initialize the update to 0: A as in a linear layer, B = 0."""
        bound = 1 / math.sqrt(self.A.shape[-1])
        self.A.copy_(torch.empty(self.A.shape, device="cpu").uniform_(-bound, bound, generator=chance))
        self.B.zero_()

    def forward(self, inputs: Float[Tensor, "P I"], groups: Groups) -> Float[Tensor, "P O"]:
        """Return the change of the outputs for tokens that are sorted by expert."""
        if not self.enabled:
            return inputs.new_zeros(len(inputs), self.B.shape[1])
        return grouped_linear(grouped_linear(inputs, self.A, groups), self.B, groups) * self.scale

    def of_expert(self, inputs: Float[Tensor, "N I"], expert: int) -> Float[Tensor, "N O"]:
        """Return the change of the outputs for tokens of one expert."""
        if not self.enabled:
            return inputs.new_zeros(len(inputs), self.B.shape[1])
        narrow = F.linear(inputs, self.A[expert].to(inputs.dtype))
        return F.linear(narrow, self.B[expert].to(inputs.dtype)) * self.scale

    def delta(self) -> Float[Tensor, "E O I"]:
        """Return s B A of all experts in float32."""
        return self.scale * (self.B.float() @ self.A.float())

    def to_file(self) -> dict[str, Tensor]:
        """Return the tensors in the layout of peft."""
        return {
            "lora_A.weight": self.A.detach().flatten(0, 1),
            "lora_B.weight": self.B.detach().permute(1, 2, 0).flatten(1),
        }

    def from_file(self, factor: str, tensor: Tensor) -> Tensor:
        """Return a tensor of peft in the own layout; one of another shape stays as it is."""
        count, rank, _ = self.A.shape
        if factor == "lora_A.weight" and len(tensor) == count * rank:
            return tensor.unflatten(0, (count, rank))
        if factor == "lora_B.weight" and tensor.shape[1] == count * rank:
            return tensor.unflatten(1, (rank, count)).permute(2, 0, 1)
        return tensor


class QuantizedStack(nn.Module):
    """The frozen matrices of one projection of all experts in 4 or 8 bits."""

    def __init__(self, stacked: StackedLinear, kind: Quantization, *, double: bool) -> None:
        super().__init__()
        weight = stacked.weight.detach()
        self.shape = tuple(weight.shape)
        with torch.device("meta"):
            joined = nn.Linear(weight.shape[2], weight.shape[0] * weight.shape[1], bias=False)
        joined.weight = nn.Parameter(weight.flatten(0, 1), requires_grad=False)
        self.quantized = QuantizedLinear.of(joined, kind, double=double)

    def matrices(self, dtype: torch.dtype) -> Float[Tensor, "E O I"]:
        """Return the dequantized matrices of all experts."""
        return self.quantized.dense(dtype).view(self.shape)

    def forward(self, inputs: Float[Tensor, "P I"], groups: Groups) -> Float[Tensor, "P O"]:
        """Multiply the slice of each expert by its matrix."""
        return frozen_grouped_linear(inputs, self.matrices, groups)

    def dequantized(self, dtype: torch.dtype) -> StackedLinear:
        """Return a frozen stack with the same values."""
        with torch.device("meta"):
            stacked = StackedLinear(self.shape[0], self.shape[2], self.shape[1])
        stacked.weight = nn.Parameter(self.matrices(dtype), requires_grad=False)
        return stacked


def expert_stacks(model: nn.Module) -> dict[str, ExpertStack]:
    """Return the experts of all layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, ExpertStack)}


def stacked_updates(model: nn.Module) -> dict[str, StackedUpdate]:
    """Return the adapters of experts by the name of their parameter in peft."""
    updates = {}
    for name, stack in expert_stacks(model).items():
        for parameter, attribute in PROJECTIONS.items():
            update = getattr(stack, attribute)
            if isinstance(update, StackedUpdate):
                updates[f"{name}.{parameter}"] = update
    return updates


def new_update(stack: ExpertStack, parameter: str, *, rank: int, scale: float) -> StackedUpdate:
    """Return a new update of a parameter of peft."""
    up, down = _shape(stack.up_proj), _shape(stack.down_proj)
    rows, inputs = (up[1] * (2 if stack.gated else 1), up[2]) if parameter == "gate_up_proj" else down[1:]
    return StackedUpdate(up[0], inputs, rows, rank=rank, scale=scale)


@torch.no_grad()
def merge_updates(model: nn.Module) -> None:
    """Add the adapters of experts to their matrices, in place, and remove them."""
    for stack in expert_stacks(model).values():
        if stack.lora_down is not None:
            _add(stack.down_proj, stack.lora_down.delta())
        if stack.lora_gate_up is not None:
            parts = stack.lora_gate_up.delta().chunk(2, dim=1) if stack.gated else (stack.lora_gate_up.delta(),)
            for projection, part in zip([stack.gate_proj, stack.up_proj][-len(parts) :], parts, strict=True):
                _add(projection, part)
        stack.lora_gate_up = stack.lora_down = None


def quantize_stacks(model: nn.Module, kind: Quantization, *, double: bool) -> None:
    """Quantize the matrices of all experts."""
    for stack in expert_stacks(model).values():
        for name, projection in list(stack.named_children()):
            if isinstance(projection, StackedLinear):
                setattr(stack, name, QuantizedStack(projection, kind, double=double))


def dequantize_stacks(model: nn.Module, dtype: torch.dtype) -> None:
    """Replace quantized matrices of experts by dense ones with the same values."""
    for stack in expert_stacks(model).values():
        for name, projection in list(stack.named_children()):
            if isinstance(projection, QuantizedStack):
                setattr(stack, name, projection.dequantized(dtype))


def _shape(projection: nn.Module) -> tuple[int, ...]:
    return (
        projection.shape if isinstance(projection, QuantizedStack) else tuple(projection.get_parameter("weight").shape)
    )


def _add(projection: nn.Module, change: Float[Tensor, "E O I"]) -> None:
    weight = projection.get_parameter("weight")
    weight.data = (weight.float() + change).to(weight.dtype)
