"""DeepSeek V3: multi-head latent attention, and a mixture of experts after the first layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vita.nn.architecture import Architecture
from vita.nn.families.config_keys import bias_keys, rope_keys, size_keys
from vita.nn.families.config_reader import ConfigReader
from vita.nn.families.deepseek_experts import DEEPSEEK_NAMES, read_deepseek_experts, write_deepseek_experts
from vita.nn.families.family import add_family
from vita.spine.errors import ModelError

NAMES = replace(DEEPSEEK_NAMES, further_layers="multi-token prediction")


def latent_rope_keys(architecture: Architecture) -> dict[str, Any]:
    """Return the keys of rotary positions, which apply to the rotated numbers of a head."""
    keys = rope_keys(architecture.model_copy(update={"head_dim": architecture.rotated, "rotary_dim": None}))
    return {**keys, "rope_interleave": architecture.latent is None or architecture.latent.interleaved}


def latent_keys(architecture: Architecture) -> dict[str, Any]:
    """Return the keys of multi-head latent attention."""
    latent = architecture.latent
    assert latent is not None
    return {
        "q_lora_rank": latent.query_rank,
        "kv_lora_rank": latent.key_value_rank,
        "qk_nope_head_dim": latent.unrotated_dim,
        "qk_rope_head_dim": latent.rotated_dim,
        "qk_head_dim": latent.head_dim,
        "v_head_dim": latent.value_dim,
        "head_dim": latent.rotated_dim,
    }


def read_latent(config: ConfigReader) -> dict[str, Any]:
    """Return the fields of sizes, positions and multi-head latent attention."""
    heads, rotated = config.required("num_attention_heads"), config.get("qk_rope_head_dim", 64)
    if config.get("num_key_value_heads", heads) != heads:
        expected = f"{heads}, the number of query heads, because all heads share one latent vector"
        raise ModelError(
            f"{config.where}: num_key_value_heads", expected=expected, got=config.get("num_key_value_heads")
        )
    latent = {
        "query_rank": config.nullable("q_lora_rank", 1536),
        "key_value_rank": config.get("kv_lora_rank", 512),
        "unrotated_dim": config.get("qk_nope_head_dim", 128),
        "rotated_dim": rotated,
        "value_dim": config.get("v_head_dim", 128),
        "interleaved": config.get("rope_interleave", True),
    }
    sizes = {"kv_heads": heads, "head_dim": latent["unrotated_dim"] + rotated, "rotary_dim": rotated}
    values = config.sizes(head_dim=rotated, activation=config.activation(), biases=config.biases(), **config.rope())
    if scaling := values.get("rope_scaling"):
        values["rope_scaling"] = {**scaling, "score_mscale": config.rope_value("mscale_all_dim", 0.0)}
    return {**values, **sizes, "latent": latent}


def _write_deepseek_v3(architecture: Architecture) -> dict[str, Any]:
    dense = {"first_k_dense_replace": architecture.layers, "n_group": 1, "topk_group": 1}
    return {
        **size_keys(architecture),
        **latent_rope_keys(architecture),
        **bias_keys(architecture),
        **latent_keys(architecture),
        **(write_deepseek_experts(architecture) if architecture.experts else dense),
        "num_nextn_predict_layers": 0,
        # llama.cpp and vLLM read these; transformers always computes them.
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "moe_layer_freq": 1,
    }


@add_family("deepseek_v3", "DeepseekV3", write=_write_deepseek_v3, names=NAMES)
def read_deepseek_v3(config: ConfigReader) -> dict[str, Any]:
    """DeepSeek V3 and R1 (DeepSeek-AI 2024)."""
    config.expect("moe_layer_freq", 1)
    config.expect("scoring_func", "sigmoid")
    config.expect("topk_method", "noaux_tc")
    values = read_latent(config)
    if config.get("first_k_dense_replace", 3) >= values["layers"]:
        return values
    experts = read_deepseek_experts(
        config, layers=values["layers"], n_routed_experts=256, num_experts_per_tok=8, moe_intermediate_size=2048,
        norm_topk_prob=True, n_group=8, topk_group=4, routed_scaling_factor=2.5, n_shared_experts=1,
        first_k_dense_replace=3,
    )  # fmt: skip
    return {**values, "experts": experts}
