"""The mixture of experts of a new model, from a few settings.

with_experts(shape, MixtureSettings(experts=8, active_experts=2))   # as many operations per token as `shape`
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from vita.nn.architecture import Architecture
from vita.spine.config import Settings, neutral
from vita.spine.errors import ConfigError


class MixtureSettings(Settings):
    """The mixture of experts of a new model."""

    experts: int | None = neutral(None, ge=2)
    """Number of experts per layer, such as 8; without it the model has none. The other sizes are those of the model
    without experts that needs as many operations per token."""
    active_experts: int = neutral(2, ge=1)
    """Experts that compute each token."""
    expert_width: int | None = neutral(None, ge=1)
    """Inner width of an expert, instead of the one that needs the operations of a model without experts."""
    shared_experts: int = neutral(0, ge=0)
    """Experts that compute every token in addition. Models with shared experts have the router `sigmoid`."""
    router: Literal["auto", "softmax", "sigmoid"] = neutral("auto")
    """Weights of the experts: softmax (Qwen 3) or sigmoid with a correction of the choice (DeepSeek-V3), which needs
    shared experts; auto follows from `shared_experts`."""
    dense_layers: int = neutral(0, ge=0)
    """Number of first layers without experts."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        names = [name for name in MixtureSettings.model_fields if name != "experts"]
        if self.experts is None:
            if changed := [name for name in names if getattr(self, name) != MixtureSettings.model_fields[name].default]:
                raise ValueError(f"`{changed[0]}` goes with `experts`")
            return self
        if self.active_experts > self.experts:
            raise ValueError(f"{self.active_experts} active experts of {self.experts}")
        if self.shared_experts and self.router == "softmax":
            raise ValueError("shared experts need the router `sigmoid`")
        if self.router == "sigmoid" and not self.shared_experts:
            raise ValueError("the router `sigmoid` needs `shared_experts` of at least 1")
        return self


def with_experts(shape: Architecture, settings: MixtureSettings) -> Architecture:
    """Return a shape whose feed-forward networks are mixtures of experts, with the operations of `shape` by default."""
    if settings.experts is None:
        return shape
    if not shape.causal:
        raise ConfigError("design.experts", "a masked-language model has no experts", hint="leave `experts` out")
    if settings.dense_layers >= shape.layers:
        problem = f"must be less than the number of layers, {shape.layers}"
        raise ConfigError("design.dense_layers", problem, got=settings.dense_layers)
    computed = settings.active_experts + settings.shared_experts
    # A multiple of 8, as the kernels of GPUs need.
    width = settings.expert_width or max(8, round(shape.feedforward / computed / 8) * 8)
    experts = {
        "count": settings.experts,
        "active": settings.active_experts,
        "feedforward": width,
        "dense_layers": tuple(range(settings.dense_layers)),
    }
    if settings.shared_experts:
        experts |= {"router": "sigmoid", "precision": "float32", "shared": settings.shared_experts * width}
    family = "dots1" if settings.shared_experts else "qwen3_moe"
    return Architecture.model_validate({**shape.model_dump(), "family": family, "experts": experts})
