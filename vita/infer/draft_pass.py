"""A decoding step that computes several tokens of an answer: its last token, and the draft of the next ones.

    step = DraftPass(cache, {0: 3})                     # three draft tokens after the last token of row 0
    model.hidden(tokens, cache=step, attention=step.attention(model.attention))

Every token has a row of its own in the pass, as if it belonged to another answer, and attends to the row of the cache
that holds its text. So it is computed by the same kernels as in a step of its own, and has the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from vita.infer.batch_invariance import grouped_attention
from vita.nn.attention import PLAIN, Attention, AttentionOptions
from vita.nn.cache import KVCache

# W row of the pass, P row with a token, N row of the cache up to the last taken one, K key head, H query head, S slot,
# E numbers of a key, V of a value


class DraftPass:
    """The keys and values of such a step (`vita.nn.transformer.KeysAndValues`)."""

    def __init__(self, cache: KVCache, drafts: Mapping[int, int]) -> None:
        """`drafts` are the numbers of draft tokens of rows of the cache; -1 for a text that does not advance."""
        self.cache, live = cache, cache.num_live
        longest = max(drafts.values(), default=0)
        self.places = [
            *((row, 0) for row in range(live)),
            *((row, offset) for offset in range(1, longest + 1) for row in range(live) if offset <= drafts.get(row, 0)),
        ]
        """For each row of the pass, the row of the cache and the number of tokens after the last token of its text."""
        self._drafts, self._runs = drafts, _runs(self.places)
        self._end = 0
        self._visible: Bool[Tensor, "P 1 1 S"] = torch.zeros(0, 1, 1, 0, dtype=torch.bool)
        self._positions: Int[Tensor, "W 1"] = torch.zeros(0, 1, dtype=torch.int64)
        self._rows: Int[Tensor, "P"] = torch.zeros(0, dtype=torch.int64)

    def begin(self, rows: int, tokens: int) -> tuple[Int[Tensor, "W 1"], Bool[Tensor, "P 1 1 S"]]:
        """Return the positions and the mask of one token in each row of the pass."""
        assert tokens == 1 and rows >= len(self.places), "a token of a draft has a row of its own"
        starts = self.cache.lengths[: self.cache.num_live]
        positions = [starts[row] + offset for row, offset in self.places]
        self._end = self.cache.reserve({row: 1 + count for row, count in self._drafts.items()})
        device = self.cache.keys.device
        padding = [0] * (rows - len(positions))
        self._positions = torch.tensor([*positions, *padding], device=device)[:, None]
        self._rows = torch.tensor([row for row, _ in self.places], device=device)
        self._visible = self._slots <= self._queries
        return self._positions, self._visible

    def window_mask(self, window: int) -> Bool[Tensor, "P 1 1 S"]:
        """Return the mask of the layers in which queries attend to the last `window` tokens."""
        return self._visible & (self._slots > self._queries - window)

    def text_lengths(self) -> Int[Tensor, "W"]:
        """Return the length of each text; models whose positions depend on it get no drafts."""
        return self._positions[:, 0] + 1

    def write(
        self, layer: int, keys: Float[Tensor, "W K 1 E"], values: Float[Tensor, "W K 1 V"]
    ) -> tuple[Float[Tensor, "N K S E"], Float[Tensor, "N K S V"]]:
        """Store the new keys and values of a layer; return those of all slots, up to the last taken row."""
        count, live = len(self.places), self.cache.num_live
        stored = self.cache.keys[layer], self.cache.values[layer]
        for states, new in zip(stored, (keys, values), strict=True):
            states[self._rows, :, self._positions[:count, 0]] = new[:count, :, 0]
        return stored[0][:live, :, : self._end], stored[1][:live, :, : self._end]

    def attention(self, backend: Attention) -> Attention:
        """Return an attention function that computes the tokens of one offset as a step computes its tokens."""

        def attention(
            queries: Float[Tensor, "W H 1 E"],
            keys: Float[Tensor, "N K S E"],
            values: Float[Tensor, "N K S E"],
            visible: Bool[Tensor, "P 1 1 S"] | None = None,
            options: AttentionOptions = PLAIN,
        ) -> Float[Tensor, "W H 1 E"]:
            assert visible is not None, "a draft pass has a mask"
            parts = [
                grouped_attention(backend, queries[span], keys[rows], values[rows], visible[span], options)
                for span, rows in self._runs
            ]
            mixed = torch.cat(parts)
            return F.pad(mixed, (0, 0, 0, 0, 0, 0, 0, len(queries) - len(mixed)))

        return attention

    @property
    def _slots(self) -> Int[Tensor, "S"]:
        return torch.arange(self._end, device=self._positions.device)

    @property
    def _queries(self) -> Int[Tensor, "P 1 1 1"]:
        return self._positions[: len(self.places), None, :, None]


def _runs(places: Sequence[tuple[int, int]]) -> list[tuple[slice, slice]]:
    """Return the spans of places with one offset and consecutive rows of the cache, and these rows."""
    runs: list[tuple[slice, slice]] = []
    for _, run in groupby(enumerate(places), lambda item: (item[1][1], item[0] - item[1][0])):
        indices, members = zip(*run, strict=True)
        row = members[0][0]
        runs.append((slice(indices[0], indices[0] + len(indices)), slice(row, row + len(indices))))
    return runs
