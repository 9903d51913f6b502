"""Rollouts: sampled tokens, rewards and metrics of a round."""

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


class FixedAnswerEngine:
    """An engine with fixed answers; the second is truncated and contains the id of the padding token."""

    tokenizer, device = byte_tokenizer(), torch.device("cpu")

    def chat_ids(self, messages: Sequence[Message]) -> list[int]:
        return [ord(letter) for letter in messages[-1].content]

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sequence[Sampling]) -> list[Completion]:
        assert all(request.temperature == 1 and not request.top_k and request.top_p == 1 for request in sampling)
        assert len({request.seed for request in sampling}) == len(sampling)
        return [
            Completion("x", (120, END), "stop", (-1.0, -2.0)),
            Completion("yz", (PAD, 121, 122), "length", (-1.0,) * 3),
        ]


def answers() -> SampledAnswers:
    engine: Any = FixedAnswerEngine()
    return sample_answers(engine, PROMPTS, max_tokens=3, rng=Random(0))


def rewards(*names: str) -> Rewards:
    return Rewards.open([RewardChoice.model_validate(name) for name in names], where="r")


def test_the_mask_follows_the_answer_lengths_and_includes_the_end_token() -> None:
    sampled = answers()
    assert sampled.ids.tolist() == [[97, 120, END, PAD, PAD, PAD], [98, 99, 100, PAD, 121, 122]]
    assert sampled.mask.tolist() == [[True, True, False, False, False], [False, False, True, True, True]]
    assert sampled.ended.tolist() == [True, False]


def test_a_truncated_answer_has_no_reward_or_a_penalty() -> None:
    choice = {"use": "matches", "options": {"pattern": ""}}
    positive_rewards = Rewards.open([RewardChoice.model_validate(choice)], where="r")
    assert score_answers(positive_rewards, answers(), penalty=0.0, seed="0").total == [1.0, 0.0]
    assert score_answers(positive_rewards, answers(), penalty=0.5, seed="0").total == [1.0, -0.5]
    negative_rewards = Rewards.open([RewardChoice.model_validate({**choice, "weight": -2})], where="r")
    assert score_answers(negative_rewards, answers(), penalty=0.0, seed="0").total == [
        -2.0,
        -2.0,
    ]  # a negative reward is kept


def test_the_random_reward_differs_by_answer_and_is_fixed_per_round() -> None:
    sampled = SampledAnswers(PROMPTS * 50, answers().completions[:1] * 100, answers().ids, answers().mask)
    first = score_answers(rewards("random_reward"), sampled, penalty=0, seed="7").total
    assert first == score_answers(rewards("random_reward"), sampled, penalty=0, seed="7").total
    assert first != score_answers(rewards("random_reward"), sampled, penalty=0, seed="8").total and set(first) == {
        0.0,
        1.0,
    }


def test_a_reward_gets_the_columns_the_token_ids_and_a_draw() -> None:
    def record_columns(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        calls.append(columns)
        return [0.0] * len(completions)

    calls: list[dict[str, Any]] = []
    recording_rewards = Rewards([RewardChoice(use="recorded")], [record_columns], where="test")
    compute_rewards(
        recording_rewards, PROMPTS, [Completion("x", (1, 2), "stop", ()), Completion("y", (3,), "stop", ())], seed="0"
    )
    assert calls[0]["truth"] == [1, None] and calls[0]["completion_ids"] == [[1, 2], [3]]
    assert len(set(calls[0]["draw"])) == 2


def test_metrics_of_a_round_worked_by_hand() -> None:
    sampled = answers()
    values = score_answers(rewards("json"), sampled, penalty=0.0, seed="0")
    old = TokenStats(torch.where(sampled.mask, -1.0, 0.0), torch.where(sampled.mask, 2.0, 0.0))
    figures = rollout_metrics(sampled, values, old, torch.where(sampled.mask, -1.5, 0.0), size=2)
    assert figures == {
        "kl": pytest.approx((2 * 0.5 + 3 * 0.5) / 2),
        "entropy": 2.0,
        "truncated": 0.5,
        "length": 2.5,
        "unscored": 0.0,
        "reward": 0.0,
        "zero_variance": 1.0,
    }
