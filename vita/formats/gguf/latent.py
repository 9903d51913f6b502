"""Multi-head latent attention in GGUF (graph `deepseek2`): metadata, and tensors that the graph splits.

llama.cpp attends to the latent vectors as one head of keys and values, so `kv_b_proj` is stored as two stacked tensors:
one that maps queries to latent vectors, and one that maps latent vectors to values.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from vita.nn.architecture import Architecture
from vita.nn.latent_settings import LatentAttention
from vita.spine.errors import ModelError

TENSORS = {
    "self_attn.q_a_proj": "attn_q_a", "self_attn.q_a_layernorm": "attn_q_a_norm", "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa", "self_attn.kv_a_layernorm": "attn_kv_a_norm",
}  # fmt: skip
"""Own modules of a layer -> names in GGUF."""
SPLIT_MODULE = "self_attn.kv_b_proj"
Part = Literal["keys", "values"]
SPLIT_TENSORS: dict[Part, str] = {"keys": "attn_k_b", "values": "attn_v_b"}
"""Parts of `kv_b_proj` -> names in GGUF."""


def latent_metadata(architecture: Architecture) -> dict[str, Any]:
    """Return the metadata of latent attention; {} for other models."""
    latent = architecture.latent
    if latent is None:
        return {}
    ranks = {} if latent.query_rank is None else {"attention.q_lora_rank": latent.query_rank}
    metadata: dict[str, Any] = {
        **ranks,
        "attention.kv_lora_rank": latent.key_value_rank,
        "attention.head_count_kv": 1,
        "attention.key_length": latent.cached_numbers, "attention.value_length": latent.key_value_rank,
        "attention.key_length_mla": latent.head_dim, "attention.value_length_mla": latent.value_dim,
    }  # fmt: skip
    scaling = architecture.rope_scaling
    if scaling and scaling.type == "yarn":
        metadata["rope.scaling.attn_factor"] = 1.0
        metadata["rope.scaling.yarn_log_multiplier"] = 0.1 * scaling.score_mscale
    return metadata


def refuse_latent(architecture: Architecture, where: str) -> None:
    """Raise `ModelError` for settings of latent attention that llama.cpp does not compute."""
    latent, scaling = architecture.latent, architecture.rope_scaling
    if latent is None:
        return
    if latent.query_rank is None and architecture.layers not in LAYERS_WITHOUT_QUERY_RANK:
        layers = " or ".join(map(str, LAYERS_WITHOUT_QUERY_RANK))
        raise ModelError(where, f"llama.cpp has queries without a latent vector only in models with {layers} layers")
    if architecture.norm_eps != 1e-6:
        raise ModelError(where, "llama.cpp has the same epsilon in all norms, 1e-6 in those of latent vectors")
    if architecture.experts is None:
        raise ModelError(where, "llama.cpp needs layers with experts in this family")
    if scaling and scaling.type == "yarn" and (abs(scaling.magnitude - 1) > 1e-6 or not scaling.score_mscale):
        raise ModelError(where, "llama.cpp needs `mscale` equal to `mscale_all_dim` in the YaRN scaling of this family")


LAYERS_WITHOUT_QUERY_RANK = (26, 27)
"""Numbers of layers by which llama.cpp recognizes models whose queries have no latent vector."""


def split_latent(value: np.ndarray, architecture: Architecture, part: Part) -> np.ndarray:
    """Return the part of `kv_b_proj` for queries [heads, rank, keys], or for values [heads, values, rank]."""
    latent = _latent(architecture)
    heads = value.reshape(architecture.heads, latent.unrotated_dim + latent.value_dim, latent.key_value_rank)
    if part == "keys":
        return np.ascontiguousarray(heads[:, : latent.unrotated_dim].transpose(0, 2, 1))
    return np.ascontiguousarray(heads[:, latent.unrotated_dim :])


def split_shape(architecture: Architecture, part: Part) -> tuple[int, int, int]:
    """Return the shape of a part of `kv_b_proj`."""
    latent = _latent(architecture)
    if part == "keys":
        return architecture.heads, latent.key_value_rank, latent.unrotated_dim
    return architecture.heads, latent.value_dim, latent.key_value_rank


def interleave_rotated(module: str, value: np.ndarray, architecture: Architecture) -> np.ndarray:
    """Reorder the rotated rows of halves to neighbours, which llama.cpp rotates; other rows stay."""
    latent = _latent(architecture)
    heads = {"self_attn.q_proj": architecture.heads, "self_attn.q_b_proj": architecture.heads}
    count = next((number for name, number in heads.items() if module.endswith(name)), None)
    if module.endswith("self_attn.kv_a_proj_with_mqa"):
        count = 1
    if latent.interleaved or count is None:
        return value
    rows = value.reshape(count, -1, *value.shape[1:])
    fixed, rotated = np.split(rows, [rows.shape[1] - latent.rotated_dim], axis=1)
    pairs = rotated.reshape(count, 2, -1, *value.shape[1:]).swapaxes(1, 2).reshape(rotated.shape)
    return np.ascontiguousarray(np.concatenate([fixed, pairs], axis=1)).reshape(value.shape)


def _latent(architecture: Architecture) -> LatentAttention:
    assert architecture.latent is not None
    return architecture.latent
