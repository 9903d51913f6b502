"""Keys of `config.json` that several families write."""

from __future__ import annotations

import math
from typing import Any

from vita.nn.architecture import Architecture, RopeScaling

ACTIVATION_KEYS = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}


def size_keys(architecture: Architecture) -> dict[str, Any]:
    """Return the sizes under the keys of Llama."""
    return {
        "vocab_size": architecture.vocabulary,
        "hidden_size": architecture.width,
        "intermediate_size": architecture.feedforward,
        "num_hidden_layers": architecture.layers,
        "num_attention_heads": architecture.heads,
        "num_key_value_heads": architecture.kv_heads,
        "head_dim": architecture.head_dim,
        "hidden_act": ACTIVATION_KEYS[architecture.activation],
        "max_position_embeddings": architecture.context,
        "rms_norm_eps": architecture.norm_eps,
        "tie_word_embeddings": architecture.tied,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
    }


def bias_keys(architecture: Architecture, *, mlp: bool = False) -> dict[str, Any]:
    """Return `attention_bias`, and `mlp_bias` for families that have it."""
    keys: dict[str, Any] = {"attention_bias": "qkv" in architecture.biases}
    return {**keys, "mlp_bias": "feedforward" in architecture.biases} if mlp else keys


def rope_keys(architecture: Architecture) -> dict[str, Any]:
    """Return the rotary positions in the form of transformers 5, and in that of earlier versions and llama.cpp."""
    scaling = _scaling_keys(architecture.rope_scaling)
    partial = _partial_keys(architecture)
    parameters = {"rope_type": "default", **scaling, "rope_theta": architecture.rope_base, **partial}
    earlier: dict[str, Any] = {"rope_theta": architecture.rope_base}
    if scaling:
        earlier["rope_scaling"] = scaling
    return {"rope_parameters": parameters, **earlier}


def rope_keys_by_type(architecture: Architecture) -> dict[str, Any]:
    """Return the rotary positions of full and of windowed layers."""
    full = rope_keys(architecture)["rope_parameters"]
    base = architecture.window_rope_base or architecture.rope_base
    windowed = {"rope_type": "default", "rope_theta": base}
    return {"rope_parameters": {"full_attention": full, "sliding_attention": windowed}}


def layer_types(architecture: Architecture) -> list[str]:
    """Return the attention of each layer."""
    return [
        "sliding_attention" if layer in architecture.window_layers else "full_attention"
        for layer in range(architecture.layers)
    ]


def _partial_keys(architecture: Architecture) -> dict[str, Any]:
    if architecture.rotated == architecture.head_dim:
        return {}
    return {"partial_rotary_factor": architecture.rotated / architecture.head_dim}


def _scaling_keys(scaling: RopeScaling | None) -> dict[str, Any]:
    if scaling is None:
        return {}
    keys: dict[str, Any] = {"rope_type": scaling.type, "factor": scaling.factor}
    if scaling.type in ("llama3", "yarn", "longrope"):
        keys["original_max_position_embeddings"] = scaling.original_context
    if scaling.type == "llama3":
        keys |= {"low_freq_factor": scaling.low_frequency_factor, "high_freq_factor": scaling.high_frequency_factor}
    if scaling.type == "yarn":
        keys |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow, "truncate": scaling.truncate}
    if scaling.type == "longrope":
        keys |= {"short_factor": list(scaling.short_factors), "long_factor": list(scaling.long_factors)}
    if scaling.type in ("yarn", "longrope"):
        keys["attention_factor"] = scaling.magnitude
    if scaling.score_mscale and scaling.factor > 1:
        logarithm = 0.1 * math.log(scaling.factor)
        both = scaling.magnitude * math.sqrt(scaling.score_factor)
        keys |= {"mscale_all_dim": scaling.score_mscale, "mscale": (both - 1) / logarithm}
    return keys
