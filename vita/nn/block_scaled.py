"""Weights in 8-bit floating point with a scale per block, as DeepSeek-V3 is published, converted when they are read.

A matrix `name.weight` has the type float8 (e4m3), and `name.weight_scale_inv` one factor for each block of 128 x 128
numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from vita.spine.errors import ModelError

SCALE_SUFFIX = "_scale_inv"
STORED_TYPES = {"F8_E4M3": torch.bfloat16}
"""8-bit types of files, and the type of the converted weights."""

# O rows, I columns


def check_quantization(config: Mapping[str, Any], where: str) -> None:
    """Raise `ModelError` for a `quantization_config` other than that of block-scaled float8."""
    quantization = config.get("quantization_config")
    if quantization is None:
        return
    method = quantization.get("quant_method") if isinstance(quantization, Mapping) else quantization
    block = quantization.get("weight_block_size") if isinstance(quantization, Mapping) else None
    if method != "fp8" or not block:
        expected = "none, or float8 with a scale per block (`quant_method: fp8`, `weight_block_size`)"
        hint = "use the folder with weights that are not quantized"
        raise ModelError(f"{where}: quantization_config", expected=expected, got=quantization, hint=hint)


def block_size(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return rows and columns of a block."""
    rows, columns = config["quantization_config"]["weight_block_size"]
    return int(rows), int(columns)


def dequantized(weight: Tensor, scales: Float[Tensor, "_ _"], block: tuple[int, int]) -> Float[Tensor, "O I"]:
    """Return the product of each block with its scale, in bfloat16."""
    factors = scales.float().repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return (weight.float() * factors[: weight.shape[0], : weight.shape[1]]).to(torch.bfloat16)


def dequantized_tensors(
    tensors: Iterator[tuple[str, Tensor]], paths: Sequence[Path], *, config: Mapping[str, Any]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a file with 8-bit matrices converted, and without their scales.

    `paths` are all weight files of the folder: a scale may be in another file than its matrix.
    """
    for name, tensor in tensors:
        if name.endswith(SCALE_SUFFIX):
            continue
        if tensor.dtype is torch.float8_e4m3fn:
            if not config.get("quantization_config"):
                raise ModelError(name, "is float8, and config.json has no `quantization_config`")
            tensor = dequantized(tensor, _scales(name + SCALE_SUFFIX, paths), block_size(config))
        yield name, tensor


def _scales(name: str, paths: Sequence[Path]) -> Tensor:
    for path in paths:
        with safe_open(path, framework="pt") as file:
            if name in file.keys():  # noqa: SIM118 - not a mapping
                return file.get_tensor(name)
    raise ModelError(name, "missing from the weights")
