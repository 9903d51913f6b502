"""dots.llm1: the attention of Qwen 3 with the mixture of experts of DeepSeek-V3."""

from __future__ import annotations

from typing import Any

from vita.nn.architecture import Architecture
from vita.nn.families.config_keys import bias_keys, layer_types, rope_keys, size_keys
from vita.nn.families.config_reader import ConfigReader
from vita.nn.families.deepseek_experts import DEEPSEEK_NAMES, read_deepseek_experts, write_deepseek_experts
from vita.nn.families.family import add_family


def _write_dots1(architecture: Architecture) -> dict[str, Any]:
    return {
        **size_keys(architecture),
        **rope_keys(architecture),
        **bias_keys(architecture),
        **write_deepseek_experts(architecture),
        "sliding_window": architecture.window,
        "max_window_layers": min(architecture.window_layers, default=architecture.layers),
        "layer_types": layer_types(architecture),
        # llama.cpp and vLLM read these; transformers always computes them.
        "scoring_func": "sigmoid",
        "moe_layer_freq": 1,
    }


@add_family("dots1", "Dots1", write=_write_dots1, names=DEEPSEEK_NAMES, causal_class="Dots1ForCausalLM")
def read_dots1(config: ConfigReader) -> dict[str, Any]:
    """dots.llm1 (Huo et al. 2025)."""
    config.expect("moe_layer_freq", 1)
    sizes = config.sizes(kv_heads=32, qk_norm="head", biases=config.biases(), activation=config.activation())
    layers = sizes["layers"]
    experts = read_deepseek_experts(
        config, layers=layers, norm_topk_prob=False, n_group=1, topk_group=1, routed_scaling_factor=1.0,
        first_k_dense_replace=0,
    )  # fmt: skip
    windows = config.windows(
        config.nullable("sliding_window", 4096), range(config.get("max_window_layers", 62), layers)
    )
    return {**sizes, **config.rope(), "experts": experts, **windows}
