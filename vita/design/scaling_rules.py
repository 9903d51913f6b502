"""From one dial to a whole plan: width, heads, batch, rates and decay follow from depth and tokens.

Each rule is a pure function with its source. Rules published for 100M parameters and more go wrong far below that
(batches of 100,000 tokens leave a small run a hundred steps, weight decay grows without bound), so where ours differ
they run through what was measured at 1M to 10M parameters and meet the published ones at the size those were fitted on.

    shape = shape_of_depth(6, vocabulary=4096, context=512)
    plan = training_plan(shape, tokens=compute_optimal_tokens(shape))
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from vita.nn.architecture import Architecture
from vita.spine.config import Settings

WIDTH_PER_LAYER = 64
"""Width grows with depth at this rate (Karpathy 2025, nanochat); 40 to 100 cost about the same (Kaplan et al. 2020)."""
TOKENS_PER_PARAMETER = 12
"""Tokens for each matrix parameter, head included, at which a given compute is best spent (nanochat, March 2026)."""
USEFUL_EPOCHS = 4
"""Passes over the same text that are about as good as fresh text (Muennighoff et al. 2023)."""

BATCHES = ((2.5e5, 2**10), (1e6, 2**11), (8e6, 3200), (32e6, 2**13), (1.32e9, 2**19))
"""Tokens of a run -> tokens of a step: minutes and half an hour on two cores, and nanochat's model of 12 layers."""
SMALL_RUN = 2
"""Where in `BATCHES` a few minutes on two cores stand."""


class TrainingPlan(Settings):
    """How the shape is to be trained: what of the training's settings follows from its size."""

    steps: int
    """Optimizer steps."""
    rows: int
    """Sequences that one optimizer step learns from, over all processes."""
    context: int
    """Tokens in a sequence."""
    warmup: int
    """Steps over which the rates rise."""
    decay: float
    """Last part of the steps, over which the rates fall."""
    matrix_rate: float
    """Peak learning rate of the layers' matrices, for Muon."""
    embedding_rate: float
    """Peak learning rate of the token embedding, for AdamW."""
    head_rate: float
    """Peak learning rate of the output head, for AdamW."""
    scalar_rate: float
    """Peak learning rate of the norms, for AdamW."""
    weight_decay: float
    """Pull of the layers' matrices towards zero."""

    @property
    def tokens_per_step(self) -> int:
        return self.rows * self.context

    @property
    def tokens(self) -> int:
        return self.steps * self.tokens_per_step

    def as_json(self) -> dict[str, Any]:
        """As it stands in `blueprint.json`, under the names of the settings that it fills."""
        return {
            "tokens": self.tokens,
            "tokens_per_step": self.tokens_per_step,
            "steps": self.steps,
            "rows": self.rows,
            "context": self.context,
            "schedule": {
                "steps": self.steps,
                "name": "warmup_stable_decay",
                "warmup": self.warmup,
                "decay": self.decay,
            },
            "optimization": {
                "matrix_rate": self.matrix_rate,
                "embedding_rate": self.embedding_rate,
                "head_rate": self.head_rate,
                "scalar_rate": self.scalar_rate,
                "weight_decay": self.weight_decay,
            },
        }


