"""Low-rank updates of one linear layer by several adapters, computed in products of batches of matrices.

    updates = LowRankUpdates()
    updates.add(1, LowRankUpdate.of(layer, base_bias, dtype=torch.float32))
    for stack in updates.stacks((1, 4)):                    # adapters of one rank and kind together
        outputs[stack.positions] = stack(inputs, outputs)

The output of an adapter is f (W x + b) + c + B' A x: f is the factor of DoRA's magnitudes (1 for LoRA), c the change of
the bias, and B' = f s B. W x + b is the output of the base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from vita.nn.adapters.layers import AdaptedLinear

# K adapters, P rows of each, I inputs, O outputs, R rank

RANK_UNIT = 8
"""Ranks are padded with zeros to a multiple of it: products of vectors of other sizes round differently by position."""
STORED_STACKS = 2
"""Sets of adapters whose matrices are stored together: those of the last steps, and of the last prompts."""


@dataclass(frozen=True)
class LowRankUpdate:
    """The change of a linear layer by an adapter, for inference."""

    narrow: Float[Tensor, "I R"]
    """A transposed."""
    wide: Float[Tensor, "R O"]
    """B' transposed."""
    factors: Float[Tensor, "O"] | None
    """f; None for 1."""
    shift: Float[Tensor, "O"] | None
    """c; None for 0."""

    @classmethod
    @torch.no_grad()
    def of(cls, layer: AdaptedLinear, base_bias: Tensor | None, *, dtype: torch.dtype) -> LowRankUpdate:
        """Return the update of a layer with an adapter; `base_bias` is the bias that the base adds."""
        wide, factors = layer.scale * layer.lora_B.weight.float(), None
        if layer.dora:
            factors = layer.lora_magnitude_vector.float() / layer.row_norms()
            wide = factors[:, None] * wide
        shift = _shift(layer, base_bias, factors)
        padding = -layer.rank % RANK_UNIT
        narrow = F.pad(layer.lora_A.weight.detach(), (0, 0, 0, padding)).T.to(dtype).contiguous()
        wide = F.pad(wide, (0, padding)).T.to(dtype).contiguous()
        factors, shift = (None if vector is None else vector.to(dtype) for vector in (factors, shift))
        return cls(narrow, wide, factors, shift)

    @property
    def kind(self) -> tuple[int, bool, bool]:
        """Padded rank, and whether there are factors and a shift; updates of one kind are computed together."""
        return self.narrow.shape[1], self.factors is not None, self.shift is not None


@dataclass(frozen=True)
class UpdateStack:
    """The updates of several adapters of one kind."""

    positions: Int[Tensor, "K"] | None
    """The positions of the adapters among those of the pass; None for all."""
    narrow: Float[Tensor, "K I R"]
    wide: Float[Tensor, "K R O"]
    factors: Float[Tensor, "K 1 O"] | None
    shift: Float[Tensor, "K 1 O"] | None

    def __call__(self, inputs: Float[Tensor, "K P I"], outputs: Float[Tensor, "K P O"]) -> Float[Tensor, "K P O"]:
        """Return the outputs of the adapters for the inputs and outputs of the base."""
        if self.factors is not None:
            outputs = outputs * self.factors
        if self.shift is not None:
            outputs = outputs + self.shift
        return torch.baddbmm(outputs, torch.bmm(inputs, self.narrow), self.wide)


class LowRankUpdates:
    """The updates of one layer, by adapter."""

    def __init__(self) -> None:
        self._updates: dict[int, LowRankUpdate] = {}
        self._stacks: dict[tuple[int, ...], list[UpdateStack]] = {}

    def add(self, adapter: int, update: LowRankUpdate) -> None:
        """Add the update of an adapter."""
        self._updates[adapter] = update

    def remove(self, adapter: int) -> None:
        """Remove the update of an adapter that no pass computes any more."""
        self._updates.pop(adapter, None)
        for adapters in [adapters for adapters in list(self._stacks) if adapter in adapters]:
            self._stacks.pop(adapters, None)

    @property
    def adapters(self) -> set[int]:
        """Return the adapters that change the layer."""
        return {*self._updates}

    def stacks(self, adapters: tuple[int, ...]) -> list[UpdateStack]:
        """Return the updates of these adapters, one stack for each kind; adapters without an update are left out."""
        stacks = self._stacks.get(adapters)
        if stacks is None:
            stacks = self._new_stacks(adapters)
            if len(adapters) > 1:  # that of a single adapter is a view
                self._stacks[adapters] = stacks
                for oldest in list(self._stacks)[:-STORED_STACKS]:  # another thread may change it meanwhile
                    self._stacks.pop(oldest, None)
        return stacks

    def _new_stacks(self, adapters: Sequence[int]) -> list[UpdateStack]:
        kinds: dict[tuple[int, bool, bool], list[int]] = {}
        for position, adapter in enumerate(adapters):
            if adapter in self._updates:
                kinds.setdefault(self._updates[adapter].kind, []).append(position)
        return [self._stack(positions, adapters) for positions in kinds.values()]

    def _stack(self, positions: list[int], adapters: Sequence[int]) -> UpdateStack:
        updates = [self._updates[adapters[position]] for position in positions]
        factors = [update.factors for update in updates if update.factors is not None]
        shifts = [update.shift for update in updates if update.shift is not None]
        return UpdateStack(
            None if len(positions) == len(adapters) else torch.tensor(positions, device=updates[0].narrow.device),
            _stacked([update.narrow for update in updates]),
            _stacked([update.wide for update in updates]),
            _stacked(factors)[:, None] if factors else None,
            _stacked(shifts)[:, None] if shifts else None,
        )


def _stacked(tensors: list[Tensor]) -> Tensor:
    """Return the tensors as one, without a copy if there is only one."""
    return torch.stack(tensors) if len(tensors) > 1 else tensors[0][None]


def _shift(layer: AdaptedLinear, base_bias: Tensor | None, factors: Tensor | None) -> Tensor | None:
    """Return the bias of a layer with an adapter, minus the part that its base adds: b' - f b; None for 0."""
    bias = layer.merged_bias()
    if bias is None or (layer.bias is base_bias and layer.lora_B.bias is None and factors is None):
        return None
    added = torch.zeros_like(bias) if base_bias is None else base_bias.float()
    return bias - (added if factors is None else factors * added)
