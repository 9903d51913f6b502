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


def test_weight_decay_is_bounded_where_the_published_rule_is_not() -> None:
    tokens, batch = 14e6, 8192
    published = 0.28 * (batch / 2**19) ** 0.5 * (1.32e9 / tokens)
    assert published > 3
    assert scaling_rules.weight_decay(0.02, round(tokens / batch)) == pytest.approx(0.0585, abs=1e-3)


def test_steps_and_batch_size_can_be_set() -> None:
    shape = shape_of_depth(4, vocabulary=1024, context=128)
    plan = training_plan(shape, tokens=1, tokens_per_step=1536, steps=1000)
    assert (plan.tokens, plan.steps, plan.tokens_per_step) == (1_536_000, 1000, 1536)
