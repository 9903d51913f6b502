"""A decoding step: the next token of several texts, and the tokens of drafts behind it.

    step = DecodingPass(cache, {0: 1, 4: 3})            # one token of row 0, a token and a draft of two for row 4
    model.hidden(tokens, cache=step, attention=step.attention(model.attention))

Every token has a row of its own in the pass, also the tokens of one text, and attends to the row of the cache that
holds its text. A draft is therefore computed by the same kernels as in steps of its own, and has the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from vita.infer.batch_attention import GROUP, grouped_attention
from vita.infer.row_cache import RowCache, SizeClass
from vita.nn.attention import PLAIN, Attention, AttentionOptions

# W row of the pass, P row with a token, K key head, H query head, S slot, E numbers of a key, V of a value


@dataclass(frozen=True)
class _Part:
    """Consecutive rows of the pass whose texts are in one size class."""

    span: slice
    texts: Int[Tensor, "P"]
    """The text of each row in the class."""
    runs: tuple[tuple[slice, slice], ...]
    """Rows with one offset and consecutive texts, and these texts."""
    size_class: SizeClass
    end: int
    """Number of slots that attention computes."""


class DecodingPass:
    """The keys and values of a step (`vita.nn.transformer.KeysAndValues`)."""

    def __init__(self, cache: RowCache, tokens: Mapping[int, int], *, group: int = GROUP) -> None:
        """`tokens` are the numbers of new tokens of some rows of the cache, whose lengths include them from then on.

        The queries that attend to the same keys are padded to a multiple of `group` (`grouped_attention`).
        """
        self._group = group
        starts = {row: cache.lengths[row] for row in tokens}
        cache.reserve(tokens)
        self.cache = cache
        self.places: list[tuple[int, int]] = []
        """For each row of the pass, the row of the cache and the number of tokens after the last token of its text."""
        self._parts = list(self._arranged(tokens))
        positions = [starts[row] + offset for row, offset in self.places]
        self._positions: Int[Tensor, "P"] = torch.tensor(positions, device=cache.device)
        self._padded = self._positions[:, None]
        self._layer = 0

    @property
    def regular_class(self) -> SizeClass | None:
        """The size class of all texts, if the rows of the pass are its texts in order, each with one token."""
        part = self._parts[0]
        texts = slice(0, len(part.size_class.rows))
        is_regular = len(self._parts) == 1 and part.runs == ((texts, texts),)
        return part.size_class if is_regular else None

    @property
    def slots(self) -> int:
        """Number of slots that attention computes for the longest text."""
        return max(part.end for part in self._parts)

    def padded_positions(self, rows: int) -> Int[Tensor, "W"]:
        """Return the position of the token in each row; 0 in the rows without a token."""
        return F.pad(self._positions, (0, rows - len(self.places)))

    def begin(self, rows: int, tokens: int) -> tuple[Int[Tensor, "W 1"], Bool[Tensor, "P 1 1 S"]]:
        """Return the positions and the mask of one token in each row of the pass."""
        assert tokens == 1 and rows >= len(self.places), "each token has a row of its own"
        self._padded = self.padded_positions(rows)[:, None]
        return self._padded, self._slots <= self._queries

    def window_mask(self, window: int) -> Bool[Tensor, "P 1 1 S"]:
        """Return the mask of the layers in which queries attend to the last `window` tokens."""
        return (self._slots <= self._queries) & (self._slots > self._queries - window)

    def text_lengths(self) -> Int[Tensor, "W"]:
        """Return the length of each text, with the token of the pass."""
        return self._padded[:, 0] + 1

    def write(
        self, layer: int, keys: Float[Tensor, "W K 1 E"], values: Float[Tensor, "W K 1 V"]
    ) -> tuple[Float[Tensor, "N K S E"], Float[Tensor, "N K S V"]]:
        """Store the new keys and values of a layer; return those of all texts, if they are in one size class.

        Otherwise `attention` reads them from their classes.
        """
        self._layer = layer
        for part in self._parts:
            positions, size_class = self._positions[part.span], part.size_class
            size_class.keys[layer][part.texts, :, positions] = keys[part.span, :, 0]
            size_class.values[layer][part.texts, :, positions] = values[part.span, :, 0]
        if len(self._parts) > 1:
            return keys, values
        return self._stored(self._parts[0])

    def attention(self, backend: Attention) -> Attention:
        """Return an attention function that computes each row over the text that it belongs to."""

        def attention(
            queries: Float[Tensor, "W H 1 E"],
            keys: Float[Tensor, "N K S E"],
            values: Float[Tensor, "N K S E"],
            visible: Bool[Tensor, "P 1 1 S"] | None = None,
            options: AttentionOptions = PLAIN,
        ) -> Float[Tensor, "W H 1 E"]:
            assert visible is not None, "a decoding step has a mask"
            mixed: list[Tensor] = []
            for part in self._parts:
                states = keys, values
                if len(self._parts) > 1:
                    stored = self._stored(part)
                    states = stored[0], stored[0] if values is keys else stored[1]
                for span, texts in part.runs:
                    mask = visible[span, ..., : part.end]
                    rows = queries[span], states[0][texts], states[1][texts]
                    mixed.append(grouped_attention(backend, *rows, mask, options, group=self._group))
            outputs = mixed[0] if len(mixed) == 1 else torch.cat(mixed)
            unused = len(queries) - len(outputs)
            return F.pad(outputs, (0, 0, 0, 0, 0, 0, 0, unused)) if unused else outputs

        return attention

    def _arranged(self, tokens: Mapping[int, int]) -> Iterator[_Part]:
        """Fill `places`, by size class, by offset and by text, and yield the part of each class."""
        for size_class in self.cache.classes:
            start, runs = len(self.places), []
            texts: list[int] = []
            counts = [tokens.get(row, 0) for row in size_class.rows]
            for offset in range(max(counts)):
                previous = None
                for text, count in enumerate(counts):
                    if offset >= count:
                        continue
                    place = start + len(texts)
                    if previous != text - 1 or not runs:
                        runs.append([place, text, 0])
                    runs[-1][2] += 1
                    previous = text
                    texts.append(text)
                    self.places.append((size_class.rows[text], offset))
            if not texts:
                continue
            longest = max(self.cache.lengths[row] for row, count in zip(size_class.rows, counts, strict=True) if count)
            yield _Part(
                slice(start, len(self.places)),
                torch.tensor(texts, device=self.cache.device),
                tuple((slice(place, place + size), slice(text, text + size)) for place, text, size in runs),
                size_class,
                self.cache.computed_slots(size_class, longest),
            )

    def _stored(self, part: _Part) -> tuple[Float[Tensor, "N K S E"], Float[Tensor, "N K S V"]]:
        """Return the keys and values of all texts of a class in the current layer."""
        size_class, count = part.size_class, len(part.size_class.rows)
        keys, values = size_class.keys[self._layer], size_class.values[self._layer]
        return keys[:count, :, : part.end], values[:count, :, : part.end]

    @property
    def _slots(self) -> Int[Tensor, "S"]:
        return torch.arange(self.slots, device=self.cache.device)

    @property
    def _queries(self) -> Int[Tensor, "P 1 1 1"]:
        return self._positions[:, None, None, None]
