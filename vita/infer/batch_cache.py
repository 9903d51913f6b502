"""Places for texts that come and go while others are being answered, and arithmetic that takes no notice of them.

A product of matrices may round differently with another number of rows, or in another row, and an answer could then
depend on who else is asking. So a step always calculates with all the places, taken or not, in the same shapes, and
with so many of them that each rounds alike (`steady_places` finds the number by trying). Attention, whose cost grows
with the places, is taken over the first ones up to the last that is taken: it is calculated for each by itself anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from vita.nn.architecture import Architecture
from vita.nn.attention import Attention
from vita.nn.cache import Cache
from vita.nn.transformer import Layer, Transformer

# L layer, B place, N place up to the last taken, K key head, H query head, S slot, E numbers in a head

LONG_TEXT = 640
"""Tokens of the long neighbour that is tried: more than the 512 slots that the fused kernel takes at a time."""
GROUP = 8
"""Queries that are taken together."""


class Rows:
    """Keys and values of `count` places; a text joins or leaves without the others being copied.

    Slots are counted in whole blocks, so that a longer neighbour adds nothing but hidden slots, block by block.
    """

    def __init__(
        self,
        architecture: Architecture,
        count: int,
        *,
        places: int | None = None,
        block: int = 64,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:
        """`places`, if more, are calculated; those beyond `count` are never taken."""
        places = max(count, places or 0)
        self.count, self.block, self.most = count, block, -(-architecture.context // block) * block
        shape = architecture.layers, places, architecture.kv_heads, 0, architecture.head_dim
        self.keys: Float[Tensor, "L B K S E"] = torch.zeros(shape, dtype=dtype, device=device)
        self.values: Float[Tensor, "L B K S E"] = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths = [0] * places
        """Tokens that each place holds; 0 for a free one."""
        self._places = torch.arange(places, device=device)[:, None]
        self._slots = torch.arange(self.most, device=device)
        self._positions = torch.zeros(places, 1, dtype=torch.int64, device=device)
        self._live = self._end = 0

    @property
    def free(self) -> int | None:
        """The first free place."""
        return next((place for place in range(self.count) if not self.lengths[place]), None)

    def put(self, place: int, text: Cache) -> None:
        """A text that was read by itself takes a free place."""
        (length,) = text.lengths
        self._make_room(length + 1)
        self.keys[:, place, :, :length] = text.keys[:, 0, :, :length]
        self.values[:, place, :, :length] = text.values[:, 0, :, :length]
        self.lengths[place] = length

    def clear(self, place: int) -> None:
        """Frees a place. Wiped, since a hidden slot is still multiplied, by nothing, and might hold NaN."""
        for kept in (self.keys, self.values):
            kept[:, place, :, : max(1, self.lengths[place])] = 0
        self.lengths[place] = 0

    # -- what the layers ask (`vita.nn.transformer.KeysAndValues`)

    def begin(self, tokens: int) -> tuple[Int[Tensor, "B 1"], Bool[Tensor, "N 1 1 S"]]:
        """Makes room for a token more in each taken place; answers with positions and what they may see."""
        assert tokens == 1
        self._live = max(place for place, length in enumerate(self.lengths) if length) + 1
        longest = max(self.lengths) + 1
        self._make_room(longest)
        self._end = -(-longest // self.block) * self.block
        self._positions = torch.tensor(self.lengths, device=self._slots.device)[:, None]
        self.lengths = [length + 1 if length else 0 for length in self.lengths]
        return self._positions, self._slots[: self._end] <= self._positions[: self._live, None, :, None]

    def write(
        self, layer: int, keys: Float[Tensor, "B K 1 E"], values: Float[Tensor, "B K 1 E"]
    ) -> tuple[Float[Tensor, "N K S E"], Float[Tensor, "N K S E"]]:
        """Keeps the new keys and values of a layer and gives those up to the last taken place."""
        kept_keys, kept_values = self.keys[layer], self.values[layer]
        kept_keys[self._places, :, self._positions] = keys.transpose(1, 2)
        kept_values[self._places, :, self._positions] = values.transpose(1, 2)
        return kept_keys[: self._live, :, : self._end], kept_values[: self._live, :, : self._end]

    def _make_room(self, slots: int) -> None:
        held = self.keys.shape[3]
        if slots <= held:
            return
        # Twice as many each time: what was said before is copied a few times in a life, not at every block.
        wanted = min(self.most, max(-(-slots // self.block) * self.block, 2 * held))
        self.keys, self.values = (F.pad(kept, (0, 0, 0, wanted - held)) for kept in (self.keys, self.values))


@dataclass(frozen=True)
class Steadiness:
    """How many places a step calculates, and whether every text's numbers are the same in all of them."""

    places: int
    steady: bool


