"""Linear layers whose weights are stored in the layout of oneDNN's kernels, for inference on a CPU in float32.

    model.pack()        # in place: the model can no longer be trained or saved

Products with packed weights are faster than `torch.nn.functional.linear`, which reorders the weights in every call, or
uses kernels that are slow on some processors. A row of a product has the same bits for nearly every number of rows, so
that the passes of a batch need little padding (`vita.infer.batch_invariance` measures it).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

# N tokens, I inputs, O outputs

ROWS = 512
"""Number of rows for which oneDNN selects the layout. With this number a single row also has the same bits."""
FASTEST_ROWS = 4
"""Number of rows whose product takes the least time: the kernels read the weights faster than for fewer rows."""


def product(
    states: Float[Tensor, "*N I"], weight: Float[Tensor, "O I"], bias: Float[Tensor, "O"] | None = None
) -> Float[Tensor, "*N O"]:
    """Return states x weight' + bias; the weight may be packed."""
    if weight.is_mkldnn:
        operators: Any = torch.ops.mkldnn
        return operators._linear_pointwise(states, weight, bias, "none", [], "")
    return F.linear(states, weight, bias)


def packed(weight: Float[Tensor, "O I"]) -> Tensor:
    """Return a matrix in the layout of oneDNN; `to_dense()` gives the same numbers in the ordinary layout."""
    operators: Any = torch.ops.mkldnn
    return operators._reorder_linear_weight(weight.detach().contiguous(), ROWS)


def can_pack(weight: Tensor) -> bool:
    """Return True if products with this weight have packed kernels: float32 on a CPU, in a build with oneDNN."""
    suitable = weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.layout == torch.strided
    return suitable and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def dense(weight: Tensor) -> Tensor:
    """Return a weight in the ordinary layout."""
    return weight.to_dense() if weight.is_mkldnn else weight


def pack_weight(module: nn.Module) -> None:
    """Replace the parameter `weight` of a module by a packed one without gradient, if it can be packed."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    if can_pack(weight):
        module.weight = nn.Parameter(packed(weight), requires_grad=False)
