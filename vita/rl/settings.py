"""Settings of reinforcement learning, in groups that the stage `rlhf` inherits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from vita.infer.sampling import Sampling
from vita.rl.rewards import RewardChoice
from vita.spine.config import Settings
from vita.train.choices import Aggregation, Importance, Method, Scale
from vita.train.settings import Auto, Count

NonNegative = Annotated[float, Field(ge=0)]


class RolloutSettings(Settings):
    """The prompts and sampled answers of a round, and the optimizer steps on them."""

    method: Method = "grpo"
    """Algorithm: ppo trains a critic beside the policy; grpo, rloo and reinforce compare answers to one prompt."""
    steps: Count = 60
    """Rounds of sampling and training."""
    prompts_per_step: Count | None = None
    """Prompts per round; without it 48 for ppo, else 8."""
    num_generations: Count | None = None
    """Sampled answers per prompt; without it 1 for ppo, else 8."""
    epochs: Count | None = None
    """Passes over the answers of a round; without it 4 for ppo, else 1."""
    minibatches: Count = 1
    """Optimizer steps per pass."""
    max_tokens: Count = 48
    """Tokens of an answer at most; a truncated answer gets no reward."""
    mask_truncated: bool = False
    """Exclude answers that did not end from the loss, instead of giving them no reward."""
    truncation_penalty: NonNegative = 0.0
    """Amount subtracted from the reward of an answer that did not end."""


class PolicyLossSettings(Settings):
    """The loss of the policy, and the penalty on its divergence from the initial model."""

    kl_coef: NonNegative | None = None
    """Penalty per nat of divergence from the initial model: in the reward for ppo, rloo and reinforce (0.05), in the
    loss for grpo (0.04). A rule-based reward that cannot be exploited needs none."""
    loss: Literal["clip", "cispo"] = "clip"
    """clip ignores a token beyond the clip range; cispo bounds its weight (by `clip_high`, 5 without it) and keeps its
    gradient."""
    clip_low: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Distance below 1 at which a probability ratio is clipped; without it 0.2."""
    clip_high: PositiveFloat | None = None
    """Distance above 1 at which a probability ratio is clipped; without it 0.28 for grpo, else 0.2."""
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """Bound on the loss of a bad answer that became likely, as a multiple of its advantage (dual-clip PPO)."""
    importance: Importance | None = None
    """Unit of the probability ratio: token, sequence (GSPO), or sum (the default of rloo)."""
    aggregation: Aggregation | None = None
    """Averaging over tokens and answers: dapo (all tokens alike), grpo, dr_grpo, luspo."""
    scale: Scale = "group"
    """Divisor of the advantages (grpo): the standard deviation of the group, of the batch, or none."""


class CriticSettings(Settings):
    """The critic, which only ppo has."""

    critic_learning_rate: PositiveFloat | Auto = "auto"
    """Peak learning rate of the critic, an absolute number; auto follows from the width of the model (ppo)."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Discount per token (ppo)."""
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 0.95
    """Lambda of generalized advantage estimation: 0 trusts the critic alone, 1 the outcome alone (ppo)."""
    value_coef: PositiveFloat = 0.1
    """Weight of the critic's loss (ppo)."""
    value_clip: PositiveFloat | None = 0.2
    """Largest change of a predicted value within one round (ppo)."""
    critic_warmup_steps: Annotated[int, Field(ge=0)] = 2
    """First rounds in which only the critic is trained (ppo)."""


class ComparisonSettings(Settings):
    """The comparison of the trained with the initial model on held-out prompts."""

    eval_prompts: Count = 100
    """Prompts that are held out for evaluation; at most a third of all."""
    eval_samples: Count = 2
    """Answers of each model to each held-out prompt in the final comparison."""
    eval_sampling: Sampling | None = None
    """Sampling of these answers; without it at temperature 1, in at most `max_tokens`."""
    eval_rewards: tuple[RewardChoice, ...] = ()
    """Rewards of the final comparison; without them the training rewards. A control that trains on `random_reward` is
    evaluated by the real reward."""
    correctness: RewardChoice | None = None
    """Reward that tells whether an answer is still correct (0.5 and more), in the final comparison."""


@dataclass(frozen=True)
class MethodDefaults:
    """The defaults of a method, for models of one to ten million parameters."""

    prompts_per_step: int
    num_generations: int
    epochs: int
    kl_coef: float
    clip_low: float = 0.2
    clip_high: float = 0.2
    importance: Importance = "token"
    aggregation: Aggregation = "dapo"


METHOD_DEFAULTS: dict[Method, MethodDefaults] = {
    "ppo": MethodDefaults(prompts_per_step=48, num_generations=1, epochs=4, kl_coef=0.05),
    "grpo": MethodDefaults(prompts_per_step=8, num_generations=8, epochs=1, kl_coef=0.04, clip_high=0.28),
    "rloo": MethodDefaults(8, 8, epochs=1, kl_coef=0.05, importance="sum", aggregation="grpo"),
    "reinforce": MethodDefaults(prompts_per_step=8, num_generations=8, epochs=1, kl_coef=0.05),
}
