"""Training losses: pure functions of a model and a batch that return *sums* over the targets.

The loop divides by the number of targets of the whole step, over all micro-batches and ranks, so that the size of
micro-batches has no influence (a mean of means would give short micro-batches more weight).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vita.nn.row_sums import add_rows
from vita.nn.transformer import OutputHead, Transformer
from vita.train.compilation import compiled_region
from vita.train.hardware import logit_bytes
from vita.train.microbatches import loss_chunk_size

# B batch, T position, D width, V vocabulary, N positions of all rows, C those of a chunk

Tensors = Mapping[str, Tensor]
Loss = Callable[[Transformer, Tensors], tuple[Tensor, dict[str, Tensor]]]
"""(model, micro-batch) -> (the sum to minimize, sums of metrics); the loop divides each by the number of targets."""


def language_modelling(model: Transformer, tensors: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the next-token loss over `ids` [B, T + 1]: inputs are all but the last, targets all but the first.

    `learn` [B, T + 1] marks the targets (all by default); `documents` and `positions` separate the texts of a row.
    """
    ids, learn, documents, positions = (tensors.get(name) for name in ("ids", "learn", "documents", "positions"))
    assert ids is not None, "a batch has `ids`"
    hidden = model.hidden(
        ids[:, :-1],
        documents=None if documents is None else documents[:, :-1],
        positions=None if positions is None else positions[:, :-1],
    )
    sums = next_token(hidden, model.head, ids[:, 1:], None if learn is None else learn[:, 1:])
    return sums.loss, {"accuracy": sums.correct}


class LossSums(NamedTuple):
    """Sums over all targets."""

    loss: Float[Tensor, ""]
    """Cross-entropy in nats."""
    correct: Float[Tensor, ""]
    """Number of targets that are the most likely token."""
    targets: Float[Tensor, ""]
    """Number of targets."""


def next_token(
    hidden: Float[Tensor, "B T D"],
    head: OutputHead,
    targets: Int[Tensor, "B T"],
    mask: Bool[Tensor, "B T"] | None = None,
    *,
    z_loss: float = 0.0,
) -> LossSums:
    """Compute the cross-entropy of the targets in chunks, so that the logits of all positions are never in memory.

    `z_loss` adds this multiple of log(sum(exp(logits)))^2, which prevents a drift of the logits (Chowdhery et al. 2022,
    sec. 5). Without targets the sum and all gradients are 0.
    """
    hidden, head = head.linear(hidden)
    weights = torch.ones_like(targets, dtype=torch.float32) if mask is None else mask.float()
    if head.division is not None:
        divided = hidden.flatten(0, 1), head, targets.flatten(), weights.flatten()
        return LossSums(*head.division.cross_entropy(*divided, z_loss=z_loss), weights.sum())
    flat = hidden.flatten(0, 1), head.weight, targets.flatten(), weights.flatten()
    loss, correct = _LinearCrossEntropy.apply(*flat, z_loss, head.scale, head.softcap, head.compiles)
    return LossSums(loss, correct, weights.sum())


