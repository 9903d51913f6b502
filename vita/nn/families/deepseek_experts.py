"""The mixture of experts of DeepSeek-V3 in `config.json`, which other families use with other attention."""

from __future__ import annotations

from typing import Any

from vita.nn.architecture import Architecture
from vita.nn.families.config_reader import ConfigReader
from vita.nn.families.weight_map import WeightNames
from vita.spine.errors import ModelError

DEEPSEEK_NAMES = WeightNames(layer={"mlp.router": "mlp.gate"})


def read_deepseek_experts(config: ConfigReader, *, layers: int, **defaults: Any) -> dict[str, Any]:
    """Return the settings of the mixture; `defaults` are values of the family for missing keys.

    The router has a sigmoid for each expert, a correction of the choice, and float32 scores.
    """

    def value(key: str) -> Any:
        setting = config.get(key, defaults.get(key))
        return config.required(key) if setting is None else setting

    count = config.get("n_routed_experts", config.get("num_local_experts", defaults.get("n_routed_experts")))
    feedforward = value("moe_intermediate_size")
    return {
        "count": config.required("n_routed_experts") if count is None else count,
        "active": value("num_experts_per_tok"),
        "feedforward": feedforward,
        "router": "sigmoid",
        "normalized": value("norm_topk_prob"),
        "groups": value("n_group"),
        "active_groups": value("topk_group"),
        "scale": value("routed_scaling_factor"),
        "precision": "float32",
        "shared": feedforward * value("n_shared_experts"),
        "dense_layers": tuple(range(min(layers, value("first_k_dense_replace")))),
    }


def write_deepseek_experts(architecture: Architecture) -> dict[str, Any]:
    """Return the keys of `config.json`; raise a `ModelError` for a mixture that the format cannot express."""
    experts = architecture.experts
    assert experts is not None
    where = f"config.json of {architecture.family}"
    if experts.router != "sigmoid" or experts.shared_gate:
        raise ModelError(where, "has a sigmoid router, and shared experts without a gate")
    if experts.shared == 0 or experts.shared % experts.feedforward:
        expected = f"a multiple of {experts.feedforward}, the width of an expert"
        raise ModelError(f"{where}: shared experts", expected=expected, got=experts.shared)
    if experts.dense_layers != tuple(range(len(experts.dense_layers))):
        expected = "the first layers"
        raise ModelError(f"{where}: dense layers", expected=expected, got=list(experts.dense_layers))
    return {
        "n_routed_experts": experts.count,
        "num_local_experts": experts.count,
        "num_experts_per_tok": experts.active,
        "moe_intermediate_size": experts.feedforward,
        "n_shared_experts": experts.shared // experts.feedforward,
        "n_group": experts.groups,
        "topk_group": experts.active_groups,
        "norm_topk_prob": experts.normalized,
        "routed_scaling_factor": experts.scale,
        "first_k_dense_replace": len(experts.dense_layers),
    }
