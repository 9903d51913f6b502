"""Number types of an exported GGUF file: the type of each tensor under a quantization.

Matrices are quantized in blocks of 32 or 256 numbers of a row. Vectors, routers and position embeddings stay in
float32. Embedding and output keep more bits than the layers, as in the files of llama.cpp.
"""

from __future__ import annotations

from typing import Any

from vita.formats.gguf.packages import K_QUANTS, gguf, llama_cpp
from vita.spine.config import unknown_name
from vita.spine.errors import MissingExtra

QUANTIZATIONS: dict[str, tuple[str, str]] = {
    "f32": ("F32", "ALL_F32"),
    "f16": ("F16", "MOSTLY_F16"),
    "bf16": ("BF16", "MOSTLY_BF16"),
    "q8_0": ("Q8_0", "MOSTLY_Q8_0"),
    "q5_0": ("Q5_0", "MOSTLY_Q5_0"),
    "q4_0": ("Q4_0", "MOSTLY_Q4_0"),
    "q6_k": ("Q6_K", "MOSTLY_Q6_K"),
    "q5_k_m": ("Q5_K", "MOSTLY_Q5_K_M"),
    "q4_k_m": ("Q4_K", "MOSTLY_Q4_K_M"),
}
"""Name of a quantization -> the type of its matrices, and the file type of GGUF."""
_FALLBACKS = {"Q4_K": "Q5_0", "Q5_K": "Q8_0", "Q6_K": "Q8_0"}
"""Types for rows that are not a multiple of 256 numbers."""
_FLOAT32_PARTS = ("ffn_gate_inp", "position_embd", "rope_")
_MORE_BITS = ("attn_v.", "attn_qkv.", "ffn_down")
"""Matrices in which mixed quantizations keep more bits in a part of the layers."""


def check_quantization(name: str) -> None:
    """Refuse an unknown quantization, and one whose quantizer is not installed."""
    if name not in QUANTIZATIONS:
        raise unknown_name("--quant", name, QUANTIZATIONS)
    if QUANTIZATIONS[name][0] in K_QUANTS and llama_cpp() is None:
        raise MissingExtra(f"the quantization {name}, which llama.cpp computes,", "llama-cpp")


def file_type(name: str) -> int:
    """Return the number of GGUF for a quantization."""
    return int(gguf().LlamaFileType[QUANTIZATIONS[name][1]])


def tensor_type(quantization: str, name: str, shape: tuple[int, ...], *, layers: int) -> Any:
    """Return the type of a tensor; `shape` has the rows first."""
    kinds = gguf().GGMLQuantizationType
    if len(shape) == 1 or name.startswith(_FLOAT32_PARTS) or any(part in name for part in _FLOAT32_PARTS):
        return kinds.F32
    kind = QUANTIZATIONS[quantization][0]
    if kind in ("F32", "F16", "BF16"):
        return kinds[kind]
    if name.startswith(("token_embd.", "output.")):
        kind = "Q6_K" if kind in K_QUANTS else "Q8_0"
    elif quantization.endswith("_k_m") and any(part in name for part in _MORE_BITS):
        kind = "Q6_K" if _keeps_more_bits(int(name.split(".")[1]), layers) else kind
    if kind in K_QUANTS and shape[-1] % 256:
        kind = _FALLBACKS[kind]
    return kinds[kind] if shape[-1] % 32 == 0 or kind in K_QUANTS else kinds.F16


def _keeps_more_bits(layer: int, layers: int) -> bool:
    """Return True for the first and last eighth of the layers and every third one between them."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
