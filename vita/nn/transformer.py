"""The transformer: token ids in, logits out.

One class computes every model family; the switches of `Architecture` select what differs. Parameters have the names
of Qwen3 in all families, and `vita.nn.families` translates the names of weight files. Norms on the outputs of attention
and feed-forward, or on their sums with the residual stream, are `attention_output_norm` and `mlp_output_norm`. A model
with `causal: false` is an encoder: its tokens attend to all tokens of their document, and its head, where it has one,
predicts the token at each position instead of the next one. The parameters of a new `Transformer` are zero;
`vita.nn.init` or `vita.nn.hf` sets their values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vita.nn import (
    blocked,  # noqa: F401 - registers its backend
    flex,
    row_sums,
)
from vita.nn.architecture import Architecture, MaskedHead
from vita.nn.attention import (
    BACKENDS,
    Attention,
    AttentionOptions,
    causal,
    causal_within,
    in_window,
    positions_within,
    within,
)
from vita.nn.experts import MixtureOfExperts
from vita.nn.feedforward import ACTIVATIONS, FeedForward, Linear
from vita.nn.frozen_linear import FrozenLinear
from vita.nn.int8 import Int8Linear, linear_products
from vita.nn.latent_attention import LatentSelfAttention
from vita.nn.norms import norm
from vita.nn.packed import can_pack, pack_weight, packed, product
from vita.nn.rotary import Rotary, Turn, rotate
from vita.spine.errors import ModelError

# B batch, T position, V vocabulary, H head, D width; E numbers in a head, F half of them


LayerInputs = tuple[Turn | None, Tensor | flex.VisibleBlocks | None]
"""The rotation and the mask of a layer."""


class KeysAndValues(Protocol):
    """The interface of a KV cache (`vita.nn.cache`)."""

    def begin(self, rows: int, tokens: int) -> tuple[Int[Tensor, "B T"], Tensor | None]:
        """Allocate `tokens` more slots in each row; return their positions and their attention mask."""
        ...

    def window_mask(self, window: int) -> Tensor | None:
        """Return the attention mask of the layers in which queries attend to the last `window` tokens."""
        ...

    def text_lengths(self) -> Int[Tensor, "B"]:
        """Return the length of each text, on which rotary frequencies may depend."""
        ...

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values of a layer; return all keys and values of the layer."""
        ...


class DividedVocabulary(Protocol):
    """The division of the vocabulary among processes (`vita.train.parallel`)."""

    def copy(self, hidden: Tensor) -> Tensor:
        """Return the input of the head, whose gradients are summed over the processes."""
        ...

    def gather(self, logits: Tensor) -> Tensor:
        """Return the logits of the whole vocabulary from those of this process."""
        ...

    def cross_entropy(
        self, hidden: Tensor, head: OutputHead, targets: Tensor, weights: Tensor, *, z_loss: float
    ) -> tuple[Tensor, Tensor]:
        """Return the sum of the loss over the targets, and the number of correct ones."""
        ...


