"""Predictions for a training plan: parameters, operations, memory and bits per byte."""

from __future__ import annotations

import pytest

from vita.design.forecast import bytes_per_token, effective_tokens, prediction, warnings
from vita.design.scaling_law import LAWS
from vita.design.scaling_rules import shape_of_depth, training_plan

SHAPE = shape_of_depth(4, vocabulary=8192, context=512)


def test_parameters_by_part_add_up() -> None:
    parts = dict(prediction(SHAPE, training_plan(SHAPE, tokens=2_000_000), text="english")["parameters"])
    assert parts.pop("total") == sum(parts.values()) == SHAPE.parameters()


def test_predicted_operations_are_the_sum_over_tokens() -> None:
    plan = training_plan(SHAPE, tokens=2_000_000)
    answer = prediction(SHAPE, plan, text="english")
    assert answer["flops"] == SHAPE.flops_per_token(512) * plan.tokens
    assert answer["memory"]["total"] > 16 * SHAPE.parameters()


@pytest.mark.parametrize(
    ("text", "depth", "vocabulary", "tokens", "measured"),
    [
        ("english", 4, 8192, 1_760_000, 2.071),
        ("english", 4, 8192, 5_530_000, 1.688),
        ("english", 4, 8192, 9_620_000, 1.581),
        ("english", 4, 8192, 13_000_000, 1.530),
        ("english", 4, 4096, 1_000_000, 2.239),
        ("english", 4, 4096, 2_500_000, 1.827),
        ("english", 4, 4096, 2_500_000, 2.008),
        ("english", 4, 4096, 19_860_000, 1.512),
        ("english", 4, 4096, 20_460_000, 1.567),
        ("english", 2, 4096, 1_000_000, 2.444),
        ("english", 2, 4096, 300_000, 2.690),
        ("english", 4, 4096, 300_000, 2.680),
        ("world", 4, 1024, 2_457_600, 0.248),
    ],
)
def test_scaling_laws_cover_the_measured_values(
    text: str, depth: int, vocabulary: int, tokens: int, measured: float
) -> None:
    shape = shape_of_depth(depth, vocabulary=vocabulary, context=512)
    predicted = prediction(shape, training_plan(shape, tokens=tokens), text=text)["bits_per_byte"]
    assert predicted["low"] < measured < predicted["high"]


@pytest.mark.parametrize("text", sorted(LAWS))
def test_more_data_or_parameters_predict_fewer_bits_per_byte(text: str) -> None:
    law = LAWS[text]
    assert law.bits_per_byte(10**7, 10**8) < law.bits_per_byte(10**6, 10**8) < law.bits_per_byte(10**6, 10**7)


def test_uncertainty_grows_outside_the_measured_range() -> None:
    def relative_uncertainty(tokens: int) -> float:
        predicted = prediction(SHAPE, training_plan(SHAPE, tokens=tokens), text="english")["bits_per_byte"]
        return (predicted["high"] - predicted["low"]) / predicted["value"]

    assert relative_uncertainty(5_000_000) < relative_uncertainty(500_000_000)


def test_a_larger_vocabulary_has_more_bytes_per_token() -> None:
    assert bytes_per_token(4096) == pytest.approx(3.22, abs=0.1)
    assert bytes_per_token(8192) == pytest.approx(3.635, abs=0.1)


def test_repeated_text_counts_less() -> None:
    assert effective_tokens(1000, None) == effective_tokens(1000, 1000) == 1000
    # three repetitions of 1000: 1000 * (1 + 15.4 * (1 - exp(-3 / 15.4)))
    assert effective_tokens(4000, 1000) == pytest.approx(3725.6, abs=0.5)
    assert effective_tokens(10**9, 1000) < 16_401


def test_a_plan_with_many_repetitions_has_a_warning() -> None:
    answer = prediction(SHAPE, training_plan(SHAPE, tokens=50_000_000), text="english", available=5_000_000)
    assert any("the text is repeated for 10" in message for message in warnings(answer))