@torch.inference_mode()
def steady_places(model: Transformer, count: int) -> Steadiness:
    """Find the least number of places, `count` or more, at which a text's numbers do not depend on place and company.

    Kernels take rows by tiles and numbers by vectors, and what remains at the end by other instructions, which round
    otherwise: so a multiple of 16. No library promises the rest, and it is tried, on texts of a bounded length. Call
    `serve_rows` first.
    """
    if count == 1:
        return Steadiness(1, steady=True)  # always alone
    least = -(-count // 16) * 16
    for places in range(least, least + 65, 16):
        if _rounds_alike(model, places):
            return Steadiness(places, steady=True)
    return Steadiness(least, steady=False)


def _rounds_alike(model: Transformer, places: int) -> bool:
    """Whether a short text has the same logits in every place, alone, in a crowd and beside a long one."""
    context = model.architecture.context
    if context < 2:
        return True  # a prompt fills it, and no step is taken
    short, long = (_random_text(model, min(length, context - 1)) for length in (5, LONG_TEXT))
    crowd = _step(model, dict.fromkeys(range(places), short), places)
    alone = _step(model, {0: short}, places)
    beside = _step(model, {0: short, places - 1: long}, places)
    same = torch.equal(crowd, crowd[:1].expand_as(crowd))
    return same and torch.equal(alone[0], crowd[0]) and torch.equal(beside[0], crowd[0])


def _random_text(model: Transformer, length: int) -> Cache:
    """A text of random keys and values, which costs no pass through the model."""
    weight, chance = model.head_weight, torch.Generator().manual_seed(length)
    cache = Cache(model.architecture, 1, dtype=weight.dtype, device=weight.device)
    cache.begin(length)
    for numbers in (cache.keys, cache.values):
        numbers[:, :, :, :length] = torch.randn(numbers[:, :, :, :length].shape, generator=chance).to(numbers)
    return cache


def _step(model: Transformer, texts: dict[int, Cache], places: int) -> Float[Tensor, "B V"]:
    """Logits of every place after one step with the same token in all."""
    weight = model.head_weight
    rows = Rows(model.architecture, places, dtype=weight.dtype, device=weight.device)
    for place, text in texts.items():
        rows.put(place, text)
    tokens = torch.full((places, 1), model.architecture.vocabulary - 1, device=weight.device)
    return F.linear(model.hidden(tokens, cache=rows)[:, -1], weight).nan_to_num()  # a broken model is not unsteady


# -- attention of a step


def serve_rows(model: Transformer) -> None:
    """Let the model's attention take fewer texts than there are places, and round alike for each of them."""
    for layer in model.model.layers:
        assert isinstance(layer, Layer)
        layer.self_attn.attend = _for_steps(layer.self_attn.attend)


def _for_steps(attend: Attention) -> Callable[..., Tensor]:
    """Attention that takes the texts up to the last one, and a single query per text in groups of `GROUP`."""

    def attention(
        queries: Float[Tensor, "B H T E"],
        keys: Float[Tensor, "N K S E"],
        values: Float[Tensor, "N K S E"],
        visible: Bool[Tensor, "#N 1 T S"] | None,
    ) -> Float[Tensor, "B H T E"]:
        live, places = keys.shape[0], queries.shape[0]
        step = _grouped if queries.shape[2] == 1 else _plain
        mixed = step(attend, queries[:live], keys, values, visible)
        return F.pad(mixed, (0, 0, 0, 0, 0, 0, 0, places - live)) if live < places else mixed

    return attention


def _plain(attend: Attention, queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None) -> Tensor:
    return attend(queries, keys, values, visible)


def _grouped(
    attend: Attention,
    queries: Float[Tensor, "N H 1 E"],
    keys: Float[Tensor, "N K S E"],
    values: Float[Tensor, "N K S E"],
    visible: Bool[Tensor, "#N 1 1 S"] | None,
) -> Float[Tensor, "N H 1 E"]:
    """One query per head, computed as the queries of `GROUP` positions that see the same keys.

    PyTorch's fused kernel gives each of its threads a piece of one buffer, whose size grows with the queries taken
    together. With one query the pieces do not begin at vectors of 64 bytes, and matrix products round differently in
    another thread, so that a text's numbers depend on its place. The heads that share keys are taken together, which
    reads the keys once, and filled up to a multiple of `GROUP`.
    """
    count, heads, _, size = queries.shape
    kv_heads, slots = keys.shape[1], keys.shape[2]
    shared = heads // kv_heads
    filled = -(-shared // GROUP) * GROUP
    together = F.pad(queries.reshape(count, kv_heads, shared, size), (0, 0, 0, filled - shared))
    if visible is None:
        visible = torch.ones(1, 1, 1, slots, dtype=torch.bool, device=queries.device)
    mixed = attend(together, keys, values, visible.expand(-1, -1, filled, -1))
    return mixed[:, :, :shared].reshape(count, heads, 1, size)
