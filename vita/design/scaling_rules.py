"""Scaling rules: width, heads, batch size, learning rates and decay from depth and number of tokens.

Each rule is a pure function with its source. Rules published for 100M parameters and more fail far below that (batches
of 100,000 tokens leave a small run a hundred steps, weight decay grows without bound). Where these rules differ, they
fit measurements at 1M to 10M parameters and agree with the published rules at the sizes those were fitted to. From 2B
to 10B parameters they follow published runs and are not measured; docs/stages/design.md lists the values by size.

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
"""Width per layer (Karpathy 2025, nanochat); 40 to 100 are about equally good (Kaplan et al. 2020)."""
TOKENS_PER_PARAMETER = 12
"""Compute-optimal tokens per matrix parameter, head included (nanochat, March 2026)."""
USEFUL_EPOCHS = 4
"""Epochs over the same text that are about as good as new text (Muennighoff et al. 2023)."""

BATCHES = ((2.5e5, 2**10), (1e6, 2**11), (8e6, 3200), (32e6, 2**13), (1.32e9, 2**19))
"""(tokens of a run, tokens per step): runs of minutes to half an hour on two cores, and nanochat with 12 layers."""
SMALL_RUN = 2
"""Index in `BATCHES` of a run of a few minutes on two cores."""


class TrainingPlan(Settings):
    """The training settings that follow from the size of the model."""

    steps: int
    """Optimizer steps."""
    rows: int
    """Sequences per optimizer step, over all processes."""
    context: int
    """Tokens per sequence."""
    warmup: int
    """Warmup steps of the learning rates."""
    decay: float
    """Fraction of the steps, at the end, over which the learning rates decay."""
    matrix_rate: float
    """Peak learning rate of the layers' matrices, for Muon."""
    embedding_rate: float
    """Peak learning rate of the token embedding, for AdamW."""
    head_rate: float
    """Peak learning rate of the output head, for AdamW."""
    scalar_rate: float
    """Peak learning rate of the norms, for AdamW."""
    weight_decay: float
    """Weight decay of the layers' matrices."""

    @property
    def tokens_per_step(self) -> int:
        return self.rows * self.context

    @property
    def tokens(self) -> int:
        return self.steps * self.tokens_per_step

    def as_json(self) -> dict[str, Any]:
        """Return the plan as in `blueprint.json`, under the names of the settings."""
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
    """Return the plan for a shape and a number of tokens; `tokens_per_step` and `steps` override derived values."""
    # If `steps` is set, it determines the length, with at most the batch size of a small run.
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
        # A tied embedding is also the head, for which the rate of an embedding would be too high.
        embedding_rate=head_rate(shape.width, batch) if shape.tied else embedding_rate(shape.width, batch),
        head_rate=head_rate(shape.width, batch),
        scalar_rate=other_rate(shape.width, batch),
        weight_decay=weight_decay(rate, count),
    )


# -- shape


