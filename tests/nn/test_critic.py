"""A critic stands beside a policy, begins with its trunk, expects nothing yet, and is not part of what is saved."""

from __future__ import annotations

import torch

from vita.nn.critic import ActorCritic
from vita.testing import tiny_model

IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


def test_with_a_critic_the_policy_is_the_same_and_nothing_is_expected() -> None:
    policy = tiny_model()
    both = ActorCritic.of(policy)
    assert torch.equal(both(IDS), policy(IDS))
    assert torch.equal(both.values(IDS), torch.zeros(2, 3))
    assert torch.equal(both.policy()(IDS), policy(IDS))
    assert both.policy().state_dict().keys() == policy.state_dict().keys()


def test_what_is_expected_after_a_token_does_not_depend_on_later_ones() -> None:
    both = ActorCritic.of(tiny_model())
    torch.nn.init.ones_(both.critic.head.weight)
    other = IDS.clone()
    other[:, 2] = 9
    assert torch.equal(both.values(IDS)[:, :2], both.values(other)[:, :2])
    assert not torch.equal(both.values(IDS)[:, 2], both.values(other)[:, 2])


def test_the_critics_loss_moves_the_critic_alone() -> None:
    both = ActorCritic.of(tiny_model())
    torch.nn.init.ones_(both.critic.head.weight)
    both.values(IDS).sum().backward()
    moved = {name for name, parameter in both.named_parameters() if parameter.grad is not None}
    assert moved == {name for name, _ in both.named_parameters() if name.startswith("critic.")}
