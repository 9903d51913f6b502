"""Mixtures of experts: a router selects experts for each token, and their outputs are added (Shazeer et al. 2017).

The weights of all experts of a layer are stacked: `experts.gate_proj.weight` is [experts, inner width, width]. Routers
follow Mixtral and Qwen (softmax) and DeepSeek-V3 (sigmoid, groups, correction of the choice by a bias).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vita.nn.architecture import Architecture, Experts
from vita.nn.feedforward import ACTIVATIONS, FeedForward, Linear
from vita.nn.grouped import Groups, group_by_expert, grouped_linear

# B batch, T position, N tokens, K active experts, E experts, D width, I inputs, O outputs, P = N K pairs

CORRECTION = "e_score_correction_bias"
"""Name of the bias that corrects the choice of experts (Wang et al. 2024), in files as well."""
TILE = 16
"""Rows of a product in batch-invariant passes."""


class Routing(NamedTuple):
    """The decisions of a router."""

    logits: Float[Tensor, "N E"]
    weights: Float[Tensor, "N K"]
    """Weights of the outputs of the chosen experts."""
    chosen: Int[Tensor, "N K"]


class ExpertRouter(Linear):
    """The scores of the experts for each token, and the choice of the best ones."""

    packable = False

    def __init__(self, width: int, experts: Experts) -> None:
        super().__init__(width, experts.count)
        self.experts = experts
        self.e_score_correction_bias: Tensor | None
        self.register_buffer(CORRECTION, torch.zeros(experts.count) if experts.has_correction else None)

    def route(self, tokens: Float[Tensor, "N D"]) -> Routing:
        """Return the experts of each token and their weights."""
        settings = self.experts
        if settings.precision == "float32":
            logits = F.linear(tokens.float(), self.weight.float())
        else:
            logits = F.linear(tokens, self.weight.to(tokens.dtype))
        if settings.router == "sigmoid":
            weights, chosen = self._sigmoid(logits.float())
        elif settings.router == "topk_softmax":
            best, chosen = logits.float().topk(settings.active, dim=-1)
            weights = best.softmax(-1)
        else:
            weights, chosen = logits.float().softmax(-1).topk(settings.active, dim=-1)
            if settings.normalized:
                weights = weights / weights.sum(-1, keepdim=True)
        if settings.scale != 1.0:
            weights = weights * settings.scale
        return Routing(logits, weights.type_as(logits) if settings.precision == "activations" else weights, chosen)

    def _sigmoid(self, logits: Float[Tensor, "N E"]) -> tuple[Tensor, Tensor]:
        """Choose by the corrected scores among the best groups; the weights are the scores without correction."""
        settings, scores = self.experts, logits.sigmoid()
        choice = scores.detach()
        if self.e_score_correction_bias is not None:
            choice = choice + self.e_score_correction_bias.float()
        if settings.active_groups < settings.groups:
            grouped = choice.unflatten(-1, (settings.groups, -1))
            group_scores = grouped.topk(min(2, grouped.shape[-1]), dim=-1)[0].sum(-1)
            best = group_scores.topk(settings.active_groups, dim=-1)[1]
            excluded = torch.ones_like(group_scores, dtype=torch.bool).scatter(-1, best, False)
            choice = grouped.masked_fill(excluded[..., None], float("-inf")).flatten(-2)
        chosen = choice.topk(settings.active, dim=-1)[1]
        weights = scores.gather(-1, chosen)
        if settings.normalized:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return weights, chosen

    def _apply(self, fn: Any, recurse: bool = True) -> ExpertRouter:
        """Move the correction with the model, and keep it in float32."""
        before = self.e_score_correction_bias
        super()._apply(fn, recurse)
        after = self.e_score_correction_bias
        if before is not None and after is not None and after.dtype != torch.float32:
            self.e_score_correction_bias = before.to(after.device)
        return self


class StackedLinear(nn.Module):
    """The matrices of one projection of all experts, initialized to zero."""

    def __init__(self, count: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(count, outputs, inputs))

    def forward(self, inputs: Float[Tensor, "P I"], groups: Groups) -> Float[Tensor, "P O"]:
        """Multiply the slice of each expert by its matrix."""
        return grouped_linear(inputs, self.weight, groups)

    def matrices(self, dtype: torch.dtype) -> Float[Tensor, "E O I"]:
        """Return the matrices of all experts."""
        return self.weight.to(dtype)


class ExpertStack(nn.Module):
    """The feed-forward networks of all experts of a layer, optionally with adapters."""

    def __init__(self, architecture: Architecture, experts: Experts) -> None:
        super().__init__()
        width, inner = architecture.width, experts.feedforward
        self.activation, self.gated = ACTIVATIONS[architecture.activation], architecture.gated
        if self.gated:
            self.gate_proj = StackedLinear(experts.count, width, inner)
        self.up_proj = StackedLinear(experts.count, width, inner)
        self.down_proj = StackedLinear(experts.count, inner, width)
        self.lora_gate_up: Any = None
        """Adapter of gate and up projection, as one with the rows of both; None without an adapter."""
        self.lora_down: Any = None
        """Adapter of the down projection."""

    def forward(self, inputs: Float[Tensor, "P D"], groups: Groups) -> Float[Tensor, "P D"]:
        """Compute the outputs for tokens that are sorted by expert."""
        up = self.up_proj(inputs, groups)
        gate = self.gate_proj(inputs, groups) if self.gated else None
        if self.lora_gate_up is not None:
            gate, up = _added(gate, up, self.lora_gate_up(inputs, groups))
        inner = self.activation(up) if gate is None else self.activation(gate) * up
        output = self.down_proj(inner, groups)
        return output if self.lora_down is None else output + self.lora_down(inner, groups)

    def in_tiles(self, inputs: Float[Tensor, "P D"], groups: Groups) -> Float[Tensor, "P D"]:
        """Compute the same in products of `TILE` rows, whose bits do not depend on the number of tokens."""
        outputs, start = [], 0
        gates = self.gate_proj.matrices(inputs.dtype) if self.gated else None
        ups, downs = self.up_proj.matrices(inputs.dtype), self.down_proj.matrices(inputs.dtype)
        for expert, size in enumerate(groups.sizes):
            padded = F.pad(inputs[start : start + size], (0, 0, 0, -size % TILE))
            matrices = None if gates is None else gates[expert], ups[expert], downs[expert]
            tiles = [self._of_expert(tile, expert, *matrices) for tile in padded.split(TILE)] if size else []
            outputs += [torch.cat(tiles)[:size]] if size else []
            start += size
        return torch.cat(outputs)

    def _of_expert(
        self, tile: Float[Tensor, "N D"], expert: int, gate_matrix: Tensor | None, up_matrix: Tensor, down: Tensor
    ) -> Float[Tensor, "N D"]:
        up = F.linear(tile, up_matrix)
        gate = None if gate_matrix is None else F.linear(tile, gate_matrix)
        if self.lora_gate_up is not None:
            gate, up = _added(gate, up, self.lora_gate_up.of_expert(tile, expert))
        inner = self.activation(up) if gate is None else self.activation(gate) * up
        output = F.linear(inner, down)
        return output if self.lora_down is None else output + self.lora_down.of_expert(inner, expert)


def _added(gate: Tensor | None, up: Tensor, change: Tensor) -> tuple[Tensor | None, Tensor]:
    """Add the change of gate and up projection, whose rows are joined."""
    if gate is None:
        return None, up + change
    by_gate, by_up = change.chunk(2, dim=-1)
    return gate + by_gate, up + by_up


class MixtureOfExperts(nn.Module):
    """A router, the experts that it selects for each token, and shared experts that compute every token."""

    def __init__(self, architecture: Architecture, experts: Experts) -> None:
        super().__init__()
        self.router = ExpertRouter(architecture.width, experts)
        self.experts = ExpertStack(architecture, experts)
        self.count = experts.count
        self.observer: Callable[[Routing], None] | None = None
        """Called with the decisions of each pass; see `observed`."""
        if experts.shared:
            self.shared_experts = FeedForward(architecture, experts.shared, bias=False)
        if experts.shared_gate:
            self.shared_expert_gate = Linear(architecture.width, 1)
        self.has_shared, self.has_shared_gate = bool(experts.shared), experts.shared_gate

    def forward(self, states: Float[Tensor, "B T D"], *, invariant: bool = False) -> Float[Tensor, "B T D"]:
        """Return the weighted sum of the experts; `invariant` computes a token alike beside any other tokens."""
        tokens = states.flatten(0, 1)
        routing = self.router.route(tokens)
        if self.observer is not None:
            self.observer(routing)
        groups = group_by_expert(routing.chosen, count=self.count)
        inputs = groups.dispatch(tokens)
        outputs = self.experts.in_tiles(inputs, groups) if invariant else self.experts(inputs, groups)
        weighted = (groups.collect(outputs) * routing.weights[..., None]).type_as(tokens)
        mixed = _sum_in_order(weighted) if invariant else weighted.sum(1)
        if self.has_shared:
            mixed = mixed + self._shared(tokens)
        return mixed.view_as(states)

    def _shared(self, tokens: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        output = self.shared_experts(tokens)
        return self.shared_expert_gate(tokens).sigmoid() * output if self.has_shared_gate else output


def _sum_in_order(weighted: Float[Tensor, "N K D"]) -> Float[Tensor, "N D"]:
    """Sum over the experts of a token in their order; a reduction could choose its order by the number of tokens."""
    total = weighted[:, 0]
    for slot in range(1, weighted.shape[1]):
        total = total + weighted[:, slot]
    return total


@contextmanager
def observed(model: nn.Module) -> Iterator[dict[str, list[Routing]]]:
    """Collect the decisions of all routers of a model in the block, by the name of their layer."""
    routings: dict[str, list[Routing]] = {}
    layers = {name: module for name, module in model.named_modules() if isinstance(module, MixtureOfExperts)}
    for name, layer in layers.items():
        layer.observer = routings.setdefault(name, []).append
    try:
        yield routings
    finally:
        for layer in layers.values():
            layer.observer = None
