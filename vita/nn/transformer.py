"""The decoder: token ids in, logits out.

Parameters have the names of Qwen3, so that a state dict is a Hugging Face checkpoint. The parameters of a new
`Transformer` are zero; `vita.nn.init` or `vita.nn.hf` sets their values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vita.nn import blocked  # noqa: F401 - registers its backend
from vita.nn.architecture import Architecture
from vita.nn.attention import BACKENDS, Attention, causal_within
from vita.spine.errors import ModelError

# B batch, T position, V vocabulary, H head, D width; E numbers in a head, F half of them


class KeysAndValues(Protocol):
    """The interface of a KV cache (`vita.nn.cache`)."""

    def begin(self, rows: int, tokens: int) -> tuple[Int[Tensor, "B T"], Tensor | None]:
        """Allocate `tokens` more slots in each row; return their positions and their attention mask."""
        ...

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values of a layer; return all keys and values of the layer."""
        ...


class Transformer(nn.Module):
    """A Qwen3-shaped decoder with its output head."""

    def __init__(self, architecture: Architecture, *, attention: str = "sdpa") -> None:
        super().__init__()
        self.architecture = architecture
        self.model = Decoder(architecture, attention)
        if not architecture.tied:
            self.lm_head = Linear(architecture.width, architecture.vocabulary)

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        *,
        documents: Int[Tensor, "B T"] | None = None,
        positions: Int[Tensor, "B T"] | None = None,
        cache: KeysAndValues | None = None,
        attention: Attention | None = None,
    ) -> Float[Tensor, "B T V"]:
        """Return the logits of the token after each position."""
        hidden = self.hidden(ids, documents=documents, positions=positions, cache=cache, attention=attention)
        return F.linear(hidden, self.head_weight)

    def hidden(
        self,
        ids: Int[Tensor, "B T"],
        *,
        documents: Int[Tensor, "B T"] | None = None,
        positions: Int[Tensor, "B T"] | None = None,
        cache: KeysAndValues | None = None,
        attention: Attention | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Return the input of the head: the normalized output of the last layer.

        Positions with equal numbers in `documents` attend to each other, causally; without it a row is one text.
        `positions` are the positions of the rotary embedding, by default 0, 1, 2, ... With `cache` a row continues its
        cached tokens, and the cache provides positions and mask. `attention` replaces the attention of the layers in
        this call.
        """
        return self.model(ids, documents, positions, cache, attention)

    @property
    def attention(self) -> Attention:
        """The attention function of the layers."""
        layer = self.model.layers[0]
        assert isinstance(layer, Layer)
        return layer.self_attn.attend

    @property
    def head_weight(self) -> Float[Tensor, "V D"]:
        """Weight of the output head, one row per token; the embedding if tied."""
        return self.model.embed_tokens.weight if self.architecture.tied else self.lm_head.weight


class Decoder(nn.Module):
    """Embedding, layers and final norm."""

    def __init__(self, architecture: Architecture, attention: str) -> None:
        super().__init__()
        self.embed_tokens = Embedding(architecture.vocabulary, architecture.width)
        self.layers = nn.ModuleList(Layer(architecture, index, attention) for index in range(architecture.layers))
        self.norm = RMSNorm(architecture.width, architecture.norm_eps)
        self.rotary = Rotary(architecture)
        self.context = architecture.context

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        documents: Int[Tensor, "B T"] | None,
        positions: Int[Tensor, "B T"] | None,
        cache: KeysAndValues | None,
        attention: Attention | None = None,
    ) -> Float[Tensor, "B T D"]:
        visible = None if documents is None else causal_within(documents)
        if cache is not None:
            if documents is not None or positions is not None:
                raise ModelError("transformer", "`documents` and `positions` cannot be combined with `cache`")
            positions, visible = cache.begin(*ids.shape)
        elif ids.shape[1] > self.context:
            message = f"at most {self.context} tokens, the model's context"
            raise ModelError("transformer", expected=message, got=ids.shape[1])
        turn = self.rotary(ids.shape[1], positions)
        states = self.embed_tokens(ids)
        for layer in self.layers:
            states = layer(states, turn, visible, cache, attention)
        return self.norm(states)


class Layer(nn.Module):
    """A transformer layer: attention and feed-forward, each with a residual connection."""

    def __init__(self, architecture: Architecture, index: int, attention: str) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(architecture.width, architecture.norm_eps)
        self.self_attn = SelfAttention(architecture, index, attention)
        self.post_attention_layernorm = RMSNorm(architecture.width, architecture.norm_eps)
        self.mlp = FeedForward(architecture)

    def forward(
        self,
        states: Float[Tensor, "B T D"],
        turn: Turn,
        visible: Tensor | None,
        cache: KeysAndValues | None,
        attention: Attention | None = None,
    ) -> Float[Tensor, "B T D"]:
        states = states + self.self_attn(self.input_layernorm(states), turn, visible, cache, attention)
        return states + self.mlp(self.post_attention_layernorm(states))


class SelfAttention(nn.Module):
    """Grouped-query attention with a norm on every query and key (Dehghani et al. 2023) before the rotation."""

    def __init__(self, architecture: Architecture, index: int, attention: str) -> None:
        super().__init__()
        width, size = architecture.width, architecture.head_dim
        self.index, self.head_dim = index, size
        self.attend = BACKENDS[attention]
        self.q_proj = Linear(width, architecture.heads * size)
        self.k_proj = Linear(width, architecture.kv_heads * size)
        self.v_proj = Linear(width, architecture.kv_heads * size)
        self.o_proj = Linear(architecture.heads * size, width)
        self.q_norm = RMSNorm(size, architecture.norm_eps)
        self.k_norm = RMSNorm(size, architecture.norm_eps)

    def forward(
        self,
        states: Float[Tensor, "B T D"],
        turn: Turn,
        visible: Tensor | None,
        cache: KeysAndValues | None,
        attention: Attention | None = None,
    ) -> Float[Tensor, "B T D"]:
        queries = rotate(self.q_norm(self._heads(self.q_proj(states))), turn)
        keys = rotate(self.k_norm(self._heads(self.k_proj(states))), turn)
        values = self._heads(self.v_proj(states)).transpose(1, 2)
        queries, keys = queries.transpose(1, 2), keys.transpose(1, 2)
        if cache is not None:
            keys, values = cache.write(self.index, keys, values)
        mixed = (attention or self.attend)(queries, keys, values, visible)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))

    def _heads(self, states: Float[Tensor, "B T N"]) -> Float[Tensor, "B T H E"]:
        return states.unflatten(-1, (-1, self.head_dim))


class FeedForward(nn.Module):
    """The feed-forward network: SwiGLU (Shazeer 2020)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.gate_proj = Linear(architecture.width, architecture.feedforward)
        self.up_proj = Linear(architecture.width, architecture.feedforward)
        self.down_proj = Linear(architecture.feedforward, architecture.width)

    def forward(self, states: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.down_proj(F.silu(self.gate_proj(states)) * self.up_proj(states))


class RMSNorm(nn.Module):
    """RMSNorm: x / rms(x) * weight (Zhang & Sennrich 2019), computed in fp32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, states: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        return F.rms_norm(states.float(), self.weight.shape, self.weight.float(), self.eps).type_as(states)


Turn = tuple[Float[Tensor, "B T 1 F"], Float[Tensor, "B T 1 F"]]
"""Cosine and sine of the rotary angles of each position."""


class Rotary(nn.Module):
    """Tables of the rotary angles (Su et al. 2021), in fp32 and not saved."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        shape = architecture.context, architecture.head_dim // 2
        self.register_buffer("cosine", torch.empty(shape), persistent=False)
        self.register_buffer("sine", torch.empty(shape), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Compute the tables; call again after `to_empty` of a model on the meta device."""
        device, size = self.cosine.device, self.architecture.head_dim
        if device.type == "meta":
            return
        # On the CPU, so that all devices use identical angles.
        frequencies = 1.0 / self.architecture.rope_base ** (torch.arange(0, size, 2, device="cpu").float() / size)
        angles = torch.outer(torch.arange(self.architecture.context, device="cpu").float(), frequencies)
        self.cosine, self.sine = angles.cos().to(device), angles.sin().to(device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Rotary:
        """Move the tables with the model, but do not round them in `model.bfloat16()`."""
        super()._apply(fn, recurse)
        if self.cosine.dtype != torch.float32:
            self.reset_parameters()
        return self

    def forward(self, tokens: int, positions: Int[Tensor, "B T"] | None) -> Turn:
        if positions is None:
            return self.cosine[None, :tokens, None], self.sine[None, :tokens, None]
        return self.cosine[positions].unsqueeze(2), self.sine[positions].unsqueeze(2)


def rotate(states: Float[Tensor, "B T H E"], turn: Turn) -> Float[Tensor, "B T H E"]:
    """Rotate each pair (i, i + E/2) by the angle of its position: the half-split convention of Llama and Qwen."""
    cosine, sine = turn
    first, second = states.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1).type_as(states)


class Linear(nn.Linear):
    """A linear layer without bias, initialized to zero."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)


class Embedding(nn.Embedding):
    """An embedding, initialized to zero."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
