"""Predictions for a training plan: parameters, FLOPs, memory and loss.

The predictions depend on the plan alone. Time, speed and cost depend on the machine; `throughput` measures them.
"""

from __future__ import annotations

import math
from typing import Any

from vita.design.scaling_law import LAWS, Law
from vita.design.scaling_rules import USEFUL_EPOCHS, WIDTH_PER_LAYER, TrainingPlan, shape_of_depth
from vita.nn.architecture import Architecture
from vita.train.microbatches import logit_memory, micro_batch_size


def bytes_per_token(vocabulary: int) -> float:
    """Return the bytes of English per token of a byte-level BPE: 0.415 more for each doubling of the vocabulary.

    Measured from 1,024 (2.39) to 32,768 (4.28) tokens on encyclopedia and books, with an error of at most 5 %.
    """
    return max(1.0, 2.39 + 0.415 * (math.log2(vocabulary) - 10))


def effective_tokens(tokens: int, available: int | None) -> float:
    """Return the equivalent number of unique tokens for repeated text (Muennighoff et al. 2023, eq. 5, R* = 15.4)."""
    if available is None or tokens <= available:
        return float(tokens)
    repeats = tokens / available - 1
    return available * (1 + 15.4 * (1 - math.exp(-repeats / 15.4)))


def best_shape(
    flops: float, *, vocabulary: int, context: int, law: Law, available: int | None = None, encoder: bool = False
) -> Architecture:
    """Return the architecture with the lowest predicted loss for a budget of `flops`.

    Widths below `NARROWEST` are not considered: smaller matrices take the same time. Among depths with about equal
    predicted loss the deepest is chosen: the law cannot distinguish them, and larger models are better in tuning.
    """

    def bits(shape: Architecture) -> float:
        tokens = flops / shape.flops_per_token(context)
        text_bytes = effective_tokens(round(tokens), available) * bytes_per_token(vocabulary)
        return law.bits_per_byte(shape.matrix_parameters(), max(text_bytes, 1.0))

    shapes = [
        shape_of_depth(
            depth,
            vocabulary=vocabulary,
            context=context,
            width=max(NARROWEST, WIDTH_PER_LAYER * depth),
            encoder=encoder,
        )
        for depth in range(2, 65)
    ]
    lowest_bits = min(map(bits, shapes))
    return [shape for shape in shapes if bits(shape) <= ABOUT_EQUAL * lowest_bits][-1]


ABOUT_EQUAL = 1.03
NARROWEST = 256
"""On two cores width 192 with 3 layers trained at 12,900 tokens/s, width 256 with 4 layers at 12,600."""


def prediction(
    shape: Architecture,
    plan: TrainingPlan,
    *,
    text: str,
    available: int | None = None,
    token_bytes: float | None = None,
    law: Law | None = None,
) -> dict[str, Any]:
    """Return all predictions that do not depend on the machine, as plain values for `blueprint.json`.

    `token_bytes` are the bytes per token of the actual tokenizer, if there is one. `law` is a law that was fitted to
    the user's text, instead of the one for the kind `text`.
    """
    text_bytes = token_bytes or bytes_per_token(shape.vocabulary)
    head = 0 if shape.tied else shape.vocabulary * shape.width
    embedding = shape.vocabulary * shape.width
    total = shape.parameters()
    logits = 1.0 if shape.causal else MASK_RATE
    flops = shape.flops_per_token(plan.context, logits=logits)
    answer: dict[str, Any] = {
        "parameters": {"total": total, "layers": total - embedding - head, "embedding": embedding, "head": head},
        "tokens": plan.tokens,
        "tokens_per_parameter": round(plan.tokens / shape.matrix_parameters(), 2),
        "text_bytes": round(plan.tokens * text_bytes),
        "flops_per_token": flops,
        "flops": flops * plan.tokens,
        "memory": plan_memory(shape, plan, logits=logits),
    }
    if shape.causal:  # the laws were fitted to predictions of the next token
        answer["bits_per_byte"] = _bits(law or LAWS[text], shape, effective_tokens(plan.tokens, available) * text_bytes)
    answer["text"] = text
    if available is not None:
        answer["epochs"] = round(plan.tokens / available, 2)
    return answer


MASK_RATE = 0.3
"""Share of tokens for which an encoder computes logits, the default of `pretrain.mask_rate`."""


def plan_memory(shape: Architecture, plan: TrainingPlan, *, logits: float = 1.0) -> dict[str, int]:
    """Return the memory in bytes by purpose, for the micro-batches and chunks of the trainer.

    `logits` is the share of tokens for which logits are computed.
    """
    tokens = plan.context * micro_batch_size(plan.rows, tokens_per_row=plan.context)
    predicted = tokens if logits == 1.0 else round(tokens * logits)
    return shape.memory(tokens=tokens, logits=logit_memory(predicted, vocabulary=shape.vocabulary))


def warnings(answer: dict[str, Any]) -> list[str]:
    """Return warnings about a plan."""
    messages = []
    if answer.get("epochs", 0) > USEFUL_EPOCHS:
        messages.append(
            f"the text is repeated for {answer['epochs']} epochs; beyond {USEFUL_EPOCHS} the gains diminish"
        )
    if answer["tokens_per_parameter"] > 200:
        messages.append(
            f"{answer['tokens_per_parameter']:.0f} tokens per parameter: a larger model would reach a lower loss"
        )
    return messages


def _bits(law: Law, shape: Architecture, text_bytes: float) -> dict[str, float]:
    interval = law.interval(shape.matrix_parameters(), text_bytes)
    return {"value": round(interval.value, 3), "low": round(interval.low, 3), "high": round(interval.high, 3)}
