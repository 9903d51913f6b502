"""A policy with a critic: a separate trunk that predicts the return at each token."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vita.nn.adapters.attach import adapter_of, shared_copy
from vita.nn.architecture import Architecture
from vita.nn.transformer import Decoder, Linear, Transformer

# B batch, T position


class ActorCritic(Transformer):
    """A `Transformer` with a critic, whose parameter names begin with `critic.`."""

    def __init__(self, architecture: Architecture, *, attention: str = "sdpa") -> None:
        super().__init__(architecture, attention=attention)
        self.critic = Critic(architecture, attention)

    @classmethod
    def of(cls, policy: Transformer) -> ActorCritic:
        """Create a policy with a critic that copies its trunk; the head of the critic is zero.

        A policy with an adapter is used without a copy, and the trunk of the critic shares its frozen weights.
        """
        if adapter_of(policy) is not None:
            return cls._sharing(policy)
        model = cls(policy.architecture)
        model.load_state_dict(policy.state_dict(), strict=False)
        model.critic.model.load_state_dict(policy.model.state_dict())
        return model

    @classmethod
    def _sharing(cls, policy: Transformer) -> ActorCritic:
        with torch.device("meta"):
            model = cls(policy.architecture)
        model.model = policy.model
        if not policy.architecture.tied:
            model.lm_head = policy.lm_head
        model.critic.model = shared_copy(policy.model)
        device = policy.head_weight.device
        model.critic.head.weight = nn.Parameter(torch.zeros(1, policy.architecture.width, device=device))
        object.__setattr__(model, "adapter", adapter_of(policy))
        return model

    def policy(self) -> Transformer:
        """Return the policy without the critic."""
        if adapter_of(self) is not None:
            return self._policy_sharing()
        policy = Transformer(self.architecture)
        with torch.no_grad():
            for name, parameter in policy.named_parameters():
                parameter.copy_(self.get_parameter(name))
        return policy

    def _policy_sharing(self) -> Transformer:
        with torch.device("meta"):
            policy = Transformer(self.architecture)
        policy.model = self.model
        if not self.architecture.tied:
            policy.lm_head = self.lm_head
        object.__setattr__(policy, "adapter", adapter_of(self))
        return policy

    def values(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Return the predicted return after each token."""
        return self.critic(ids)


class Critic(nn.Module):
    """A trunk with a head that returns one number per position."""

    def __init__(self, architecture: Architecture, attention: str) -> None:
        super().__init__()
        self.model = Decoder(architecture, attention)
        self.head = Linear(architecture.width, 1)

    def forward(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        return self.head(self.model(ids, None, None, None))[..., 0].float()
