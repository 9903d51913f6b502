"""The `config.json` of a model that was trained from another one: its keys stay, except those that no longer hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vita.nn.architecture import Architecture

POSITION_KEYS = (
    *("max_position_embeddings", "rope_parameters", "rope_theta", "rope_scaling", "partial_rotary_factor"),
    *("original_max_position_embeddings", "rope_local_base_freq", "rotary_emb_base", "rotary_pct"),
)
"""Keys of the context and of rotary positions, in the forms of several versions."""
_DROPPED = ("quantization_config",)
"""Keys about the number format of the files, in which weights are not written again."""
_LAYERS_NOT_READ = ("num_nextn_predict_layers", "num_mtp_layers")
"""Counts of layers for multi-token prediction, which are neither computed nor written."""


def successor_config(
    architecture: Architecture, written: Mapping[str, Any], source: Mapping[str, Any], *, before: Architecture | None
) -> dict[str, Any]:
    """Return the keys of `source`, and those of `written` for positions if the architecture changed them.

    `written` is the config of the architecture in the format of its family. `before` is the architecture of `source`,
    if that is the config of a whole model.
    """
    config = {name: value for name, value in source.items() if name not in _DROPPED}
    config |= {name: 0 for name in _LAYERS_NOT_READ if config.get(name)}
    if before is not None and _positions(before) != _positions(architecture):
        config = {name: value for name, value in config.items() if name not in POSITION_KEYS}
        config |= {name: written[name] for name in POSITION_KEYS if name in written}
    return config


def _positions(architecture: Architecture) -> tuple[Any, ...]:
    return architecture.context, architecture.rope_base, architecture.rope_scaling, architecture.window_rope_base
