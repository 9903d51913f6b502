"""Phi 3 and 4: fused projections and rotary positions of a part of each head."""

from __future__ import annotations

from typing import Any

from vita.nn.architecture import Architecture
from vita.nn.families.config_keys import rope_keys, size_keys
from vita.nn.families.config_reader import ConfigReader
from vita.nn.families.family import add_family
from vita.nn.families.weight_map import WeightNames

FUSED = WeightNames(
    fused={
        "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
    }
)


def _write_phi3(architecture: Architecture) -> dict[str, Any]:
    scaling = architecture.rope_scaling
    return {
        **size_keys(architecture),
        **rope_keys(architecture),
        "partial_rotary_factor": architecture.rotated / architecture.head_dim,
        "original_max_position_embeddings": scaling.original_context if scaling else architecture.context,
        "sliding_window": architecture.window,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
    }


@add_family("phi3", "Phi3", write=_write_phi3, names=FUSED)
def read_phi3(config: ConfigReader) -> dict[str, Any]:
    """Phi 3, 3.5 and 4 (Abdin et al. 2024)."""
    values = {
        **config.sizes(activation=config.activation(), norm_eps=config.get("rms_norm_eps", 1e-5)),
        **config.rope(),
    }
    return {**values, **config.windows(config.nullable("sliding_window", None), range(values["layers"]))}
