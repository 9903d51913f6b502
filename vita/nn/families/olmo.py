"""OLMo 2 and 3: norms on outputs instead of inputs, and on whole projections of queries and keys."""

from __future__ import annotations

from typing import Any

from vita.nn.architecture import Architecture
from vita.nn.families.config_keys import bias_keys, layer_types, rope_keys, rope_keys_by_type, size_keys
from vita.nn.families.config_reader import ConfigReader
from vita.nn.families.family import add_family
from vita.nn.families.weight_map import WeightNames

OUTPUT_NORMS = WeightNames(
    layer={
        "attention_output_norm": "post_attention_layernorm",
        "mlp_output_norm": "post_feedforward_layernorm",
    }
)


def _sizes(config: ConfigReader) -> dict[str, Any]:
    return config.sizes(
        norm_position="after",
        qk_norm="projection",
        norm_eps=config.get("rms_norm_eps", 1e-5),
        biases=config.biases(),
        activation=config.activation(),
    )


def _write_olmo2(architecture: Architecture) -> dict[str, Any]:
    return {**size_keys(architecture), **rope_keys(architecture), **bias_keys(architecture)}


@add_family("olmo2", "Olmo2", write=_write_olmo2, names=OUTPUT_NORMS)
def read_olmo2(config: ConfigReader) -> dict[str, Any]:
    """OLMo 2 (OLMo Team 2025)."""
    return {**_sizes(config), **config.rope()}


def _write_olmo3(architecture: Architecture) -> dict[str, Any]:
    window = {"sliding_window": architecture.window, "layer_types": layer_types(architecture)}
    return {**_write_olmo2(architecture), **rope_keys_by_type(architecture), **window}


@add_family("olmo3", "Olmo3", write=_write_olmo3, names=OUTPUT_NORMS)
def read_olmo3(config: ConfigReader) -> dict[str, Any]:
    """OLMo 3: a window in three of four layers, whose rotary positions are not scaled."""
    config.check_unscaled("sliding_attention")
    layers = config.required("num_hidden_layers")
    windowed = [layer for layer in range(layers) if (layer + 1) % 4]
    values = {
        **_sizes(config),
        **config.rope(base=5e5, layer_type="full_attention"),
        **config.windows(config.nullable("sliding_window", 4096), windowed),
    }
    base = config.rope_base(5e5, layer_type="sliding_attention")
    if "window" in values and ("rope_scaling" in values or base != values["rope_base"]):
        values["window_rope_base"] = base
    return values
