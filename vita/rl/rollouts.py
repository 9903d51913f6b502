"""Rollouts: answers sampled from the policy, and the batches of the optimizer steps on them.

    rollouts = Rollouts(trainer, engine, reference, prompts, rewards, config, seed=0)
    train(trainer, rollouts, ..., hooks=[EvalHook(1, rollouts.latest_metrics)], checkpoint_steps=config.updates)

A round is one set of answers with some optimizer steps on it. Answers are sampled from the unmodified policy
(temperature 1, no filter), because ratios and divergences belong to this distribution. A round is a function of the
weights, the seed and its number, so that a run resumes from the end of a round with the same result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import fmean

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vita.data.sources.prompts import Prompt
from vita.infer.engine import Completion, Engine
from vita.infer.sampling import Sampling
from vita.nn.critic import ActorCritic
from vita.nn.transformer import Transformer
from vita.rl.before_after import compute_rewards, effective_reward
from vita.rl.rewards import Rewards, RewardValues
from vita.rl.rollout_order import RolloutOrder
from vita.spine.errors import TrainingError
from vita.train.advantage import (
    gae,
    group_relative_advantage,
    k1,
    per_token_rewards,
    rloo_advantage,
    whiten,
    zero_variance_groups,
)
from vita.train.choices import Aggregation, Method, Scale
from vita.train.policy_losses import token_weights, without_truncated
from vita.train.policy_objective import TokenStats, token_stats_in_chunks, values_in_chunks
from vita.train.trainer import StepBatch, Trainer

# N answers of a round, T their longest target

MAX_LOGPROB_DIFFERENCE = 1e-3
"""The maximum mean difference of two computations of a log-probability: float32 gives 1e-6, an error 0.1 or more."""
MAX_LOGPROB_DIFFERENCE_BFLOAT16 = 0.05
"""The maximum when training uses bfloat16 and sampling does not."""


@dataclass(frozen=True)
class RolloutConfig:
    """The configuration of rollouts and of the updates on them."""

    method: Method
    prompts_per_step: int
    """Prompts per round."""
    num_generations: int
    """Answers per prompt."""
    epochs: int
    """The number of epochs over the answers of a round."""
    minibatches: int
    """Optimizer steps per epoch."""
    max_tokens: int
    kl: float
    """Coefficient of the KL penalty in the reward, for methods that use one."""
    gamma: float = 1.0
    gae_lambda: float = 0.95
    scale: Scale = "group"
    aggregation: Aggregation = "dapo"
    mask_truncated: bool = False
    truncation_penalty: float = 0.0
    critic_warmup_steps: int = 0
    """Number of rounds at the start that train only the critic."""

    @property
    def updates(self) -> int:
        """Return the optimizer steps per round."""
        return self.epochs * self.minibatches

    def order(self, *, prompts: int, seed: int) -> RolloutOrder:
        """Return the order of this number of training prompts and of their answers."""
        return RolloutOrder(prompts, self.prompts_per_step, self.num_generations, self.epochs, self.minibatches, seed)


@dataclass(frozen=True)
class SampledAnswers:
    """Answers to prompts, as text and as rows of tokens padded on the right."""

    prompts: list[Prompt]
    """The prompt of each answer."""
    completions: list[Completion]
    ids: Int[Tensor, "N T1"]
    mask: Bool[Tensor, "N T"]
    """The sampled targets: the answer with its end token, determined by lengths and not by ids."""

    @property
    def ended(self) -> Bool[Tensor, "N"]:
        return torch.tensor([completion.finish == "stop" for completion in self.completions], device=self.ids.device)


@dataclass
class RolloutBatch:
    """The tensors, metrics and number of a round."""

    number: int
    tensors: dict[str, Tensor]
    figures: dict[str, float] = field(default_factory=dict)


class Rollouts:
    """The batches of the training loop; a round is sampled when its first step is requested."""

    def __init__(
        self,
        trainer: Trainer,
        engine: Engine,
        reference: Transformer,
        prompts: Sequence[Prompt],
        rewards: Rewards,
        config: RolloutConfig,
        *,
        seed: int,
    ) -> None:
        self.trainer, self.engine, self.reference, self.prompts = trainer, engine, reference, list(prompts)
        self.rewards, self.config, self.seed = rewards, config, seed
        self.order = config.order(prompts=len(self.prompts), seed=seed)
        self.latest: RolloutBatch | None = None

    def __call__(self, step: int) -> StepBatch:
        number, update = divmod(step, self.config.updates)
        if self.latest is None or self.latest.number != number:
            assert update == 0, "a run resumes from the end of a round"
            self.latest = self._sample_batch(number)
        chosen = self.order.answers_of_step(step)
        tensors = {name: tensor[chosen] for name, tensor in self.latest.tensors.items()}
        targets = float(bool(tensors["mask"].any()))
        return StepBatch(
            self._with_weights(tensors, number), targets=targets, check=self._check_first_step if update == 0 else None
        )

    def latest_metrics(self, trainer: Trainer) -> Mapping[str, float]:
        """Return the metrics of the latest round at its first step, otherwise nothing."""
        is_first_step = self.latest is not None and (trainer.done - 1) % self.config.updates == 0
        return self.latest.figures if self.latest is not None and is_first_step else {}

    # -- a round

    def _sample_batch(self, number: int) -> RolloutBatch:
        config = self.config
        selected = [self.prompts[index] for index in self.order.prompts_of_round(number)]
        prompts = [prompt for prompt in selected for _ in range(config.num_generations)]
        rng = Random(f"{self.seed}/answers/{number}")
        answers = sample_answers(self.engine, prompts, max_tokens=config.max_tokens, rng=rng)
        rewards = score_answers(self.rewards, answers, penalty=config.truncation_penalty, seed=f"{self.seed}/{number}")
        scores = torch.tensor(
            [math.nan if reward is None else reward for reward in rewards.total], device=answers.ids.device
        )
        rows = max(1, self.trainer.micro_tokens // max(1, answers.mask.shape[1]))
        policy = self.trainer.learner.model
        assert isinstance(policy, Transformer)
        old = token_stats_in_chunks(policy, answers.ids, answers.mask, rows=rows)
        reference = token_stats_in_chunks(self.reference, answers.ids, answers.mask, rows=rows).logprobs
        self._check_logprobs(answers, old, number)
        figures = rollout_metrics(answers, rewards, old, reference, size=config.num_generations)
        mask = answers.mask & ~scores.isnan()[:, None]
        if config.mask_truncated:
            mask = without_truncated(mask, answers.ended)
        tensors = {"ids": answers.ids, "mask": mask, "old": old.logprobs, "reference": reference}
        if isinstance(policy, ActorCritic):
            tensors["values"] = torch.where(mask, values_in_chunks(policy, answers.ids, rows=rows), 0)
        return RolloutBatch(number, tensors | self._advantages(tensors, scores, number), figures)

    def _advantages(self, tensors: Mapping[str, Tensor], scores: Float[Tensor, "N"], number: int) -> dict[str, Tensor]:
        config, mask = self.config, tensors["mask"]
        divergence = torch.where(mask, k1(tensors["old"], tensors["reference"]), 0)
        if config.method == "ppo":
            rewards = per_token_rewards(scores.nan_to_num(), divergence, mask, kl=config.kl)
            estimate = gae(rewards, tensors["values"], mask, gamma=config.gamma, lam=config.gae_lambda)
            return {"advantages": whiten(estimate.advantages, mask), "returns": estimate.returns}
        if config.method == "grpo":  # the divergence is in the loss
            advantages = group_relative_advantage(scores, size=config.num_generations, scale=config.scale)
        else:
            penalized_scores = scores - config.kl * divergence.sum(1)
            if config.method == "rloo":
                advantages = rloo_advantage(penalized_scores, size=config.num_generations)
            else:
                advantages = group_relative_advantage(
                    penalized_scores,
                    size=config.num_generations if config.num_generations > 1 else len(penalized_scores),
                    scale="none",
                )
        return {"advantages": advantages[:, None].expand(mask.shape).contiguous()}

    # -- an optimizer step

    def _with_weights(self, tensors: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
        mask, config = tensors["mask"], self.config
        share = token_weights(mask, aggregation="dapo")
        weights = token_weights(mask, aggregation=config.aggregation, max_tokens=config.max_tokens)
        if number < config.critic_warmup_steps:
            weights = torch.zeros_like(weights)
        values = {"value_weights": share} if "values" in tensors else {}
        return {**tensors, "weights": weights, "share": share, **values}

    # -- checks

    def _check_first_step(self, metrics: Mapping[str, float]) -> None:
        """Raise unless the first step of a round has ratios of 1 and no clipping."""
        limit = (
            MAX_LOGPROB_DIFFERENCE if self.trainer.precision.dtype == torch.float32 else MAX_LOGPROB_DIFFERENCE_BFLOAT16
        )
        if not metrics["ratio_deviation"] <= limit or metrics["clip_fraction"] > 0:
            got = f"ratios {metrics['ratio_deviation']:.3g} from 1 and {metrics['clip_fraction']:.1%} clipped"
            hint = "the model gives different results for equal inputs; is a part of it random?"
            raise TrainingError(
                "rlhf, first step of a round", expected="ratio 1 and nothing clipped", got=got, hint=hint
            )

    def _check_logprobs(self, answers: SampledAnswers, old: TokenStats, number: int) -> None:
        """Raise unless sampling and training compute the same log-probabilities."""
        sampled = torch.zeros_like(old.logprobs)
        logprobs = [logprob for completion in answers.completions for logprob in completion.logprobs]
        sampled[answers.mask] = torch.tensor(logprobs, dtype=sampled.dtype, device=sampled.device)
        mean_difference = (sampled - old.logprobs).abs().sum().item() / max(1, int(answers.mask.sum()))
        if not mean_difference <= (
            MAX_LOGPROB_DIFFERENCE if self.trainer.precision.dtype == torch.float32 else MAX_LOGPROB_DIFFERENCE_BFLOAT16
        ):
            got = f"{mean_difference:.3g} nats apart on average"
            expected = "equal log-probabilities of sampling and training"
            raise TrainingError(f"rlhf, round {number + 1}", expected=expected, got=got)


EVAL_METRICS = ("reward", "kl", "entropy", "truncated", "length")
"""The figures reported for held-out prompts; the share of groups without variance comes from the rounds."""


@dataclass(frozen=True)
class HeldOutPrompts:
    """Held-out prompts, which are answered with the same random seed at each evaluation."""

    engine: Engine
    reference: Transformer
    prompts: Sequence[Prompt]
    rewards: Rewards
    config: RolloutConfig
    seed: int

    def evaluate(self, trainer: Trainer) -> dict[str, float]:
        """Return the reward, the divergence from the initial model, and the entropy on held-out prompts."""
        seed, rows = f"{self.seed}/look", len(self.prompts)
        answers = sample_answers(self.engine, self.prompts, max_tokens=self.config.max_tokens, rng=Random(seed))
        rewards = score_answers(self.rewards, answers, penalty=self.config.truncation_penalty, seed=seed)
        models = self.engine.model, self.reference
        now, start = (token_stats_in_chunks(model, answers.ids, answers.mask, rows=rows) for model in models)
        metrics = rollout_metrics(answers, rewards, now, start.logprobs, size=1)
        return {f"heldout_{name}": metrics[name] for name in EVAL_METRICS if name in metrics}


# -- answers and their rewards


def sample_answers(engine: Engine, prompts: Sequence[Prompt], *, max_tokens: int, rng: Random) -> SampledAnswers:
    """Sample an answer to each prompt from the unmodified policy."""
    prompts_ids = [engine.chat_ids(prompt.messages) for prompt in prompts]
    plain = Sampling(max_tokens=max_tokens)
    settings = [plain.model_copy(update={"seed": rng.getrandbits(48)}) for _ in prompts]
    completions = engine.generate(prompts_ids, settings)
    rows = [[*prompt_row, *completion.ids] for prompt_row, completion in zip(prompts_ids, completions, strict=True)]
    longest = max(map(len, rows))
    pad = engine.tokenizer.pad
    ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows], device=engine.device)
    positions = torch.arange(1, longest, device=engine.device)
    starts = torch.tensor([len(prompt_row) for prompt_row in prompts_ids], device=engine.device)[:, None]
    stops = torch.tensor([len(row) for row in rows], device=engine.device)[:, None]
    return SampledAnswers(list(prompts), completions, ids, (positions >= starts) & (positions < stops))


def score_answers(rewards: Rewards, answers: SampledAnswers, *, penalty: float, seed: str) -> RewardValues:
    """Compute the rewards of the answers; a truncated answer gets 0 minus `penalty`."""
    judged_rewards = compute_rewards(rewards, answers.prompts, answers.completions, seed=seed)
    pairs = zip(judged_rewards.total, answers.completions, strict=True)
    total = [effective_reward(value, completion, penalty=penalty) for value, completion in pairs]
    return RewardValues(total, judged_rewards.by_reward)


def rollout_metrics(
    answers: SampledAnswers, rewards: RewardValues, old: TokenStats, reference: Float[Tensor, "N T"], *, size: int
) -> dict[str, float]:
    """Return the metrics of a round: reward, KL, entropy, truncated answers, zero-variance groups, length."""
    known = [value for value in rewards.total if value is not None]
    tokens = answers.mask.sum(1).cpu().double()
    divergence = torch.where(answers.mask, k1(old.logprobs, reference), 0).sum(1)
    scores = torch.tensor([math.nan if reward is None else reward for reward in rewards.total])
    metrics = {
        "kl": divergence.cpu().double().mean().item(),
        "entropy": (old.entropy.cpu().double().sum() / tokens.sum()).item(),
        "truncated": 1 - answers.ended.cpu().double().mean().item(),
        "length": tokens.mean().item(),
        "unscored": 1 - len(known) / len(rewards.total),
    }
    if known:
        metrics["reward"] = fmean(known)
    if size > 1:
        metrics["zero_variance"] = zero_variance_groups(scores, size=size).cpu().double().mean().item()
    for name, values in rewards.by_reward.items():
        known_rewards = [value for value in values if value is not None]
        if known_rewards and len(rewards.by_reward) > 1:
            metrics[f"reward/{name}"] = fmean(known_rewards)
    return {name: round(value, 6) for name, value in metrics.items()}
