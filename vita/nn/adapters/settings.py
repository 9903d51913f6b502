"""Settings of an adapter: its kind, its rank, its target modules and the number format of the frozen base.

    AdapterSettings.model_validate({"type": "rslora", "rank": 32})
    AdapterSettings.model_validate({"type": "qlora"})          # LoRA on a base in 4 bits

The names follow peft's `LoraConfig`. This module is imported without PyTorch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from vita.spine.config import Settings, neutral

ALL_LINEAR = "all-linear"
Quantization = Literal["none", "nf4", "int8"]
Bias = Literal["none", "all", "lora_only"]
ADAPTER_TYPES: Mapping[str, Mapping[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "qlora": {"quantization": "nf4"},
}
"""Kind of adapter -> the settings that it implies; other settings can be combined with each of them."""
EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "embed_positions", "wpe")
"""Last parts of the names of embeddings, which can be trained in full (`modules_to_save`), but not with low rank."""


class AdapterSettings(Settings):
    """The settings of an adapter; `type` is a short form for `use_rslora`, `use_dora` or `quantization`."""

    rank: int = Field(16, ge=1)
    """Rank of the update of each matrix (`r` in peft)."""
    alpha: float = Field(32.0, gt=0)
    """Numerator of the scale of the update: alpha / rank, or alpha / sqrt(rank) with `use_rslora`."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout probability of the input of the adapter, during training only."""
    target_modules: str | tuple[str, ...] = ALL_LINEAR
    """Linear modules that get an adapter: `all-linear` (every one except the output head), a list of name endings
    (`[q_proj, v_proj]`), or one regular expression for the whole name, as in peft."""
    target_parameters: tuple[Literal["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], ...] = neutral(())
    """Matrices of experts that get an adapter, too, as in peft: `[mlp.experts.gate_up_proj, mlp.experts.down_proj]`
    for all. `target_modules` does not select them."""
    exclude_modules: str | tuple[str, ...] | None = None
    """Modules without an adapter, as a list of name endings or a regular expression."""
    modules_to_save: tuple[str, ...] = ()
    """Modules that are trained in full and saved with the adapter, such as `embed_tokens` or `lm_head`."""
    bias: Bias = "none"
    """Biases of the base that are trained: none, all, or lora_only (those of the target modules)."""
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Other ranks for some modules: regular expression for the end of the name -> rank."""
    alpha_pattern: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Other values of alpha for some modules: regular expression for the end of the name -> alpha."""
    layers_to_transform: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Numbers of the layers that get an adapter. Default: all layers."""
    use_rslora: bool = False
    """Scale the update by alpha / sqrt(rank) (rsLoRA, Kalajdzievski 2023), which suits high ranks."""
    use_dora: bool = False
    """Train the length of each row of a matrix separately from its direction (DoRA, Liu et al. 2024)."""
    quantization: Quantization = "none"
    """Number format of the frozen matrices: none, nf4 (4 bits, QLoRA, Dettmers et al. 2023) or int8."""
    double_quantization: bool = True
    """Quantize the scales of nf4 as well, which saves 0.37 bits per parameter."""

    @model_validator(mode="before")
    @classmethod
    def _expand_type(cls, values: Any) -> Any:
        if isinstance(values, str):
            values = {"type": values}
        if not isinstance(values, Mapping) or "type" not in values:
            return values
        values = dict(values)
        kind = values.pop("type")
        if kind not in ADAPTER_TYPES:
            raise ValueError(f"`type` must be {', '.join(ADAPTER_TYPES)}, not {kind!r}")
        for name, value in ADAPTER_TYPES[kind].items():
            if values.setdefault(name, value) in (False, "none"):
                raise ValueError(f"`{name}: {str(values[name]).lower()}` contradicts `type: {kind}`")
        return values

    @field_validator("target_modules", "exclude_modules")
    @classmethod
    def _valid_pattern(cls, value: Any) -> Any:
        if isinstance(value, str) and value != ALL_LINEAR:
            check_pattern(value)
        if value == ():
            raise ValueError("an empty list selects no module")
        return value

    @model_validator(mode="after")
    def _experts_without_variants(self) -> AdapterSettings:
        if self.target_parameters and (self.use_dora or self.dropout):
            name = "use_dora" if self.use_dora else "dropout"
            raise ValueError(f"`{name}` cannot be combined with `target_parameters`, as in peft")
        return self

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _valid_patterns(cls, value: dict[str, Any]) -> dict[str, Any]:
        for pattern in value:
            check_pattern(pattern)
        return value


AdapterChoice = Literal["auto", "none"] | AdapterSettings
"""The setting `adapter` of a stage."""


def check_pattern(pattern: str) -> None:
    """Raise a `ValueError` unless `pattern` is a regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"`{pattern}` is not a regular expression: {error}") from None
