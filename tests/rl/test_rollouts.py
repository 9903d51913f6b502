"""Rounds of answers: which tokens were chosen, what they are worth, and the figures that are told of them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
import torch

from vita.data.records import Message
from vita.data.sources.prompts import Prompt
from vita.infer.engine import Completion
from vita.infer.sampling import Sampling
from vita.rl.before_after import compute_rewards
from vita.rl.rewards import RewardChoice, Rewards
from vita.rl.rollouts import SampledAnswers, rollout_metrics, sample_answers, score_answers
from vita.testing import byte_tokenizer
from vita.train.policy_objective import TokenStats

END, PAD = 258, 256
PROMPTS = [Prompt("a", (Message("user", "a"),), "test", {"truth": 1}), Prompt("bcd", (Message("user", "bcd"),), "test")]


class Fake:
    """An engine whose answers are given; the second did not end, and holds the padding's own id."""

    tokenizer, device = byte_tokenizer(), torch.device("cpu")

    def chat_ids(self, messages: Sequence[Message]) -> list[int]:
        return [ord(letter) for letter in messages[-1].content]

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sequence[Sampling]) -> list[Completion]:
        assert all(one.temperature == 1 and not one.top_k and one.top_p == 1 for one in sampling)
        assert len({one.seed for one in sampling}) == len(sampling)
        return [
            Completion("x", (120, END), "stop", (-1.0, -2.0)),
            Completion("yz", (PAD, 121, 122), "length", (-1.0,) * 3),
        ]


def answers() -> SampledAnswers:
    engine: Any = Fake()
    return sample_answers(engine, PROMPTS, max_tokens=3, rng=Random(0))


def rewards(*names: str) -> Rewards:
    return Rewards.open([RewardChoice.model_validate(name) for name in names], where="r")


def test_what_was_chosen_is_told_by_lengths_and_the_end_is_kept() -> None:
    found = answers()
    assert found.ids.tolist() == [[97, 120, END, PAD, PAD, PAD], [98, 99, 100, PAD, 121, 122]]
    assert found.mask.tolist() == [[True, True, False, False, False], [False, False, True, True, True]]
    assert found.ended.tolist() == [True, False]


def test_an_answer_that_did_not_end_earns_nothing_and_may_lose() -> None:
    good = {"use": "matches", "options": {"pattern": ""}}
    found = Rewards.open([RewardChoice.model_validate(good)], where="r")
    assert score_answers(found, answers(), penalty=0.0, seed="0").total == [1.0, 0.0]
    assert score_answers(found, answers(), penalty=0.5, seed="0").total == [1.0, -0.5]
    bad = Rewards.open([RewardChoice.model_validate({**good, "weight": -2})], where="r")
    assert score_answers(bad, answers(), penalty=0.0, seed="0").total == [
        -2.0,
        -2.0,
    ]  # what is worse than nothing stays so


def test_a_coin_falls_anew_for_each_answer_and_the_same_for_the_same_round() -> None:
    many = SampledAnswers(PROMPTS * 50, answers().completions[:1] * 100, answers().ids, answers().mask)
    first = score_answers(rewards("random_reward"), many, penalty=0, seed="7").total
    assert first == score_answers(rewards("random_reward"), many, penalty=0, seed="7").total
    assert first != score_answers(rewards("random_reward"), many, penalty=0, seed="8").total and set(first) == {
        0.0,
        1.0,
    }


def test_a_reward_is_told_the_rows_columns_the_tokens_and_a_number() -> None:
    def seen(prompts: Any, completions: Any, **named: Any) -> list[float]:
        told.append(named)
        return [0.0] * len(completions)

    told: list[dict[str, Any]] = []
    own = Rewards([RewardChoice(use="seen")], [seen], where="test")
    compute_rewards(own, PROMPTS, [Completion("x", (1, 2), "stop", ()), Completion("y", (3,), "stop", ())], seed="0")
    assert told[0]["truth"] == [1, None] and told[0]["completion_ids"] == [[1, 2], [3]]
    assert len(set(told[0]["draw"])) == 2


def test_a_round_in_figures_is_as_worked_by_hand() -> None:
    found = answers()
    given = score_answers(rewards("json"), found, penalty=0.0, seed="0")
    old = TokenStats(torch.where(found.mask, -1.0, 0.0), torch.where(found.mask, 2.0, 0.0))
    figures = rollout_metrics(found, given, old, torch.where(found.mask, -1.5, 0.0), size=2)
    assert figures == {
        "kl": pytest.approx((2 * 0.5 + 3 * 0.5) / 2),
        "entropy": 2.0,
        "truncated": 0.5,
        "length": 2.5,
        "unscored": 0.0,
        "reward": 0.0,
        "zero_variance": 1.0,
    }
