"""Held-out pairs: accuracies are counted over prompts, since pairs of a prompt are not independent."""

from __future__ import annotations

from random import Random

from vita.rl.preference_eval import PairValues, compare, score_figures
from vita.stats.intervals import share, wilson


def test_one_pair_per_prompt_has_the_interval_of_single_pairs():
    scores = [PairValues(1.0, 0.0)] * 15 + [PairValues(0.0, 1.0)] * 5
    figures = score_figures(scores, ["a"] * 20)["all"]
    assert figures == score_figures(scores, ["a"] * 20, [f"prompt {n}" for n in range(20)])["all"]
    assert figures["accuracy"] == share([True] * 15 + [False] * 5)


def test_the_interval_of_several_pairs_per_prompt_is_that_of_the_prompts():
    random_source = Random(0)
    correct_prompts = [random_source.random() < 0.7 for _ in range(20)]  # all pairs of a prompt have the same verdict
    scores = [PairValues(float(is_correct), 0.5) for is_correct in correct_prompts for _ in range(12)]
    prompts = [number for number in range(20) for _ in range(12)]
    figures = score_figures(scores, ["a"] * 240, prompts)["all"]
    pair_share = share([score.margin > 0 for score in scores])
    assert figures["accuracy"].n == 20 and figures["accuracy"].value == pair_share.value
    widths = [
        interval.high - interval.low for interval in (figures["accuracy"], pair_share, wilson(sum(correct_prompts), 20))
    ]
    assert 0.7 * widths[2] < widths[0] < 1.3 * widths[2] and widths[0] > 2 * widths[1]
    assert figures["margin"].n == 20


def test_the_interval_of_only_correct_pairs_is_that_of_the_prompts():
    tokens = [PairValues(1.0, 1.0)] * 30
    before, after = [PairValues(-1.0, -1.0)] * 30, [PairValues(-0.5, -2.0)] * 30
    figures = compare(before, after, tokens, beta=0.1, prompts=[n // 3 for n in range(30)])
    assert figures["accuracy/after"] == wilson(10, 10) and figures["reward/accuracy"] == wilson(10, 10)
