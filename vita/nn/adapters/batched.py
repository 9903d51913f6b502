"""A model with several adapters, whose passes compute rows of different adapters together (Sheng et al. 2023, S-LoRA).

    batched = BatchedAdapters(base)                # shares all weights with `base`
    batched.add(1, adapted)                        # a copy of `base` with an adapter, as `load_adapter` returns it
    with adapters_of(rows):                        # `vita.nn.adapters.pass_rows`
        batched.model.hidden(ids)

A linear layer computes the product with the matrix of the base once for all rows, and adds the low-rank product of each
adapter to its rows (`vita.nn.adapters.low_rank`). Any other module that an adapter changes (a norm, an embedding, a
mixture with adapted experts) is computed with the weights of the adapter for the rows of the adapter. Rows of the base
have the bits of a model without adapters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vita.nn.adapters.attach import HEAD, reference_copy
from vita.nn.adapters.layers import AdaptedLinear, BaseLinear
from vita.nn.adapters.low_rank import LowRankUpdate, LowRankUpdates, UpdateStack
from vita.nn.adapters.pass_rows import RowBlock, current_rows
from vita.nn.experts import MixtureOfExperts
from vita.nn.frozen_linear import FrozenLinear
from vita.nn.transformer import OutputHead, Transformer

# N rows, D width, V vocabulary

NOT_BY_ROW = ("embed_positions",)
"""Modules that compute other rows than those of the pass: positions that texts share."""
LATENT = "kv_b_proj"
"""The module of latent attention whose matrix is read (`BatchedModule.row_variants`), without a bias of the update."""


class BatchedModule(nn.Module):
    """A module of the base, and what adapters change in it."""

    packable = False

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.updates = LowRankUpdates()
        """The low-rank updates of a linear layer."""
        self.variants: dict[int, nn.Module] = {}
        """The modules that take the place of the base, by adapter."""

    def forward(self, inputs: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """Compute all rows with the base, and those of each adapter with its update or its module."""
        rows = current_rows()
        if rows is None:
            return self.base(inputs, *arguments, **options)
        if rows.uniform is not None:
            return self._of_adapter(rows.uniform, inputs, arguments, options)
        outputs = self.base(inputs, *arguments, **options).contiguous()
        input_rows, output_rows = _by_row(inputs, rows.count), _by_row(outputs, rows.count)
        for block in rows.blocks:
            for stack in self.updates.stacks(block.adapters):
                _add_updates(stack, block, block.select(inputs, input_rows), output_rows)
            for adapter, selected in zip(block.adapters, block.rows, strict=True) if self.variants else ():
                if adapter in self.variants:
                    texts = input_rows.index_select(0, selected)
                    texts = texts[:, None] if inputs.dim() > input_rows.dim() else texts  # of one token each
                    changed = self.variants[adapter](texts, *arguments, **options)
                    output_rows.index_copy_(0, selected, changed.view(len(selected), *output_rows.shape[1:]))
        return outputs

    def _of_adapter(self, adapter: int, inputs: Tensor, arguments: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
        """Compute all rows with one adapter."""
        outputs = self.variants.get(adapter, self.base)(inputs, *arguments, **options)
        for stack in self.updates.stacks((adapter,)):
            changed = stack(inputs.flatten(0, -2)[None], outputs.flatten(0, -2)[None])
            outputs = changed.view_as(outputs)
        return outputs

    def row_variants(self) -> list[tuple[Tensor | None, nn.Module]]:
        """Return the module of all rows of the pass, and the modules of the rows of some adapters."""
        rows = current_rows()
        if rows is None:
            return [(None, self.base)]
        if rows.uniform is not None:
            return [(None, self.variants.get(rows.uniform, self.base))]
        pairs = [pair for block in rows.blocks for pair in zip(block.rows, block.adapters, strict=True)]
        own = [(selected, self.variants[adapter]) for selected, adapter in pairs if adapter in self.variants]
        return [(None, self.base), *own]

    def extra_repr(self) -> str:
        return f"adapters={sorted({*self.updates.adapters, *self.variants})}"


def _add_updates(stack: UpdateStack, block: RowBlock, inputs: Tensor, outputs: Tensor) -> None:
    """Replace the rows of the adapters of a stack in `outputs`, [rows, O]; `inputs` are those of the block."""
    rows = block.rows
    if stack.positions is not None:
        rows, inputs = (part.index_select(0, stack.positions) for part in (rows, inputs))
    flat = rows.reshape(-1)
    selected = outputs.index_select(0, flat).view(*rows.shape, -1)
    outputs.index_copy_(0, flat, stack(inputs, selected).flatten(0, 1))


def _by_row(states: Tensor, count: int) -> Tensor:
    """Return a view with one entry per row of the pass: of [B, T, ...], or of [N, ...] as it is."""
    return states.view(count, *states.shape[2:]) if states.shape[0] != count or states.shape[1] == 1 else states


class BatchedHead:
    """The output heads of adapters that train the head in full."""

    def __init__(self) -> None:
        self.variants: dict[int, OutputHead] = {}

    def __call__(self, head: OutputHead, hidden: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """Return the logits of the rows, each with the head of its adapter."""
        rows = current_rows()
        if rows is not None and rows.uniform is not None:
            return self.variants.get(rows.uniform, head).logits(hidden)
        logits = head.logits(hidden)
        hidden_rows, logit_rows = hidden.flatten(0, -2), logits.view(-1, logits.shape[-1])
        for block in rows.blocks if rows is not None else ():
            for adapter, selected in zip(block.adapters, block.rows, strict=True):
                if adapter in self.variants:
                    changed = self.variants[adapter].logits(hidden_rows.index_select(0, selected))
                    logit_rows.index_copy_(0, selected, changed)
        return logits


class BatchedAdapters:
    """A copy of a model that shares its weights, to which adapters are added and removed between passes."""

    def __init__(self, base: Transformer) -> None:
        """Freeze `base`, whose weights are shared."""
        base.requires_grad_(False)
        self.base, self.model = base, reference_copy(base)
        self._head = BatchedHead()
        self.model.batched_head = self._head

    def add(self, adapter: int, adapted: Transformer) -> None:
        """Add an adapter; `adapted` is a copy of the base with the adapter, which shares the frozen weights.

        Passes that another thread computes at the same time are not affected.
        """
        for name in changed_modules(self.base, adapted):
            module, base = adapted.get_submodule(name), self.base.get_submodule(name)
            if name == HEAD:
                self._head.variants[adapter] = adapted.head
                continue
            batched = self._batched(name)
            if name.endswith(LATENT):
                batched.variants[adapter] = module
            elif isinstance(module, AdaptedLinear) and isinstance(base, BaseLinear) and shares_matrix(module, base):
                dtype = self.model.head_weight.dtype
                batched.updates.add(adapter, LowRankUpdate.of(module, base.bias, dtype=dtype))
            else:
                batched.variants[adapter] = module

    def remove(self, adapter: int) -> None:
        """Remove an adapter that no pass computes any more."""
        self._head.variants.pop(adapter, None)
        for module in self.model.modules():
            if isinstance(module, BatchedModule):
                module.updates.remove(adapter)
                module.variants.pop(adapter, None)

    def _batched(self, name: str) -> BatchedModule:
        """Return the module with this name, which becomes a `BatchedModule` when an adapter first changes it."""
        module = self.model.get_submodule(name)
        if not isinstance(module, BatchedModule):
            parent, _, last = name.rpartition(".")
            module = BatchedModule(module)
            setattr(self.model.get_submodule(parent), last, module)
        return module


def changed_modules(base: nn.Module, adapted: nn.Module, name: str = "") -> Iterator[str]:
    """Yield the names of the modules that an adapter changes; a mixture of experts is one module."""
    if isinstance(adapted, AdaptedLinear):
        yield name
    elif isinstance(base, MixtureOfExperts):
        if _parameters(base) != _parameters(adapted):
            yield name
    else:
        if any(base._parameters.get(key) is not parameter for key, parameter in adapted._parameters.items()):
            yield name
        for key, child in adapted.named_children():
            yield from changed_modules(base.get_submodule(key), child, f"{name}.{key}" if name else key)


def shares_matrix(layer: AdaptedLinear, base: nn.Module) -> bool:
    """Return True if a layer with an adapter uses the matrix of a layer of the base."""
    if layer.quantized is None:
        return isinstance(base, nn.Linear) and layer.weight is base.weight
    return isinstance(base, FrozenLinear) and next(layer.quantized.buffers()) is next(base.buffers())


def computes_by_row(base: Transformer, adapted: Transformer) -> bool:
    """Return True if the modules that an adapter changes compute each row of a pass by itself."""
    excluded = (*NOT_BY_ROW, "embed_tokens") if base.architecture.tied else NOT_BY_ROW  # tied: also the output head
    for name in changed_modules(base, adapted):
        module = adapted.get_submodule(name)
        if name.endswith(LATENT) and isinstance(module, AdaptedLinear) and module.lora_B.bias is not None:
            return False
        if name.endswith(excluded):
            return False
    return True


def measured_layers(base: Transformer, adapted: Transformer, *, least: int) -> int:
    """Return the number of first layers, at least `least`, in which each kind of change of an adapter occurs."""
    first: dict[tuple[str, ...], int] = {}
    for name in changed_modules(base, adapted):
        match = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", name)
        if match:
            module = adapted.get_submodule(name)
            rank = str(module.rank) if isinstance(module, AdaptedLinear) else "full"
            first.setdefault((match[2], rank), int(match[1]))
    return max([least, *(layer + 1 for layer in first.values())])


def _parameters(module: nn.Module) -> dict[str, int]:
    return {name: id(parameter) for name, parameter in module.named_parameters()}
