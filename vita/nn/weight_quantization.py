"""Number formats of the weights of a model for inference: 8 or 4 bits on a CPU, or bfloat16, instead of float32.

    quantize_weights(model, "int8")        # in place: the model can no longer be trained or saved

With `int8` and `int4`, the matrices of attention, of feed-forward networks and of the output head are quantized.
Embeddings, norms, routers, gates and the stacked experts of a mixture stay in float32. With `int4` the output head has
8 bits, as do matrices whose shape the 4-bit kernel cannot multiply.
"""

from __future__ import annotations

import torch
from torch import nn

from vita.nn import int4, int8
from vita.nn.adapters.layers import AdaptedLinear
from vita.nn.feedforward import Linear
from vita.nn.frozen_linear import FrozenLinear
from vita.nn.packed import can_pack
from vita.nn.transformer import Transformer
from vita.nn.weight_format import WeightFormat
from vita.spine.errors import ModelError

SETTING = "quantization"
HINT = "without `quantization`, the weights are float32"


def require_kernels(kind: WeightFormat, *, device: str | torch.device = "cpu") -> None:
    """Raise `ModelError` if weights in this format cannot be multiplied on the device."""
    if kind == "bf16":
        return
    if torch.device(device).type != "cpu":
        hint = f"set VITA_DEVICE=cpu; {HINT}"
        raise ModelError(SETTING, f"{kind} weights are computed on a CPU only", got=str(device), hint=hint)
    # The head of a model with 4-bit weights has 8 bits.
    if not int8.has_exact_products():
        problem = "this processor or this build of torch has no exact 8-bit products (VNNI)"
        raise ModelError(SETTING, problem, got=kind, hint=HINT)
    if kind == "int4" and not int4.has_kernel():
        raise ModelError(SETTING, "this build of torch cannot multiply by 4-bit weights", got=kind, hint=HINT)


@torch.no_grad()
def quantize_weights(model: Transformer, kind: WeightFormat) -> None:
    """Quantize the matrices of a model in float32, in place; raise `ModelError` where this cannot work.

    With `bf16`, the parameters and the computation of the whole model become bfloat16.
    """
    if kind == "bf16":
        model.to(torch.bfloat16)
        return
    weight = model.head_weight
    require_kernels(kind, device=weight.device)
    if not can_pack(weight):
        raise ModelError(SETTING, expected="a model in float32", got=str(weight.dtype), hint=HINT)
    _quantize_head(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, AdaptedLinear):
            if module.quantized is None:
                module.replace_base(frozen_linear(module.weight, None, kind))
        elif isinstance(module, Linear) and module.packable and module.out_features > 1:  # not the gate of an expert
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, frozen_linear(module.weight, module.bias, kind))
    model.join_projections()


def frozen_linear(weight: torch.Tensor, bias: nn.Parameter | None, kind: WeightFormat) -> FrozenLinear:
    """Return a linear layer with a quantized copy of `weight`."""
    outputs, inputs = weight.shape
    if kind == "int4" and int4.fits(outputs, inputs):
        return int4.Int4Linear.of(weight, bias)
    return int8.Int8Linear.of(weight, bias)


def weight_bytes(model: nn.Module) -> int:
    """Return the memory of parameters and buffers, in bytes; shared ones count once."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _quantize_head(model: Transformer) -> None:
    """Set the quantized head, and remove the weight of an output head that is not the embedding."""
    model.quantized_head = int8.Int8Linear.of(model.head_weight)
    head = getattr(model, "lm_head", None)
    if isinstance(head, Linear):
        del model.lm_head
