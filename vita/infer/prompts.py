"""Prompt reading: the forward passes that compute the keys and values of prompts, and the outputs of the last layer.

Short prompts are packed: several are computed in one pass, as one long row of tokens in which each attends to its own
prompt only. The pass has a batch-invariant width (`vita.infer.batch_invariance`), so a prompt has the same bits alone
and in any pack. A long prompt is computed by itself, in pieces of one block; blocks that were read before are taken
from a `PrefixCache`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vita.infer.batch_adapters import BatchAdapter, computed_alone, computed_together
from vita.infer.batch_invariance import (
    MEASURED_LAYERS,
    BatchWidths,
    ExactWidths,
    fills_vectors,
    first_layers,
    measured_with,
    with_layer_products,
)
from vita.infer.prefix_cache import PrefixCache, block_length
from vita.nn.adapters.pass_rows import BASE
from vita.nn.attention import PLAIN, Attention, AttentionOptions, causal, in_window
from vita.nn.cache import KVCache, TextStates
from vita.nn.transformer import Transformer

# N tokens of a pack, L layer, K key head, H query head, E numbers of a key, V of a value, D width, T tokens of a prompt

PASS_TOKENS = 512
"""Most tokens of short prompts in one forward pass."""
SHORT = 128
"""Most tokens of a prompt that is packed. A longer one occupies the processor by itself."""


class PromptState:
    """A prompt while it is read: its keys and values, and the outputs of the last layer."""

    def __init__(
        self,
        ids: Sequence[int],
        *,
        keep_all: bool = False,
        text_length: int | None = None,
        adapter: BatchAdapter | None = None,
    ) -> None:
        """`keep_all` keeps the outputs at all positions, otherwise only at the last one.

        `text_length` is the length of the text that the prompt begins, on which rotary frequencies may depend.
        `adapter` is the adapter that reads the prompt, if it is not the model itself.
        """
        self.adapter = adapter
        self.ids, self.keep_all, self.text_length = tuple(ids), keep_all, text_length or len(ids)
        self.states: TextStates | None = None
        """Keys and values, when the prompt is read."""
        self.hidden: Float[Tensor, "T D"] | None = None
        """Outputs of the last layer, when the prompt is read."""
        self.num_reused = 0
        """Tokens whose keys and values were taken from a `PrefixCache`."""
        self._cache: KVCache | None = None
        self._pieces: list[Tensor] = []
        self._names: list[bytes] = []

    @property
    def is_read(self) -> bool:
        """Return True if all tokens are read."""
        return self.states is not None

    def finish(self, states: TextStates, hidden: Float[Tensor, "T D"]) -> None:
        """Store the results of the last pass."""
        self.states, self.hidden = states, hidden if self.keep_all else hidden[-1:]
        self._cache, self._pieces = None, []

    def read_piece(self, model: Transformer, prefixes: PrefixCache | None = None) -> int:
        """Read one more block by itself; return its number of tokens.

        The first call takes the blocks at the start from `prefixes`, unless the outputs at all positions are kept, or
        the numbers of a token depend on the length of the whole text.
        """
        if model.architecture.rope_depends_on_length or (self.adapter is not None and not self.adapter.has_prefixes):
            prefixes = None
        if self._cache is None:
            weight = model.head_weight
            self._cache = KVCache(model.architecture, 1, dtype=weight.dtype, device=weight.device)
            self._cache.text_length = self.text_length
            salt = b"" if self.adapter is None else self.adapter.salt
            self._names = prefixes.names(self.ids, salt=salt) if prefixes is not None else []
            if prefixes is not None and not self.keep_all:
                self._reuse(prefixes.longest(self._names, tokens=len(self.ids)))
        device = model.head_weight.device
        length, start = block_length(device), self._cache.lengths[0]
        piece = self.ids[start : start + length]
        with computed_alone(self.adapter):
            hidden = model.hidden(torch.tensor([piece], device=device), cache=self._cache)[0]
        self._pieces.append(hidden if self.keep_all else hidden[-1:])
        end = start + len(piece)
        if prefixes is not None and len(piece) == length:
            prefixes.add(self._names[start // length], self._cache.text(0, start))
        if end == len(self.ids):
            self.finish(self._cache.text(0), torch.cat(self._pieces))
        return len(piece)

    def _reuse(self, blocks: Sequence[TextStates]) -> None:
        assert self._cache is not None
        for block in blocks:
            self._cache.extend(0, block)
        self.num_reused = sum(block.length for block in blocks)


class PromptReader:
    """Reads prompts with one model; short ones together."""

    def __init__(
        self,
        model: Transformer,
        prefixes: PrefixCache | None = None,
        *,
        adapter: int = BASE,
        layers: int = MEASURED_LAYERS,
        invariant: bool = True,
    ) -> None:
        """`prefixes` stores the beginnings of long prompts.

        The widths of packs are measured with an adapter of the model, in the first `layers` layers. Without `invariant`
        they are exact.
        """
        self.model, self.prefixes, self._measured = model, prefixes, first_layers(model, layers)
        measure = measured_with(adapter, self._pack_numbers, device=model.head_weight.device)
        self.widths = BatchWidths(measure, [16]) if invariant else ExactWidths()

    def is_short(self, prompt: PromptState) -> bool:
        """Return True if the prompt is read in a pack, which has the same bits as the prompt alone, if required."""
        length = len(prompt.ids)
        if length > SHORT or self.model.architecture.rope_depends_on_length:
            return False
        all_widths = [self.widths] if prompt.adapter is None else [self.widths, prompt.adapter.pack_widths]
        return all(not widths.required or (widths.invariant and widths.smallest(length)) for widths in all_widths)

    def read_piece(self, prompt: PromptState) -> int:
        """Read a piece of a long prompt; return the number of its tokens."""
        return prompt.read_piece(self.model, self.prefixes)

    def read(self, prompts: Sequence[PromptState]) -> None:
        """Read short prompts, in one pass if their total has a batch-invariant width, otherwise in several."""
        width = self.widths.smallest(sum(len(prompt.ids) for prompt in prompts))
        if width is None:
            middle = len(prompts) // 2
            self.read(prompts[:middle])
            self.read(prompts[middle:])
            return
        pack = _Pack(self.model, [len(prompt.ids) for prompt in prompts], width)
        owners = [prompt.adapter for prompt in prompts for _ in prompt.ids]
        with computed_together(dict(enumerate(owners)), width, packed=True, device=self.model.head_weight.device):
            hidden = pack.hidden([token for prompt in prompts for token in prompt.ids])
        for prompt, span in zip(prompts, pack.spans, strict=True):
            prompt.finish(pack.text(span), hidden[span])

    @torch.inference_mode()
    def _pack_numbers(self, width: int) -> Tensor | None:
        """Numbers of a short prompt, if they are the same in other positions, and without the other prompts."""
        architecture = self.model.architecture
        if architecture.rope_depends_on_length or not fills_vectors(architecture, width):
            return None
        length = min(4, architecture.context)
        if width < 2 * length:
            return None
        prompts = torch.arange(width // length * length).mul(7).remainder(architecture.vocabulary).view(-1, length)
        full, rolled = self._numbers(prompts, width), self._numbers(prompts.roll(1, dims=0), width).roll(-1, dims=0)
        alone, shifted = self._numbers(prompts[:1], width), self._numbers(prompts[:-1], width, offset=1)
        same = torch.equal(full, rolled) and torch.equal(full[:1], alone) and torch.equal(full[:-1], shifted)
        return with_layer_products(self._measured, width, full[:1] if same else None)

    def _numbers(self, prompts: Int[Tensor, "P T"], width: int, *, offset: int = 0) -> Float[Tensor, "P X"]:
        """The keys, values and outputs of prompts in one pass, which begins with `offset` prompts of one token.

        A shift by one token puts each token into the row of the next one: kernels may treat rows differently by their
        address, whose alignment repeats after a few rows.
        """
        pack = _Pack(self._measured, [*[1] * offset, *[prompts.shape[1]] * len(prompts)], width)
        hidden = pack.hidden([*[0] * offset, *prompts.flatten().tolist()])
        spans = pack.spans[offset:]
        parts = [(pack.text(span).keys, pack.text(span).values, hidden[span]) for span in spans]
        return torch.stack([torch.cat([part.flatten() for part in prompt]) for prompt in parts]).nan_to_num()


class _Pack:
    """The keys and values of several prompts in one row of tokens (`vita.nn.transformer.KeysAndValues`)."""

    def __init__(self, model: Transformer, lengths: Sequence[int], width: int) -> None:
        """`lengths` are those of the prompts; the pass computes `width` tokens, of which the last are padding."""
        self.model, self.lengths, self.width = model, lengths, width
        self.spans = [slice(start, end) for start, end in pairwise(accumulate(lengths, initial=0))]
        architecture, weight = model.architecture, model.head_weight
        sizes = architecture.cache_shape
        shape = architecture.layers, sizes.heads, width
        options: dict[str, Any] = {"dtype": weight.dtype, "device": weight.device}
        self.keys: Float[Tensor, "L K N E"] = torch.zeros(*shape, sizes.key_dim, **options)
        self.values: Float[Tensor, "L K N V"] = torch.zeros(*shape, sizes.value_dim, **options)

    def hidden(self, ids: Sequence[int]) -> Float[Tensor, "N D"]:
        """Compute the outputs of the last layer for the tokens of all prompts."""
        inputs = torch.tensor([[*ids, *[0] * (self.width - len(ids))]], device=self.keys.device)
        return self.model.hidden(inputs, cache=self, attention=self._attention(self.model.attention))[0]

    def text(self, span: slice) -> TextStates:
        """The keys and values of a prompt."""
        return TextStates(self.keys[:, :, span], self.values[:, :, span])

    def begin(self, rows: int, tokens: int) -> tuple[Int[Tensor, "1 N"], None]:
        """The positions of the tokens in their prompts."""
        positions = [position for length in self.lengths for position in range(length)]
        return torch.tensor([[*positions, *[0] * (tokens - len(positions))]], device=self.keys.device), None

    def window_mask(self, window: int) -> None:
        """No mask: the attention of the pack computes that of each prompt."""

    def text_lengths(self) -> Int[Tensor, "1"]:
        """Not used: models whose positions depend on the length of the text read no packs."""
        return torch.tensor([self.width], device=self.keys.device)

    def write(
        self, layer: int, keys: Float[Tensor, "1 K N E"], values: Float[Tensor, "1 K N V"]
    ) -> tuple[Tensor, Tensor]:
        """Store the keys and values of a layer."""
        self.keys[layer], self.values[layer] = keys[0], values[0]
        return keys, values

    def _attention(self, backend: Attention) -> Attention:
        def attention(
            queries: Float[Tensor, "1 H N E"],
            keys: Float[Tensor, "1 K N E"],
            values: Float[Tensor, "1 K N E"],
            visible: Tensor | None = None,
            options: AttentionOptions = PLAIN,
        ) -> Float[Tensor, "1 H N E"]:
            mixed = torch.zeros_like(queries)
            for span in self.spans:
                # A copy, because kernels round differently at other offsets in memory.
                prompt = [
                    states[:, :, span].clone(memory_format=torch.contiguous_format)
                    for states in (queries, keys, values)
                ]
                mask = _window_mask(span.stop - span.start, options.window, device=queries.device)
                mixed[:, :, span] = backend(prompt[0], prompt[1], prompt[2], mask, options)
            return mixed

        return attention


def _window_mask(length: int, window: int | None, *, device: torch.device) -> Tensor | None:
    """The mask of a prompt, None where it is the causal one."""
    if window is None or length <= window:
        return None
    return causal(length, device=device) & in_window(length, window, device=device)
