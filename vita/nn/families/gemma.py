"""Gemma 1, 2 and 3 (text): norms with an offset of 1, scaled embeddings, and a gate with GELU."""

from __future__ import annotations

import math
from typing import Any

from vita.nn.architecture import Architecture
from vita.nn.families.config_keys import bias_keys, layer_types, rope_keys, rope_keys_by_type, size_keys
from vita.nn.families.config_reader import ConfigReader
from vita.nn.families.family import add_family
from vita.nn.families.weight_map import WeightNames

FOUR_NORMS = WeightNames(
    layer={
        "attention_output_norm": "post_attention_layernorm",
        "post_attention_layernorm": "pre_feedforward_layernorm",
        "mlp_output_norm": "post_feedforward_layernorm",
    }
)


def _sizes(config: ConfigReader, *, kv_heads: int, **other: Any) -> dict[str, Any]:
    return config.sizes(
        kv_heads=kv_heads,
        head_dim=256,
        norm_offset=1,
        embedding_scale=math.sqrt(config.required("hidden_size")),
        biases=config.biases(),
        **{"tied": config.get("tie_word_embeddings", True), **other},
    )


def _write_gemma(architecture: Architecture) -> dict[str, Any]:
    activation = {"hidden_activation": size_keys(architecture)["hidden_act"]}
    return {**size_keys(architecture), **activation, **rope_keys(architecture), **bias_keys(architecture)}


@add_family("gemma", "Gemma", write=_write_gemma)
def read_gemma(config: ConfigReader) -> dict[str, Any]:
    """Gemma 1 (Gemma Team 2024); `gelu` in its older files means the approximation by tanh."""
    name = config.get("hidden_activation") or config.get("hidden_act", "gelu_pytorch_tanh")
    activation = "gelu_tanh" if name == "gelu" else _activation(config, name)
    return {**_sizes(config, kv_heads=16, activation=activation), **config.rope()}


def _activation(config: ConfigReader, name: str) -> str:
    return ConfigReader({"hidden_activation": name}, config.where).activation("hidden_activation")


def _write_gemma2(architecture: Architecture) -> dict[str, Any]:
    scale = architecture.attention_scale
    assert scale is not None
    return {
        **_write_gemma(architecture),
        "query_pre_attn_scalar": round(scale**-2),
        "attn_logit_softcapping": architecture.attention_softcap,
        "final_logit_softcapping": architecture.logit_softcap,
        "sliding_window": architecture.window,
        "layer_types": layer_types(architecture),
    }


@add_family("gemma2", "Gemma2", write=_write_gemma2, names=FOUR_NORMS)
def read_gemma2(config: ConfigReader) -> dict[str, Any]:
    """Gemma 2: four norms, limits of scores and logits, a window in every second layer from the first on."""
    return {
        **_four_norms(config),
        **config.rope(),
        "attention_softcap": config.nullable("attn_logit_softcapping", 50.0),
        "logit_softcap": config.nullable("final_logit_softcapping", 30.0),
        **config.windows(config.nullable("sliding_window", 4096), range(0, config.required("num_hidden_layers"), 2)),
    }


def _four_norms(config: ConfigReader, **other: Any) -> dict[str, Any]:
    activation = config.activation("hidden_activation", "gelu_pytorch_tanh")
    scale = config.get("query_pre_attn_scalar", 256) ** -0.5
    return _sizes(config, kv_heads=4, activation=activation, norm_position="both", attention_scale=scale, **other)


def _write_gemma3(architecture: Architecture) -> dict[str, Any]:
    return {
        **_write_gemma2(architecture),
        **rope_keys_by_type(architecture),
        "rope_local_base_freq": architecture.window_rope_base or architecture.rope_base,
        "use_bidirectional_attention": False,
    }


@add_family("gemma3_text", "Gemma3Text", write=_write_gemma3, names=FOUR_NORMS, causal_class="Gemma3ForCausalLM")
def read_gemma3(config: ConfigReader) -> dict[str, Any]:
    """Gemma 3 (text): norms on queries and keys; five windowed layers with a base of their own, then a full one."""
    config.expect("use_bidirectional_attention", False)
    config.check_unscaled("sliding_attention")
    layers = config.required("num_hidden_layers")
    pattern = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern", 6)
    windowed = [layer for layer in range(layers) if (layer + 1) % pattern]
    values = {
        **_four_norms(config, qk_norm="head"),
        **config.rope(base=1e6, layer_type="full_attention"),
        "logit_softcap": config.get("final_logit_softcapping"),
        **config.windows(config.nullable("sliding_window", 4096), windowed),
    }
    if "window" in values:
        local_base = config.rope_base(1e4, layer_type="sliding_attention", key="rope_local_base_freq")
        values["window_rope_base"] = local_base
    return values