def training_plan(
    shape: Architecture, *, tokens: int, tokens_per_step: int | None = None, steps: int | None = None
) -> TrainingPlan:
    """The plan for a shape and a number of tokens; `tokens_per_step` and `steps` override what would be derived."""
    # Steps alone say how long to train: in steps of at most the size that suits a small run.
    expected = min(tokens, steps * BATCHES[SMALL_RUN][1]) if steps else tokens
    batch = tokens_per_step or batch_tokens(expected, context=shape.context)
    count = steps or max(1, round(tokens / batch))
    rate = matrix_rate(batch)
    return TrainingPlan(
        steps=count,
        rows=max(1, batch // shape.context),
        context=shape.context,
        warmup=warmup_steps(count),
        decay=DECAY_SHARE,
        matrix_rate=rate,
        embedding_rate=embedding_rate(shape.width, batch),
        head_rate=head_rate(shape.width, batch),
        scalar_rate=other_rate(shape.width, batch),
        weight_decay=weight_decay(rate, count),
    )


# -- shape


def shape_of_depth(depth: int, *, vocabulary: int, context: int, width: int | None = None) -> Architecture:
    """The model of `depth` layers; the width follows the depth unless it is given."""
    wide = width or WIDTH_PER_LAYER * max(1, depth)
    dim = head_dim(wide)
    heads = max(1, wide // dim)
    sizes = {"width": wide, "layers": depth, "heads": heads, "kv_heads": kv_heads(heads), "head_dim": dim}
    rest = {"vocabulary": vocabulary, "feedforward": feedforward(wide), "context": context, "tied": False}
    return Architecture.model_validate({**sizes, **rest})


def shape_of_parameters(parameters: int, *, vocabulary: int, context: int) -> Architecture:
    """The model nearest to a number of parameters, of about the usual ratio of width to depth."""
    best = shape_of_depth(1, vocabulary=vocabulary, context=context)
    least = float("inf")
    for depth in range(1, 129):
        for width in [*range(32, 256, 32), *range(256, 2 * WIDTH_PER_LAYER * depth + 1, 64)]:
            shape = shape_of_depth(depth, vocabulary=vocabulary, context=context, width=width)
            off = abs(shape.parameters() / parameters - 1)
            # A twentieth more or fewer parameters is worth as much as a quarter more or less width for the depth.
            cost = off + 0.2 * abs(width / (WIDTH_PER_LAYER * depth) - 1)
            if cost < least:
                best, least = shape, cost
        if shape_of_depth(depth, vocabulary=vocabulary, context=context).parameters() > 2 * parameters:
            break
    return best


def head_dim(width: int) -> int:
    """64 numbers a head, 128 from width 2048 on as is usual there, 32 where fewer than four heads would be left."""
    return 128 if width >= 2048 else 64 if width >= 256 else 32


def kv_heads(heads: int) -> int:
    """Every query its own keys and values, until the cache counts: from 16 heads on, groups of four share."""
    return heads // 4 if heads >= 16 and heads % 4 == 0 else heads


def feedforward(width: int) -> int:
    """8/3 of the width, so that three matrices weigh what two of 4 x width would (Shazeer 2020), in tiles of 64."""
    return max(64, -(-8 * width // (3 * 64)) * 64)


def context_of(width: int) -> int:
    """Tokens a model of this width reads at once: 512 on a laptop, 2048 at full size."""
    return 512 if width <= 512 else 1024 if width <= 1024 else 2048


def vocabulary_of(parameters: int) -> int:
    """More words for larger models, so that embedding and head stay between a tenth and a third of the parameters."""
    limits = ((1024, 1.5e6), (2048, 3e6), (4096, 12e6), (8192, 50e6), (16384, 200e6))
    return next((size for size, limit in limits if parameters < limit), 32768)


# -- tokens


def compute_optimal_tokens(shape: Architecture) -> int:
    """Tokens at which neither a larger model nor a longer run would have been the better use of the compute."""
    return TOKENS_PER_PARAMETER * shape.matrix_parameters()


def batch_tokens(tokens: int, *, context: int) -> int:
    """Tokens for each step, in whole rows of `context`: a power law between each two points of `BATCHES`.

    Above the last the batch grows with tokens^0.383 (Bergsma et al. 2025). Carried down to our sizes that law would
    ask for 90,000 tokens a step, of which half an hour could take only 150. At 2.5M tokens of English, 4,096 a step
    came to 2.02 bits per byte, 8,192 to 2.08 and 13,312 to 2.15; 2,048 gained 0.01 more, with twice as many steps. At
    nine times as many tokens 13,300 a step lost next to nothing to 4,096, while the optimizer's part of the time falls
    from about a quarter at 3,600 to an eighth at 8,192.
    """
    if tokens >= BATCHES[-1][0]:
        ideal = BATCHES[-1][1] * (tokens / BATCHES[-1][0]) ** 0.383
    else:
        pieces = [*pairwise(BATCHES)]
        (left, low), (right, high) = next((piece for piece in pieces if tokens < piece[1][0]), pieces[-1])
        ideal = low * (tokens / left) ** (math.log(high / low) / math.log(right / left))
    return max(1, round(max(ideal, 1024) / context)) * context


# -- rates


DECAY_SHARE = 0.4
"""The rates fall over this last part of the steps.

At 2.5M tokens of English a fall over all of them came to 1.904 bits per byte, 60 % to 1.877, 40 % to 1.859; where
documents were masked from each other 60 % to 1.840, 40 % to 1.827, 25 % to 1.828.
"""


# At 1M tokens of English, width 256 and 4 layers, 3e-3 for all beside 0.02 for Muon came to 2.34 bits per byte, larger
# rates for embedding and head to 2.24. docs/experiments.md has the points.


def matrix_rate(batch: int) -> float:
    """Muon's peak rate, 0.02 at any batch of ours; above nanochat's reference it grows with the batch's root.

    At 2.5M tokens in steps of 4,096: 2.025 bits per byte with 0.013, 2.008 with 0.02, 2.027 with 0.03.
    """
    return 0.02 * _wide_batch(batch)


def embedding_rate(width: int, batch: int) -> float:
    """AdamW's peak rate for the embedding: 0.06 at width 256. A token's row moves only in steps that meet the token."""
    return 0.06 * (256 / width) ** 0.5 * _wide_batch(batch)


def head_rate(width: int, batch: int) -> float:
    """AdamW's peak rate for an output head of its own: 6e-3 at width 256."""
    return 6e-3 * (256 / width) ** 0.5 * _wide_batch(batch)


def other_rate(width: int, batch: int) -> float:
    """AdamW's peak rate for the norms, and for all but the matrices in tuning: 3e-3 at width 256."""
    return 3e-3 * (256 / width) ** 0.5 * _wide_batch(batch)


def preference_rate(parameters: int) -> float:
    """AdamW's peak rate for learning from preferences: 1e-4 up to 2M parameters, then falling with their root.

    It meets 5e-5 at 10M, what worked on small worlds, 1e-5 at 135M, and the 1e-6 to 2e-6 usual at 7B (Tunstall et al.
    2023). The rates that a model is pretrained with would be a hundred times too high.
    """
    return 1e-4 * min(1.0, (2e6 / parameters) ** 0.5)


def _wide_batch(batch: int) -> float:
    return max(1.0, (batch / BATCHES[-1][1]) ** 0.5)


def warmup_steps(steps: int) -> int:
    """40 steps as in nanochat, but never more than a twentieth of the run."""
    return max(1, min(40, steps // 20))


def weight_decay(rate: float, steps: int) -> float:
    """Decay such that weights average over the last half of the run, at most 0.1.

    Weights under decay are a moving average over 1 / (rate x decay) steps, whose best length is a constant share of
    the run (Wang & Aitchison 2024). Rules that tie the decay to tokens alone reach 1 and more at our sizes.
    """
    return min(0.1, 2 / (rate * steps))
