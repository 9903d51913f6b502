"""The architecture of a model: its sizes and switches, and the resulting parameters, FLOPs and memory.

One transformer computes all supported model families (`vita.nn.families`): switches select the norms, biases,
positions, windows and multipliers in which families differ, and whether attention is causal (a decoder) or not (an
encoder). The defaults are those of Qwen3: pre-RMSNorm, rotary positions,
grouped-query attention with a norm on every query and key head, SwiGLU, no biases.

    Architecture(vocabulary=4096, width=256, layers=6, heads=8, kv_heads=4, head_dim=32, feedforward=768, context=512)
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from vita.nn.latent_settings import CacheShape, LatentAttention
from vita.spine.config import Settings


class RopeScaling(Settings):
    """A rule that changes rotary frequencies for texts longer than those of pretraining."""

    type: Literal["linear", "dynamic", "llama3", "yarn", "longrope"]
    """Rule: `linear` (Chen et al. 2023), `dynamic` (NTK-aware), `llama3`, `yarn` (Peng et al. 2023), `longrope`."""
    factor: float = Field(default=1.0, gt=0)
    """Ratio of the extended to the original context."""
    original_context: int = Field(ge=1)
    """Context of pretraining, in tokens."""
    low_frequency_factor: float = 1.0
    """`llama3`: wavelengths above `original_context` divided by this are scaled by the full factor."""
    high_frequency_factor: float = 4.0
    """`llama3`: wavelengths below `original_context` divided by this are not scaled."""
    beta_fast: float = 32.0
    """`yarn`: dimensions with more rotations than this within the original context are not scaled."""
    beta_slow: float = 1.0
    """`yarn`: dimensions with fewer rotations than this within the original context are scaled by the full factor."""
    truncate: bool = True
    """`yarn`: round the bounds of the ramp to whole dimensions."""
    magnitude: float = Field(default=1.0, gt=0)
    """Factor of cosine and sine: scores of rotated dimensions grow by its square."""
    score_mscale: float = Field(default=0.0, ge=0)
    """Number k of the factor (0.1 k ln(factor) + 1)^2 of all scores, `mscale_all_dim` of DeepSeek; 0 for none."""
    short_factors: tuple[float, ...] = ()
    """`longrope`: divisors of the frequencies, for texts up to `original_context` tokens."""
    long_factors: tuple[float, ...] = ()
    """`longrope`: divisors of the frequencies, for longer texts."""

    @property
    def depends_on_length(self) -> bool:
        """Return True if the frequencies change with the length of the text."""
        return self.type in ("dynamic", "longrope")

    @property
    def score_factor(self) -> float:
        """Factor of the attention scores."""
        return (0.1 * self.score_mscale * math.log(self.factor) + 1) ** 2 if self.factor > 1 else 1.0


class Experts(Settings):
    """A mixture of experts in place of the feed-forward network of a layer (Shazeer et al. 2017)."""

    count: int = Field(ge=2)
    """Number of experts per layer."""
    active: int = Field(ge=1)
    """Experts that compute each token."""
    feedforward: int = Field(ge=1)
    """Inner width of an expert."""
    router: Literal["softmax", "topk_softmax", "sigmoid"] = "softmax"
    """Weights of the active experts: softmax over all experts and then the best (Mixtral, Qwen), softmax over the best
    only, or sigmoid of each score, with a bias that corrects the choice (DeepSeek-V3)."""
    normalized: bool = True
    """Divide the weights of the active experts by their sum."""
    groups: int = Field(default=1, ge=1)
    """`sigmoid`: groups of experts, of which the best `active_groups` are considered."""
    active_groups: int = Field(default=1, ge=1)
    """`sigmoid`: groups from which the active experts of a token are chosen."""
    scale: float = Field(default=1.0, gt=0)
    """Factor of the weights of the active experts."""
    precision: Literal["activations", "weights", "float32"] = "activations"
    """Values of the router that are float32 where activations have 16 bits: none, the weights of the active experts
    (Mixtral), or these and the scores (DeepSeek-V3)."""
    shared: int = Field(default=0, ge=0)
    """Inner width of the shared experts, which compute every token; 0 for none."""
    shared_gate: bool = False
    """Multiply the output of the shared experts by the sigmoid of a projection (Qwen2-MoE)."""
    dense_layers: tuple[int, ...] = ()
    """Indices of layers with an ordinary feed-forward network."""

    @property
    def has_correction(self) -> bool:
        """Return True if the router has a bias that corrects the choice of experts."""
        return self.router == "sigmoid"

    @model_validator(mode="after")
    def _consistent_groups(self) -> Self:
        if self.active > self.count:
            raise ValueError(f"{self.active} active experts of {self.count}")
        if self.groups > 1 and self.router != "sigmoid":
            raise ValueError("`groups` needs the router `sigmoid`")
        if self.count % self.groups:
            raise ValueError(f"{self.count} experts cannot form {self.groups} groups of equal size")
        if self.active_groups > self.groups:
            raise ValueError(f"{self.active_groups} active groups of {self.groups}")
        if self.active > self.active_groups * (self.count // self.groups):
            raise ValueError(f"{self.active} active experts exceed those of {self.active_groups} groups")
        if self.shared_gate and not self.shared:
            raise ValueError("`shared_gate` needs `shared`")
        return self


class MaskedHead(Settings):
    """The head of a masked-language model: a dense layer, an activation and a norm before the output matrix."""

    bias: bool = False
    """Bias of the dense layer."""
    activation: Literal["silu", "gelu", "gelu_tanh"] = "gelu"
    """Activation after the dense layer."""
    output_bias: bool = True
    """Bias of the logits."""


class Architecture(Settings):
    """Sizes and switches of a decoder or an encoder."""

    vocabulary: int = Field(ge=2)
    """Number of rows of the embedding; at least the number of tokens of the tokenizer."""
    width: int = Field(ge=1)
    """Hidden size: numbers per token in the residual stream."""
    layers: int = Field(ge=1)
    """Number of layers, each with attention and feed-forward."""
    heads: int = Field(ge=1)
    """Query heads per layer."""
    kv_heads: int = Field(ge=1)
    """Key and value heads per layer; fewer than `heads` makes the KV cache smaller."""
    head_dim: int = Field(ge=2)
    """Size of each query, key and value."""
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

    family: str = "qwen3"
    """Format of `config.json` and of the weight files: `model_type` of Hugging Face."""
    norm: Literal["rms", "layer"] = "rms"
    """RMSNorm, or LayerNorm with bias."""
    norm_offset: Literal[0, 1] = 0
    """Added to the weights of RMSNorm; with 1 they start at zero."""
    norm_bias: bool = True
    """Bias of LayerNorm."""
    norm_position: Literal["before", "after", "both", "residual"] = "before"
    """Norms on the inputs of attention and feed-forward, on their outputs, or on both.

    `residual` norms the sums of the residual stream and the outputs (Vaswani et al. 2017), without a final norm.
    """
    first_norm: bool = True
    """Norm on the input of the first attention."""
    embedding_norm: bool = False
    """Norm on the embeddings."""
    qk_norm: Literal["none", "head", "projection"] = "head"
    """Norm on queries and keys: none, on each head, or on the whole projection."""
    biases: tuple[Literal["qkv", "output", "feedforward"], ...] = ()
    """Projections with a bias: queries, keys and values; output of attention; feed-forward."""
    positions: Literal["rotary", "learned"] = "rotary"
    """Rotary positions, or an embedding of the position that is added to that of the token."""
    rotary_dim: int | None = Field(default=None, ge=2)
    """Numbers of a head that are rotated, the first ones; all by default."""
    rope_scaling: RopeScaling | None = None
    """Change of the rotary frequencies for long texts; none by default."""
    window_rope_base: float | None = Field(default=None, gt=1)
    """Base of the rotary wavelengths in layers with a window, which are not scaled; by default as in other layers."""
    unrotated_layers: tuple[int, ...] = ()
    """Indices of layers without rotary positions."""
    window: int | None = Field(default=None, ge=1)
    """Tokens that a query of a windowed layer attends to, including its own; without `causal`, on each side."""
    window_layers: tuple[int, ...] = ()
    """Indices of layers with a window."""
    attention_scale: float | None = Field(default=None, gt=0)
    """Factor of the attention scores; 1 / sqrt(head_dim) by default."""
    attention_softcap: float | None = Field(default=None, gt=0)
    """Limit c of attention scores: c tanh(score / c)."""
    logit_softcap: float | None = Field(default=None, gt=0)
    """Limit c of logits: c tanh(logit / c)."""
    embedding_scale: float = Field(default=1.0, gt=0)
    """Factor of the embeddings, rounded to their dtype."""
    residual_scale: float = Field(default=1.0, gt=0)
    """Factor of what attention and feed-forward add to the residual stream."""
    logit_scale: float = Field(default=1.0, gt=0)
    """Factor of the logits."""
    activation: Literal["silu", "gelu", "gelu_tanh"] = "silu"
    """Activation of the feed-forward network; `gelu_tanh` is its approximation by tanh."""
    gated: bool = True
    """Multiply the activation of one projection by another (Shazeer 2020), instead of a single projection."""
    parallel: bool = False
    """Attention and feed-forward both read the input of the layer (Wang & Komatsuzaki 2021)."""
    experts: Experts | None = None
    """Mixture of experts; none by default."""
    causal: bool = True
    """Tokens attend to earlier tokens only: a decoder. Otherwise to all tokens of their document: an encoder."""
    token_types: int = Field(default=0, ge=0)
    """Number of token types, which distinguish the two texts of a pair, each with an embedding."""
    masked_head: MaskedHead | None = None
    """Head for masked tokens of an encoder; none by default."""
    latent: LatentAttention | None = None
    """Multi-head latent attention; grouped-query attention by default."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(f"`heads` ({self.heads}) must be a multiple of `kv_heads` ({self.kv_heads})")
        if self.positions == "rotary" and self.rotated % 2:
            raise ValueError(f"rotary positions rotate pairs: an even number of numbers, not {self.rotated}")
        if self.rotated > self.head_dim:
            raise ValueError(f"`rotary_dim` ({self.rotated}) is at most `head_dim` ({self.head_dim})")
        if self.window_layers and self.window is None:
            raise ValueError("`window_layers` needs `window`")
        beyond = [layer for layer in (*self.window_layers, *self.unrotated_layers) if not 0 <= layer < self.layers]
        if beyond:
            raise ValueError(f"layer {beyond[0]} of {self.layers}: layers are counted from 0")
        scaling = self.rope_scaling
        if scaling and scaling.type == "longrope":
            lengths = {len(scaling.short_factors), len(scaling.long_factors)}
            if lengths != {self.rotated // 2}:
                raise ValueError(f"`longrope` needs {self.rotated // 2} short and long factors, not {sorted(lengths)}")
        if self.masked_head and self.causal:
            raise ValueError("`masked_head` needs `causal: false`")
        if self.latent and (self.head_dim, self.rotated, self.kv_heads, self.qk_norm) != (
            *(self.latent.head_dim, self.latent.rotated_dim, self.heads, "none"),
        ):
            sizes = f"`head_dim` of {self.latent.head_dim}, `rotary_dim` of {self.latent.rotated_dim}"
            raise ValueError(f"`latent` needs {sizes}, `kv_heads` equal to `heads`, and `qk_norm: none`")
        return self

    @property
    def rotated(self) -> int:
        """Numbers of a head that are rotated."""
        return self.rotary_dim or self.head_dim

    @property
    def positions_depend_on_text(self) -> bool:
        """Return True if positions must start at 0 in each text of a packed row."""
        return self.positions == "learned" or self.rope_depends_on_length

    @property
    def rope_depends_on_length(self) -> bool:
        """Return True if the rotary frequencies change with the length of the text."""
        return self.rope_scaling is not None and self.rope_scaling.depends_on_length

    @property
    def has_final_norm(self) -> bool:
        """Return True if there is a norm after the last layer."""
        return self.norm_position != "residual"

    def has_input_norm(self, layer: int) -> bool:
        """Return True if the layer has a norm on the input of its attention."""
        return self.norm_position in ("before", "both") and (layer > 0 or self.first_norm)

    @property
    def value_dim(self) -> int:
        """Size of each value."""
        return self.latent.value_dim if self.latent else self.head_dim

    @property
    def score_scale(self) -> float | None:
        """Factor of the attention scores; None for 1 / sqrt(head_dim)."""
        factor = self.rope_scaling.score_factor if self.rope_scaling else 1.0
        if factor == 1.0:
            return self.attention_scale
        return (self.attention_scale or self.head_dim**-0.5) * factor

    @property
    def cache_shape(self) -> CacheShape:
        """Sizes of the KV cache."""
        if self.latent:
            return CacheShape(1, self.latent.cached_numbers, 0)
        return CacheShape(self.kv_heads, self.head_dim, self.head_dim)

    def cache_bytes_per_token(self, number_bytes: int = 2) -> int:
        """Return the bytes of the KV cache per token, in all layers."""
        return number_bytes * self.layers * self.cache_shape.numbers

    def has_experts(self, layer: int) -> bool:
        """Return True if the layer has a mixture of experts."""
        return self.experts is not None and layer not in self.experts.dense_layers

    def as_json(self) -> dict[str, Any]:
        """Return the sizes, and the switches that differ from their defaults."""
        switches = self.model_dump(exclude_defaults=True)
        return {name: value for name, value in self.model_dump().items() if name in _SIZES or name in switches}

    def parameters(self) -> int:
        """Return the number of parameters."""
        has_matrix = not self.tied and (self.causal or self.masked_head is not None)
        embeddings = self.vocabulary * self.width * (2 if has_matrix else 1)
        if self.positions == "learned":
            embeddings += self.context * self.width
        embeddings += self.token_types * self.width
        matrices = sum(self._layer_matrices(layer, active=False) for layer in range(self.layers))
        vectors = sum(self._layer_vectors(layer) for layer in range(self.layers))
        norms = (int(self.has_final_norm) + int(self.embedding_norm)) * self._norm_size(self.width)
        return embeddings + matrices + vectors + norms + self._masked_head_size()

    def active_parameters(self) -> int:
        """Return the number of parameters that compute a token: without the experts that it does not choose."""
        layers = range(self.layers)
        unused = (
            self._layer_matrices(layer, active=False) - self._layer_matrices(layer, active=True) for layer in layers
        )
        return self.parameters() - sum(unused)

    def matrix_parameters(self) -> int:
        """Return the number of weights that multiply each token: matrices of the layers, active experts, the head."""
        matrices = sum(self._layer_matrices(layer, active=True) for layer in range(self.layers))
        dense = self.width**2 if self.masked_head else 0
        return matrices + dense + self.vocabulary * self.width

    def flops_per_token(self, context: int | None = None, *, logits: float = 1.0) -> int:
        """Return the training FLOPs per token in sequences of `context` tokens, forward and backward.

        Six per matrix weight (Kaplan et al. 2020, sec. 2.1). Attention counts only the keys that a causal query
        attends to, (context + 1) / 2 on average without a window: half of the usual count, which would overstate the
        MFU. Without `causal`, all keys count. `logits` is the share of tokens for which the head is computed.
        """
        length = context or self.context
        keys = self.layers * self._mean_keys(length, None)
        if self.window is not None:
            keys += len(self.window_layers) * (self._mean_keys(length, self.window) - self._mean_keys(length, None))
        head = self.vocabulary * self.width + (self.width**2 if self.masked_head else 0)
        matrices = self.matrix_parameters() - (round((1 - logits) * head) if logits < 1 else 0)
        return 6 * matrices + round(6 * self.heads * (self.head_dim + self.value_dim) * keys)

    def memory(
        self, *, tokens: int, logits: int, optimizer_bytes: int = 8, activation_bytes: int = 4
    ) -> dict[str, int]:
        """Return the training memory in bytes with fp32 weights: by purpose, and in `total`.

        `tokens` is the size of a micro-batch. `logits` are the bytes of one chunk of logits in the loss.
        `optimizer_bytes` counts per parameter (AdamW: 8). Activations are those that the backward pass needs with fused
        attention and without recomputation; the estimate is accurate to about a third.
        """
        count = self.parameters()
        purposes = {
            "weights": 4 * count,
            "gradients": 4 * count,
            "optimizer": optimizer_bytes * count,
            "activations": tokens * activation_bytes * self.stored_activations(),
            "logits": logits,
        }
        return {**purposes, "total": sum(purposes.values())}

    def stored_activations(self) -> int:
        """Return the numbers per token that the backward pass needs, in all layers.

        Per layer: input and output of both norms, queries, keys and values before and after norm and rotation, the
        output of attention, and gate, up, their activation and product.
        """
        attention = 4 * self.width + (
            self.latent.stored_activations(self.heads)
            if self.latent
            else self.head_dim * (3 * self.heads + 4 * self.kv_heads)
        )
        return self.layers * attention + sum(map(self._stored_feedforward, range(self.layers)))

    def _stored_feedforward(self, layer: int) -> int:
        """Return the numbers per token that the feed-forward of a layer stores.

        A mixture stores the inputs and outputs of each active expert, too, and the scores of the router.
        """
        projections = 4 if self.gated else 2
        if self.experts is None or not self.has_experts(layer):
            return projections * self.feedforward
        inner = self.experts.active * self.experts.feedforward + self.experts.shared
        return projections * inner + 3 * self.experts.active * self.width + 2 * self.experts.count

    def _layer_matrices(self, layer: int, *, active: bool) -> int:
        if self.latent:
            attention = self.latent.matrix_parameters(self.width, self.heads)
        else:
            attention = self.width * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        projections = 3 if self.gated else 2
        if self.experts is None or not self.has_experts(layer):
            return attention + projections * self.width * self.feedforward
        experts = self.experts.active if active else self.experts.count
        router = self.width * (self.experts.count + self.experts.shared_gate)
        inner = experts * self.experts.feedforward + self.experts.shared
        return attention + router + projections * self.width * inner

    def _layer_vectors(self, layer: int) -> int:
        count = 4 if self.norm_position == "both" else 2
        if layer == 0 and not self.first_norm and self.norm_position in ("before", "both"):
            count -= 1
        norms = count * self._norm_size(self.width)
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        qk_norms = {"none": 0, "head": 2 * self.head_dim, "projection": queries + keys}[self.qk_norm]
        inner = (2 if self.gated else 1) * self.feedforward + self.width
        sizes = {
            "qkv": queries + 2 * keys,
            "output": self.width,
            "feedforward": 0 if self.has_experts(layer) else inner,
        }
        if self.latent:
            others = tuple(bias for bias in self.biases if bias == "feedforward")
            vectors = self.latent.vector_parameters(self.width, self.biases)
            return norms + vectors + sum(sizes[bias] for bias in others)
        return norms + qk_norms + sum(sizes[bias] for bias in self.biases)

    def _norm_size(self, width: int) -> int:
        return 2 * width if self.norm == "layer" and self.norm_bias else width

    def _masked_head_size(self) -> int:
        head = self.masked_head
        if head is None:
            return 0
        dense = self.width**2 + (self.width if head.bias else 0)
        return dense + self._norm_size(self.width) + (self.vocabulary if head.output_bias else 0)

    def _mean_keys(self, length: int, window: int | None) -> float:
        """Return the mean number of keys of a query: those on both sides without `causal`, its own once."""
        keys = _mean_keys(length, window)
        return keys if self.causal else 2 * keys - 1


_SIZES = (
    *("vocabulary", "width", "layers", "heads", "kv_heads", "head_dim", "feedforward", "context"),
    *("rope_base", "norm_eps", "tied"),
)


def _mean_keys(length: int, window: int | None) -> float:
    """Return the mean number of keys of a causal query in a text of `length` tokens."""
    if window is None or window >= length:
        return (length + 1) / 2
    return (window * (window + 1) / 2 + (length - window) * window) / length
