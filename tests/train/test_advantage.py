"""Advantages and divergences: worked by hand, by their laws, and as TRL 1.12 and 1.16 compute them."""

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


def close(got: torch.Tensor, want: Any, tolerance: float = 2e-5) -> None:
    wanted = torch.as_tensor(want, dtype=torch.float64)
    assert got.shape == wanted.shape
    assert ((got.double() - wanted).abs() / (1 + wanted.abs())).max().item() <= tolerance


@pytest.fixture
def parity(shared: Path) -> Path:
    folder = shared / "parity" / "fixtures"
    if not folder.is_dir():
        pytest.skip("needs the reference values in `shared/parity`")
    return folder


def test_relative_advantages_are_as_worked_by_hand() -> None:
    rewards = torch.tensor([1.0, 0.0, 2.0, 2.0])
    close(group_relative_advantage(rewards, size=2, scale="none"), [0.5, -0.5, 0, 0])
    deviation = math.sqrt(0.5)
    close(group_relative_advantage(rewards, size=2), [0.5 / (deviation + 1e-4), -0.5 / (deviation + 1e-4), 0, 0])
    spread = rewards.std().item()
    close(
        group_relative_advantage(rewards, size=2, scale="batch"), [0.5 / (spread + 1e-4), -0.5 / (spread + 1e-4), 0, 0]
    )


def test_an_answer_without_a_reward_is_in_no_mean_and_is_not_pushed() -> None:
    rewards = torch.tensor([1.0, NAN, 0.0, NAN, NAN, NAN])
    close(group_relative_advantage(rewards, size=3, scale="none"), [0.5, 0, -0.5, 0, 0, 0])
    close(
        group_relative_advantage(rewards, size=3),
        [0.5 / (math.sqrt(0.5) + 1e-4), 0, -0.5 / (math.sqrt(0.5) + 1e-4), 0, 0, 0],
    )
    close(rloo_advantage(rewards, size=3), [1, 0, -1, 0, 0, 0])
    assert zero_variance_groups(rewards, size=3).tolist() == [False, True]


