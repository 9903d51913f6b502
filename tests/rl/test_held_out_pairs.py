"""Held-out pairs: shares over prompts, since pairs of one prompt are not independent."""

from __future__ import annotations

from random import Random

from vita.rl.preference_eval import PairValues, compare, score_figures
from vita.stats.intervals import share, wilson


def test_one_pair_a_prompt_has_the_intervals_of_single_pairs():
    scores = [PairValues(1.0, 0.0)] * 15 + [PairValues(0.0, 1.0)] * 5
    alone = score_figures(scores, ["a"] * 20)["all"]
    assert alone == score_figures(scores, ["a"] * 20, [f"prompt {n}" for n in range(20)])["all"]
    assert alone["accuracy"] == share([True] * 15 + [False] * 5)


def test_twelve_pairs_a_prompt_say_no_more_than_their_prompts():
    chance = Random(0)
    right = [chance.random() < 0.7 for _ in range(20)]  # all pairs of a prompt are judged alike
    scores = [PairValues(float(one), 0.5) for one in right for _ in range(12)]
    prompts = [number for number in range(20) for _ in range(12)]
    found = score_figures(scores, ["a"] * 240, prompts)["all"]
    as_if = share([one.margin > 0 for one in scores])
    assert found["accuracy"].n == 20 and found["accuracy"].value == as_if.value
    widths = [one.high - one.low for one in (found["accuracy"], as_if, wilson(sum(right), 20))]
    assert 0.7 * widths[2] < widths[0] < 1.3 * widths[2] and widths[0] > 2 * widths[1]
    assert found["margin"].n == 20


def test_pairs_that_are_all_right_leave_as_much_open_as_their_prompts():
    tokens = [PairValues(1.0, 1.0)] * 30
    before, after = [PairValues(-1.0, -1.0)] * 30, [PairValues(-0.5, -2.0)] * 30
    found = compare(before, after, tokens, beta=0.1, prompts=[n // 3 for n in range(30)])
    assert found["accuracy/after"] == wilson(10, 10) and found["reward/accuracy"] == wilson(10, 10)
