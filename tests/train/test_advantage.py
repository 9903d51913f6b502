"""Advantages and divergences: values worked by hand, general laws, and parity with TRL 1.12 and 1.16."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vita.train.advantage import (
    gae,
    group_relative_advantage,
    k1,
    k3,
    per_token_rewards,
    rloo_advantage,
    whiten,
    zero_variance_groups,
)

NAN = math.nan


def assert_close(actual: torch.Tensor, expected: Any, tolerance: float = 2e-5) -> None:
    expected_tensor = torch.as_tensor(expected, dtype=torch.float64)
    assert actual.shape == expected_tensor.shape
    assert ((actual.double() - expected_tensor).abs() / (1 + expected_tensor.abs())).max().item() <= tolerance


@pytest.fixture
def parity(shared: Path) -> Path:
    folder = shared / "parity" / "fixtures"
    if not folder.is_dir():
        pytest.skip("needs the reference values in `shared/parity`")
    return folder


def test_group_relative_advantages_worked_by_hand() -> None:
    rewards = torch.tensor([1.0, 0.0, 2.0, 2.0])
    assert_close(group_relative_advantage(rewards, size=2, scale="none"), [0.5, -0.5, 0, 0])
    deviation = math.sqrt(0.5)
    assert_close(group_relative_advantage(rewards, size=2), [0.5 / (deviation + 1e-4), -0.5 / (deviation + 1e-4), 0, 0])
    spread = rewards.std().item()
    assert_close(
        group_relative_advantage(rewards, size=2, scale="batch"), [0.5 / (spread + 1e-4), -0.5 / (spread + 1e-4), 0, 0]
    )


def test_an_answer_without_a_reward_has_no_advantage_and_counts_in_no_mean() -> None:
    rewards = torch.tensor([1.0, NAN, 0.0, NAN, NAN, NAN])
    assert_close(group_relative_advantage(rewards, size=3, scale="none"), [0.5, 0, -0.5, 0, 0, 0])
    assert_close(
        group_relative_advantage(rewards, size=3),
        [0.5 / (math.sqrt(0.5) + 1e-4), 0, -0.5 / (math.sqrt(0.5) + 1e-4), 0, 0, 0],
    )
    assert_close(rloo_advantage(rewards, size=3), [1, 0, -1, 0, 0, 0])
    assert zero_variance_groups(rewards, size=3).tolist() == [False, True]


@pytest.mark.parametrize("size", [2, 3, 6])
def test_rloo_equals_unscaled_group_relative_advantages_times_g_over_g_minus_one(size: int) -> None:
    rewards = torch.randn(6, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    assert_close(
        rloo_advantage(rewards, size=size),
        group_relative_advantage(rewards, size=size, scale="none") * size / (size - 1),
        1e-12,
    )


def test_groups_of_equal_rewards_are_detected_and_have_no_advantage() -> None:
    rewards = torch.tensor([0.3, 0.3, 0.3, 0.4])
    assert zero_variance_groups(rewards, size=2).tolist() == [True, False]
    assert group_relative_advantage(rewards, size=2)[:2].tolist() == [0, 0]
    assert rloo_advantage(torch.tensor([2.0, 3.0]), size=1).tolist() == [2.0, 3.0]


def test_gae_worked_by_hand_stops_at_the_end_of_the_answer() -> None:
    rewards, values = torch.tensor([[0.0, 0.0, 1.0, 9.0]]), torch.tensor([[0.5, 0.2, 0.4, 9.0]])
    mask = torch.tensor([[True, True, True, False]])
    third = 1 - 0.4
    second = 0.9 * 0.4 - 0.2 + 0.9 * 0.5 * third
    first = 0.9 * 0.2 - 0.5 + 0.9 * 0.5 * second
    estimates = gae(rewards, values, mask, gamma=0.9, lam=0.5)
    assert_close(estimates.advantages, [[first, second, third, 0]], 1e-6)
    assert_close(estimates.returns, [[first + 0.5, second + 0.2, third + 0.4, 0]], 1e-6)


def test_gae_without_values_is_the_sum_of_later_rewards_at_lambda_and_gamma_one() -> None:
    rewards = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    assert_close(gae(rewards, torch.zeros(2, 3), mask, gamma=1, lam=1).advantages, [[6, 5, 3], [3, 2, 0]])


def test_gae_skips_masked_tokens_within_an_answer() -> None:
    mask = torch.tensor([[True, False, True]])
    rewards, values = torch.tensor([[0.1, 7.0, 1.0]]), torch.tensor([[0.5, 7.0, 0.4]])
    contiguous = gae(rewards[:, ::2], values[:, ::2], mask[:, ::2])
    assert_close(gae(rewards, values, mask).advantages[:, ::2], contiguous.advantages, 1e-7)


def test_whitened_values_have_mean_0_and_variance_1_over_the_mask() -> None:
    values, mask = torch.tensor([[1.0, 2.0, 3.0, 99.0]]), torch.tensor([[True, True, True, False]])
    assert_close(whiten(values, mask), [[-1, 0, 1, 0]])
    assert whiten(values, torch.tensor([[True, False, False, False]])).tolist() == [[0, 0, 0, 0]]


def test_the_score_is_added_to_the_last_token_of_the_answer() -> None:
    mask = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    divergence = torch.full((3, 3), 0.5)
    rewards = per_token_rewards(torch.tensor([1.0, 2.0, 3.0]), divergence, mask, kl=0.2)
    assert_close(rewards, [[-0.1, 0.9, 0], [-0.1, -0.1, 1.9], [0, 0, 0]], 1e-7)


def test_the_expectations_of_k1_and_k3_equal_the_kl_divergence() -> None:
    """The expectations are exact sums over a vocabulary of three tokens."""
    p, q = (torch.tensor(probabilities, dtype=torch.float64) for probabilities in ([0.5, 0.3, 0.2], [0.2, 0.2, 0.6]))
    exact = (p * (p / q).log()).sum()
    assert_close((p * k1(p.log(), q.log())).sum(), exact, 1e-12)
    assert_close((p * k3(p.log(), q.log())).sum(), exact, 1e-12)
    assert (k3(p.log(), q.log()) >= 0).all() and (k1(p.log(), q.log()) < 0).any()


def test_the_gradient_of_k3_differs_from_that_of_the_kl_divergence() -> None:
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64).log()

    def gradient(estimate: Any) -> torch.Tensor:
        logs = logits.log_softmax(0)
        weights = logs.exp().detach()  # the sampling is not differentiated
        return torch.autograd.grad((weights * estimate(logs, q)).sum(), [logits])[0]

    logs = logits.log_softmax(0)
    (exact,) = torch.autograd.grad((logs.exp() * (logs - q)).sum(), [logits])
    assert (gradient(k3) - exact).abs().max() > 0.01


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_group_advantages_equal_those_of_trl(parity: Path, scale: Any) -> None:
    values = np.load(parity / "parity.npz")
    rewards = torch.tensor(values["grpo_inputs/rewards"])
    assert_close(group_relative_advantage(rewards, size=4, scale=scale), values[f"grpo_adv/{scale}/advantages"])


def test_gae_and_whitening_equal_those_of_trl(parity: Path) -> None:
    """TRL puts the score on the first padding token and counts one more value; the test uses its rewards and masks."""
    values = {name: torch.tensor(array) for name, array in np.load(parity / "ppo.npz").items()}
    settings = json.loads((parity / "ppo.json").read_text())["settings"]
    rewards, critic, value_mask = values["ppo/rewards"], values["ppo/values"], values["ppo/value_mask"]
    estimates = gae(rewards, critic, value_mask, gamma=settings["gamma"], lam=settings["lam"])
    assert_close(torch.where(value_mask, values["ppo/advantages_raw"], 0), estimates.advantages)
    assert_close(estimates.returns, torch.where(value_mask, values["ppo/returns"], 0))
    tokens = values["ppo/token_mask"]
    assert_close(whiten(estimates.advantages, tokens), values["ppo/advantages"])


def test_rewards_with_the_score_on_the_last_token_equal_those_of_torchtune(parity: Path) -> None:
    values = {name: torch.tensor(array) for name, array in np.load(parity / "ppo.npz").items()}
    mask = values["ppo/token_mask"]
    rewards = per_token_rewards(
        values["ppo/scores"], k1(values["ppo/old_logps"], values["ppo/ref_logps"]), mask, kl=0.05
    )
    assert_close(rewards, torch.where(mask, values["torchtune/rewards"], 0))