@pytest.mark.parametrize("size", [2, 3, 6])
def test_leaving_one_out_is_relative_without_scale_times_g_over_g_less_one(size: int) -> None:
    rewards = torch.randn(6, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    close(
        rloo_advantage(rewards, size=size),
        group_relative_advantage(rewards, size=size, scale="none") * size / (size - 1),
        1e-12,
    )


def test_groups_of_equal_rewards_are_known_and_push_nothing() -> None:
    rewards = torch.tensor([0.3, 0.3, 0.3, 0.4])
    assert zero_variance_groups(rewards, size=2).tolist() == [True, False]
    assert group_relative_advantage(rewards, size=2)[:2].tolist() == [0, 0]
    assert rloo_advantage(torch.tensor([2.0, 3.0]), size=1).tolist() == [2.0, 3.0]


def test_gae_is_as_worked_by_hand_and_stops_at_the_answers_end() -> None:
    rewards, values = torch.tensor([[0.0, 0.0, 1.0, 9.0]]), torch.tensor([[0.5, 0.2, 0.4, 9.0]])
    mask = torch.tensor([[True, True, True, False]])
    third = 1 - 0.4
    second = 0.9 * 0.4 - 0.2 + 0.9 * 0.5 * third
    first = 0.9 * 0.2 - 0.5 + 0.9 * 0.5 * second
    found = gae(rewards, values, mask, gamma=0.9, lam=0.5)
    close(found.advantages, [[first, second, third, 0]], 1e-6)
    close(found.returns, [[first + 0.5, second + 0.2, third + 0.4, 0]], 1e-6)


def test_without_values_gae_with_lambda_and_gamma_one_is_what_is_to_come() -> None:
    rewards = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    close(gae(rewards, torch.zeros(2, 3), mask, gamma=1, lam=1).advantages, [[6, 5, 3], [3, 2, 0]])


def test_another_speakers_words_within_an_answer_are_passed_over() -> None:
    gap = torch.tensor([[True, False, True]])
    rewards, values = torch.tensor([[0.1, 7.0, 1.0]]), torch.tensor([[0.5, 7.0, 0.4]])
    whole = gae(rewards[:, ::2], values[:, ::2], gap[:, ::2])
    close(gae(rewards, values, gap).advantages[:, ::2], whole.advantages, 1e-7)


def test_whitened_values_have_mean_0_and_variance_1_over_the_mask_alone() -> None:
    values, mask = torch.tensor([[1.0, 2.0, 3.0, 99.0]]), torch.tensor([[True, True, True, False]])
    close(whiten(values, mask), [[-1, 0, 1, 0]])
    assert whiten(values, torch.tensor([[True, False, False, False]])).tolist() == [[0, 0, 0, 0]]


def test_the_score_lands_on_the_answers_own_last_token() -> None:
    mask = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    divergence = torch.full((3, 3), 0.5)
    found = per_token_rewards(torch.tensor([1.0, 2.0, 3.0]), divergence, mask, kl=0.2)
    close(found, [[-0.1, 0.9, 0], [-0.1, -0.1, 1.9], [0, 0, 0]], 1e-7)


def test_the_estimates_of_the_divergence_agree_over_all_tokens() -> None:
    """Enumerated: over a vocabulary of three the expectations of k1 and k3 are the divergence itself."""
    p, q = (torch.tensor(one, dtype=torch.float64) for one in ([0.5, 0.3, 0.2], [0.2, 0.2, 0.6]))
    exact = (p * (p / q).log()).sum()
    close((p * k1(p.log(), q.log())).sum(), exact, 1e-12)
    close((p * k3(p.log(), q.log())).sum(), exact, 1e-12)
    assert (k3(p.log(), q.log()) >= 0).all() and (k1(p.log(), q.log()) < 0).any()


def test_the_gradient_of_k3_is_not_that_of_the_divergence() -> None:
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64).log()

    def gradient(estimate: Any) -> torch.Tensor:
        logs = logits.log_softmax(0)
        weights = logs.exp().detach()  # samples are drawn, not differentiated
        return torch.autograd.grad((weights * estimate(logs, q)).sum(), [logits])[0]

    logs = logits.log_softmax(0)
    (exact,) = torch.autograd.grad((logs.exp() * (logs - q)).sum(), [logits])
    assert (gradient(k3) - exact).abs().max() > 0.01


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_group_advantages_are_those_of_trl(parity: Path, scale: Any) -> None:
    values = np.load(parity / "parity.npz")
    rewards = torch.tensor(values["grpo_inputs/rewards"])
    close(group_relative_advantage(rewards, size=4, scale=scale), values[f"grpo_adv/{scale}/advantages"])


def test_gae_and_whitening_are_those_of_trl(parity: Path) -> None:
    """TRL puts the score on the first pad, and lets one more value count; given its rewards and masks all is equal."""
    values = {name: torch.tensor(array) for name, array in np.load(parity / "ppo.npz").items()}
    settings = json.loads((parity / "ppo.json").read_text())["settings"]
    rewards, critic, inside = values["ppo/rewards"], values["ppo/values"], values["ppo/value_mask"]
    found = gae(rewards, critic, inside, gamma=settings["gamma"], lam=settings["lam"])
    close(torch.where(inside, values["ppo/advantages_raw"], 0), found.advantages)
    close(found.returns, torch.where(inside, values["ppo/returns"], 0))
    tokens = values["ppo/token_mask"]
    close(whiten(found.advantages, tokens), values["ppo/advantages"])


def test_rewards_with_the_score_on_the_last_token_are_those_of_torchtune(parity: Path) -> None:
    values = {name: torch.tensor(array) for name, array in np.load(parity / "ppo.npz").items()}
    mask = values["ppo/token_mask"]
    found = per_token_rewards(values["ppo/scores"], k1(values["ppo/old_logps"], values["ppo/ref_logps"]), mask, kl=0.05)
    close(found, torch.where(mask, values["torchtune/rewards"], 0))
