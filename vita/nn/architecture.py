"""The architecture of a model: its sizes, and the resulting parameters, FLOPs and memory.

A decoder as in Qwen3: pre-RMSNorm, rotary positions, grouped-query attention with a norm on every head, SwiGLU, no
biases. `to_hf` and `from_hf` convert to and from the `config.json` of Hugging Face.

    Architecture(vocabulary=4096, width=256, layers=6, heads=8, kv_heads=4, head_dim=32, feedforward=768, context=512)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from vita.spine.config import Settings
from vita.spine.errors import ModelError


class Architecture(Settings):
    """Sizes of a Qwen3-shaped decoder."""

    vocabulary: int = Field(ge=2)
    """Number of tokens; equal to the tokenizer's."""
    width: int = Field(ge=1)
    """Hidden size: numbers per token in the residual stream."""
    layers: int = Field(ge=1)
    """Number of layers, each with attention and feed-forward."""
    heads: int = Field(ge=1)
    """Query heads per layer."""
    kv_heads: int = Field(ge=1)
    """Key and value heads per layer; fewer than `heads` makes the KV cache smaller."""
    head_dim: int = Field(ge=2, multiple_of=2)
    """Size of each query, key and value; even, because rotary positions rotate pairs."""
    feedforward: int = Field(ge=1)
    """Inner width of the feed-forward network."""
    context: int = Field(ge=1)
    """Context length: maximum tokens per sequence."""
    rope_base: float = Field(default=10_000.0, gt=1)
    """Base of the rotary wavelengths; longer contexts need a larger base."""
    norm_eps: float = Field(default=1e-6, gt=0)
    """Epsilon of the norms, which prevents a division by zero."""
    tied: bool = True
    """Share the weights of the output head and the embedding; saves vocabulary x width parameters."""

    @model_validator(mode="after")
    def _heads_share_evenly(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(f"`heads` ({self.heads}) must be a multiple of `kv_heads` ({self.kv_heads})")
        return self

    def parameters(self) -> int:
        """Return the number of parameters."""
        embeddings = self.vocabulary * self.width * (1 if self.tied else 2)
        norms = self.layers * (2 * self.width + 2 * self.head_dim) + self.width
        return embeddings + self.layers * self._layer_matrices() + norms

    def matrix_parameters(self) -> int:
        """Return the number of weights that multiply each token: the matrices of the layers and the head."""
        return self.layers * self._layer_matrices() + self.vocabulary * self.width

    def flops_per_token(self, context: int | None = None) -> int:
        """Return the training FLOPs per token in sequences of `context` tokens, forward and backward.

        Six per matrix weight (Kaplan et al. 2020, sec. 2.1). Attention counts only the keys that a causal query
        attends to, (context + 1) / 2 on average: half of the usual count, which would overstate the MFU.
        """
        mean_keys = ((context or self.context) + 1) / 2
        return 6 * self.matrix_parameters() + round(12 * self.layers * self.heads * self.head_dim * mean_keys)

    def memory(
        self, *, tokens: int, logits: int, optimizer_bytes: int = 8, activation_bytes: int = 4
    ) -> dict[str, int]:
        """Return the training memory in bytes with fp32 weights: by purpose, and in `total`.

        `tokens` is the size of a micro-batch. `logits` are the bytes of one chunk of logits in the loss.
        `optimizer_bytes` counts per parameter (AdamW: 8). Activations are those that the backward pass needs with fused
        attention and without recomputation; the estimate is accurate to about a third.
        """
        count = self.parameters()
        # Stored per layer: input and output of both norms, queries, keys and values before and after norm and
        # rotation, the output of attention, and gate, up, their activation and product.
        per_layer = 4 * self.width + self.head_dim * (3 * self.heads + 4 * self.kv_heads) + 4 * self.feedforward
        purposes = {
            "weights": 4 * count,
            "gradients": 4 * count,
            "optimizer": optimizer_bytes * count,
            "activations": tokens * activation_bytes * self.layers * per_layer,
            "logits": logits,
        }
        return {**purposes, "total": sum(purposes.values())}

    def to_hf(self) -> dict[str, Any]:
        """Return the Qwen3 `config.json` of this architecture."""
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "intermediate_size": self.feedforward,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.context,
            "rms_norm_eps": self.norm_eps,
            # transformers 5 reads `rope_parameters`; earlier ones and llama.cpp read `rope_theta`.
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_base},
            "rope_theta": self.rope_base,
            "tie_word_embeddings": self.tied,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "use_sliding_window": False,
            "sliding_window": None,
            "max_window_layers": self.layers,
            "layer_types": ["full_attention"] * self.layers,
            "initializer_range": 0.02,
            "use_cache": True,
        }

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], *, where: str = "config.json") -> Architecture:
        """Read the architecture from a Qwen3 `config.json`; raise `ModelError` for unsupported settings."""
        _check_supported(config, where)
        values = {name: _required(config, field, where) for name, field in _FIELDS.items()}
        values["rope_base"] = _rope_base(config, where)
        values["norm_eps"] = config.get("rms_norm_eps", 1e-6)
        values["tied"] = config.get("tie_word_embeddings", False)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            reason = error.errors()[0]
            spot = [_FIELDS.get(str(part), str(part)) for part in reason["loc"]]
            raise ModelError(": ".join([where, *spot]), reason["msg"], got=reason["input"] if spot else None) from None

    def _layer_matrices(self) -> int:
        attention = self.width * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return attention + 3 * self.width * self.feedforward


_FIELDS = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "feedforward": "intermediate_size",
    "context": "max_position_embeddings",
}

# Settings that change the computation: the only supported value, which is also the default of Qwen3.
_FIXED: dict[str, Any] = {
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "use_sliding_window": False,
    "quantization_config": None,
}


def _check_supported(config: Mapping[str, Any], where: str) -> None:
    if config.get("model_type") != "qwen3":
        raise ModelError(
            f"{where}: model_type",
            expected="'qwen3'",
            got=config.get("model_type"),
            hint="only Qwen3 models are supported",
        )
    for field, value in _FIXED.items():
        if config.get(field, value) != value:
            raise ModelError(f"{where}: {field}", expected=repr(value), got=config[field])
    unsupported = sorted(set(config.get("layer_types") or ()) - {"full_attention"})
    if unsupported:
        raise ModelError(f"{where}: layer_types", expected="'full_attention' throughout", got=unsupported[0])


def _required(config: Mapping[str, Any], field: str, where: str) -> Any:
    if config.get(field) is None:
        raise ModelError(f"{where}: {field}", "is required and missing")
    return config[field]


def _rope_base(config: Mapping[str, Any], where: str) -> float:
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ModelError(f"{where}: rope_type", expected="'default'", got=kind, hint="RoPE scaling is not supported")
    base = rope.get("rope_theta", config.get("rope_theta"))
    if base is None:
        raise ModelError(f"{where}: rope_theta", "is required and missing")
    return base
