"""Products of linear layers in 16 bits for many inputs, to find numbers of rows with other sums.

A product in bfloat16 is added in float32, and the sum is rounded. Kernels that add in different orders differ in the
last bits of the sum, but only in about one of ten thousand rounded outputs. The numbers of a single pass are too few to
show such a difference, which changes an answer sooner or later.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from vita.nn.feedforward import Linear
from vita.nn.transformer import Transformer

# P product, N input, I inputs of a layer, O outputs

NUMBERS = 2**16
"""Outputs of each shape of layers."""


def has_rounded_products(model: Transformer) -> bool:
    """Return True if the products of the model are rounded to 16 bits."""
    return model.head_weight.dtype in (torch.bfloat16, torch.float16)


def layer_products(model: Transformer, width: int) -> Float[Tensor, "P"] | None:
    """Return outputs of the layers for fixed inputs, computed `width` rows at a time.

    They are equal for two widths if the bits of a row depend neither on the width nor on the row. None if they depend
    on the row.
    """
    weight = model.head_weight
    layers: dict[tuple[int, int], Callable[[Tensor], Tensor]] = {
        (module.out_features, module.in_features): module for module in model.modules() if type(module) is Linear
    }
    layers[weight.shape[0], weight.shape[1]] = model.head.logits
    products: list[Tensor] = []
    for (outputs, inputs), layer in layers.items():
        count = -(-NUMBERS // outputs)
        generator = torch.Generator().manual_seed(inputs)
        rows = torch.randn(count, inputs, generator=generator)
        padding = torch.zeros(-count % width, inputs)
        batches = torch.cat([rows, padding]).to(weight.device, weight.dtype).split(width)
        direct = torch.cat([layer(batch) for batch in batches])[:count]
        rolled = torch.cat([layer(batch.roll(1, 0)).roll(-1, 0) for batch in batches])[:count]
        if not torch.equal(direct, rolled):
            return None
        products.append(direct.flatten())
    return torch.cat(products).nan_to_num()