def shape_of_depth(
    depth: int, *, vocabulary: int, context: int, width: int | None = None, encoder: bool = False
) -> Architecture:
    """Return the architecture with `depth` layers; the width follows from the depth by default."""
    model_width = width or WIDTH_PER_LAYER * max(1, depth)
    dim = head_dim(model_width)
    heads = max(1, model_width // dim)
    sizes = {"width": model_width, "layers": depth, "heads": heads, "kv_heads": kv_heads(heads), "head_dim": dim}
    other_sizes = {"vocabulary": vocabulary, "feedforward": feedforward(model_width), "context": context, "tied": False}
    if encoder:
        return Architecture.model_validate({**sizes, **other_sizes, **encoder_switches(depth), "kv_heads": heads})
    return Architecture.model_validate({**sizes, **other_sizes})


LOCAL_ATTENTION = 128
"""Tokens around a token that the windowed layers of an encoder attend to."""


def encoder_switches(layers: int) -> dict[str, Any]:
    """Return the switches of ModernBERT (Warner et al. 2024): every third layer is global, the others are local."""
    local = [layer for layer in range(layers) if layer % 3]
    windows: dict[str, Any] = {}
    if local:
        windows = {"window": LOCAL_ATTENTION // 2 + 1, "window_layers": tuple(local), "window_rope_base": 10_000.0}
    return {
        "family": "modernbert",
        "causal": False,
        "masked_head": {},
        "norm": "layer",
        "norm_bias": False,
        "norm_eps": 1e-5,
        "first_norm": False,
        "embedding_norm": True,
        "qk_norm": "none",
        "activation": "gelu",
        "tied": True,
        "rope_base": 160_000.0,
        **windows,
    }


def shape_of_parameters(parameters: int, *, vocabulary: int, context: int, encoder: bool = False) -> Architecture:
    """Return the architecture closest to a number of parameters, with about the usual ratio of width to depth."""
    best = shape_of_depth(1, vocabulary=vocabulary, context=context, encoder=encoder)
    lowest_cost = float("inf")
    for depth in range(1, 129):
        widest = 2 * WIDTH_PER_LAYER * depth
        # From width 2048 on a multiple of four heads of 128, so that four query heads share a key-value head.
        widths = [*range(32, 256, 32), *range(256, min(2048, widest + 1), 64), *range(2048, widest + 1, 512)]
        for width in widths:
            shape = shape_of_depth(depth, vocabulary=vocabulary, context=context, width=width, encoder=encoder)
            size_error = abs(shape.parameters() / parameters - 1)
            # An error of 1/20 in parameters costs as much as an error of 1/4 in the ratio of width to depth.
            cost = size_error + 0.2 * abs(width / (WIDTH_PER_LAYER * depth) - 1)
            if cost < lowest_cost:
                best, lowest_cost = shape, cost
        usual = shape_of_depth(depth, vocabulary=vocabulary, context=context, encoder=encoder)
        if usual.parameters() > 2 * parameters:
            break
    return best


def head_dim(width: int) -> int:
    """Return the head size: 64, 128 from width 2048 on, 32 if fewer than four heads would be left."""
    return 128 if width >= 2048 else 64 if width >= 256 else 32


def kv_heads(heads: int) -> int:
    """Return the number of key-value heads: one per query head, one per four query heads from 16 heads on."""
    return heads // 4 if heads >= 16 and heads % 4 == 0 else heads


def feedforward(width: int) -> int:
    """Return the inner width: 8/3 of the width, so that three matrices equal two of 4 x width (Shazeer 2020)."""
    return max(64, -(-8 * width // (3 * 64)) * 64)


def context_of(width: int) -> int:
    """Return the context length for a width: from 512 on a laptop to 2048 at full size."""
    return 512 if width <= 512 else 1024 if width <= 1024 else 2048


def vocabulary_of(parameters: int) -> int:
    """Return the vocabulary size, for which embedding and head are between 1/10 and 1/3 of the parameters.

    From 2 billion parameters on it is 65,536, near the optimum of Tao et al. (2024) at 3 to 7 billion.
    """
    limits = ((1024, 1.5e6), (2048, 3e6), (4096, 12e6), (8192, 50e6), (16384, 200e6), (32768, 2e9))
    return next((size for size, limit in limits if parameters < limit), 65536)


# -- tokens


def compute_optimal_tokens(shape: Architecture) -> int:
    """Return the compute-optimal number of training tokens."""
    return TOKENS_PER_PARAMETER * shape.matrix_parameters()


def batch_tokens(tokens: int, *, context: int) -> int:
    """Return the tokens per step, a multiple of `context`: a power law between each two points of `BATCHES`.

    Above the last point the batch size grows with tokens^0.383 (Bergsma et al. 2025). Extrapolated to small sizes, that
    law gives 90,000 tokens per step, of which half an hour allows only 150. At 2.5M tokens of English, 4,096 per step
    reached 2.02 bits per byte, 8,192 reached 2.08 and 13,312 reached 2.15; 2,048 gained another 0.01, with twice the
    steps. At nine times as many tokens, 13,300 per step lost almost nothing against 4,096, while the optimizer's share
    of the time falls from about 1/4 at 3,600 to 1/8 at 8,192.
    """
    if tokens >= BATCHES[-1][0]:
        ideal = BATCHES[-1][1] * (tokens / BATCHES[-1][0]) ** 0.383
    else:
        pieces = [*pairwise(BATCHES)]
        (start_tokens, start_batch), (end_tokens, end_batch) = next(
            (piece for piece in pieces if tokens < piece[1][0]), pieces[-1]
        )
        ideal = start_batch * (tokens / start_tokens) ** (
            math.log(end_batch / start_batch) / math.log(end_tokens / start_tokens)
        )
    return max(1, round(max(ideal, 1024) / context)) * context


# -- rates


DECAY_SHARE = 0.4
"""Fraction of the steps over which the learning rates decay.

At 2.5M tokens of English, a decay over all steps reached 1.904 bits per byte, 60 % reached 1.877, 40 % reached 1.859;
with document masking 60 % reached 1.840, 40 % reached 1.827, 25 % reached 1.828.
"""


# At 1M tokens of English, width 256 and 4 layers, 0.02 for Muon and 3e-3 for all others reached 2.34 bits per byte,
# higher rates for embedding and head reached 2.24. docs/experiments.md lists the runs.


def matrix_rate(batch: int) -> float:
    """Return Muon's peak learning rate: 0.02 for all batches below nanochat's reference, then growing with its root.

    Beyond `LARGEST_BATCH` it stays constant.

    At 2.5M tokens in steps of 4,096: 2.025 bits per byte with 0.013, 2.008 with 0.02, 2.027 with 0.03.
    """
    return 0.02 * _wide_batch(batch)


def embedding_rate(width: int, batch: int) -> float:
    """Return AdamW's peak learning rate for the embedding: 0.06 at width 256. Steps without a token skip its row."""
    return 0.06 * (256 / width) ** 0.5 * _wide_batch(batch)


def head_rate(width: int, batch: int) -> float:
    """Return AdamW's peak learning rate for an untied output head: 6e-3 at width 256."""
    return 6e-3 * (256 / width) ** 0.5 * _wide_batch(batch)


def other_rate(width: int, batch: int) -> float:
    """Return AdamW's peak learning rate for norms, and for everything but matrices in tuning: 3e-3 at width 256."""
    return 3e-3 * (256 / width) ** 0.5 * _wide_batch(batch)


def preference_rate(parameters: int) -> float:
    """Return AdamW's peak learning rate for preferences: 1e-4 up to 2M parameters, then falling with their root.

    It gives 5e-5 at 10M, which worked on small worlds, 1e-5 at 135M, and about the usual 1e-6 to 2e-6 at 7B (Tunstall
    et al. 2023). Pretraining rates would be a hundred times too high.
    """
    return 1e-4 * min(1.0, (2e6 / parameters) ** 0.5)


CLASSIFICATION_FACTOR = 3
"""Ratio of the learning rate of a classifier to that of preferences."""


def classification_rate(parameters: int) -> float:
    """Return AdamW's peak learning rate for classifiers and embeddings.

    It gives 3e-4 up to 2M parameters, and 4e-5 at 110M, within the usual 2e-5 to 5e-5 of BERT (Devlin et al. 2019).
    """
    return CLASSIFICATION_FACTOR * preference_rate(parameters)


OUTPUT_LAYER_RATE = 1e-2
"""Learning rate of the output layer of a classifier if only this layer is trained."""

ADAPTER_FACTOR = 10.0
"""Learning rate of an adapter in units of that of full fine-tuning (Schulman et al. 2025, LoRA Without Regret)."""


def tuning_rate(width: int) -> float:
    """Return AdamW's peak learning rate for full fine-tuning: 5e-5 at width 2000 (Schulman et al. 2025)."""
    return 5e-5 * (2000 / width) ** 0.78


def adapter_rate(full_rate: float) -> float:
    """Return AdamW's peak learning rate for an adapter, from that of full fine-tuning; it is independent of the rank.

    With `tuning_rate` it gives 2.9e-4 at width 4096 and 2.5e-3 at width 256.
    """
    return ADAPTER_FACTOR * full_rate


LARGEST_BATCH = 2**20
"""Largest tokens per step for which the growth of the rates was tested (nanochat with 24 layers)."""


def _wide_batch(batch: int) -> float:
    return max(1.0, (min(batch, LARGEST_BATCH) / BATCHES[-1][1]) ** 0.5)


def warmup_steps(steps: int) -> int:
    """Return the warmup steps: 40 as in nanochat, but at most 1/20 of the run.

    Runs of more than 4,000 steps warm up over 1/100 of the steps, at most 2,000 as in Llama 2 and OLMo 2.
    """
    return max(1, min(40, steps // 20), min(2000, steps // 100))


def weight_decay(rate: float, steps: int) -> float:
    """Return the weight decay for which weights average over the last half of the run, at most 0.1.

    Weights with decay are a moving average over 1 / (rate x decay) steps, whose optimal length is a fixed fraction of
    the run (Wang & Aitchison 2024). Rules that depend on tokens alone give 1 and more at small sizes.
    """
    return min(0.1, 2 / (rate * steps))
