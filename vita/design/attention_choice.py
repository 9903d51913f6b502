"""The attention of a new model: windows in some layers, or multi-head latent attention.

with_attention(shape, AttentionSettings(window=256, window_pattern=4))
with_attention(shape, AttentionSettings(latent=True))
"""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from vita.nn.architecture import Architecture
from vita.nn.latent_settings import LatentAttention
from vita.spine.config import Settings, neutral
from vita.spine.errors import ConfigError


class AttentionSettings(Settings):
    """The attention of a new model."""

    window: int | None = neutral(None, ge=1)
    """Tokens that a query of a layer with a window attends to, including its own; without it no layer has one."""
    window_pattern: int = neutral(4, ge=0)
    """Every layer of this number is global, and the others have the window, as in Gemma 3 (6) and OLMo 3 (4). With 0
    all layers have the window."""
    latent: bool | LatentAttention = neutral(False)
    """Multi-head latent attention (DeepSeek-V2), whose KV cache stores one latent vector per token: true for sizes that
    follow from the width, or `{key_value_rank, unrotated_dim, rotated_dim, value_dim, query_rank}`."""

    @model_validator(mode="after")
    def _one_attention(self) -> Self:
        if self.window is not None and self.latent:
            raise ValueError("`window` and `latent` exclude each other: no model family has both")
        if self.window is None and self.window_pattern != 4:
            raise ValueError("`window_pattern` goes with `window`")
        return self


def with_attention(shape: Architecture, settings: AttentionSettings) -> Architecture:
    """Return the shape with the attention of the settings."""
    if settings.window is None and not settings.latent:
        return shape
    if not shape.causal:
        raise ConfigError("design", "`window` and `latent` are for models that predict the next token")
    if settings.window is not None:
        return _with_windows(shape, settings.window, settings.window_pattern)
    return _with_latent_attention(shape, settings.latent if isinstance(settings.latent, LatentAttention) else None)


def _with_windows(shape: Architecture, window: int, pattern: int) -> Architecture:
    """Give the window to all layers except the last one of each group of `pattern` layers."""
    if shape.family == "qwen3_moe" and pattern:
        hint = "set `window_pattern: 0`, or `shared_experts`"
        raise ConfigError("design.window_pattern", "models with experts have the window in all layers", hint=hint)
    layers = tuple(layer for layer in range(shape.layers) if not pattern or (layer + 1) % pattern)
    if not layers:
        raise ConfigError("design.window_pattern", "leaves no layer with a window", got=pattern)
    return Architecture.model_validate({**shape.model_dump(), "window": window, "window_layers": layers})


def _with_latent_attention(shape: Architecture, latent: LatentAttention | None) -> Architecture:
    """Return the shape in the format of DeepSeek-V3.

    By default the sizes have the proportions of DeepSeek-V2 (2024, sec. 3.1.2): a latent vector of four heads, or half
    of the width in a model with few heads, and rotated numbers of half a head. Queries have a latent vector of twelve
    heads where that is smaller than the width.
    """
    if shape.experts and not shape.experts.shared:
        hint = "set `shared_experts: 1`"
        raise ConfigError("design.latent", "experts of this format have a sigmoid router and shared experts", hint=hint)
    dim = shape.head_dim
    latent = latent or LatentAttention(
        query_rank=12 * dim if 12 * dim < shape.width else None,
        key_value_rank=min(4 * dim, max(dim, shape.width // 2)),
        unrotated_dim=dim,
        rotated_dim=dim // 2,
        value_dim=dim,
    )
    values = {
        **shape.model_dump(),
        "family": "deepseek_v3",
        "latent": latent.model_dump(),
        "head_dim": latent.head_dim,
        "rotary_dim": latent.rotated_dim,
        "kv_heads": shape.heads,
        "qk_norm": "none",
    }
    return Architecture.model_validate(values)
