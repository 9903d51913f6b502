"""The critic: it starts from the policy with values of zero and is not saved with the policy."""

from __future__ import annotations

import torch

from vita.nn.critic import ActorCritic
from vita.testing import tiny_model

IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


def test_a_new_critic_keeps_the_policy_and_has_values_of_zero() -> None:
    policy = tiny_model()
    actor_critic = ActorCritic.of(policy)
    assert torch.equal(actor_critic(IDS), policy(IDS))
    assert torch.equal(actor_critic.values(IDS), torch.zeros(2, 3))
    assert torch.equal(actor_critic.policy()(IDS), policy(IDS))
    assert actor_critic.policy().state_dict().keys() == policy.state_dict().keys()


def test_values_do_not_depend_on_later_tokens() -> None:
    actor_critic = ActorCritic.of(tiny_model())
    torch.nn.init.ones_(actor_critic.critic.head.weight)
    changed_ids = IDS.clone()
    changed_ids[:, 2] = 9
    assert torch.equal(actor_critic.values(IDS)[:, :2], actor_critic.values(changed_ids)[:, :2])
    assert not torch.equal(actor_critic.values(IDS)[:, 2], actor_critic.values(changed_ids)[:, 2])


def test_the_value_loss_has_gradients_only_in_the_critic() -> None:
    actor_critic = ActorCritic.of(tiny_model())
    torch.nn.init.ones_(actor_critic.critic.head.weight)
    actor_critic.values(IDS).sum().backward()
    names_with_gradient = {name for name, parameter in actor_critic.named_parameters() if parameter.grad is not None}
    assert names_with_gradient == {name for name, _ in actor_critic.named_parameters() if name.startswith("critic.")}
