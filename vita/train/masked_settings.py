"""Settings of the masked-language objective. This module is imported without PyTorch."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from vita.data.tokens.masking import MaskingRule, Replacement
from vita.nn.architecture import Architecture
from vita.spine.config import Settings, neutral
from vita.spine.errors import ConfigError

Objective = Literal["auto", "next_token", "masked"]


class MaskingSettings(Settings):
    """The objective of training on text, and the masks of the masked-language objective."""

    objective: Objective = neutral("auto")
    """Prediction of the next token, or of masked tokens from the text on both sides (masked). auto follows the model:
    masked for an encoder, next_token for a decoder."""
    mask_rate: float = neutral(0.3, gt=0, lt=1)
    """Share of the tokens that are masked and predicted (masked objective)."""
    final_mask_rate: float | None = neutral(None, gt=0, lt=1)
    """Share of masked tokens at the last step, to which `mask_rate` changes linearly; by default it is constant."""
    mask_replacement: Replacement = neutral("bert")
    """Input at masked positions: `mask` is always the mask token; `bert` is the mask token for 80 %, a random token for
    10 % and the token itself for 10 % (Devlin et al. 2019)."""
    mask_whole_words: bool = neutral(False)
    """Mask all tokens of a word together."""
    shuffle_targets: bool = neutral(False)
    """Give each masked position the token of another one: a control run, which learns only frequencies."""
    eval_mask_rate: float = neutral(0.15, gt=0, lt=1)
    """Share of masked tokens in evaluations, whose masks are fixed and always the mask token."""

    @model_validator(mode="after")
    def _masks_are_used(self) -> MaskingSettings:
        if self.objective == "next_token":
            defaults = {name: field.default for name, field in MaskingSettings.model_fields.items()}
            changed = [name for name, default in defaults.items() if getattr(self, name) != default]
            if names := [name for name in changed if name != "objective"]:
                raise ValueError(f"`{names[0]}` is used only with `objective: masked`")
        return self

    def mask_rate_at(self, step: int, steps: int) -> float:
        """Return the share of masked tokens in a step."""
        if self.final_mask_rate is None or steps < 2:
            return self.mask_rate
        return self.mask_rate + (self.final_mask_rate - self.mask_rate) * min(1.0, step / (steps - 1))

    @property
    def masking(self) -> MaskingRule:
        """The rule of training, with the largest rate of the schedule."""
        rate = max(self.mask_rate, self.final_mask_rate or 0.0)
        return MaskingRule(rate, self.mask_replacement, self.mask_whole_words)

    @property
    def mean_mask_rate(self) -> float:
        """The mean share of masked tokens over the run."""
        return self.mask_rate if self.final_mask_rate is None else (self.mask_rate + self.final_mask_rate) / 2


def check_objective(config: MaskingSettings, architecture: Architecture, *, where: str) -> bool:
    """Return True for the masked objective; raise a `ConfigError` if the model cannot be trained with the objective."""
    encoder = not architecture.causal
    kind = "masked" if encoder else "next_token"
    if config.objective not in ("auto", kind):
        got = f"{config.objective}, and the model is {'an encoder' if encoder else 'a decoder'}"
        raise ConfigError(f"{where}.objective", expected=f"auto or {kind}", got=got)
    return encoder
