"""Matrix products in float8 for training: three products per layer, with a scale for each tensor.

    outputs = product(states, weight)       # of the layers that `vita.nn.feedforward.use_float8` selects

The input and the weight are rounded to e4m3 and the gradient of the output to e5m2, each after a division by a scale
that maps its largest magnitude to the largest number of the format (Micikevicius et al. 2022, arXiv:2209.05433, sec. 3
and 4). The sums are float32, and the results have the dtype of the input. The scales follow from the present values, so
there is no state, and a run that resumes has the same bits. The embedding, the output head, norms, routers and experts
keep their precision.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

# N tokens, I inputs, O outputs, D width

INPUT_FORMAT, GRADIENT_FORMAT = torch.float8_e4m3fn, torch.float8_e5m2
_MULTIPLE = 16
"""The kernels need sizes that are multiples of this number."""
_SMALLEST = 1e-12
"""Smallest magnitude from which a scale is computed."""


def product(states: Float[Tensor, "*N I"], weight: Float[Tensor, "O I"]) -> Float[Tensor, "*N O"]:
    """Return states x weight' in float8; sizes must be suitable (`is_suitable`)."""
    outputs = _Product.apply(states.reshape(-1, states.shape[-1]), weight)
    return outputs.view(*states.shape[:-1], -1)


def is_suitable(states: Tensor, weight: Tensor) -> bool:
    """Return True if all sizes of a product and of its gradients are multiples of 16."""
    return states.numel() // weight.shape[1] % _MULTIPLE == 0 and not has_other_sizes(weight)


def rounded(values: Float[Tensor, "N D"], dtype: torch.dtype) -> tuple[Float[Tensor, "N D"], Float[Tensor, ""]]:
    """Return the values divided by a scale in a float8 format, and the scale."""
    scale = values.abs().amax().float().clamp(min=_SMALLEST) / torch.finfo(dtype).max
    return (values.float() / scale).to(dtype), scale


def has_other_sizes(weight: Tensor) -> bool:
    """Return True if a size of a weight is no multiple of 16."""
    return any(size % _MULTIPLE for size in weight.shape)


class _Product(torch.autograd.Function):
    """A product whose three matrix products (output, gradient of the input, gradient of the weight) are in float8."""

    @staticmethod
    def forward(ctx: Any, states: Float[Tensor, "N I"], weight: Float[Tensor, "O I"]) -> Float[Tensor, "N O"]:
        left, left_scale = rounded(states, INPUT_FORMAT)
        right, right_scale = rounded(weight, INPUT_FORMAT)
        ctx.save_for_backward(left, left_scale, right, right_scale)
        ctx.dtypes = states.dtype, weight.dtype
        return _scaled(left, right.t(), left_scale, right_scale, states.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        left, left_scale, right, right_scale = ctx.saved_tensors
        states_dtype, weight_dtype = ctx.dtypes
        gradient, scale = rounded(gradients[0], GRADIENT_FORMAT)
        by_states = by_weight = None
        if ctx.needs_input_grad[0]:
            by_states = _scaled(gradient, _by_columns(right), scale, right_scale, states_dtype)
        if ctx.needs_input_grad[1]:
            by_weight = _scaled(gradient.t().contiguous(), _by_columns(left), scale, left_scale, weight_dtype)
        return by_states, by_weight


def _by_columns(matrix: Tensor) -> Tensor:
    """Return the same matrix, stored column by column as the kernels need the second factor."""
    return matrix.t().contiguous().t()


def _scaled(left: Tensor, right: Tensor, left_scale: Tensor, right_scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return left x right with their scales; `left` is stored by rows and `right` by columns.

    A processor without units for float8 computes the products of the same numbers in float32, which is much faster than
    its own operator.
    """
    if left.device.type == "cpu":
        return ((left.float() @ right.float()) * (left_scale * right_scale)).to(dtype)
    return kernel(left, right, left_scale, right_scale, dtype)


def kernel(left: Tensor, right: Tensor, left_scale: Tensor, right_scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return left x right with their scales, computed by the operator of PyTorch; arguments as for `_scaled`."""
    out_dtype = dtype if dtype == torch.bfloat16 else torch.float32
    operators: Any = torch.ops.aten
    return operators._scaled_mm(left, right, left_scale, right_scale, None, None, out_dtype).to(dtype)
