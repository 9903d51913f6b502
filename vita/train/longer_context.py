"""The settings of a stage that continues training at a longer context, and their check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import field_validator

from vita.nn.longer_context import RopeRule, extended, refusal
from vita.spine.config import Settings, build, neutral
from vita.spine.errors import ConfigError

if TYPE_CHECKING:
    from vita.nn.architecture import Architecture


class LongerContextSettings(Settings):
    """The context of the trained model, and the change of its rotary positions."""

    longer_context: int | None = neutral(None, ge=2)
    """Context of the trained model in tokens, longer than that of the initial one; by default it stays."""
    rope_scaling: RopeRule | None = neutral(None)
    """Rule that changes the rotary frequencies for the longer context: yarn, llama3, linear, or settings such as
    `{type: yarn, factor: 4}`. Without a rule the frequencies stay, and positions beyond the former context are new."""
    rope_base: float | None = neutral(None, gt=1)
    """Base of the rotary wavelengths, instead of that of the initial model; a longer context needs a larger base."""

    @field_validator("rope_scaling", mode="before")
    @classmethod
    def _expand_rule(cls, value: Any) -> Any:
        """`yarn` is a short form for `{type: yarn}`."""
        if isinstance(value, str):
            value = {"type": value}
        if not isinstance(value, Mapping):
            return value
        try:
            return build(RopeRule, value, where="rope_scaling")
        except ConfigError as error:
            raise ValueError(str(error).removeprefix("rope_scaling.")) from None

    @property
    def changes_positions(self) -> bool:
        """Return True if the settings change the positions of the model."""
        return any(value is not None for value in (self.longer_context, self.rope_scaling, self.rope_base))


def extended_architecture(settings: LongerContextSettings, architecture: Architecture, *, where: str) -> Architecture:
    """Return the architecture with the longer context; raise a `ConfigError` if it cannot have one."""
    if not settings.changes_positions:
        return architecture
    if reason := refusal(architecture):
        hint = "choose a model with unscaled or scaled rotary positions, such as Llama or Qwen"
        raise ConfigError(f"{where}.{_first(settings)}", f"the model cannot have a longer context: {reason}", hint=hint)
    if settings.longer_context is not None and settings.longer_context < architecture.context:
        expected = f"at least {architecture.context}, the model's context"
        raise ConfigError(f"{where}.longer_context", expected=expected, got=settings.longer_context)
    rule = settings.rope_scaling
    if (
        rule
        and not rule.factor
        and (settings.longer_context is None or settings.longer_context <= architecture.context)
    ):
        hint = "set `longer_context` to more tokens than that of the model, or a `factor`"
        raise ConfigError(f"{where}.rope_scaling", "has no factor", hint=hint)
    return extended(architecture, context=settings.longer_context, rule=rule, base=settings.rope_base)


def _first(settings: LongerContextSettings) -> str:
    names = ("longer_context", "rope_scaling", "rope_base")
    return next(name for name in names if getattr(settings, name) is not None)
