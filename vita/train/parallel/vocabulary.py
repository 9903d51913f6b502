"""The part of the vocabulary that a process holds, and the cross-entropy over all parts (Shoeybi et al. 2019, sec. 3).

Processes exchange three numbers per target (maximum, sum of exponentials, score of the target) instead of logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vita.nn.transformer import OutputHead
from vita.train.microbatches import loss_chunk_size
from vita.train.parallel.collectives import all_reduce, copy_to_axis, gather_replicated

# N positions, C those of a chunk, D width, P rows of the head that a process holds, V vocabulary


@dataclass(frozen=True)
class Vocabulary:
    """The division of the vocabulary in equal parts."""

    group: str
    """Name of the process group."""
    index: int
    count: int

    def local_ids(self, ids: Tensor, *, rows: int) -> tuple[Tensor, Tensor]:
        """Return the row of each token in this part, and True for tokens of this part; other tokens get row 0."""
        local = ids - self.index * rows
        is_local = (local >= 0) & (local < rows)
        return torch.where(is_local, local, 0), is_local

    def copy(self, hidden: Tensor) -> Tensor:
        """Return the input of the head, whose gradients are summed over the parts."""
        return copy_to_axis(hidden, self.group)

    def gather(self, logits: Float[Tensor, "*N P"]) -> Float[Tensor, "*N V"]:
        """Return the logits of the whole vocabulary."""
        return gather_replicated(logits, self.group, index=self.index, count=self.count)

    def cross_entropy(
        self,
        hidden: Float[Tensor, "N D"],
        head: OutputHead,
        targets: Int[Tensor, "N"],
        weights: Float[Tensor, "N"],
        *,
        z_loss: float,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return the sum of the loss over the targets, and the number of targets that are the most likely token."""
        inputs = self.copy(hidden), head.weight, targets, weights, self, z_loss, head.scale, head.softcap
        return _DividedCrossEntropy.apply(*inputs)


class _DividedCrossEntropy(torch.autograd.Function):
    """Cross-entropy in chunks of positions; the gradients are computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "N D"],
        weight: Float[Tensor, "P D"],
        targets: Int[Tensor, "N"],
        weights: Float[Tensor, "N"],
        vocabulary: Vocabulary,
        z_loss: float,
        scale: float,
        softcap: float | None,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        head = OutputHead(weight.to(hidden.dtype), scale, softcap)
        rows = len(weight) * vocabulary.count
        size = loss_chunk_size(len(hidden), vocabulary=rows, number_bytes=hidden.element_size())
        losses, correct, by_hidden, by_weight = [], [], [], None
        for start in range(0, len(hidden), size):
            part = slice(start, start + size)
            chunk = _chunk_loss(head, hidden[part], targets[part], weights[part], vocabulary, z_loss)
            losses.append(chunk[0])
            correct.append(chunk[1])
            by_hidden.append(chunk[2])
            by_weight = chunk[3] if by_weight is None else by_weight + chunk[3]
        assert by_weight is not None
        ctx.save_for_backward(torch.cat(by_hidden), by_weight.to(weight.dtype))
        total_correct = torch.stack(correct).sum()
        ctx.mark_non_differentiable(total_correct)
        return torch.stack(losses).sum(), total_correct

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        by_hidden, by_weight = ctx.saved_tensors
        scaled = (part * gradients[0].to(part.dtype) for part in (by_hidden, by_weight))
        return *scaled, None, None, None, None, None, None


def _chunk_loss(
    head: OutputHead,
    hidden: Float[Tensor, "C D"],
    targets: Int[Tensor, "C"],
    weights: Float[Tensor, "C"],
    vocabulary: Vocabulary,
    z_loss: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return loss, correct targets and the gradients of this part of the vocabulary."""
    compute_dtype = torch.promote_types(hidden.dtype, torch.float32)
    logits = head.logits(hidden).to(compute_dtype)
    local, is_local = vocabulary.local_ids(targets, rows=len(head.weight))
    peak = all_reduce(logits.amax(-1), vocabulary.group, "max")
    exponentials = torch.exp(logits - peak[:, None])
    own_targets = torch.where(is_local, logits.gather(1, local[:, None])[:, 0], 0)
    total, target_logits = all_reduce(torch.stack([exponentials.sum(-1), own_targets]), vocabulary.group)
    log_total = peak + torch.log(total)
    loss = (weights * (log_total - target_logits + z_loss * log_total**2)).sum()
    correct = (weights * (target_logits >= peak)).sum()
    gradient = exponentials * (weights * (1 + 2 * z_loss * log_total) / total)[:, None]
    own_weights = torch.where(is_local, -weights, 0).to(compute_dtype)
    gradient = gradient.scatter_add(1, local[:, None], own_weights[:, None]) * head.scale
    if head.softcap is not None:
        gradient = gradient * (1 - (logits / head.softcap) ** 2)
    cast_gradient = gradient.to(hidden.dtype)
    return loss, correct, cast_gradient @ head.weight, (cast_gradient.mT @ hidden).to(compute_dtype)
