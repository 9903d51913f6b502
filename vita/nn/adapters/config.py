"""The content of peft's `adapter_config.json`: which modules have an adapter, with which rank and scale.

    config = LoraConfig.read(files)                    # a `ModelError` for options that Vita does not support
    config.rank_of("model.layers.0.mlp.up_proj"), config.scale_of("model.layers.0.mlp.up_proj")
    config.as_peft(base="...")

Names of modules are those of the files of the base model, as in peft.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vita.nn.adapters.settings import ALL_LINEAR, AdapterSettings, Bias
from vita.spine.errors import ModelError
from vita.spine.model_files import ADAPTER_CONFIG, ModelFiles

CAUSAL, CLASSIFIER = "CAUSAL_LM", "SEQ_CLS"
INITIAL_WEIGHTS = (True, False, "gaussian", "default", "orthogonal", "eva", None)
"""Values of `init_lora_weights` that leave the weights of the base model unchanged."""
UNSUPPORTED = (
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "monteclora_config",
    "velora_config",
    "alora_invocation_tokens",
    "arrow_config",
    "layer_replication",
    "trainable_token_indices",
    "megatron_config",
    "ensure_weight_tying",
)
"""Options of peft that change the computation and are not supported; they are refused unless they are off."""
NEUTRAL = (
    "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config", "inference_mode", "lora_ga_config",
    "loftq_config", "megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config",
)  # fmt: skip
"""Options without an effect on a trained adapter. The initializations that change the base are refused by
`init_lora_weights`."""


@dataclass(frozen=True)
class LoraConfig:
    """The configuration of an adapter."""

    rank: int = 8
    alpha: float = 8.0
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] | None = None
    target_parameters: tuple[str, ...] = ()
    exclude_modules: str | tuple[str, ...] | None = None
    modules_to_save: tuple[str, ...] = ()
    bias: Bias = "none"
    lora_bias: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    layers_to_transform: tuple[int, ...] | None = None
    layers_pattern: tuple[str, ...] = ()
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    task_type: str = CAUSAL

    @classmethod
    def of(cls, settings: AdapterSettings, *, task_type: str = CAUSAL, **changes: Any) -> LoraConfig:
        """Return the configuration with the settings of a stage; `changes` replace single fields."""
        names = settings.model_dump(exclude={"quantization", "double_quantization"})
        return replace(cls(**names, task_type=task_type), **changes)

    @classmethod
    def read(cls, files: ModelFiles) -> LoraConfig:
        """Read `adapter_config.json`; raise a `ModelError` for what Vita does not support."""
        where = str(files.path(ADAPTER_CONFIG))
        try:
            values = json.loads(files.text(ADAPTER_CONFIG))
        except (OSError, ValueError) as error:
            raise ModelError(where, f"cannot be read: {error}") from None
        if not isinstance(values, dict):
            raise ModelError(where, expected="a JSON object", got=type(values).__name__)
        _refuse_unsupported(values, where)
        try:
            return cls(
                rank=int(values.get("r", 8)),
                alpha=float(values.get("lora_alpha", 8)),
                dropout=float(values.get("lora_dropout") or 0.0),
                target_modules=_names(values.get("target_modules")),
                target_parameters=tuple(values.get("target_parameters") or ()),
                exclude_modules=_names(values.get("exclude_modules")),
                modules_to_save=tuple(values.get("modules_to_save") or ()),
                bias=values.get("bias") or "none",
                lora_bias=bool(values.get("lora_bias")),
                rank_pattern=dict(values.get("rank_pattern") or {}),
                alpha_pattern=dict(values.get("alpha_pattern") or {}),
                layers_to_transform=_numbers(values.get("layers_to_transform")),
                layers_pattern=_texts(values.get("layers_pattern")),
                use_rslora=bool(values.get("use_rslora")),
                use_dora=bool(values.get("use_dora")),
                fan_in_fan_out=bool(values.get("fan_in_fan_out")),
                task_type=values.get("task_type") or CAUSAL,
            )
        except (TypeError, ValueError) as error:
            raise ModelError(where, f"has a value of the wrong type: {error}") from None

    def as_peft(self, *, base: str | None, targets: Sequence[str] | None = None) -> dict[str, Any]:
        """Return the content of `adapter_config.json`; `targets` are the modules that `all-linear` selected."""
        target_modules: Any = self.target_modules
        if target_modules == ALL_LINEAR:
            target_modules = sorted(targets or ())
        elif isinstance(target_modules, tuple):
            target_modules = sorted(target_modules)
        exclude = self.exclude_modules
        return {
            "peft_type": "LORA",
            "auto_mapping": None,
            "base_model_name_or_path": base,
            "revision": None,
            "task_type": self.task_type,
            "inference_mode": True,
            "r": self.rank,
            "lora_alpha": _plain_number(self.alpha),
            "lora_dropout": self.dropout,
            "target_modules": target_modules,
            **({"target_parameters": list(self.target_parameters)} if self.target_parameters else {}),
            "exclude_modules": list(exclude) if isinstance(exclude, tuple) else exclude,
            "modules_to_save": list(self.modules_to_save) or None,
            "bias": self.bias,
            "lora_bias": self.lora_bias,
            "rank_pattern": dict(self.rank_pattern),
            "alpha_pattern": {name: _plain_number(alpha) for name, alpha in self.alpha_pattern.items()},
            "layers_to_transform": list(self.layers_to_transform) if self.layers_to_transform is not None else None,
            "layers_pattern": list(self.layers_pattern) or None,
            "use_rslora": self.use_rslora,
            "use_dora": self.use_dora,
            "fan_in_fan_out": self.fan_in_fan_out,
            "init_lora_weights": True,
        }

    @property
    def method(self) -> str:
        """The usual name of the method."""
        return ("rs" if self.use_rslora else "") + ("DoRA" if self.use_dora else "LoRA")

    # -- modules

    def selects(self, module: str) -> bool:
        """Return whether the linear module with this name has an adapter (the rules of peft's `LoraConfig`)."""
        if self.exclude_modules is not None and _matches(self.exclude_modules, module):
            return False
        if any(re.match(rf"(^|.*\.){name}($|\..*)", module) for name in self.modules_to_save):
            return False
        if self.target_modules is None:
            return False
        if self.target_modules == ALL_LINEAR:
            return self._in_layers(module)
        if isinstance(self.target_modules, str):
            return re.fullmatch(self.target_modules, module) is not None
        return _matches(self.target_modules, module) and self._in_layers(module)

    def selects_parameter(self, parameter: str) -> bool:
        """Return whether the stacked parameter of experts with this name has an adapter."""
        return bool(self.target_parameters) and _matches(self.target_parameters, parameter)

    def rank_of(self, *names: str) -> int:
        """Return the rank of a module, by the first of its names that a pattern matches."""
        return int(_by_pattern(self.rank_pattern, names, self.rank))

    def alpha_of(self, *names: str) -> float:
        """Return alpha of a module, by the first of its names that a pattern matches."""
        return float(_by_pattern(self.alpha_pattern, names, self.alpha))

    def scale_of(self, *names: str) -> float:
        """Return the scale of the update of a module."""
        rank = self.rank_of(*names)
        return self.alpha_of(*names) / (math.sqrt(rank) if self.use_rslora else rank)

    def saves(self, module: str) -> bool:
        """Return whether a module is trained in full; as in peft, `norm` also selects `input_layernorm`."""
        return module.endswith(self.modules_to_save) if self.modules_to_save else False

    def _in_layers(self, module: str) -> bool:
        if self.layers_to_transform is None:
            return True
        patterns = [rf"(?:^|.*?\.){pattern}\.(?P<index>\d+)\." for pattern in self.layers_pattern]
        for pattern in patterns or [r".*?\.[^.]*\.(?P<index>\d+)\."]:
            if match := re.match(pattern, module):
                return int(match["index"]) in self.layers_to_transform
        return False


def _refuse_unsupported(values: Mapping[str, Any], where: str) -> None:
    """Raise a `ModelError` for another kind of adapter and for options that change the computation."""
    if values.get("peft_type") != "LORA":
        hint = "Vita supports LoRA, rsLoRA, DoRA and QLoRA; merge other adapters with peft"
        raise ModelError(f"{where}: peft_type", expected="'LORA'", got=values.get("peft_type"), hint=hint)
    known = {*LoraConfig().as_peft(base=None), "target_parameters", *NEUTRAL, *UNSUPPORTED}
    for name, value in values.items():
        if (name in UNSUPPORTED or name not in known) and value not in (None, False, [], {}, ""):
            hint = "merge the adapter with peft (`merge_and_unload`) and open the merged model"
            raise ModelError(f"{where}: {name}", "is not supported", got=value, hint=hint)
    initial = values.get("init_lora_weights", True)
    if initial not in INITIAL_WEIGHTS:
        hint = "convert it in peft: `save_pretrained(path, path_initial_model_for_weight_conversion=...)`"
        problem = "this initialization changes the weights of the base model, which are not in the folder"
        raise ModelError(f"{where}: init_lora_weights", problem, got=initial, hint=hint)
    if values.get("bias", "none") not in ("none", "all", "lora_only"):
        raise ModelError(f"{where}: bias", expected="none, all or lora_only", got=values["bias"])
    if values.get("task_type") not in (None, CAUSAL, CLASSIFIER):
        raise ModelError(f"{where}: task_type", expected=f"{CAUSAL} or {CLASSIFIER}", got=values["task_type"])


def pattern_at_end(pattern: str, module: str) -> bool:
    """Return whether a regular expression matches whole parts at the end of a module's name, as in peft."""
    return re.match(rf"(.*\.)?({pattern})$", module) is not None


def _by_pattern(patterns: Mapping[str, Any], names: Iterable[str], default: Any) -> Any:
    matches = (value for name in names for pattern, value in patterns.items() if pattern_at_end(pattern, name))
    return next(matches, default)


def _matches(names: str | Iterable[str], module: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _names(value: Any) -> str | tuple[str, ...] | None:
    return value if value is None or isinstance(value, str) else tuple(value)


def _texts(value: Any) -> tuple[str, ...]:
    return () if not value else (value,) if isinstance(value, str) else tuple(value)


def _numbers(value: Any) -> tuple[int, ...] | None:
    if value is None or value == []:
        return None
    return (value,) if isinstance(value, int) else tuple(int(number) for number in value)


def _plain_number(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value
