"""Updates of modules that the files of a family hold in one matrix (`qkv_proj`), as one low-rank update.

The update of a joined matrix has a block-diagonal B. Rank and alpha of the module are adjusted, so that its scale stays
the same. Parts that share one A, as after loading, need no larger rank.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from vita.nn.adapters.config import LoraConfig
from vita.nn.adapters.layers import AdaptedLinear
from vita.nn.transformer import Transformer


def join_updates(
    model: Transformer, config: LoraConfig, layers: Mapping[str, AdaptedLinear]
) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Return the tensors of all updates under the names of the files, and the configuration that describes them."""
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        tensors[f"{name}.lora_A.weight"] = layer.lora_A.weight
        tensors[f"{name}.lora_B.weight"] = layer.lora_B.weight
        if layer.lora_B.bias is not None:
            tensors[f"{name}.lora_B.bias"] = layer.lora_B.bias
        if layer.dora:
            tensors[f"{name}.lora_magnitude_vector"] = layer.lora_magnitude_vector
    return config, tensors
