"""Llama and the families that change few of its settings: Mistral, Mixtral, SmolLM3 and Granite."""

from __future__ import annotations

from typing import Any

from vita.nn.architecture import Architecture
from vita.nn.families.config_keys import bias_keys, layer_types, rope_keys, size_keys
from vita.nn.families.config_reader import ConfigReader
from vita.nn.families.family import add_family
from vita.nn.families.weight_map import WeightNames


def _write_llama(architecture: Architecture) -> dict[str, Any]:
    return {**size_keys(architecture), **rope_keys(architecture), **bias_keys(architecture, mlp=True)}


@add_family("llama", "Llama", write=_write_llama)
def read_llama(config: ConfigReader) -> dict[str, Any]:
    """Llama 2 and 3: the common base of all families (Touvron et al. 2023)."""
    return {**config.sizes(biases=config.biases(), activation=config.activation()), **config.rope()}


def _write_mistral(architecture: Architecture) -> dict[str, Any]:
    return {**size_keys(architecture), **rope_keys(architecture), "sliding_window": architecture.window}


@add_family("mistral", "Mistral", write=_write_mistral)
def read_mistral(config: ConfigReader) -> dict[str, Any]:
    """Mistral: a window in all layers unless it is null (Jiang et al. 2023)."""
    values = {**config.sizes(kv_heads=8, activation=config.activation()), **config.rope()}
    return {**values, **config.windows(config.nullable("sliding_window", 4096), range(values["layers"]))}


MIXTRAL_NAMES = WeightNames(
    layer={
        "mlp.router": "block_sparse_moe.gate",
        "mlp.experts.{}.gate_proj": "block_sparse_moe.experts.{}.w1",
        "mlp.experts.{}.up_proj": "block_sparse_moe.experts.{}.w3",
        "mlp.experts.{}.down_proj": "block_sparse_moe.experts.{}.w2",
    },
    aliases=((r"\.mlp\.gate\.", ".block_sparse_moe.gate."),),
)


def _write_mixtral(architecture: Architecture) -> dict[str, Any]:
    assert architecture.experts is not None
    experts = {
        "num_local_experts": architecture.experts.count,
        "num_experts_per_tok": architecture.experts.active,
        "output_router_logits": False,
    }
    return {**_write_mistral(architecture), **experts}


@add_family("mixtral", "Mixtral", write=_write_mixtral, names=MIXTRAL_NAMES)
def read_mixtral(config: ConfigReader) -> dict[str, Any]:
    """Mixtral: Mistral with a mixture of experts in every layer (Jiang et al. 2024)."""
    values = {
        **config.sizes(kv_heads=8, activation=config.activation(), norm_eps=config.get("rms_norm_eps", 1e-5)),
        **config.rope(base=1e6),
        "experts": {
            "count": config.get("num_local_experts", 8),
            "active": config.get("num_experts_per_tok", 2),
            "feedforward": config.required("intermediate_size"),
            "precision": "weights",
        },
    }
    return {**values, **config.windows(config.nullable("sliding_window", None), range(values["layers"]))}


def _write_smollm3(architecture: Architecture) -> dict[str, Any]:
    unrotated = architecture.unrotated_layers
    return {
        **_write_llama(architecture),
        "no_rope_layers": [int(layer not in unrotated) for layer in range(architecture.layers)],
        "use_sliding_window": architecture.window is not None,
        "sliding_window": architecture.window,
        "layer_types": layer_types(architecture),
    }


@add_family("smollm3", "SmolLM3", write=_write_smollm3)
def read_smollm3(config: ConfigReader) -> dict[str, Any]:
    """SmolLM3: some layers without rotary positions; `no_rope_layers` is 1 where positions are rotated."""
    values = {
        **config.sizes(
            kv_heads=4,
            biases=config.biases(),
            activation=config.activation(),
            tied=config.get("tie_word_embeddings", True),
        ),
        **config.rope(base=2e6),
    }
    interval = config.get("no_rope_layer_interval", 4)
    rotated = config.get("no_rope_layers", [int((layer + 1) % interval != 0) for layer in range(values["layers"])])
    values["unrotated_layers"] = tuple(layer for layer, is_rotated in enumerate(rotated) if not is_rotated)
    window = config.get("sliding_window") if config.get("use_sliding_window", False) else None
    return {**values, **config.windows(window, values["unrotated_layers"])}


def _write_granite(architecture: Architecture) -> dict[str, Any]:
    return {
        **_write_llama(architecture),
        "embedding_multiplier": architecture.embedding_scale,
        "residual_multiplier": architecture.residual_scale,
        "attention_multiplier": architecture.attention_scale or architecture.head_dim**-0.5,
        "logits_scaling": 1 / architecture.logit_scale,
    }


@add_family("granite", "Granite", write=_write_granite)
def read_granite(config: ConfigReader) -> dict[str, Any]:
    """Granite: Llama with four multipliers; that of the attention scores replaces 1 / sqrt(head_dim)."""
    return {
        **config.sizes(biases=config.biases(), activation=config.activation()),
        **config.rope(),
        "embedding_scale": config.get("embedding_multiplier", 1.0),
        "residual_scale": config.get("residual_multiplier", 1.0),
        "attention_scale": config.get("attention_multiplier", 1.0),
        "logit_scale": 1 / config.get("logits_scaling", 1.0),
    }
