"""Places for texts that come and go while others are being answered, and arithmetic that takes no notice of them.

A product of matrices may round differently with another number of rows, or in another row, and an answer could then
depend on who else is asking. So a step always calculates with all the places, taken or not, in the same shapes, and
with so many of them that each rounds alike (`steady_places` finds the number by trying). Attention, whose cost grows
with the places, is taken over the first ones up to the last that is taken: it is calculated for each by itself anyway.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from vita.nn.architecture import Architecture
from vita.nn.attention import Attention
from vita.nn.cache import Cache
from vita.nn.transformer import Layer, Transformer

# L layer, B place, N place up to the last taken, K key head, S slot, E numbers in a head

log = logging.getLogger(__name__)


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


@torch.inference_mode()
def steady_places(model: Transformer, count: int) -> int:
    """The least number of places, `count` or more, at which a text's numbers are the same in every place and company.

    Kernels take rows by tiles and numbers by vectors, and what remains at the end by other instructions, which round
    otherwise: so a multiple of 16. No library promises the rest, and it is tried.
    """
    if count == 1:
        return 1  # always alone
    least = -(-count // 16) * 16
    for places in range(least, least + 65, 16):
        if _rounds_alike(model, places):
            return places
    log.warning("no number of places rounds alike in all of them; answers may depend on their company")
    return least


def _rounds_alike(model: Transformer, places: int) -> bool:
    architecture = model.architecture
    if architecture.context < 2:
        return True  # a prompt fills it, and no step is taken
    chance = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, architecture.vocabulary, (architecture.context,), generator=chance).tolist()
    short, long = (_read(model, tokens[:length]) for length in (min(5, len(tokens) - 1), len(tokens) - 1))
    crowd = _step(model, dict.fromkeys(range(places), short), places, token=tokens[-1])
    alone = _step(model, {0: short}, places, token=tokens[-1])
    beside = _step(model, {0: short, places - 1: long} if places > 1 else {0: short}, places, token=tokens[-1])
    same = torch.equal(crowd, crowd[:1].expand_as(crowd))
    return same and torch.equal(alone[0], crowd[0]) and torch.equal(beside[0], crowd[0])


def _read(model: Transformer, ids: list[int]) -> Cache:
    device = model.head_weight.device
    cache = Cache(model.architecture, 1, dtype=model.head_weight.dtype, device=device)
    model.hidden(torch.tensor([ids], device=device), cache=cache)
    return cache


def _step(model: Transformer, texts: dict[int, Cache], places: int, *, token: int) -> Float[Tensor, "B V"]:
    """Logits of every place after one step with the same token in all."""
    weight = model.head_weight
    rows = Rows(model.architecture, places, dtype=weight.dtype, device=weight.device)
    for place, text in texts.items():
        rows.put(place, text)
    tokens = torch.full((places, 1), token, device=weight.device)
    return F.linear(model.hidden(tokens, cache=rows)[:, -1], weight).nan_to_num()  # a broken model is not unsteady


def serve_rows(model: Transformer) -> None:
    """Lets the model's attention take fewer texts than there are places; nothing else about it changes."""
    for layer in model.model.layers:
        assert isinstance(layer, Layer)
        layer.self_attn.attend = _up_to_the_last(layer.self_attn.attend)


def _up_to_the_last(attend: Attention) -> Callable[..., Tensor]:
    def attention(
        queries: Float[Tensor, "B H T E"],
        keys: Float[Tensor, "N K S E"],
        values: Float[Tensor, "N K S E"],
        visible: Bool[Tensor, "#N 1 T S"] | None,
    ) -> Float[Tensor, "B H T E"]:
        live = keys.shape[0]
        mixed = attend(queries[:live], keys, values, visible)
        return F.pad(mixed, (0, 0, 0, 0, 0, 0, 0, queries.shape[0] - live)) if live < queries.shape[0] else mixed

    return attention
