"""The expected quality in words: levels and ratios at values worked out by hand."""

from __future__ import annotations

import itertools

import pytest

from vita.design.expectations import KNOWN_MODELS, LEVELS, NO_ANSWERS, UNRELIABLE, expected_quality


@pytest.mark.parametrize(
    ("parameters", "tokens", "flops", "level", "answers"),
    [
        (1_000_000, 10_000_000, 6e13, "fragments", "none"),
        (4_300_000, 20_000_000, 5.16e14, "sentences", "none"),
        (124_000_000, 1_300_000_000, 9.672e17, "paragraphs", "none"),
        (561_000_000, 11_200_000_000, 3.76992e19, "small talk", "unreliable"),
        (135_000_000, 2_000_000_000_000, 1.62e21, "narrow tasks", "unreliable"),
        (10_000_000_000, 120_000_000_000, 7.2e21, "narrow tasks", "unreliable"),
        (6_700_000_000, 2_000_000_000_000, 8.04e22, "assistant", "useful"),
    ],
)
def test_compute_is_six_n_d_and_decides_the_level(
    parameters: int, tokens: int, flops: float, level: str, answers: str
) -> None:
    expectation = expected_quality(parameters=parameters, tokens=tokens)
    assert expectation.flops == pytest.approx(flops)
    assert (expectation.level.name, expectation.answers) == (level, answers)
    assert expectation.sentence.endswith(NO_ANSWERS) is (answers == "none")
    assert expectation.sentence.endswith(UNRELIABLE) is (answers == "unreliable")


def test_the_basis_states_tokens_per_parameter_and_known_models() -> None:
    # 5.16e14 FLOPs equal those of the model of Vita; TinyStories-33M has 6 x 33e6 x 5e8 = 9.9e16, 192 times as many
    basis = expected_quality(parameters=4_300_000, tokens=20_000_000).basis
    assert basis.startswith("4.7 tokens per parameter; 5.2e14 FLOPs, 1.0 times that of a 5M model of Vita")
    assert basis.endswith("1/190 of TinyStories-33M")


@pytest.mark.parametrize(
    ("tokens", "remark"),
    [(500_000, "a smaller model would be better"), (300_000_000, "a larger model would be better")],
)
def test_an_unusual_number_of_tokens_per_parameter_is_named(tokens: int, remark: str) -> None:
    assert remark in expected_quality(parameters=1_000_000, tokens=tokens).basis


def test_a_model_of_the_built_in_world_answers_about_its_objects() -> None:
    expectation = expected_quality(parameters=3_500_000, tokens=2_500_000, text="world")
    assert "answers questions about its objects" in expectation.sentence and NO_ANSWERS not in expectation.sentence
    assert expectation.as_json()["answers"] == "useful"


def test_levels_and_known_models_are_in_the_order_of_their_compute() -> None:
    assert all(first.above < second.above for first, second in itertools.pairwise(LEVELS))
    assert all(first.flops < second.flops for first, second in itertools.pairwise(KNOWN_MODELS))
