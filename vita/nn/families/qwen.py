"""Qwen 2 and Qwen 3, and both with a mixture of experts."""

from __future__ import annotations

from typing import Any

from vita.nn.architecture import Architecture
from vita.nn.families.config_keys import bias_keys, layer_types, rope_keys, size_keys
from vita.nn.families.config_reader import ConfigReader
from vita.nn.families.family import add_family
from vita.nn.families.weight_map import WeightNames


def _window_keys(architecture: Architecture) -> dict[str, Any]:
    first = min(architecture.window_layers, default=architecture.layers)
    return {
        "use_sliding_window": architecture.window is not None,
        "sliding_window": architecture.window,
        "max_window_layers": first,
        "layer_types": layer_types(architecture),
    }


def _windows(config: ConfigReader, layers: int) -> dict[str, Any]:
    """The window of Qwen: only if `use_sliding_window`, in the layers from `max_window_layers` on."""
    if not config.get("use_sliding_window", False):
        config.expect("layer_types", ["full_attention"] * layers if config.get("layer_types") else None)
        return {}
    return config.windows(config.get("sliding_window", 4096), range(config.get("max_window_layers", 28), layers))


def _write_qwen2(architecture: Architecture) -> dict[str, Any]:
    return {**size_keys(architecture), **rope_keys(architecture), **_window_keys(architecture)}


@add_family("qwen2", "Qwen2", write=_write_qwen2)
def read_qwen2(config: ConfigReader) -> dict[str, Any]:
    """Qwen 2 and 2.5: queries, keys and values always have a bias (Yang et al. 2024)."""
    values = {**config.sizes(kv_heads=32, biases=("qkv",), activation=config.activation()), **config.rope()}
    return {**values, **_windows(config, values["layers"])}


def _write_qwen3(architecture: Architecture) -> dict[str, Any]:
    return {**_write_qwen2(architecture), **bias_keys(architecture)}


@add_family("qwen3", "Qwen3", write=_write_qwen3)
def read_qwen3(config: ConfigReader) -> dict[str, Any]:
    """Qwen 3: a norm on every query and key head (Yang et al. 2025)."""
    sizes = config.sizes(
        kv_heads=32, head_dim=128, qk_norm="head", biases=config.biases(), activation=config.activation()
    )
    return {**sizes, **config.rope(), **_windows(config, sizes["layers"])}


def _expert_keys(architecture: Architecture) -> dict[str, Any]:
    experts = architecture.experts
    assert experts is not None
    return {
        "num_experts": experts.count,
        "num_experts_per_tok": experts.active,
        "moe_intermediate_size": experts.feedforward,
        "norm_topk_prob": experts.normalized,
        "decoder_sparse_step": 1,
        "mlp_only_layers": list(experts.dense_layers),
        "output_router_logits": False,
    }


def _experts(config: ConfigReader, layers: int, *, count: int, active: int, feedforward: int) -> dict[str, Any]:
    """The mixture of experts of Qwen; the numbers are the defaults of the family."""
    step = config.get("decoder_sparse_step", 1)
    dense = {*config.get("mlp_only_layers", ()), *(layer for layer in range(layers) if (layer + 1) % step)}
    return {
        "count": config.get("num_local_experts") or config.get("num_experts", count),
        "active": config.get("num_experts_per_tok", active),
        "feedforward": config.get("moe_intermediate_size", feedforward),
        "normalized": config.get("norm_topk_prob", False),
        "dense_layers": tuple(sorted(dense)),
    }


def _write_qwen3_moe(architecture: Architecture) -> dict[str, Any]:
    experts = architecture.experts
    assert experts is not None
    return {**_write_qwen3(architecture), **_expert_keys(architecture), "num_local_experts": experts.count}


@add_family("qwen3_moe", "Qwen3Moe", write=_write_qwen3_moe, names=WeightNames(layer={"mlp.router": "mlp.gate"}))
def read_qwen3_moe(config: ConfigReader) -> dict[str, Any]:
    """Qwen 3 with a mixture of experts; the window, if used, is in all layers."""
    sizes = config.sizes(kv_heads=4, qk_norm="head", biases=config.biases(), activation=config.activation())
    window = config.get("sliding_window", 4096) if config.get("use_sliding_window", False) else None
    experts = _experts(config, sizes["layers"], count=128, active=8, feedforward=768)
    return {**sizes, **config.rope(), "experts": experts, **config.windows(window, range(sizes["layers"]))}


QWEN2_MOE_NAMES = WeightNames(
    layer={
        "mlp.router": "mlp.gate",
        **{f"mlp.shared_experts.{part}": f"mlp.shared_expert.{part}" for part in ("gate_proj", "up_proj", "down_proj")},
    }
)


def _write_qwen2_moe(architecture: Architecture) -> dict[str, Any]:
    experts = architecture.experts
    assert experts is not None
    return {
        **_write_qwen2(architecture),
        **_expert_keys(architecture),
        "shared_expert_intermediate_size": experts.shared,
        "qkv_bias": "qkv" in architecture.biases,
    }


@add_family("qwen2_moe", "Qwen2Moe", write=_write_qwen2_moe, names=QWEN2_MOE_NAMES)
def read_qwen2_moe(config: ConfigReader) -> dict[str, Any]:
    """Qwen 1.5 and 2 with a mixture of experts, and a shared expert with a gate."""
    biases = ("qkv",) if config.get("qkv_bias", True) else ()
    sizes = config.sizes(kv_heads=16, biases=biases, activation=config.activation())
    layers = sizes["layers"]
    experts = {
        **_experts(config, layers, count=60, active=4, feedforward=1408),
        "shared": config.get("shared_expert_intermediate_size", 5632),
        "shared_gate": True,
    }
    values = {**sizes, **config.rope(), "experts": experts}
    if not config.get("use_sliding_window", False):
        return values
    # Unlike Qwen 2, windows are in the even layers below `max_window_layers`.
    windowed = range(0, min(layers, config.get("max_window_layers", 28)), 2)
    return {**values, **config.windows(config.get("sliding_window", 4096), windowed)}
