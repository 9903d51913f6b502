"""Scaling rules: a depth or a parameter count gives a valid training plan at every size."""

from __future__ import annotations

import pytest

from vita.design import scaling_rules
from vita.design.scaling_rules import batch_tokens, shape_of_depth, shape_of_parameters, training_plan, vocabulary_of


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 6, 8, 12, 20, 32])
def test_every_depth_gives_a_valid_shape(depth: int) -> None:
    shape = shape_of_depth(depth, vocabulary=4096, context=512)
    assert (shape.layers, shape.width) == (depth, 64 * depth)
    assert shape.heads * shape.head_dim == shape.width
    assert shape.feedforward % 64 == 0 and abs(shape.feedforward - 8 / 3 * shape.width) <= 64
    assert shape.heads % shape.kv_heads == 0


@pytest.mark.parametrize("parameter_count", [1_000_000, 3_500_000, 6_600_000, 10_000_000, 20_000_000, 124_000_000])
def test_a_parameter_count_is_met_within_a_tenth(parameter_count: int) -> None:
    shape = shape_of_parameters(parameter_count, vocabulary=vocabulary_of(parameter_count), context=512)
    assert shape.parameters() == pytest.approx(parameter_count, rel=0.1)
    assert 0.3 < shape.width / (64 * shape.layers) < 3


def test_the_batch_size_equals_measured_and_published_values() -> None:
    assert batch_tokens(32_000_000, context=512) == 8192
    assert batch_tokens(1_320_000_000, context=2048) == 2**19
    assert batch_tokens(1_000_000, context=512) == 2048
    assert batch_tokens(250_000, context=512) == batch_tokens(100_000, context=512) == 1024
    assert batch_tokens(100_000, context=2048) == 2048  # at least one row


def test_the_batch_size_grows_with_the_tokens_and_leaves_enough_steps() -> None:
    sizes = [2**power for power in range(18, 36)]
    batches = [batch_tokens(tokens, context=256) for tokens in sizes]
    assert batches == sorted(batches)
    assert all(tokens / batch >= 256 for tokens, batch in zip(sizes, batches, strict=True))


@pytest.mark.parametrize("tokens", [300_000, 2_400_000, 14_000_000, 1_000_000_000])
def test_rates_warmup_and_decay_are_in_stable_ranges(tokens: int) -> None:
    plan = training_plan(shape_of_depth(4, vocabulary=4096, context=512), tokens=tokens)
    assert plan.tokens == plan.steps * plan.rows * plan.context
    assert plan.tokens == pytest.approx(tokens, rel=0.01)
    assert 0 < plan.weight_decay <= 0.1
    assert 1 <= plan.warmup <= plan.steps / 10
    assert 0.005 <= plan.matrix_rate <= 0.05 and 0 < plan.scalar_rate <= plan.head_rate <= plan.embedding_rate <= 0.3


@pytest.mark.parametrize(
    ("parameters", "vocabulary", "width", "layers", "heads", "tokens_per_step", "warmup", "rate"),
    [
        # 12 x 2 x 160^2 + 2 x 1024 x 160 = 0.94M; 9.6M tokens between the points (8e6, 3200) and (32e6, 2^13)
        (1_000_000, 1024, 160, 2, (5, 5), 3584, 40, 0.02),
        # 12 x 6 x 320^2 + 2 x 4096 x 320 = 10.0M
        (10_000_000, 4096, 320, 6, (5, 5), 31_744, 40, 0.02),
        # 12 x 14 x 768^2 + 2 x 16384 x 768 = 124M; 1.34B tokens, nanochat with 12 layers has 2^19 per step
        (124_000_000, 16_384, 768, 14, (12, 12), 527_360, 40, 0.02),
        # 1.13e10 tokens: 2^19 (1.13e10 / 1.32e9)^0.383 = 1.19M per step, 9,447 steps, warmup over 1/100 of them
        (1_000_000_000, 32_768, 1792, 26, (28, 7), 1_191_936, 94, 0.02 * 2**0.5),
    ],
)
def test_plans_at_each_size_have_the_values_worked_out_by_hand(
    parameters: int, vocabulary: int, width: int, layers: int, heads: tuple[int, int], tokens_per_step: int,
    warmup: int, rate: float,
) -> None:  # fmt: skip
    assert vocabulary_of(parameters) == vocabulary
    shape = shape_of_parameters(parameters, vocabulary=vocabulary, context=512)
    assert (shape.width, shape.layers, (shape.heads, shape.kv_heads)) == (width, layers, heads)
    shape = shape.model_copy(update={"context": scaling_rules.context_of(width)})
    plan = training_plan(shape, tokens=scaling_rules.compute_optimal_tokens(shape))
    assert plan.tokens_per_step == pytest.approx(tokens_per_step, rel=0.01)
    assert plan.warmup == warmup
    assert plan.matrix_rate == pytest.approx(rate, rel=0.01)


def test_ten_billion_parameters_have_grouped_heads_and_bounded_rates() -> None:
    shape = shape_of_parameters(10**10, vocabulary=vocabulary_of(10**10), context=2048)
    assert shape.vocabulary == 65_536
    assert shape.parameters() == pytest.approx(1e10, rel=0.05)
    assert shape.width % 512 == 0 and shape.heads == 4 * shape.kv_heads and shape.head_dim == 128
    assert 0.5 < shape.width / (64 * shape.layers) < 2
    plan = training_plan(shape, tokens=scaling_rules.compute_optimal_tokens(shape))
    # 1.2e11 tokens: 2^19 x (1.2e11 / 1.32e9)^0.383 = 2.9M tokens per step, 40,000 steps, 400 of them warmup
    assert plan.tokens_per_step == pytest.approx(2.93e6, rel=0.03)
    assert plan.warmup == pytest.approx(400, rel=0.05)
    assert plan.matrix_rate == pytest.approx(0.02 * 2**0.5)  # as at 2^20 tokens per step
    assert plan.weight_decay == pytest.approx(2 / (plan.matrix_rate * plan.steps))


def test_weight_decay_is_bounded_where_the_published_rule_is_not() -> None:
    tokens, batch = 14e6, 8192
    published = 0.28 * (batch / 2**19) ** 0.5 * (1.32e9 / tokens)
    assert published > 3
    assert scaling_rules.weight_decay(0.02, round(tokens / batch)) == pytest.approx(0.0585, abs=1e-3)


def test_steps_and_batch_size_can_be_set() -> None:
    shape = shape_of_depth(4, vocabulary=1024, context=128)
    plan = training_plan(shape, tokens=1, tokens_per_step=1536, steps=1000)
    assert (plan.tokens, plan.steps, plan.tokens_per_step) == (1_536_000, 1000, 1536)
