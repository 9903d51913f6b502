"""What a plan will cost and give, said beforehand: parameters, operations, memory and loss.

Only what follows from the plan alone is foretold here. Time, speed and money depend on the machine; `calibration`
measures them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from vita.design.scaling_rules import USEFUL_EPOCHS, WIDTH_PER_LAYER, TrainingPlan, shape_of_depth
from vita.nn.architecture import Architecture
from vita.train.pieces import logit_memory, rows_at_once


@dataclass(frozen=True, slots=True)
class Law:
    """Bits per byte on held-out text: floor + capacity term + data term (Hoffmann et al. 2022, eq. 2).

    Data counts in bytes of text, not tokens, so that the law holds for any vocabulary.
    """

    floor: float
    """Bits that no model saves."""
    size_bits: float
    """Bits lost by a model of 5 million matrix parameters."""
    size_power: float
    """How fast more parameters save them."""
    data_bits: float
    """Bits lost after 20 MB of text."""
    data_power: float
    """How fast more text saves them."""
    doubt: float
    """Half the width of the 95 % range, as a share of the prediction, for other text or settings of like kind."""

    def bits_per_byte(self, parameters: int, text_bytes: float) -> float:
        """The law itself."""
        size = self.size_bits * (parameters / 5e6) ** -self.size_power
        return self.floor + size + self.data_bits * (text_bytes / 20e6) ** -self.data_power


LAWS = {
    "english": Law(floor=0.86, size_bits=0.243, size_power=0.30, data_bits=0.60, data_power=0.30, doubt=0.10),
    "world": Law(floor=0.20, size_bits=0.015, size_power=0.30, data_bits=0.02, data_power=0.60, doubt=0.15),
}
"""By kind of text: encyclopedia and books in English, and the embedded world, which leaves far less to guess.

Drawn through few runs, listed in docs/experiments.md: English from 1 to 76 MB of text at 1M to 5M matrix parameters,
the world at one size; the exponents stay near those of larger studies. `doubt` is as wide as that deserves.
"""

DOUBT_PER_FACTOR = 0.03
"""Further doubt for each factor of e between a plan's text and 20 MB."""


def bytes_per_token(vocabulary: int) -> float:
    """How many bytes of English a token of a byte-level BPE stands for: 0.415 more for each doubling of the vocabulary.

    Measured from 1,024 (2.39) to 32,768 (4.28) tokens on encyclopedia and books; within 5 % there.
    """
    return max(1.0, 2.39 + 0.415 * (math.log2(vocabulary) - 10))


def effective_tokens(tokens: int, available: int | None) -> float:
    """What tokens are worth when text is seen more than once (Muennighoff et al. 2023, eq. 5, R* = 15.4)."""
    if available is None or tokens <= available:
        return float(tokens)
    repeats = tokens / available - 1
    return available * (1 + 15.4 * (1 - math.exp(-repeats / 15.4)))


def best_shape(flops: float, *, vocabulary: int, context: int, text: str, available: int | None = None) -> Architecture:
    """The depth that learns most when `flops` operations are all there are.

    Nothing narrower than `NARROWEST` is looked at: smaller matrices take as long. Of
    depths whose foretold loss is about equal the largest is taken: the law cannot tell them apart, and what a model
    has room for shows later, when it is tuned.
    """

    def bits(shape: Architecture) -> float:
        tokens = flops / shape.flops_per_token(context)
        seen = effective_tokens(round(tokens), available) * bytes_per_token(vocabulary)
        return LAWS[text].bits_per_byte(shape.matrix_parameters(), max(seen, 1.0))

    shapes = [
        shape_of_depth(depth, vocabulary=vocabulary, context=context, width=max(NARROWEST, WIDTH_PER_LAYER * depth))
        for depth in range(2, 65)
    ]
    least = min(map(bits, shapes))
    return [shape for shape in shapes if bits(shape) <= ABOUT_EQUAL * least][-1]


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
) -> dict[str, Any]:
    """All that can be said of a plan without a machine, as plain values for `blueprint.json`.

    `token_bytes` is how many bytes a token of the real tokenizer stands for, where there is one already.
    """
    text_bytes = token_bytes or bytes_per_token(shape.vocabulary)
    head = 0 if shape.tied else shape.vocabulary * shape.width
    embedding = shape.vocabulary * shape.width
    total = shape.parameters()
    flops = shape.flops_per_token(plan.context)
    answer: dict[str, Any] = {
        "parameters": {"total": total, "layers": total - embedding - head, "embedding": embedding, "head": head},
        "tokens": plan.tokens,
        "tokens_per_parameter": round(plan.tokens / shape.matrix_parameters(), 2),
        "text_bytes": round(plan.tokens * text_bytes),
        "flops_per_token": flops,
        "flops": flops * plan.tokens,
        "memory": _memory(shape, plan),
        "bits_per_byte": _bits(LAWS[text], shape, effective_tokens(plan.tokens, available) * text_bytes),
        "text": text,
    }
    if available is not None:
        answer["epochs"] = round(plan.tokens / available, 2)
    return answer


def _memory(shape: Architecture, plan: TrainingPlan) -> dict[str, int]:
    """Bytes by purpose, for the micro-batches and chunks in which the trainer computes a step."""
    tokens = plan.context * rows_at_once(plan.rows, tokens_per_row=plan.context)
    return shape.memory(tokens=tokens, logits=logit_memory(tokens, vocabulary=shape.vocabulary))


def warnings(answer: dict[str, Any]) -> list[str]:
    """What a reader of the plan should know before paying for it."""
    told = []
    if answer.get("epochs", 0) > USEFUL_EPOCHS:
        told.append(f"the text is seen {answer['epochs']} times; beyond {USEFUL_EPOCHS} times it teaches ever less")
    if answer["tokens_per_parameter"] > 200:
        told.append(
            f"{answer['tokens_per_parameter']:.0f} tokens a parameter: a larger model would learn more from them"
        )
    return told


def _bits(law: Law, shape: Architecture, text_bytes: float) -> dict[str, float]:
    value = min(law.bits_per_byte(shape.matrix_parameters(), text_bytes), WORST)
    doubt = law.doubt + DOUBT_PER_FACTOR * abs(math.log(text_bytes / 20e6))
    low, high = value * (1 - min(doubt, 0.9)), min(value * (1 + doubt), WORST)
    return {"value": round(value, 3), "low": round(low, 3), "high": round(high, 3)}


WORST = 8.0
"""Bits per byte of guessing every byte alike; nothing that learns is worse."""