class _LinearCrossEntropy(torch.autograd.Function):
    """Fused linear cross-entropy: the gradients are computed in the forward pass, while the logits are available.

    With e = exp(logits - peak), its row sum s and lse = peak + ln s, the gradient of a row of logits is
    (1 + 2 z lse) e / s - onehot. The first factor scales rows, so it is applied to the narrow matrices (dH = e W,
    dW = e' H) instead of the wide one, and the onehot part is a lookup.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "N D"],
        head: Float[Tensor, "V D"],
        targets: Int[Tensor, "N"],
        weights: Float[Tensor, "N"],
        z_loss: float,
        scale: float,
        softcap: float | None,
        compiles: bool,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        needed, head_needed = ctx.needs_input_grad[0] or ctx.needs_input_grad[1], ctx.needs_input_grad[1]
        cast_head = head.to(hidden.dtype)
        size = loss_chunk_size(
            len(hidden),
            vocabulary=len(head),
            number_bytes=hidden.element_size(),
            logit_bytes=logit_bytes(hidden.device),
        )
        losses, correct, grad_hidden, grad_head = [], [], [], None
        plain = scale == 1.0 and softcap is None
        output_head = OutputHead(cast_head, scale, softcap)
        chunk_loss = compiled_region(_chunk_loss) if compiles else _chunk_loss
        for start in range(0, len(hidden), size):
            part = slice(start, start + size)
            chunk = hidden[part], targets[part], weights[part], z_loss, needed, head_needed
            loss, chunk_correct, hidden_gradient, head_gradient = (
                chunk_loss(cast_head, *chunk) if plain else _scaled_chunk_loss(output_head, *chunk)
            )
            losses.append(loss)
            correct.append(chunk_correct)
            grad_hidden.append(hidden_gradient)
            grad_head = head_gradient if grad_head is None or head_gradient is None else grad_head + head_gradient
        if needed:
            ctx.save_for_backward(torch.cat(grad_hidden), grad_head.to(head.dtype) if grad_head is not None else None)
        loss, total_correct = torch.stack(losses).sum(), torch.stack(correct).sum()
        ctx.mark_non_differentiable(total_correct)
        return loss, total_correct

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_head = ctx.saved_tensors
        gradient = gradients[0]
        by_hidden = grad_hidden * gradient.to(grad_hidden.dtype)
        by_head = None if grad_head is None else grad_head * gradient.to(grad_head.dtype)
        return by_hidden, by_head, None, None, None, None, None, None


def _chunk_loss(
    head: Float[Tensor, "V D"],
    hidden: Float[Tensor, "C D"],
    targets: Int[Tensor, "C"],
    weights: Float[Tensor, "C"],
    z_loss: float,
    needed: bool,
    head_needed: bool = True,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    compute_dtype = torch.promote_types(hidden.dtype, torch.float32)
    logits = (hidden @ head.mT).to(compute_dtype)
    peak = logits.amax(-1, keepdim=True)
    exponentials = torch.exp(logits - peak)
    total = exponentials.sum(-1)
    log_total = peak[:, 0] + torch.log(total)
    target_logits = logits.gather(1, targets[:, None])[:, 0]
    loss = (weights * (log_total - target_logits + z_loss * log_total**2)).sum()
    correct = (weights * (target_logits >= peak[:, 0])).sum()
    if not needed:
        return loss, correct, None, None
    cast_exponentials = exponentials.to(hidden.dtype)
    scale = (weights * (1 + 2 * z_loss * log_total) / total)[:, None]
    grad_hidden = (cast_exponentials @ head).to(compute_dtype) * scale - weights[:, None] * head[targets].to(
        compute_dtype
    )
    if not head_needed:  # a frozen head: its gradient would be the largest tensor of the step
        return loss, correct, grad_hidden.to(hidden.dtype), None
    grad_head = (cast_exponentials.mT @ (hidden.to(compute_dtype) * scale).to(hidden.dtype)).to(compute_dtype)
    grad_head = add_rows(grad_head, targets, -weights[:, None] * hidden.to(compute_dtype))
    return loss, correct, grad_hidden.to(hidden.dtype), grad_head


def _scaled_chunk_loss(
    head: OutputHead,
    hidden: Float[Tensor, "C D"],
    targets: Int[Tensor, "C"],
    weights: Float[Tensor, "C"],
    z_loss: float,
    needed: bool,
    head_needed: bool = True,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Compute the same for a head that scales or limits its logits, whose derivative is 1 - (logit / limit)^2."""
    compute_dtype = torch.promote_types(hidden.dtype, torch.float32)
    logits = head.logits(hidden).to(compute_dtype)
    log_total = logits.logsumexp(-1)
    target_logits = logits.gather(1, targets[:, None])[:, 0]
    loss = (weights * (log_total - target_logits + z_loss * log_total**2)).sum()
    correct = (weights * (target_logits >= logits.amax(-1))).sum()
    if not needed:
        return loss, correct, None, None
    gradient = torch.exp(logits - log_total[:, None]) * (weights * (1 + 2 * z_loss * log_total))[:, None]
    gradient = gradient.scatter_add(1, targets[:, None], -weights[:, None].to(compute_dtype)) * head.scale
    if head.softcap is not None:
        gradient = gradient * (1 - (logits / head.softcap) ** 2)
    cast_gradient = gradient.to(hidden.dtype)
    if not head_needed:
        return loss, correct, cast_gradient @ head.weight, None
    grad_head = (cast_gradient.mT @ hidden).to(compute_dtype)
    return loss, correct, cast_gradient @ head.weight, grad_head
