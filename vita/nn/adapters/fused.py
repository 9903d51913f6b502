"""Updates of modules that the files of a family hold in one matrix (`qkv_proj`), as one low-rank update.

The update of a joined matrix has a block-diagonal B. Rank and alpha of the module are adjusted, so that its scale stays
the same. Parts that share one A, as after loading, need no larger rank.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vita.nn.adapters.config import LoraConfig, pattern_at_end
from vita.nn.adapters.layers import AdaptedLinear
from vita.nn.adapters.names import PeftModule, module_names
from vita.nn.adapters.quantization import QuantizedLinear
from vita.nn.transformer import Transformer


def join_updates(
    model: Transformer, config: LoraConfig, layers: Mapping[str, AdaptedLinear]
) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Return the tensors of all updates under the names of the files, and the configuration that describes them."""
    names, tensors = module_names(model), dict[str, Tensor]()
    ranks, alphas = dict[str, int](), dict[str, float]()
    in_files = {in_file.name: in_file for in_file in map(names.of_part, layers)}
    for in_file in in_files.values():
        parts = [layers.get(part) for part in in_file.parts]
        joined = _same_input(in_file, parts) or _block_diagonal(model, in_file, parts)
        first = next(part for part in parts if part is not None)
        rank = joined["lora_A.weight"].shape[0]
        if rank != config.rank_of(in_file.name) or first.scale != config.scale_of(in_file.name):
            ranks[re.escape(in_file.name)] = rank
            alphas[re.escape(in_file.name)] = first.scale * (math.sqrt(rank) if config.use_rslora else rank)
        tensors |= {f"{in_file.name}.{name}": tensor for name, tensor in joined.items()}
    config = replace(
        config,
        rank_pattern={**ranks, **_used(config.rank_pattern, in_files)},
        alpha_pattern={**alphas, **_used(config.alpha_pattern, in_files)},
    )
    return replace(config, fan_in_fan_out=any(in_file.transposed for in_file in in_files.values())), tensors


def _used(patterns: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the patterns that match a module of the files; peft warns about others."""
    return {
        pattern: value for pattern, value in patterns.items() if any(pattern_at_end(pattern, name) for name in names)
    }


def _same_input(in_file: PeftModule, parts: list[AdaptedLinear | None]) -> dict[str, Tensor] | None:
    """Return the update of parts that share one A, as a single part does; None if they do not."""
    layers = [part for part in parts if part is not None]
    first = layers[0].lora_A.weight
    if len(layers) < len(parts) or any(layer.scale != layers[0].scale for layer in layers):
        return None
    if any(layer.rank != layers[0].rank or not torch.equal(layer.lora_A.weight, first) for layer in layers[1:]):
        return None
    joined = {"lora_A.weight": first.detach()}
    joined["lora_B.weight"] = in_file.join(tuple(layer.lora_B.weight.detach() for layer in layers))
    return joined | _vectors(in_file, layers)


def _block_diagonal(model: Transformer, in_file: PeftModule, parts: list[AdaptedLinear | None]) -> dict[str, Tensor]:
    """Return one update whose A stacks those of the parts; a part without an update has rows of 0 in B."""
    layers = [part for part in parts if part is not None]
    rank, scale = sum(layer.rank for layer in layers), layers[0].scale
    device, start, blocks = layers[0].lora_A.weight.device, 0, list[Tensor]()
    for part, rows in zip(parts, in_file.rows, strict=True):
        block = torch.zeros(rows, rank, device=device)
        if part is not None:
            block[:, start : start + part.rank] = part.lora_B.weight.detach() * (part.scale / scale)
            start += part.rank
        blocks.append(block)
    joined = {"lora_A.weight": torch.cat([layer.lora_A.weight.detach() for layer in layers])}
    joined["lora_B.weight"] = in_file.join(tuple(blocks))
    return joined | _vectors(
        in_file, [part or _unchanged(model, name) for part, name in zip(parts, in_file.parts, strict=True)]
    )


def _unchanged(model: Transformer, name: str) -> AdaptedLinear:
    """Return a layer whose update is 0, for a part without an adapter."""
    base = model.get_submodule(name)
    assert isinstance(base, nn.Linear | QuantizedLinear)
    like = next(module for module in model.modules() if isinstance(module, AdaptedLinear))
    layer = AdaptedLinear(base, rank=1, scale=1.0, dora=like.dora, bias=like.lora_B.bias is not None)
    layer.start(torch.Generator())
    return layer


def _vectors(in_file: PeftModule, layers: list[AdaptedLinear]) -> dict[str, Tensor]:
    """Return the joined vectors: the bias of the update and the magnitude of DoRA."""
    joined: dict[str, Tensor] = {}
    biases = [layer.lora_B.bias.detach() for layer in layers if layer.lora_B.bias is not None]
    if biases:
        joined["lora_B.bias"] = in_file.join(tuple(biases))
    if layers[0].dora:
        joined["lora_magnitude_vector"] = in_file.join(tuple(layer.lora_magnitude_vector.detach() for layer in layers))
    return joined
