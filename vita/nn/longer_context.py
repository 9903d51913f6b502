"""A longer context of a model with rotary positions: its tables are computed again, and its weights stay.

longer = extended(architecture, context=2048, rule=RopeRule(type="yarn"))
set_positions(model, longer)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from vita.nn.architecture import Architecture, RopeScaling
from vita.spine.config import Settings

if TYPE_CHECKING:
    from vita.nn.transformer import Transformer


class RopeRule(Settings):
    """A rule that changes the rotary frequencies for a longer context."""

    type: Literal["yarn", "llama3", "linear"]
    """Rule: `yarn` (Peng et al. 2023), `llama3`, or `linear` interpolation (Chen et al. 2023)."""
    factor: float | None = Field(None, gt=1)
    """Ratio of the extended to the original context; by default the ratio of `context` to that of pretraining."""
    low_frequency_factor: float = Field(1.0, gt=0)
    """`llama3`: wavelengths above the original context divided by this are scaled by the full factor."""
    high_frequency_factor: float = Field(4.0, gt=0)
    """`llama3`: wavelengths below the original context divided by this are not scaled."""
    beta_fast: float = Field(32.0, gt=0)
    """`yarn`: dimensions with more rotations than this within the original context are not scaled."""
    beta_slow: float = Field(1.0, gt=0)
    """`yarn`: dimensions with fewer rotations than this within the original context are scaled by the full factor."""


def original_context(architecture: Architecture) -> int:
    """Return the context of pretraining, before any scaling."""
    scaling = architecture.rope_scaling
    return scaling.original_context if scaling else architecture.context


def extended(
    architecture: Architecture, *, context: int | None, rule: RopeRule | None, base: float | None = None
) -> Architecture:
    """Return the architecture with a longer context.

    `rule` replaces the scaling of the architecture, and refers to the context before any scaling. Without a rule the
    scaling stays. `base` replaces the base of the rotary wavelengths. The default context is the original one times
    the factor of the rule.
    """
    original, scaling = original_context(architecture), architecture.rope_scaling
    if context is None:
        context = round(original * rule.factor) if rule and rule.factor else architecture.context
    if rule is not None:
        scaling = _scaling(rule, rule.factor or context / original, original, latent=architecture.latent is not None)
    values = {"context": context, "rope_scaling": scaling, "rope_base": base or architecture.rope_base}
    if architecture.window_layers and architecture.window_rope_base is None and architecture.family in _TWO_BASES:
        values["window_rope_base"] = architecture.rope_base  # windows do not grow, so their positions stay
    return Architecture.model_validate({**architecture.model_dump(), **values})


_TWO_BASES = ("olmo3", "gemma3_text")
"""Families whose layers with a window have rotary positions of their own, which are never scaled."""


def refusal(architecture: Architecture) -> str | None:
    """Return the reason for which an architecture cannot have a longer context, or None."""
    if architecture.positions != "rotary":
        return "its positions are learned, one embedding for each, and none exists beyond the context"
    if architecture.rope_depends_on_length:
        assert architecture.rope_scaling is not None
        return f"its rotary positions already depend on the length of the text (`{architecture.rope_scaling.type}`)"
    return None


def set_positions(model: Transformer, architecture: Architecture) -> None:
    """Give a model the positions of `architecture`, in place."""
    from vita.nn.rotary import Rotary

    decoder, device = model.model, model.head_weight.device
    model.architecture = decoder.architecture = architecture
    decoder.context = architecture.context
    decoder.rotary = Rotary(architecture).to(device)
    if architecture.window_rope_base is not None:
        decoder.window_rotary = Rotary(architecture, base=architecture.window_rope_base, scaled=False).to(device)
    scale = architecture.score_scale
    if scale is None and architecture.latent:
        scale = architecture.head_dim**-0.5
    for layer in decoder.layers:
        attention = layer.get_submodule("self_attn")
        attention.options = attention.options._replace(scale=scale)  # pyright: ignore


def _scaling(rule: RopeRule, factor: float, original: int, *, latent: bool) -> RopeScaling:
    values = rule.model_dump(exclude={"factor"})
    magnitude, score_mscale = 1.0, 0.0
    if rule.type == "yarn":
        # DeepSeek scales all scores instead of the rotated parts of queries and keys.
        magnitude = 1.0 if latent else 0.1 * math.log(factor) + 1
        score_mscale = 1.0 if latent else 0.0
    return RopeScaling.model_validate(
        {**values, "factor": factor, "original_context": original, "magnitude": magnitude, "score_mscale": score_mscale}
    )
