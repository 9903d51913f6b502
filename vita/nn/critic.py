"""A policy with a critic beside it: a trunk of its own that says, token by token, what the answer will be worth."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vita.nn.architecture import Architecture
from vita.nn.transformer import Decoder, Linear, Transformer

# B batch, T position


class ActorCritic(Transformer):
    """A `Transformer` that is used as one, and its critic, whose parameters begin with `critic.`."""

    def __init__(self, architecture: Architecture, *, attention: str = "sdpa") -> None:
        super().__init__(architecture, attention=attention)
        self.critic = Critic(architecture, attention)

    @classmethod
    def of(cls, policy: Transformer) -> ActorCritic:
        """The policy with a critic that has its trunk and expects nothing yet: a head of zeros."""
        both = cls(policy.architecture)
        both.load_state_dict(policy.state_dict(), strict=False)
        both.critic.model.load_state_dict(policy.model.state_dict())
        return both

    def policy(self) -> Transformer:
        """The policy alone."""
        alone = Transformer(self.architecture)
        with torch.no_grad():
            for name, parameter in alone.named_parameters():
                parameter.copy_(self.get_parameter(name))
        return alone

    def values(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """What is expected after each token."""
        return self.critic(ids)


class Critic(nn.Module):
    """A trunk and one number for each position."""

    def __init__(self, architecture: Architecture, attention: str) -> None:
        super().__init__()
        self.model = Decoder(architecture, attention)
        self.head = Linear(architecture.width, 1)

    def forward(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        return self.head(self.model(ids, None, None, None))[..., 0].float()