class OutputHead(NamedTuple):
    """The output head: logits are the products of weights and hidden states, scaled and limited.

    The head of an encoder transforms hidden states first, and may add a bias.
    """

    weight: Float[Tensor, "V D"]
    scale: float = 1.0
    softcap: float | None = None
    bias: Float[Tensor, "V"] | None = None
    transform: MaskedTransform | None = None
    packed: Tensor | None = None
    """The weight in the layout of fast kernels, if the model was packed."""
    adapters: Callable[[OutputHead, Tensor], Tensor] | None = None
    """Computes the logits of rows with different heads (`vita.nn.adapters.batched`)."""
    quantized: FrozenLinear | None = None
    """The quantized weight, which replaces the others."""
    division: DividedVocabulary | None = None
    """The division of the vocabulary among processes; `weight` has the rows of this process then."""
    compiles: bool = False
    """True to compile the loss of a chunk of positions by itself."""

    def linear(self, hidden: Float[Tensor, "*N D"]) -> tuple[Float[Tensor, "*N E"], OutputHead]:
        """Return hidden states and a head without transform and bias that give the same logits.

        A bias is one more column of the weights, for one more hidden number, which is 1.
        """
        if self.transform is not None:
            hidden = self.transform(hidden)
        if self.bias is None:
            return hidden, self._replace(bias=None, transform=None)
        hidden = torch.cat((hidden, torch.ones_like(hidden[..., :1])), dim=-1)
        weight = torch.cat((self.weight, self.bias[:, None].to(self.weight.dtype)), dim=1)
        return hidden, OutputHead(weight, self.scale, self.softcap, division=self.division, compiles=self.compiles)

    def logits(self, hidden: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """Return the logits, in the dtype of `hidden`."""
        if self.adapters is not None:
            return self.adapters(self._replace(adapters=None), hidden)
        if self.transform is not None:
            hidden = self.transform(hidden)
        if self.division is not None:
            local_head = self._replace(transform=None, division=None)
            return self.division.gather(local_head.logits(self.division.copy(hidden)))
        products = self._products(hidden)
        if self.scale != 1.0:
            products = products * self.scale
        return self.softcap * torch.tanh(products / self.softcap) if self.softcap else products

    def _products(self, hidden: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        bias = None if self.bias is None else self.bias.to(hidden)
        if self.quantized is not None:
            products = self.quantized(hidden)
            return products if bias is None else products + bias
        return product(hidden, self.weight.to(hidden.dtype) if self.packed is None else self.packed, bias)


class MaskedTransform(nn.Module):
    """Dense layer, activation and norm of the head of a masked-language model."""

    def __init__(self, architecture: Architecture, head: MaskedHead) -> None:
        super().__init__()
        self.dense = Linear(architecture.width, architecture.width, bias=head.bias)
        self.activation = ACTIVATIONS[head.activation]
        self.norm = norm(architecture, architecture.width)

    def forward(self, hidden: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        return self.norm(self.activation(self.dense(hidden)))


class OutputBias(nn.Module):
    """The bias of the logits of a model whose output matrix is its embedding."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocabulary))


class Transformer(nn.Module):
    """A decoder or an encoder with its output head."""

    packed_head: Tensor | None
    batched_head: Callable[[OutputHead, Tensor], Tensor] | None = None
    """The heads of several adapters; None without them."""
    quantized_head: FrozenLinear | None
    divided_vocabulary: DividedVocabulary | None = None
    """The division of embedding and head among processes; None without it."""
    compiles_loss = False
    """True to compile the loss of a chunk of positions by itself."""

    def __init__(self, architecture: Architecture, *, attention: str = "sdpa") -> None:
        super().__init__()
        self.architecture = architecture
        self.model = Decoder(architecture, attention)
        head = architecture.masked_head
        if head is not None:
            self.masked_head = MaskedTransform(architecture, head)
        has_head = architecture.causal or head is not None
        has_bias = head is not None and head.output_bias
        if not architecture.tied and has_head:
            self.lm_head = Linear(architecture.width, architecture.vocabulary, bias=has_bias)
        elif has_bias:
            self.lm_head = OutputBias(architecture.vocabulary)
        self.register_buffer("packed_head", None, persistent=False)
        self.register_module("quantized_head", None)

    def empty_copy(self) -> Self:
        """Return a model of the same shape with zero parameters."""
        return type(self)(self.architecture)

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        *,
        documents: Int[Tensor, "B T"] | None = None,
        positions: Int[Tensor, "B T"] | None = None,
        cache: KeysAndValues | None = None,
        attention: Attention | None = None,
        types: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T V"]:
        """Return the logits of the token after each position; those of an encoder are of the token at the position."""
        hidden = self.hidden(
            ids, documents=documents, positions=positions, cache=cache, attention=attention, types=types
        )
        return self.head.logits(hidden)

    def hidden(
        self,
        ids: Int[Tensor, "B T"],
        *,
        documents: Int[Tensor, "B T"] | None = None,
        positions: Int[Tensor, "B T"] | None = None,
        cache: KeysAndValues | None = None,
        attention: Attention | None = None,
        types: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Return the input of the head: the normalized output of the last layer.

        Positions with equal numbers in `documents` attend to each other, in a decoder causally; without it a row is one
        text. Padding of an encoder gets a number of its own. `types` are the token types, by default 0.
        `positions` are the positions of the rotary embedding, by default 0, 1, 2, ... With `cache` a row continues its
        cached tokens, and the cache provides positions and mask. `attention` replaces the attention of the layers in
        this call.
        """
        return self.model(ids, documents, positions, cache, attention, types)

    @property
    def attention(self) -> Attention:
        """The attention function of the layers."""
        layer = self.model.layers[0]
        assert isinstance(layer, Layer)
        return layer.self_attn.attend

    @property
    def head(self) -> OutputHead:
        """The output head."""
        architecture = self.architecture
        scaled = self.head_weight, architecture.logit_scale, architecture.logit_softcap
        if architecture.causal:
            return OutputHead(
                *scaled,
                packed=self.packed_head,
                quantized=self.quantized_head,
                adapters=self.batched_head,
                division=self.divided_vocabulary,
                compiles=self.compiles_loss,
            )
        if architecture.masked_head is None:
            hint = "classify and embed with it, or use a model with a masked-language head"
            raise ModelError(
                "model", "is an encoder without a masked-language head, which predicts no tokens", hint=hint
            )
        bias = self.lm_head.bias if architecture.masked_head.output_bias else None
        return OutputHead(
            *scaled,
            bias=bias,
            transform=self.masked_head,
            packed=self.packed_head,
            division=self.divided_vocabulary,
            compiles=self.compiles_loss,
        )

    def pack(self) -> None:
        """Pack the weights of linear layers for inference on a CPU, in place (`vita.nn.packed`).

        The model can no longer be trained or saved. Embeddings, norms, routers and stacked experts stay as they are.
        """
        for module in self.modules():
            if getattr(module, "packable", False):
                pack_weight(module)
        # Tied: the embedding looks up rows of the ordinary layout.
        if self.quantized_head is None and can_pack(self.head_weight):
            self.packed_head = packed(self.head_weight)

    def join_projections(self) -> None:
        """Compute projections of the same input as one product, where their weights have 8 bits."""
        for module in list(self.modules()):
            if isinstance(module, SelfAttention | FeedForward):
                module.join_projections()

    def split_projections(self) -> None:
        """Restore the separate projections, which have the same values, so that an adapter can change them."""
        for module in list(self.modules()):
            if isinstance(module, SelfAttention | FeedForward):
                module.split_projections()

    @property
    def head_weight(self) -> Float[Tensor, "V D"]:
        """Weight of the output head, one row per token; the embedding if tied, or if the head is quantized."""
        head = getattr(self, "lm_head", None)
        return head.weight if isinstance(head, Linear) else self.model.embed_tokens.weight


class Decoder(nn.Module):
    """Embedding, layers and final norm."""

    def __init__(self, architecture: Architecture, attention: str) -> None:
        super().__init__()
        self.architecture = architecture
        self.embed_tokens = Embedding(architecture.vocabulary, architecture.width)
        if architecture.positions == "learned":
            self.embed_positions = Embedding(architecture.context, architecture.width)
        if architecture.token_types:
            self.embed_types = Embedding(architecture.token_types, architecture.width)
        if architecture.embedding_norm:
            self.embed_norm = norm(architecture, architecture.width)
        self.layers = nn.ModuleList(Layer(architecture, index, attention) for index in range(architecture.layers))
        if architecture.has_final_norm:
            self.norm = norm(architecture, architecture.width)
        if architecture.positions == "rotary":
            self.rotary = Rotary(architecture)
        if architecture.window_rope_base is not None:
            self.window_rotary = Rotary(architecture, base=architecture.window_rope_base, scaled=False)
        self.context = architecture.context
        self.block_masks = False
        """True to pass masks of blocks to the layers, whose attention is `flex`, instead of dense masks."""
        self.recomputes = False
        """True to compute the activations of each layer again in the backward pass, which saves memory."""
        self.observer: Callable[[int, Tensor], None] | None = None
        """Called with the index and the output of each layer. A hook would be compiled with its layer, every time."""

    def reset_tables(self) -> None:
        """Compute the tables that are not saved; called after `to_empty` of a model on the meta device."""
        for module in self.modules():
            if isinstance(module, Rotary):
                module.reset_parameters()

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        documents: Int[Tensor, "B T"] | None,
        positions: Int[Tensor, "B T"] | None,
        cache: KeysAndValues | None,
        attention: Attention | None = None,
        types: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        visible = None
        if documents is not None and not self.block_masks:
            visible = causal_within(documents) if self.architecture.causal else within(documents)
        if cache is not None:
            if not self.architecture.causal:
                raise ModelError("transformer", "an encoder has no cache: earlier tokens attend to later ones")
            if documents is not None or positions is not None:
                raise ModelError("transformer", "`documents` and `positions` cannot be combined with `cache`")
            positions, visible = cache.begin(*ids.shape)
        elif ids.shape[1] > self.context:
            message = f"at most {self.context} tokens, the model's context"
            raise ModelError("transformer", expected=message, got=ids.shape[1])
        elif documents is not None and positions is None and self.architecture.positions_depend_on_text:
            positions = positions_within(documents)
        states = self._embed(ids, positions, types)
        full, windowed = self._layer_inputs(ids.shape[1], positions, visible, cache)
        if self.block_masks and cache is None:
            full, windowed = self._with_block_masks(ids, documents, full, windowed)
        for index, layer in enumerate(self.layers):
            inputs = windowed if index in self.architecture.window_layers else full
            if self.recomputes and torch.is_grad_enabled() and cache is None:
                states = checkpoint(layer, states, *inputs, cache, attention, use_reentrant=False)
            else:
                states = layer(states, *inputs, cache, attention)
            if self.observer is not None:
                self.observer(index, states)
        return self.norm(states) if self.architecture.has_final_norm else states

    def _embed(
        self, ids: Int[Tensor, "B T"], positions: Int[Tensor, "#B T"] | None, types: Int[Tensor, "B T"] | None
    ) -> Float[Tensor, "B T D"]:
        states = self.embed_tokens(ids)
        if self.architecture.embedding_scale != 1.0:
            states = states * _rounded(self.architecture.embedding_scale, states.dtype)
        if self.architecture.positions == "learned":
            if positions is None:
                positions = torch.arange(ids.shape[1], device=ids.device)[None]
            states = states + self.embed_positions(positions)
        if self.architecture.token_types:
            states = states + self.embed_types(torch.zeros_like(ids) if types is None else types)
        return self.embed_norm(states) if self.architecture.embedding_norm else states

    def _layer_inputs(
        self, tokens: int, positions: Int[Tensor, "#B T"] | None, visible: Tensor | None, cache: KeysAndValues | None
    ) -> tuple[LayerInputs, LayerInputs]:
        """Return the rotation and the mask of layers without a window and of those with one."""
        architecture, turn = self.architecture, None
        if architecture.positions == "rotary":
            depends = cache is not None and architecture.rope_depends_on_length
            turn = self.rotary(tokens, positions, cache.text_lengths() if cache is not None and depends else None)
        full = turn, visible
        if not architecture.window_layers:
            return full, full
        assert architecture.window is not None
        if architecture.window_rope_base is not None:
            turn = self.window_rotary(tokens, positions)
        if cache is not None:
            return full, (turn, cache.window_mask(architecture.window))
        if tokens > architecture.window and not self.block_masks:
            device = self.embed_tokens.weight.device
            band = in_window(tokens, architecture.window, device=device, two_sided=not architecture.causal)
            if visible is None and architecture.causal:
                visible = causal(tokens, device=device)
            visible = band if visible is None else band & visible
        return full, (turn, visible)

    def _with_block_masks(
        self,
        ids: Int[Tensor, "B T"],
        documents: Int[Tensor, "B T"] | None,
        full: LayerInputs,
        windowed: LayerInputs,
    ) -> tuple[LayerInputs, LayerInputs]:
        """Return the inputs of the layers with masks of blocks, where the mask is more than causality."""
        architecture = self.architecture
        window = architecture.window if architecture.window_layers else None
        texts = torch.zeros_like(ids) if documents is None else documents
        if documents is not None:
            full = full[0], flex.visible_blocks(texts, causal=architecture.causal)
        if window is not None and window < ids.shape[1]:
            windowed = windowed[0], flex.visible_blocks(texts, causal=architecture.causal, window=window)
        elif documents is not None:
            windowed = windowed[0], full[1]
        return full, windowed


@lru_cache
def _rounded(value: float, dtype: torch.dtype) -> float:
    return torch.tensor(value, dtype=dtype, device="cpu").item()


class Layer(nn.Module):
    """A transformer layer: attention and feed-forward, each with a residual connection."""

    def __init__(self, architecture: Architecture, index: int, attention: str) -> None:
        super().__init__()
        width, position = architecture.width, architecture.norm_position
        self.norms_attention = architecture.has_input_norm(index)
        self.before, self.after = position in ("before", "both"), position in ("after", "both")
        self.sums = position == "residual"
        if self.norms_attention:
            self.input_layernorm = norm(architecture, width)
        attention_class = LatentSelfAttention if architecture.latent else SelfAttention
        self.self_attn = attention_class(architecture, index, attention)
        if self.after or self.sums:
            self.attention_output_norm = norm(architecture, width)
        if self.before:
            self.post_attention_layernorm = norm(architecture, width)
        experts = architecture.experts if architecture.has_experts(index) else None
        self.mlp = MixtureOfExperts(architecture, experts) if experts else FeedForward(architecture)
        if self.after or self.sums:
            self.mlp_output_norm = norm(architecture, width)
        self.has_experts = experts is not None
        self.parallel, self.residual_scale = architecture.parallel, architecture.residual_scale

    def forward(
        self,
        states: Float[Tensor, "B T D"],
        turn: Turn | None,
        visible: Tensor | flex.VisibleBlocks | None,
        cache: KeysAndValues | None,
        attention: Attention | None = None,
    ) -> Float[Tensor, "B T D"]:
        queried = self.input_layernorm(states) if self.norms_attention else states
        mixed = self.self_attn(queried, turn, visible, cache, attention)
        after_attention = states + self._scaled(self.attention_output_norm(mixed) if self.after else mixed)
        if self.sums:
            after_attention = self.attention_output_norm(after_attention)
        inputs = states if self.parallel else after_attention
        normalized = self.post_attention_layernorm(inputs) if self.before else inputs
        # A pass with a cache answers requests, whose bits must not depend on other requests of the batch.
        output = self.mlp(normalized, invariant=cache is not None) if self.has_experts else self.mlp(normalized)
        total = after_attention + self._scaled(self.mlp_output_norm(output) if self.after else output)
        return self.mlp_output_norm(total) if self.sums else total

    def _scaled(self, states: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return states if self.residual_scale == 1.0 else states * self.residual_scale


class SelfAttention(nn.Module):
    """Grouped-query attention, optionally with norms on queries and keys before the rotation (Dehghani et al. 2023)."""

    qkv_proj: Int8Linear | None

    def __init__(self, architecture: Architecture, index: int, attention: str) -> None:
        super().__init__()
        width, size = architecture.width, architecture.head_dim
        queries, keys = architecture.heads * size, architecture.kv_heads * size
        self.index, self.head_dim, self.qk_norm = index, size, architecture.qk_norm
        self.attend = BACKENDS[attention]
        self.rotates = index not in architecture.unrotated_layers
        self.options = AttentionOptions(
            architecture.score_scale,
            architecture.attention_softcap,
            architecture.window if index in architecture.window_layers else None,
            architecture.causal,
        )
        has_bias = "qkv" in architecture.biases
        self.q_proj = Linear(width, queries, bias=has_bias)
        self.k_proj = Linear(width, keys, bias=has_bias)
        self.v_proj = Linear(width, keys, bias=has_bias)
        self.o_proj = Linear(queries, width, bias="output" in architecture.biases)
        self.sizes = [queries, keys, keys]
        self.register_module("qkv_proj", None)  # 8-bit weights of the three projections, which replace them
        if self.qk_norm != "none":
            per_head = self.qk_norm == "head"
            self.q_norm = norm(architecture, size if per_head else queries)
            self.k_norm = norm(architecture, size if per_head else keys)

    def forward(
        self,
        states: Float[Tensor, "B T D"],
        turn: Turn | None,
        visible: Tensor | flex.VisibleBlocks | None,
        cache: KeysAndValues | None,
        attention: Attention | None = None,
    ) -> Float[Tensor, "B T D"]:
        queries, keys, values = self._projections(states)
        queries, keys = self._normed_heads(queries, keys)
        if turn is not None and self.rotates:
            queries, keys = rotate(queries, turn), rotate(keys, turn)
        values = self._heads(values).transpose(1, 2)
        queries, keys = queries.transpose(1, 2), keys.transpose(1, 2)
        if cache is not None:
            keys, values = cache.write(self.index, keys, values)
        mixed = (attention or self.attend)(queries, keys, values, visible, self.options)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))

    def _projections(self, states: Float[Tensor, "B T D"]) -> Sequence[Tensor]:
        joined = self.qkv_proj
        if joined is not None:
            return joined(states).split(self.sizes, dim=-1)
        return linear_products(states, self.q_proj, self.k_proj, self.v_proj)

    def join_projections(self) -> None:
        """Compute the projections of the input as one product, if they have 8-bit weights."""
        if (joined := Int8Linear.join((self.q_proj, self.k_proj, self.v_proj))) is not None:
            self.qkv_proj = joined
            del self.q_proj, self.k_proj, self.v_proj

    def split_projections(self) -> None:
        """Undo `join_projections`, between the passes of another thread or beside them."""
        if self.qkv_proj is not None:
            self.q_proj, self.k_proj, self.v_proj = self.qkv_proj.split(self.sizes)
            self.qkv_proj = None

    def _normed_heads(self, queries: Float[Tensor, "B T N"], keys: Float[Tensor, "B T M"]) -> tuple[Tensor, Tensor]:
        if self.qk_norm == "projection":
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        queries, keys = self._heads(queries), self._heads(keys)
        return (self.q_norm(queries), self.k_norm(keys)) if self.qk_norm == "head" else (queries, keys)

    def _heads(self, states: Float[Tensor, "B T N"]) -> Float[Tensor, "B T H E"]:
        return states.unflatten(-1, (-1, self.head_dim))


class Embedding(nn.Embedding):
    """An embedding, initialized to zero."""

    def forward(self, input: Int[Tensor, "*N"]) -> Float[Tensor, "*N D"]:
        if row_sums.sums_in_order(self.weight):
            return row_sums.embed(input, self.weight)
        return super().forward(input)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
