"""The decision whether a model trains with masks of blocks (`vita.nn.flex`) instead of dense masks."""

from __future__ import annotations

import torch

from vita.nn.attention import BACKENDS
from vita.nn.flex import MIN_HEAD_DIM
from vita.nn.transformer import SelfAttention, Transformer
from vita.train.compilation import can_compile
from vita.train.parallel.mesh import ProcessMesh


def has_block_kernels(model: Transformer, world: ProcessMesh) -> bool:
    """Return True if FlexAttention has fast kernels for the model: on a GPU, which compiles them.

    Context parallelism and latent attention have masks of their own.
    """
    if torch.device(world.device).type != "cuda" or world.sizes["context"] > 1:
        return False
    has_heads = all(isinstance(layer.self_attn, SelfAttention) for layer in model.model.layers)
    large = model.architecture.head_dim >= MIN_HEAD_DIM
    return has_heads and large and model.attention is BACKENDS["sdpa"] and can_compile(world.device)


def use_block_masks(model: Transformer) -> None:
    """Replace the attention of the layers, in place."""
    model.model.block_masks = True
    for module in model.modules():
        if isinstance(module, SelfAttention):
            module.attend = BACKENDS["flex"]
