"""Context parallelism: each process computes a part of the tokens of every row.

Queries stay where they are, and the keys and values of a layer are gathered from all processes of the axis; their
gradients are returned by a reduce-scatter. The mask between documents is that of the whole row.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vita.nn.attention import BACKENDS, PLAIN, AttentionOptions, positions_within
from vita.nn.latent_attention import LatentSelfAttention
from vita.nn.transformer import SelfAttention, Transformer
from vita.spine.errors import ConfigError
from vita.train.parallel.collectives import gather_distinct
from vita.train.parallel.mesh import ProcessMesh

# B row, T tokens of a row, L tokens of this process, H query heads, K key heads, D numbers in a head

AXIS = "context"
ROW_TENSORS = ("ids", "learn", "documents", "positions")
"""Tensors with a column per token of a row, which are divided."""
SLOT_TENSORS = ("slots", "targets")
"""Positions of masked tokens, and the tokens themselves."""


class ContextDivision:
    """The division of rows among the processes of the axis, and the attention over whole rows."""

    def __init__(self, model: Transformer, world: ProcessMesh) -> None:
        """Replace the attention of the layers of `model`, in place."""
        self.count, self.index = world.sizes[AXIS], world.coordinates[AXIS]
        self.architecture = model.architecture
        if self.count == 1:
            return
        if self.architecture.rope_depends_on_length:
            problem = "rotary frequencies of this model depend on the length of a text"
            raise ConfigError("parallel.context", problem, hint="use `shard` or `tensor`")
        self._group = world.group_name(AXIS)
        self._documents: Tensor | None = None
        self._length = 0
        self._masks: dict[int | None, Tensor] = {}
        for module in model.modules():
            if isinstance(module, SelfAttention | LatentSelfAttention):
                module.attend = self.attend

    def divide(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the part of a micro-batch that this process computes."""
        if self.count == 1:
            return tensors
        self._check(tensors)
        causal = self.architecture.causal
        following = 1 if causal else 0  # the next token is the last target
        self._length = tensors["ids"].shape[1] - following
        if self._length % self.count:
            expected = f"rows whose length is a multiple of the {self.count} processes of the axis `context`"
            raise ConfigError("parallel.context", expected=expected, got=self._length)
        size = self._length // self.count
        start = self.index * size
        part = slice(start, start + size + following)
        divided = {name: tensors[name][:, part] for name in ROW_TENSORS if name in tensors}
        if "slots" in tensors:
            local = tensors["slots"] - start
            divided["learn"] = tensors["learn"] & (local >= 0) & (local < size)
            divided |= {"slots": local.clamp(0, size - 1), "targets": tensors["targets"]}
        elif "learn" in tensors:
            divided["valid"] = _before_last_target(tensors["learn"])[:, start + 1 : start + 1 + size]
        documents = tensors.get("documents")
        self._documents = None if documents is None else documents[:, : self._length]
        self._masks = {}
        if "positions" not in tensors:
            divided["positions"] = self._positions(tensors["ids"], documents)[:, part]
        return divided

    def attend(
        self,
        queries: Float[Tensor, "B H L D"],
        keys: Float[Tensor, "B K L D"],
        values: Float[Tensor, "B K L D"],
        visible: Tensor | None = None,
        options: AttentionOptions = PLAIN,
    ) -> Float[Tensor, "B H L D"]:
        """Attend to the keys of all processes; `visible`, the mask of the part alone, is replaced."""
        joined = gather_distinct(torch.stack([keys, values]), self._group, dimension=3, count=self.count)
        mask = self._mask(options, queries.device)
        return BACKENDS["sdpa"](queries, joined[0], joined[1], mask, options)

    def _mask(self, options: AttentionOptions, device: torch.device) -> Bool[Tensor, "#B 1 L T"]:
        """Return the keys of the row that the queries of this process attend to."""
        if options.window not in self._masks:
            size = self._length // self.count
            keys = torch.arange(self._length, device=device)
            queries = keys[self.index * size : (self.index + 1) * size, None]
            mask = queries >= keys if options.causal else torch.ones_like(queries >= keys)
            if options.window is not None:
                mask = mask & ((queries - keys).abs() < options.window)
            mask = mask[None, None]
            if self._documents is not None:
                own = self._documents[:, self.index * size : (self.index + 1) * size]
                mask = mask & (own[:, :, None] == self._documents[:, None, :])[:, None]
            self._masks[options.window] = mask
        return self._masks[options.window]

    def _positions(self, ids: Int[Tensor, "B T"], documents: Int[Tensor, "B T"] | None) -> Int[Tensor, "B T"]:
        if documents is not None and self.architecture.positions_depend_on_text:
            return positions_within(documents)
        return torch.arange(ids.shape[1], device=ids.device).expand_as(ids)

    def _check(self, tensors: Mapping[str, Tensor]) -> None:
        unknown = [name for name in tensors if name not in (*ROW_TENSORS, *SLOT_TENSORS)]
        if unknown or tensors["ids"].ndim != 2:
            problem = "the loss of this stage needs whole rows"
            raise ConfigError("parallel.context", problem, hint="use `shard` or `tensor`")


def _before_last_target(learn: Bool[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """Return True for the targets of a row up to the last one that is learned."""
    return learn.bool().flip(-1).cumsum(-1).flip(-1) > 0
