"""Batch-invariant forward passes: the numbers of a token do not depend on the other tokens of the pass.

A product of matrices may round differently with another number of rows, or in another row, and an answer could then
depend on which other requests are in the batch. A pass therefore computes a number of rows from a short list
(`BatchWidths`), whether all of them are used or not. At these widths a row has the same bits in every position; this is
measured before a width is used. Attention is computed for each text by itself. The products of an expert, which gets a
varying number of tokens, are computed in tiles of a fixed number of rows (`vita.nn.experts`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vita.infer.decoding_pass import DecodingPass
from vita.infer.rounded_products import has_rounded_products, layer_products
from vita.infer.row_cache import RowCache, needs_single_class
from vita.nn.adapters.pass_rows import BASE, PassRows, adapters_of, one_adapter
from vita.nn.architecture import Architecture
from vita.nn.cache import TextStates
from vita.nn.feedforward import VECTOR
from vita.nn.packed import FASTEST_ROWS
from vita.nn.transformer import Transformer

# B computed row, N row up to the last taken one, D width, K key head, H query head, S slot, T query,
# E numbers in a head, R compared row, X number

M = TypeVar("M", bound=nn.Module)

TILE = 16
"""The reference width is a multiple of it. Kernels process rows in tiles, and round the remainder differently."""
NARROWEST = 2
"""Fewest rows: sums over a matrix with a single row, as for log-probabilities, are computed as those of a vector."""
LONG_TEXTS = (200, 300, 640)
"""Tokens of the long texts beside a short one: their slots are rounded differently, and the last has more than a kernel
takes at a time."""
REFERENCE_ROWS = 4
"""Rows whose numbers are compared between two widths."""
MEASURED_LAYERS = 2
"""Layers whose numbers are compared. All layers multiply matrices of the same shapes."""


class BatchWidths:
    """The numbers of rows that a forward pass may compute, so that a row has the same bits at every width.

    No library promises this for any width, so it is measured: the reference width when the object is created, each
    other width when it is first needed. `measure(width)` returns numbers of the first rows of a fixed pass of this
    width, or None if they depend on the row or on the other texts.
    """

    padded = True
    """True if a pass computes more rows than texts, so that rows have the same bits."""
    required = True
    """True if the bits of a row must not depend on the pass."""

    def __init__(
        self, measure: Callable[[int], Tensor | None], references: Sequence[int], *, narrowest: int = NARROWEST
    ) -> None:
        """The reference width is the first of `references` that is invariant, or the first if none is.

        No width is smaller than `narrowest`.
        """
        self._measure, self._usable, self._narrowest = measure, dict[int, bool](), narrowest
        self.reference = references[0]
        self._numbers: Tensor | None = None
        for width in references:
            self._numbers = measure(width)
            if self._numbers is not None:
                self.reference, self._usable[width] = width, True
                return

    @property
    def invariant(self) -> bool:
        """Return True if a row has the same bits in every position of the reference width, as measured."""
        return self._numbers is not None

    def smallest(self, rows: int) -> int | None:
        """Return the smallest usable width that holds `rows` rows, or None."""
        return next((width for width in self._candidates(rows) if self._is_usable(width)), None)

    def most_rows(self, rows: int) -> int:
        """Return `rows` if a usable width holds them, otherwise the largest usable width below."""
        if self.smallest(rows) is not None:
            return rows
        return max(width for width in self._candidates(1) if width < rows and self._is_usable(width))

    def _is_usable(self, width: int) -> bool:
        if self._numbers is None:
            return True  # nothing is guaranteed at any width
        if width not in self._usable:
            numbers = self._measure(width)
            rows = min(width, REFERENCE_ROWS)
            self._usable[width] = numbers is not None and torch.equal(numbers[:rows], self._numbers[:rows])
        return self._usable[width]

    def _candidates(self, rows: int) -> list[int]:
        """Widths to try for `rows` rows, in ascending order."""
        small = [2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384]
        large = -(-rows // 512) * 512
        return [*(width for width in small if width >= max(rows, self._narrowest)), large]


class ExactWidths(BatchWidths):
    """Widths without padding, or the fastest ones: the bits of a row may depend on the other rows."""

    padded = False
    required = False

    def __init__(self, *, narrowest: int = 1) -> None:
        super().__init__(lambda width: None, [1], narrowest=narrowest)

    def smallest(self, rows: int) -> int:
        return max(rows, self._narrowest)


def decoding_widths(
    model: Transformer, rows: int, *, adapter: int = BASE, layers: int = MEASURED_LAYERS, invariant: bool = True
) -> BatchWidths:
    """Return the widths of decoding steps that advance up to `rows` texts by one token each.

    They are measured with an adapter of the model, in the first `layers` layers. Without `invariant` they are exact.
    """
    is_packed = model.packed_head is not None
    if not invariant:
        return ExactWidths(narrowest=FASTEST_ROWS if is_packed else 1)
    if rows == 1 or model.architecture.context < 2:  # a text that is always alone; a prompt that fills the context
        return _SingleRow(narrowest=FASTEST_ROWS if is_packed else 1)
    measure = partial(_step_numbers, first_layers(model, layers))
    measure = measured_with(adapter, measure, device=model.head_weight.device)
    narrowest = FASTEST_ROWS if is_packed else NARROWEST
    return BatchWidths(measure, [TILE, 2 * TILE, 3 * TILE, 4 * TILE], narrowest=narrowest)


def measured_with(
    adapter: int, measure: Callable[[int], Tensor | None], *, device: torch.device
) -> Callable[[int], Tensor | None]:
    """Return a measurement with an adapter in all rows, which fails if its bits depend on the adapters beside it.

    The rows of three adapters stand for those of any number: their products are computed together.
    """
    if adapter == BASE:
        return measure

    def measured(width: int) -> Tensor | None:
        with one_adapter(adapter):
            numbers = measure(width)
        if numbers is None:
            return None
        groups = [(adapter, range(width)[start::3], width) for start in range(min(3, width))]
        with adapters_of(PassRows.of(width, groups, device=device)):
            beside = measure(width)
        return numbers if beside is not None and torch.equal(numbers, beside) else None

    return measured


def first_layers(model: Transformer, count: int = MEASURED_LAYERS) -> Transformer:
    """Return a model of the first layers that shares all modules with `model`, for measurements.

    It has a mixture of experts if `model` has one.
    """
    mixtures = [layer for layer in range(model.architecture.layers) if model.architecture.has_experts(layer)]
    count = max(count, mixtures[0] + 1) if mixtures else count
    shallow, decoder = _with_modules_of_its_own(model), _with_modules_of_its_own(model.model)
    decoder.layers = nn.ModuleList(list(model.model.layers)[:count])
    shallow.model = decoder
    shallow.architecture = model.architecture.model_copy(update={"layers": len(decoder.layers)})
    return shallow


def _with_modules_of_its_own(module: M) -> M:
    """Return a shallow copy in which a submodule can be replaced."""
    duplicate = copy.copy(module)
    duplicate._modules = dict(module._modules)
    return duplicate


class _SingleRow(BatchWidths):
    """The width of passes with one text, whose bits cannot depend on others."""

    padded = False

    def __init__(self, *, narrowest: int = 1) -> None:
        super().__init__(lambda width: torch.zeros(1), [1], narrowest=narrowest)

    def smallest(self, rows: int) -> int:
        return max(rows, self._narrowest)


@torch.inference_mode()
def _step_numbers(model: Transformer, width: int) -> Tensor | None:
    """Numbers of some tokens after a short text, if they are the same in other rows and with long texts beside."""
    if not fills_vectors(model.architecture, width):
        return None
    weight, context = model.head_weight, model.architecture.context
    short, *long = (_random_text(model, min(length, context - 1)) for length in (5, *LONG_TEXTS))
    tokens = torch.arange(width, device=weight.device) * 7 % model.architecture.vocabulary
    full = _step(model, dict.fromkeys(range(width), short), tokens)
    rolled = _step(model, dict.fromkeys(range(width), short), tokens.roll(1)).roll(-1, dims=0)
    beside = [_step(model, {0: short, 1: text}, tokens)[0] for text in long]
    logits, rolled_logits = (model.head.logits(hidden).nan_to_num() for hidden in (full, rolled))
    same = torch.equal(full, rolled) and torch.equal(logits, rolled_logits)
    same = same and all(torch.equal(full[0], numbers) for numbers in beside)
    if model.architecture.experts:  # all tokens choose the same experts
        crowded = _step(model, dict.fromkeys(range(width), short), tokens[:1].expand(width))
        same = same and torch.equal(full[0], crowded[0])
    totals = logits.float().logsumexp(-1, keepdim=True)
    numbers = torch.cat([full, logits, totals], dim=1)[:REFERENCE_ROWS] if same else None
    return with_layer_products(model, width, numbers)


def with_layer_products(model: Transformer, width: int, numbers: Float[Tensor, "R X"] | None) -> Tensor | None:
    """Return the numbers of a pass with products of its layers, where these are rounded; None if they are not fixed."""
    if numbers is None or not has_rounded_products(model):
        return numbers
    products = layer_products(model, width)
    return None if products is None else torch.cat([numbers, products.expand(len(numbers), -1)], dim=1)


def fills_vectors(architecture: Architecture, width: int) -> bool:
    """Return True if the inner activations of `width` rows are whole vectors in every feed-forward network."""
    experts = architecture.experts
    if experts is None:
        return width * architecture.feedforward % VECTOR == 0
    has_dense = any(not architecture.has_experts(layer) for layer in range(architecture.layers))
    inner = [architecture.feedforward] if has_dense else []
    return all(width * size % VECTOR == 0 for size in [*inner, experts.shared])


def _random_text(model: Transformer, length: int) -> TextStates:
    """A text of random keys and values, the same in every layer, which costs no pass through the model."""
    architecture, weight = model.architecture, model.head_weight
    generator = torch.Generator().manual_seed(length)
    sizes = architecture.cache_shape
    keys, values = (
        torch.randn(1, sizes.heads, length, size, generator=generator).to(weight.device, weight.dtype)
        for size in (sizes.key_dim, sizes.value_dim)
    )
    layers = architecture.layers, -1, -1, -1
    return TextStates(keys.expand(layers), values.expand(layers))


def _step(model: Transformer, texts: dict[int, TextStates], tokens: Int[Tensor, "B"]) -> Float[Tensor, "B D"]:
    """Outputs of the last layer for every row after one step; NaN weights are reported where an answer is sampled."""
    weight = model.head_weight
    single = needs_single_class(model)
    cache = RowCache(model.architecture, dtype=weight.dtype, device=weight.device, single=single)
    for row, text in texts.items():
        cache.put(row, text)
    step = DecodingPass(cache, dict.fromkeys(texts, 1))
    hidden = model.hidden(tokens[:, None], cache=step, attention=step.attention(model.attention))
    return hidden[:, -1].nan_to_num()
