"""Reading of the `config.json` of Hugging Face: required and optional keys, activations, windows and rotary positions.

transformers 5 writes `rope_parameters` (one mapping, or one for each layer type); earlier versions write `rope_theta`
and `rope_scaling`. Both are read, and a base within `rope_parameters` has priority.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vita.spine.errors import ModelError

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}
ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")


class ConfigReader:
    """The keys of a `config.json`."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self.config, self.where = config, where

    def required(self, key: str) -> Any:
        """Return the value of a key; a `ModelError` where it is missing or null."""
        if self.config.get(key) is None:
            raise ModelError(f"{self.where}: {key}", "is required and missing")
        return self.config[key]

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, `default` where it is missing or null."""
        value = self.config.get(key)
        return default if value is None else value

    def nullable(self, key: str, default: Any) -> Any:
        """Return the value of a key, which may be null, `default` only where it is missing."""
        return self.config.get(key, default)

    def expect(self, key: str, value: Any) -> None:
        """Raise `ModelError` where a key has another value than the supported one, which is also its default."""
        if self.config.get(key, value) != value:
            raise ModelError(f"{self.where}: {key}", expected=repr(value), got=self.config[key])

    def activation(self, key: str = "hidden_act", default: str = "silu") -> str:
        """Return the activation function."""
        name = self.get(key, default)
        if name not in ACTIVATIONS:
            raise ModelError(f"{self.where}: {key}", expected=", ".join(sorted(ACTIVATIONS)), got=name)
        return ACTIVATIONS[name]

    def sizes(self, *, kv_heads: int | None = None, head_dim: int | None = None, **other: Any) -> dict[str, Any]:
        """Return the sizes under the keys of Llama; `kv_heads` and `head_dim` are the family's defaults."""
        width, heads = self.required("hidden_size"), self.required("num_attention_heads")
        return {
            "family": self.config["model_type"],
            "vocabulary": self.required("vocab_size"),
            "width": width,
            "layers": self.required("num_hidden_layers"),
            "heads": heads,
            "kv_heads": self.get("num_key_value_heads", kv_heads if "num_key_value_heads" not in self.config else heads)
            or heads,
            "head_dim": self.get("head_dim", head_dim) or _head_dim(width, heads, self.where),
            "feedforward": self.required("intermediate_size"),
            "context": self.required("max_position_embeddings"),
            "norm_eps": self.get("rms_norm_eps", 1e-6),
            "tied": self.get("tie_word_embeddings", False),
            "qk_norm": "none",
            **other,
        }

    def biases(self) -> tuple[str, ...]:
        """Return the projections with a bias by the keys `attention_bias` and `mlp_bias`."""
        attention = ("qkv", "output") if self.get("attention_bias", False) else ()
        return attention + (("feedforward",) if self.get("mlp_bias", False) else ())

    def windows(self, window: int | None, layers: Sequence[int]) -> dict[str, Any]:
        """Return the window of `layers`; `layer_types`, where it is present, selects the layers instead."""
        types = self.get("layer_types")
        if types is not None:
            count = self.get("num_hidden_layers", len(types))
            if len(types) != count:
                raise ModelError(f"{self.where}: layer_types", expected=f"{count} entries", got=len(types))
            unknown = sorted(set(types) - {"full_attention", "sliding_attention"})
            if unknown:
                expected = "'full_attention' or 'sliding_attention'"
                raise ModelError(f"{self.where}: layer_types", expected=expected, got=unknown[0])
            layers = [index for index, layer_type in enumerate(types) if layer_type == "sliding_attention"]
        if window is None or not layers:
            return {}
        return {"window": window, "window_layers": tuple(layers)}

    def rope(self, *, base: float = 10_000.0, layer_type: str | None = None, fraction: float = 1.0) -> dict[str, Any]:
        """Return base, scaling and rotated size.

        `base` and `fraction` are the family's defaults. `layer_type` selects the mapping of a layer type.
        """
        rope = self._rope_mapping(layer_type)
        context = self.required("max_position_embeddings")
        values: dict[str, Any] = {"rope_base": self.rope_base(base, layer_type=layer_type)}
        scaling = self._scaling(rope, context)
        if scaling is not None:
            values["rope_scaling"] = scaling
        share = rope.get("partial_rotary_factor", self.get("partial_rotary_factor", fraction))
        if share != 1.0:
            head_dim = self.get("head_dim") or _head_dim(
                self.required("hidden_size"), self.required("num_attention_heads"), self.where
            )
            values["rotary_dim"] = int(head_dim * share)
        return values

    def rope_base(self, default: float, *, layer_type: str | None = None, key: str = "rope_theta") -> float:
        """Return the base of the rotary wavelengths."""
        return self._rope_mapping(layer_type).get("rope_theta", self.get(key, default))

    def rope_value(self, key: str, default: Any) -> Any:
        """Return a value of the rule that scales rotary positions, `default` where it is missing or null."""
        value = self._rope_mapping(None).get(key)
        return default if value is None else value

    def check_unscaled(self, layer_type: str) -> None:
        """Raise `ModelError` where the rotary positions of a layer type are scaled."""
        parameters = self.get("rope_parameters", {})
        kind = _type_of(parameters[layer_type]) if layer_type in parameters else "default"
        if kind != "default":
            raise ModelError(f"{self.where}: rope_parameters: {layer_type}", expected="'default'", got=kind)

    def _rope_mapping(self, layer_type: str | None) -> Mapping[str, Any]:
        parameters, scaling = self.get("rope_parameters", {}), self.get("rope_scaling", {})
        per_type = {name for name in parameters if name in ("full_attention", "sliding_attention")}
        if per_type:
            if layer_type is None:
                hint = f"models of the family {self.config['model_type']} have one mapping for all layers"
                raise ModelError(f"{self.where}: rope_parameters", "has a mapping for each layer type", hint=hint)
            return parameters.get(layer_type, {})
        # Families with two layer types apply the older `rope_scaling` to full attention only.
        return parameters if layer_type == "sliding_attention" else {**scaling, **parameters}

    def _scaling(self, rope: Mapping[str, Any], context: int) -> dict[str, Any] | None:
        kind = {"su": "longrope"}.get(_type_of(rope), _type_of(rope))
        if kind == "yarn" and self.config["model_type"] == "phi3":
            kind = "longrope"
        if kind not in ROPE_TYPES:
            raise ModelError(f"{self.where}: rope_type", expected=", ".join(ROPE_TYPES), got=kind)
        if kind == "default":
            return None
        original = self.get("original_max_position_embeddings", rope.get("original_max_position_embeddings")) or context
        factor = rope.get("factor")
        if kind == "linear":
            return {"type": kind, "factor": self._number(rope, "factor"), "original_context": original}
        if kind == "dynamic":
            return {"type": kind, "factor": self._number(rope, "factor"), "original_context": context}
        if kind == "llama3":
            frequencies = {
                "low_frequency_factor": self._number(rope, "low_freq_factor"),
                "high_frequency_factor": self._number(rope, "high_freq_factor"),
            }
            return {
                "type": kind,
                "factor": self._number(rope, "factor"),
                "original_context": original,
                **frequencies,
            }
        if kind == "yarn":
            return {"type": kind, "original_context": original, **_yarn(rope, factor or context / original)}
        ratio = factor or context / original
        magnitude = 1.0 if ratio <= 1 else math.sqrt(1 + math.log(ratio) / math.log(original))
        return {
            "type": kind,
            "factor": ratio,
            "original_context": original,
            "magnitude": rope.get("attention_factor") or magnitude,
            "short_factors": self._numbers(rope, "short_factor"),
            "long_factors": self._numbers(rope, "long_factor"),
        }

    def _number(self, rope: Mapping[str, Any], key: str) -> float:
        if not isinstance(rope.get(key), int | float):
            raise ModelError(f"{self.where}: rope_parameters: {key}", "is required and missing")
        return rope[key]

    def _numbers(self, rope: Mapping[str, Any], key: str) -> tuple[float, ...]:
        if not isinstance(rope.get(key), list | tuple):
            raise ModelError(f"{self.where}: rope_parameters: {key}", "is required and missing")
        return tuple(rope[key])


def _type_of(rope: Mapping[str, Any]) -> str:
    return rope.get("rope_type") or rope.get("type") or "default"


def _yarn(rope: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """The values of YaRN; the factor of cosine and sine is 0.1 ln(factor) + 1 by default (Peng et al. 2023, eq. 22)."""

    def magnitude(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0

    scales = rope.get("mscale"), rope.get("mscale_all_dim")
    default = magnitude(scales[0]) / magnitude(scales[1]) if scales[0] and scales[1] else magnitude(1.0)
    return {
        "factor": factor,
        "beta_fast": rope.get("beta_fast") or 32.0,
        "beta_slow": rope.get("beta_slow") or 1.0,
        "truncate": rope.get("truncate", True),
        "magnitude": rope.get("attention_factor") or default,
    }


def _head_dim(width: int, heads: int, where: str) -> int:
    if width % heads:
        raise ModelError(f"{where}: head_dim", "is required where heads do not divide the hidden size")
    return width // heads
