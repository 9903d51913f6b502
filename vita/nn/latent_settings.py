"""The sizes of multi-head latent attention (DeepSeek-AI 2024, DeepSeek-V2, sec. 2.1), and its weights and cache.

Keys and values of a token are computed from a latent vector, which all heads share. A second part of each key carries
the position; it is one rotated vector for all heads. The KV cache stores only these two vectors.
"""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from vita.spine.config import Settings


class CacheShape(NamedTuple):
    """Sizes of the KV cache of a layer, per token."""

    heads: int
    """Vectors of keys, and of values."""
    key_dim: int
    """Numbers of a key."""
    value_dim: int
    """Numbers of a value; 0 where values are computed from the keys."""

    @property
    def numbers(self) -> int:
        """Numbers per token."""
        return self.heads * (self.key_dim + self.value_dim)


class LatentAttention(Settings):
    """Multi-head latent attention in place of grouped-query attention."""

    query_rank: int | None = Field(default=None, ge=1)
    """Size of the latent vector of the queries; by default queries are one projection of the hidden states."""
    key_value_rank: int = Field(ge=1)
    """Size of the latent vector of keys and values."""
    unrotated_dim: int = Field(ge=1)
    """Numbers of each query and key without position, which the heads compute from the latent vector."""
    rotated_dim: int = Field(ge=2, multiple_of=2)
    """Numbers of each query and key with rotary position; those of the key are shared by all heads."""
    value_dim: int = Field(ge=1)
    """Numbers of each value."""
    interleaved: bool = True
    """Rotate neighbours (2i, 2i + 1), as in the files of DeepSeek, instead of the two halves of the vector."""

    @property
    def head_dim(self) -> int:
        """Size of each query and key."""
        return self.unrotated_dim + self.rotated_dim

    @property
    def cached_numbers(self) -> int:
        """Numbers per token and layer in the KV cache."""
        return self.key_value_rank + self.rotated_dim

    def matrix_shapes(self, width: int, heads: int) -> dict[str, tuple[int, int]]:
        """Return outputs and inputs of each projection, by its name."""
        queries = heads * self.head_dim
        if self.query_rank is None:
            shapes = {"q_proj": (queries, width)}
        else:
            shapes = {"q_a_proj": (self.query_rank, width), "q_b_proj": (queries, self.query_rank)}
        return {
            **shapes,
            "kv_a_proj_with_mqa": (self.cached_numbers, width),
            "kv_b_proj": (heads * (self.unrotated_dim + self.value_dim), self.key_value_rank),
            "o_proj": (width, heads * self.value_dim),
        }

    def norm_sizes(self) -> dict[str, int]:
        """Return the size of each norm of a latent vector, by its name."""
        queries = {} if self.query_rank is None else {"q_a_layernorm": self.query_rank}
        return {**queries, "kv_a_layernorm": self.key_value_rank}

    def matrix_parameters(self, width: int, heads: int) -> int:
        """Return the weights of the projections."""
        return sum(outputs * inputs for outputs, inputs in self.matrix_shapes(width, heads).values())

    def vector_parameters(self, width: int, biases: tuple[str, ...]) -> int:
        """Return the weights of the norms and the biases: of the projections to latent vectors, and of the output."""
        first = self.cached_numbers + (self.query_rank or 0)
        sizes = {"qkv": first, "output": width}
        return sum(self.norm_sizes().values()) + sum(sizes.get(bias, 0) for bias in biases)

    def stored_activations(self, heads: int) -> int:
        """Return the numbers per token that the backward pass of a layer needs, besides those of its norms.

        The latent vectors before and after their norms, queries before and after the rotation, keys and values before
        and after they are joined and padded, and the output of attention.
        """
        latents = 2 * ((self.query_rank or 0) + self.cached_numbers)
        joined = 3 * max(self.head_dim, self.value_dim)
        return latents + heads * (self.head_dim + self.unrotated_dim + self.value_dim + joined + self.value_dim)
